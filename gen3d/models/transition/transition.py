"""`kind: transition`: generators that turn a brain at one stage of a disease into one at the next, stage by stage.

The people of neighbouring stages are different people, so that training is unpaired by construction: a generator learns
what distinguishes the groups, and nothing in the data says how one person's brain would go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.channels import DATA_RANGE
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Expectation, Model, Statistics
from gen3d.models.transition.framing import AXIS, Frame, Pictures, Plane, middle_positions
from gen3d.nets.transition import MULTIPLE, Generator

NUM_QUANTILES = 101
SMALLEST = 2 * MULTIPLE
"""Pixels of the shortest side, padded: the critic halves four times."""

AT_ONCE = 32
"""Pictures that are translated together."""


class TransitionConfig(BaseModelConfig):
    """Generators of a chain of stages, each with a critic of whole pictures and, with `region`, one of the brain alone."""

    material: ClassVar[Literal["scans", "latents", "labels", "visits", "latent_visits", "stages"]] = "stages"
    written_by_train: ClassVar[tuple[str, ...]] = ("positions",)

    kind: Literal["transition"] = Field("transition", description="generators from one stage to the next")
    target: str = Field("cdr", description="column of the cohort table with the stage")
    classes: tuple[str, ...] = Field(
        ("0", "0.5", "1", "2"), description="stages in order; people of others are left out. One generator per step"
    )
    dimensions: Literal[2, 3] = Field(2, description="2: slices, each on its own; 3: whole volumes")
    plane: Plane = Field("axial", description="plane of the slices")
    slices: int = Field(8, gt=0, description="slices of a scan, evenly spaced over the middle of the brain")
    scale: int = Field(1, gt=0, description="voxels along each side that are averaged to one pixel")
    widths: tuple[int, int, int] = Field((64, 128, 256), description="features of the three levels of the networks")
    region: bool = Field(
        True, description="whether a second critic judges the picture inside the brain of the scan it was made from"
    )
    region_weight: float = Field(1.0, gt=0, description="weight of the region critic in the generator's loss")
    mask: Literal["outline", "prepared"] = Field(
        "outline", description="brain of a picture: its largest contour, filled, or the prepared mask of the cohort"
    )
    real_label: float = Field(
        1.0, gt=0.5, le=1, description="what critics are told real pictures are; 0.9: one-sided label smoothing"
    )
    identity: float = Field(
        0.0, ge=0, description="weight of |G(y) - y| for pictures y that are at the next stage already"
    )
    intensity_range: float = Field(
        DATA_RANGE, gt=0, description="stored intensity that is 1 for the networks; 0 is -1, brighter values are cut"
    )
    validation: float = Field(
        0.25, ge=0, lt=0.6, description="with cross_fit=1: share of the people of every stage who are never trained on"
    )
    fewest: int = Field(5, ge=2, description="people that every stage needs for training")
    permuted: bool = Field(
        False,
        description="whether people of a site exchange their stages first: a chain with nothing to learn, to compare with",
    )
    positions: tuple[int, ...] | None = Field(None, description="written by gen3d: the slices that are seen")

    @model_validator(mode="after")
    def _in_order(self) -> TransitionConfig:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("model.classes names two or more different stages, in order")
        if any(width < 1 for width in self.widths):
            raise ValueError("model.widths are numbers of features above 0")
        return self

    @property
    def has_expectation(self) -> bool:
        return False

    @property
    def form(self) -> str:
        return f"{self.dimensions}D, {'with' if self.region else 'without'} region critic"

    @property
    def steps(self) -> tuple[tuple[str, str], ...]:
        """The transitions: stage before and stage after."""
        return tuple(zip(self.classes[:-1], self.classes[1:], strict=True))

    def completed(self, mask: NDArray[np.bool_]) -> TransitionConfig:
        """With the slices that are seen of volumes with this brain mask."""
        if self.dimensions == 3 or self.positions is not None:
            return self
        places = middle_positions(mask, AXIS[self.plane], self.slices)
        return self.model_copy(update={"positions": places})

    def frame(self, plan: GridPlan) -> Frame:
        """What is seen of a scan; `completed` first."""
        return Frame(plan.shape, AXIS[self.plane], self.positions if self.dimensions == 2 else None, self.scale)

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        axis = AXIS[self.plane]
        if self.dimensions == 2 and self.slices > plan.shape[axis]:
            raise UserError(
                f"model.slices={self.slices}: the scans have {plan.shape[axis]} {self.plane} slices; lower it, or choose another "
                "model.plane."
            )
        frame = Frame(plan.shape, axis, (0,) if self.dimensions == 2 else None, self.scale)
        if min(frame.padded) < SMALLEST:
            raise UserError(
                f"model.scale={self.scale}: pictures of {' x '.join(map(str, frame.sides))} pixels are too small for the critic, "
                f"which halves them four times (more than {MULTIPLE} are needed); lower it."
            )

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> Transition:
        return Transition(self.completed(statistics.mask), plan, statistics)


class Transition(Model):
    """One generator, and what its training people look like before and after: the material of the floors.

    Buffers `mean_before` and `mean_after` [S, *padded] are mean pictures over people in stored units;
    `quantiles_before` and `quantiles_after` [101] are mean quantiles of intensity inside the brain.
    """

    has_latent = False
    mean_before: Tensor
    mean_after: Tensor
    quantiles_before: Tensor
    quantiles_after: Tensor

    def __init__(self, config: TransitionConfig, plan: GridPlan, statistics: Statistics) -> None:
        super().__init__(statistics)
        self.config, self.frame = config, config.frame(plan)
        self.generator = Generator(config.widths, config.dimensions)
        pictures = (self.frame.num_pictures, *self.frame.padded)
        for name in ("mean_before", "mean_after"):
            self.register_buffer(name, torch.zeros(pictures))
        for name in ("quantiles_before", "quantiles_after"):
            self.register_buffer(name, torch.zeros(NUM_QUANTILES))

    def scaled(self, stored: Tensor) -> Tensor:
        """Stored units to -1 to 1."""
        return (2.0 * stored / self.config.intensity_range - 1.0).clamp(-1.0, 1.0)

    def unscaled(self, values: Tensor) -> Tensor:
        """-1 to 1 to stored units."""
        return (values + 1.0) / 2.0 * self.config.intensity_range

    @torch.no_grad()
    def translate(self, pictures: Pictures) -> Pictures:
        """Pictures [S, *padded] in stored units at the next stage, in stored units."""
        self.eval()
        device = self.channel_mean.device
        made = []
        for start in range(0, len(pictures), AT_ONCE):
            part = torch.from_numpy(pictures[start : start + AT_ONCE]).to(device)[:, None]
            made.append(self.unscaled(self.generator(self.scaled(part)))[:, 0].float().cpu().numpy())
        return np.concatenate(made)

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        raise AssertionError("a transition has no expectation")


def mean_pictures(
    load: Callable[[int], tuple[Pictures, Pictures]], people: list[list[int]]
) -> tuple[Pictures, NDArray]:
    """Mean pictures over people, and mean quantiles inside the brain [101]: each person counts once, however many scans.

    Args:
        load: row of a scan -> its pictures and their masks, [S, *padded] each.
        people: rows of the scans of every person.
    """
    shares = np.linspace(0.0, 1.0, NUM_QUANTILES)
    total: NDArray[np.float64] = np.zeros((), dtype=np.float64)
    quantiles = np.zeros(NUM_QUANTILES)
    for rows in people:
        for row in rows:
            pictures, masks = load(row)
            weight = 1.0 / (len(rows) * len(people))
            total = total + weight * pictures.astype(np.float64)
            inside = pictures[masks > 0]
            quantiles += weight * np.quantile(inside if inside.size else pictures, shares)
    return np.asarray(total, dtype=np.float32), quantiles.astype(np.float32)
