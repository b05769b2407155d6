"""`kind: classifier`: a network that tells a column of the cohort table, such as the diagnosis, from a scan."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.regions import find, regions_on
from gen3d.cohort.target import Target
from gen3d.core.config import waiver
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Expectation, Model, Statistics
from gen3d.models.supervised.building import black_of, build_network
from gen3d.models.supervised.framing import Intensity, Triple, ViewWindow, framed, rescaled, window_of
from gen3d.models.supervised.label_config import Answers, LabelConfig
from gen3d.models.supervised.losses import num_scores
from gen3d.models.supervised.networks import LiuSettings, Network
from gen3d.nets.classifiers.base import HEAD, StagedNetwork

BRAIN = "brain"
"""Among the regions to crop around: the whole brain."""

EXACT_ON_CPU = True
"""In bfloat16 on a CPU the gradient of a 3-voxel convolution of maps of two voxels a side held memory that nobody wrote (torch
2.13, oneDNN; NaN in a residual network at 48 x 48 x 48)."""

Imbalance = Literal["people", "effective", "adjusted", "none"]


class ClassifierConfig(LabelConfig):
    """A 3D, video or slice network that is trained on labelled scans, and what it sees of them."""

    material: ClassVar[Literal["scans", "latents", "labels"]] = "labels"
    written_by_train: ClassVar[tuple[str, ...]] = ("answers", "window")

    kind: Literal["classifier"] = Field("classifier", description="network that tells a label from a scan")
    network: Network = Field(
        default_factory=LiuSettings, description="which network; its kind is short for its defaults"
    )
    grid: Triple | None = Field(
        None, description="voxels of the view along x, y, z: the grid is cropped or padded; default: as prepared"
    )
    crop_around: tuple[str, ...] = Field(
        (), description="regions that the view is centred on, such as [hippocampus]; brain: all of it"
    )
    margin_mm: float = Field(10.0, ge=0, description="mm around these regions, where grid is not given")
    shift: int = Field(
        0, ge=0, description="largest random displacement of the view along each axis while training, voxels"
    )
    intensity: Intensity = Field(
        "minmax",
        description="T1w intensities: minmax (0 to 1 in each view), zscore (mean 0, SD 1 inside the brain), or as stored",
    )
    frozen: str = Field(
        "", description="last stage of the network that is not trained, with all before it; none: all are"
    )
    unfreeze_after: float | None = Field(
        None, gt=0, lt=1, description="share of the steps after which the frozen stages are trained too; default: never"
    )
    trunk_rate: float = Field(0.1, gt=0, description="their learning rate then, as a share of that of the rest")
    open_rate: float = Field(
        1.0, gt=0, description="the learning rate of everything then, as a share of what it would be without"
    )
    focal_gamma: float = Field(0.0, ge=0, description="focal loss: how much less a scan counts that is predicted well")
    imbalance: Imbalance = Field(
        "people",
        description="classes of unequal size: people (each class weighs the same), effective (weight by the effective "
        "number of people, see beta), adjusted (logit adjustment, see tau), none",
    )
    beta: float = Field(0.99, ge=0, lt=1, description="effective number of n people: (1 - beta^n) / (1 - beta)")
    tau: float = Field(1.0, gt=0, description="logit adjustment: multiple of log prior added to the scores in the loss")
    twin: bool = waiver(
        True, "with weights learned elsewhere: also train the network from random weights", waives=(False,)
    )
    window: ViewWindow | None = Field(None, description="written by gen3d: where the view lies in the grid")

    @model_validator(mode="after")
    def _consistent(self) -> ClassifierConfig:
        if self.frozen == HEAD:
            raise ValueError("frozen=head would leave nothing to train; name an earlier stage")
        if self.unfreeze_after is not None and not self.frozen:
            raise ValueError("unfreeze_after= goes with frozen=STAGE")
        if self.open_rate != 1 and self.unfreeze_after is None:
            raise ValueError("open_rate= goes with unfreeze_after=, after which it holds")
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"grid={list(self.grid)} has an axis without voxels")
        return self

    @property
    def form(self) -> str:
        network = self.network
        width = f", width {network.width}" if isinstance(network, LiuSettings) else ""
        return f"{network.kind}{width}{', pretrained' if self.pretrained else ''}: {self.target}"

    @property
    def pretrained(self) -> bool:
        """Whether the network starts from weights learned elsewhere."""
        return getattr(self.network, "weights", None) is not None

    @property
    def has_twins(self) -> bool:
        return self.pretrained and self.twin

    def window_in(self, plan: GridPlan) -> ViewWindow:
        """Where the view lies in a grid.

        Raises:
            UserError: a region that there is none of, or none of its voxels in this grid.
        """
        if self.window is not None:
            return self.window
        if not self.crop_around:
            return window_of(plan, self.grid)
        regions = regions_on(plan)
        around = np.zeros(plan.shape, dtype=bool)
        for name in self.crop_around:
            around |= regions > 0 if name.lower() == BRAIN else np.isin(regions, find(name))
        if not around.any():
            raise UserError(
                f"model.crop_around={list(self.crop_around)}: no voxel of a grid of {plan.spacing_mm:g} mm lies there."
            )
        whole = window_of(plan, None, around)
        if BRAIN in map(str.lower, self.crop_around) and self.grid is not None:
            short = [have < need for have, need in zip(self.grid, whole.size, strict=True)]
            if any(short):
                raise UserError(
                    f"model.grid={list(self.grid)} cuts the brain, which takes {' x '.join(map(str, whole.size))} voxels of "
                    f"{plan.spacing_mm:g} mm; give a larger grid, or prepare with a larger spacing_mm."
                )
        return window_of(plan, self.grid, around, self.margin_mm)

    def completed(self, plan: GridPlan, target: Target) -> ClassifierConfig:
        """The settings with what training writes."""
        answers = Answers(name=target.name, task=target.task, classes=target.classes)
        return self.model_copy(update={"answers": answers, "window": self.window_in(plan)})

    def built_network(self, channels: int, window: ViewWindow, pretrained: bool) -> StagedNetwork:
        """The network for views of this window, with random weights or those learned elsewhere.

        Raises:
            UserError: weights that do not fit, or views of a size that it cannot take.
        """
        outputs = num_scores(self.answered.target)
        z_scored = self.intensity == "zscore"
        return build_network(self.network, channels, window.size, outputs, pretrained, z_scored)

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse a view that the network cannot take, and a stage that it has not."""
        window = self.window_in(plan)
        with torch.device("meta"):
            network = build_network(self.network, 1, window.size, 2, pretrained=False)
        stages = network.stage_names[:-1]
        if self.frozen and self.frozen not in stages:
            raise UserError(
                f"model.frozen={self.frozen}: a {self.network.kind} has no such stage; its stages are {', '.join(stages)}."
            )

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> Classifier:
        """The classifier with random weights; those learned elsewhere are loaded by training."""
        return Classifier(self, plan, channels, statistics)


class Classifier(Model):
    """scores = network(view(volumes)).

    Buffers kept with the weights: `class_people`, training people of each class (or 1), and `centre` and `spread` of a number,
    0 and 1 for classes.
    """

    has_latent = False
    class_people: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self, config: ClassifierConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(statistics)
        self.config, self.channels = config, channels
        self.target = config.answered.target
        self.window = config.window_in(plan)
        self.network = config.built_network(len(channels), self.window, pretrained=False)
        self.register_buffer("class_people", torch.ones(max(1, len(self.target.classes))))
        self.register_buffer("centre", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))
        self.cached_shape: tuple[int, ...] | None = None
        """Shape of one scan's features after the last frozen stage, where training reads these instead of scans."""

    def view(self, volumes: Tensor, offsets: Tensor | None = None) -> Tensor:
        """What the network sees of volumes [B, C, X, Y, Z] in stored units: [B, C, *window.size], differentiable.

        `offsets` [B, 3] move the view of each volume by whole voxels.
        """
        mask = self.brain_mask[None, None].to(volumes.dtype)
        if self.config.intensity != "zscore":
            inside = mask
        elif offsets is None:
            inside = framed(mask, self.window)
        else:
            inside = framed(mask.expand(len(volumes), -1, -1, -1, -1), self.window, offsets)
        view, black = framed(volumes, self.window, offsets), black_of(self.config.network)
        return rescaled(view, self.config.intensity, self.channels, inside, black)

    def forward(self, volumes: Tensor, age_years: Tensor | None = None, offsets: Tensor | None = None) -> Tensor:
        """Scores [B, num_scores] of volumes [B, C, X, Y, Z] in stored units: logits, or numbers in the column's unit.

        Args:
            volumes: on the grid of the plan, channels as trained.
            age_years: [B], for a network that takes the age.
            offsets: see `view`.
        """
        return self.in_units(self.network(self.view(volumes, offsets), age_years))

    def from_features(self, features: Tensor, last: str, age_years: Tensor | None = None) -> Tensor:
        """The same, given the output of the network's stage `last`."""
        return self.in_units(self.network.from_features(features, last, age_years))

    def in_units(self, scores: Tensor) -> Tensor:
        """Standardised numbers in the column's unit; logits stay as they are."""
        return scores * self.spread + self.centre if self.target.task == "number" else scores

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        raise UserError("a classifier has no expectation of a scan; use gen3d classify or gen3d explain.")
