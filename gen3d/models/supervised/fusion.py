"""`kind: fusion`: a network that tells a column of the cohort table from a person's genetics and images together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.fusion_folder import Subset
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Expectation, Model, Statistics
from gen3d.models.supervised.label_config import LabelConfig
from gen3d.models.supervised.losses import num_scores
from gen3d.nets.fusion import FusionScores, Modality, PublishedFusion, TokenFusion

FARTHEST = 6.0
"""Standardised values are cut off at so many SD: one odd volume, or the one carrier of a rare allele, moves nothing further."""

ONE_TOKEN = (
    "network=published has one vector per modality, so its attention over a single token is identically 1 for every person: it "
    "says nothing about genes or regions"
)


class NamedToken(Config):
    """A token, and how many columns of its modality belong to it."""

    name: str = Field(description="as tables call it: a variant, gene, score or region")
    columns: int = Field(gt=0, description="columns of the modality, which follow each other")


class FusionConfig(LabelConfig):
    """A network on genetics and images of the same people, either of which a person may lack."""

    material: ClassVar[Literal["scans", "latents", "labels", "visits", "latent_visits", "stages", "modalities"]] = (
        "modalities"
    )
    written_by_train: ClassVar[tuple[str, ...]] = ("answers", "genetic_tokens", "image_tokens")

    kind: Literal["fusion"] = Field(
        "fusion", description="network that tells a label from genetics and images together"
    )
    network: Literal["tokens", "published"] = Field(
        "tokens",
        description="tokens: cross-attention between variants, gene sets, scores and APOE, and regions or latents; published: "
        "one vector per modality (130-256-128-64 and 512-256-64), whose attention over a single token is identically 1",
    )
    variants: tuple[str, ...] | None = Field(
        None, description="names of carried variants to use; default: all that are carried; []: none"
    )
    by: Literal["variant", "gene"] = Field(
        "variant", description="tokens of variants: one each, or one per gene, for which the variants need one"
    )
    scores: bool = Field(True, description="a token per polygenic score; without the APOE region where apoe is on")
    apoe: bool = Field(True, description="a token of the copies of APOE e4 and e2; its two variants then are no tokens")
    omics: bool = Field(True, description="a token per table of further measurements in the folder of genotypes")
    most_tokens: int = Field(512, gt=0, description="tokens of genetics at most; more are refused with a way out")
    width: int = Field(64, gt=0, description="tokens: numbers per token")
    heads: int = Field(4, gt=0, description="tokens: attention heads, which share the width")
    layers: int = Field(2, ge=1, le=4, description="tokens: layers of cross-attention")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations dropped in training")
    modality_dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="share of training people with both modalities from whom one is taken, at each step",
    )
    auxiliary: float = Field(
        0.3, ge=0, description="weight of the losses of each modality alone, which keep the weaker one learning"
    )
    encoders: Literal["joint", "separate"] = Field(
        "joint",
        description="encoders of the modalities: trained with the fusion, or first each alone and then frozen while the fusion "
        "is trained",
    )
    encoder_share: float = Field(0.5, gt=0, lt=1, description="separate: share of the steps that train the encoders")
    imbalance: Literal["people", "none"] = Field(
        "people", description="classes of unequal size: people (each class weighs the same in the loss), none"
    )
    looks: int = Field(20, gt=0, description="times in a training at which the validation people are scored")
    genetic_tokens: tuple[NamedToken, ...] = Field((), description="written by gen3d: tokens of the genetic side")
    image_tokens: tuple[NamedToken, ...] = Field((), description="written by gen3d: tokens of the image side")

    @model_validator(mode="after")
    def _consistent(self) -> FusionConfig:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} cannot be shared by heads={self.heads}; give a multiple of it")
        if self.variants == () and not (self.scores or self.apoe or self.omics):
            raise ValueError("variants=[], scores, apoe and omics are all off, so nothing is left of genetics")
        return self

    @property
    def form(self) -> str:
        return f"{self.network}: {self.target}"

    @property
    def used_with(self) -> str:
        return "gen3d classify"

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse a training without people to normalise a batch with."""
        if num_volumes < 2:
            raise UserError(f"model.kind=fusion: {num_volumes} training scan is too few; add people.")

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> Fusion:
        """The network with random weights."""
        return Fusion(self, statistics)


class Fusion(Model):
    """scores = network(standardised genetics, standardised image measurements).

    Inputs are [B, G + R]: columns of genetics, then of images, in their own units, NaN where not known. Buffers kept with the
    weights: means and SD of the columns among the training people, `class_people` (training people of each class, or 1), and
    `centre` and `spread` of a number, 0 and 1 for classes.
    """

    has_latent = False
    column_mean: Tensor
    column_std: Tensor
    class_people: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, config: FusionConfig, statistics: Statistics) -> None:
        super().__init__(statistics)
        self.config, self.target = config, config.answered.target
        genetic, image = (
            [token.columns for token in tokens] for tokens in (config.genetic_tokens, config.image_tokens)
        )
        self.num_genetic, self.num_columns = sum(genetic), sum(genetic) + sum(image)
        outputs = num_scores(self.target)
        self.network: TokenFusion | PublishedFusion
        if config.network == "published":
            self.network = PublishedFusion(sum(genetic), sum(image), outputs, config.dropout)
        else:
            self.network = TokenFusion(
                genetic, image, outputs, config.width, config.heads, config.layers, config.dropout
            )
        self.register_buffer("column_mean", torch.zeros(self.num_columns))
        self.register_buffer("column_std", torch.ones(self.num_columns))
        self.register_buffer("class_people", torch.ones(max(1, len(self.target.classes))))
        self.register_buffer("centre", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))

    def standardise_by(self, values: NDArray[np.floating]) -> None:
        """Take mean and SD of every column from training people [n, G + R]; a column that is the same for all becomes 0."""
        known = np.isfinite(values)
        counts = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0.0).sum(axis=0, dtype=np.float64) / counts
        std = np.sqrt(np.square(np.where(known, values - mean, 0.0)).sum(axis=0, dtype=np.float64) / counts)
        still = std <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
        self.column_mean.copy_(torch.from_numpy(mean))
        self.column_std.copy_(torch.from_numpy(np.where(still, np.inf, std)).clamp(max=1e30))

    def sides(
        self, values: Tensor, without: Tensor | None = None, subset: Subset = "both"
    ) -> tuple[Modality, Modality]:
        """Genetics and images of people [B, G + R] as the network takes them.

        Args:
            values: in their own units, NaN where not known.
            without: whether genetics and images are taken from a person, [B, 2]; nobody loses what is left.
            subset: what is looked at of everybody.
        """
        known = torch.isfinite(values)
        standard = (torch.where(known, values, self.column_mean) - self.column_mean) / self.column_std
        standard = standard.clamp(-FARTHEST, FARTHEST)
        places = (slice(None, self.num_genetic), slice(self.num_genetic, None))
        there = [known[:, place].any(dim=1) for place in places]
        if without is not None:
            both = there[0] & there[1]
            there = [has & ~(both & taken) for has, taken in zip(there, without.T, strict=True)]
        if subset != "both":
            hidden = 1 if subset == "genetics" else 0
            there[hidden] = torch.zeros_like(there[hidden])
        sides = zip(places, there, strict=True)
        first, second = (Modality(standard[:, place], known[:, place], has) for place, has in sides)
        return first, second

    def forward(self, values: Tensor, subset: Subset = "both") -> Tensor:
        """Scores [B, num_scores] of people [B, G + R]: logits, or numbers in the column's unit."""
        return self.in_units(self.network(*self.sides(values, subset=subset)).both)

    def in_units(self, scores: Tensor) -> Tensor:
        """Standardised numbers in the column's unit; logits stay as they are."""
        return scores * self.spread + self.centre if self.target.task == "number" else scores

    def detailed(self, values: Tensor) -> FusionScores:
        """Scores of both sides and of each alone as the network gives them, with its attention."""
        scores: FusionScores = self.network(*self.sides(values))
        return scores

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        raise UserError("a fusion network has no expectation of a scan; use gen3d classify.")


def token_names(tokens: Sequence[NamedToken]) -> list[str]:
    """Names of tokens in their order."""
    return [token.name for token in tokens]
