"""What is exported of a run's members: a network from its view of a volume to scores, and what the scores mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3d.classify.heads.learning import calibration_state, probabilities, scalings_of
from gen3d.classify.heads.probability_calibration import Scaling
from gen3d.cohort.scores_folder import MAIN, VALIDATION, RunScores, read_scores
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.exports.folder import LATENT
from gen3d.models.base import Model
from gen3d.models.run import Run
from gen3d.models.supervised.building import black_of
from gen3d.models.supervised.classifier import Classifier

Values = NDArray[np.float64]

FEWEST_TO_CALIBRATE = 10
"""Validation people below which a slope is chance, and probabilities stay those of the network."""


class Encoding(nn.Module):
    """Volumes [B, C, X, Y, Z] in stored units to the latent mean, flattened [B, d]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, volumes: Tensor) -> Tensor:
        """The latent mean of volumes on the whole grid."""
        return self.model._encode(volumes, None).flatten(1)


class PlainScores(nn.Module):
    """A classifier's network with its ages given always, so that an export has fixed inputs."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.network

    def forward(self, views: Tensor, age_years: Tensor | None = None) -> Tensor:
        """Raw scores [B, num_scores] of views [B, C, *size], and ages in years [B] where the network takes them."""
        scores: Tensor = self.network(views, age_years)
        return scores


@dataclass(frozen=True)
class Calibration:
    """Scores to probabilities, fitted on people that only watched the member's training; none of them: as the network has it."""

    scalings: tuple[Scaling, ...]
    num_people: int

    def record(self) -> dict[str, Any]:
        """JSON-ready, with the temperature (1 / slope) of each scaling."""
        scalings = calibration_state(self.scalings, np.nan)["calibration"]
        return {
            "scalings": [scaling | {"temperature": 1 / scaling["slope"]} for scaling in scalings],
            "num_people": self.num_people,
        }


@dataclass(frozen=True)
class Exported:
    """A run's members as they are exported.

    `start` and `size` are the view's place in the grid of the plan; `intensity` is its rule (`models.supervised.framing`).
    """

    run: Run
    target: Target | None
    members: tuple[int, ...]
    scores: RunScores | None

    @property
    def task(self) -> str:
        """The target's task, or `LATENT`."""
        return self.target.task if self.target is not None else LATENT

    @property
    def takes_age(self) -> bool:
        """Whether the network is given the person's age."""
        model = self.run.member(self.members[0])
        return isinstance(model, Classifier) and model.network.takes_age

    @property
    def window(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First voxel of the view in the grid, and its size."""
        model = self.run.member(self.members[0])
        if isinstance(model, Classifier):
            return tuple(model.window.start), tuple(model.window.size)
        return (0, 0, 0), tuple(self.run.plan.shape)

    @property
    def intensity(self) -> str:
        """The rule by which the view's intensities are made."""
        model = self.run.member(self.members[0])
        return model.config.intensity if isinstance(model, Classifier) else "stored"

    @property
    def black(self) -> float | None:
        """What zscore makes of the background, None where nothing is set."""
        model = self.run.member(self.members[0])
        return black_of(model.config.network) if isinstance(model, Classifier) else None

    def network(self, member: int) -> nn.Module:
        """From views [B, C, *size] (and ages [B]) to scores [B, num_scores]."""
        model = self.run.member(member)
        return (PlainScores(model) if isinstance(model, Classifier) else Encoding(model)).eval()

    def label(self, member: int) -> tuple[float, float]:
        """Mean and standard deviation that a member's standardised numbers are turned back with."""
        model = self.run.member(member)
        if isinstance(model, Classifier) and self.task == "number":
            return float(model.centre), float(model.spread)
        return 0.0, 1.0

    def calibration(self, member: int) -> Calibration:
        """Fitted on the first scan of each of the member's validation people, if they are enough and of every class.

        These people chose the member's checkpoint, so that the calibration is a little too sure of itself.
        """
        if self.target is None or self.scores is None or self.target.task == "number":
            return Calibration((), 0)
        rows = self.scores.rows(member, VALIDATION).drop_duplicates("subject")
        codes = self.target.codes(rows["label"])
        if len(codes) < FEWEST_TO_CALIBRATE or set(codes) != set(range(len(self.target.classes))):
            return Calibration(_identity(self.target), 0)
        scores = problems(self.scores.scores(rows), self.target)
        return Calibration(scalings_of(scores, codes, self.target), len(rows))

    def answer(self, key: str, judges: list[int], scores: list[Tensor]) -> dict[str, Any]:
        """What the members that judge one scan say of it: the mean of their probabilities, numbers or latents.

        Args:
            key: of the scan.
            judges: their numbers.
            scores: of each [num_scores].
        """
        rows = [score.double().numpy() for score in scores]
        said: dict[str, Any] = {"key": key, "members": judges, "scores": [row.tolist() for row in rows]}
        if self.target is None:
            return said
        if self.target.task == "number":
            values = [row[0] * self.label(j)[1] + self.label(j)[0] for j, row in zip(judges, rows, strict=True)]
            return said | {"predicted": float(np.mean(values))}
        shares = np.mean(
            [
                probabilities(problems(row[None], self.target), self.calibration(j).scalings, self.target)[0]
                for j, row in zip(judges, rows, strict=True)
            ],
            axis=0,
        )
        return said | {
            "class": self.target.classes[int(shares.argmax())],
            "probabilities": dict(zip(self.target.classes, map(float, shares), strict=True)),
        }


def problems(scores: Values, target: Target) -> Values:
    """Raw scores [n, num_scores] as calibration takes them, [B, n]: of two classes the difference of their logits."""
    if target.is_binary and scores.shape[1] == 2:
        return (scores[:, 1:] - scores[:, :1]).T
    return scores.T


def open_exported(run: Run, wanted: tuple[int, ...] | None) -> Exported:
    """The members of a run that can be exported.

    Args:
        run: of a classifier, or of a model with a latent space that needs no covariates.
        wanted: members to export; None: all, of a classifier those that are no twin and were trained on true labels.

    Raises:
        UserError: a run of another kind, or no such member.
    """
    if run.kind == "classifier":
        scores = read_scores(run.folder)
        exported = Exported(run, scores.target, tuple(member.index for member in scores.of(MAIN)), scores)
    else:
        if not run.has_latent or run.model_config.uses_covariates or run.kind == "latent_diffusion":
            raise UserError(
                f"{run.folder}: a {run.kind} model has no network from a volume to scores or to a latent; export a classifier, "
                "or an autoencoder that takes no covariates."
            )
        exported = Exported(run, None, tuple(range(run.num_members)), None)
    absent = [number for number in wanted or () if not 0 <= number < run.num_members]
    if absent:
        raise UserError(f"members={list(wanted or ())}: {run.folder} has the members 0 to {run.num_members - 1}.")
    return exported if wanted is None else Exported(run, exported.target, wanted, exported.scores)


def _identity(target: Target) -> tuple[Scaling, ...]:
    """Probabilities as the network has them."""
    if target.task == "ordered" and not target.is_binary:
        return (Scaling(1.0, (0.0, 0.0)),) * (len(target.classes) - 1)
    return (Scaling(1.0, (0.0,) * len(target.classes)),)


@torch.no_grad()
def scores_of(network: nn.Module, views: Tensor, ages: Tensor | None) -> Tensor:
    """Scores of views, with ages where the network takes them."""
    scores: Tensor = network(views) if ages is None else network(views, ages)
    return scores
