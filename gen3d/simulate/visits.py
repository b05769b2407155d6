"""A simulated person at several visits: one anatomy, the years since the first visit on top of it, and a fresh scan each time.

A visit is the first visit's anatomy under one more diffeomorphism, which gives every region exactly the volume of that day
(Khanal et al. 2017: the follow-up's noise, bias field and texture are new, never those of the first scan moved). At every visit
the head lies a little differently in what the alignment made of it, so that edges meet the voxels elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from gen3d.imaging import deformation
from gen3d.simulate import rates
from gen3d.simulate.anatomy import (
    AnatomySpace,
    condition_anatomy,
    healthy_anatomy,
    healthy_targets,
    progressed_anatomy,
    with_shift,
)
from gen3d.simulate.appearance import Site, add_noise, noiseless_scan, sample_tissue
from gen3d.simulate.conditions import Condition, condition_targets
from gen3d.simulate.lesion_masks import LesionMask
from gen3d.simulate.person import (
    APPEARANCE,
    CHANGED_INTENSITY,
    CONDITION,
    LESION,
    MARGIN_VOXELS,
    NOISE,
    PACE,
    POSE,
    SHAPE,
    VOLUMES,
    Lesion,
    ScanTruth,
    SimulatedPerson,
    drawn_lesion,
    largest_error,
    lesion_place,
    percent_changes,
    stream,
    volumes_ml,
    with_lesion,
)

Floats = NDArray[np.float32]

MILDER = (1.0, 0.8, 0.6, 0.4, 0.2)
"""Shares of a person's change that are tried: thin ventricles on a coarse grid do not grow without end."""


@dataclass(frozen=True)
class Course:
    """How the people of a cohort change and how they are scanned again, see the settings of `gen3d simulate`."""

    progression: float = 1.0
    acceleration: bool = True
    foreseeable: float = 0.4
    repositioning_mm: float = 0.5
    repositioning_degrees: float = 0.5


@dataclass(frozen=True)
class Comer:
    """Somebody who comes more than once.

    ``number`` in the cohort, age and severity at the first visit, the condition, whether it is MCI that becomes AD, and years
    from the first visit to the last one.
    """

    number: int
    age_years: float
    condition: Condition | None
    severity: float
    converts: bool
    last_years: float
    shift: Mapping[int, float] = field(default_factory=dict)
    """What alleles change of log volumes, by label."""


class RepeatedPerson:
    """The anatomy of somebody at any time after the first visit; what all visits share is computed once.

    Raises ``ValueError`` where a change of volume cannot be made on this grid.
    """

    def __init__(self, space: AnatomySpace, comer: Comer, course: Course, seed: int) -> None:
        self.space, self.comer, self.course, self.seed = space, comer, course, seed
        drawn = healthy_targets(space, comer.age_years, stream(seed, comer.number, VOLUMES))
        self.targets = with_shift(drawn, comer.shift)

    @cached_property
    def healthy(self) -> deformation.Reached:
        """Template -> the healthy person at the first visit."""
        return healthy_anatomy(self.space, self.targets, stream(self.seed, self.comer.number, SHAPE))

    @cached_property
    def planted(self) -> dict[int, float]:
        """Log volume changes of the condition at the first visit."""
        condition, severity = self.comer.condition, self.comer.severity
        if condition is None:
            return {}
        return condition_targets(condition, severity, stream(self.seed, self.comer.number, CONDITION))

    @cached_property
    def condition(self) -> deformation.Reached | None:
        """What the condition did before the first visit."""
        return (
            condition_anatomy(self.space, self.space.labels, self.planted, self.healthy.displacement)
            if self.planted
            else None
        )

    @cached_property
    def first(self) -> Floats:
        """Displacement template -> person at the first visit."""
        if self.condition is None:
            return self.healthy.displacement
        return deformation.compose(self.healthy.displacement, self.condition.displacement)

    @property
    def group(self) -> rates.Group:
        """Whose rates the person has."""
        return rates.group_of(self.comer.condition, self.comer.converts)

    @cached_property
    def pace(self) -> dict[int, float]:
        """SDs by which each region is faster than the group."""
        rng = stream(self.seed, self.comer.number, PACE)
        return rates.paces(self.targets, self.comer.age_years, self.course.foreseeable, rng)

    @cached_property
    def attenuation(self) -> float:
        """Share of the person's change that this grid allows at the last visit, and so at every visit."""
        reason: ValueError | None = None
        for share in MILDER:
            try:
                self._progress(self.wanted(self.comer.last_years, self.group, share), self.first)
            except ValueError as error:
                reason = error
            else:
                return share
        raise ValueError(f"{self.comer.last_years:g} years are too many for this grid ({reason})")

    def wanted(self, years: float, group: rates.Group, attenuation: float | None = None) -> dict[int, float]:
        """Log volume changes since the first visit by label: what the visit must show."""
        share = self.attenuation if attenuation is None else attenuation
        course = self.course
        changes = rates.log_changes(group, self.pace, years, course.progression, course.acceleration)
        return {label: share * value for label, value in changes.items()}

    def progress(self, years: float) -> deformation.Reached | None:
        """The years since the first visit, before the first visit's anatomy is applied; None where nothing changed."""
        return self._progress(self.wanted(years, self.group), self.first)

    def healthy_progress(self, years: float) -> deformation.Reached | None:
        """The same years of the person's healthy twin."""
        return self._progress(self.wanted(years, "control"), self.healthy.displacement)

    def _progress(self, wanted: Mapping[int, float], after: Floats) -> deformation.Reached | None:
        return progressed_anatomy(self.space, wanted, after) if wanted else None

    def lesion(self, masks: tuple[LesionMask, ...]) -> Lesion:
        """The person's lesion in the anatomy of the first visit, where it is at every visit."""
        tissue = sample_tissue(_inverse([self.healthy], self.first), self.space.plan, region_of(self.space))
        condition = self.comer.condition
        assert condition is not None
        where, rng = lesion_place(tissue, self.space), stream(self.seed, self.comer.number, LESION)
        return drawn_lesion(where, condition, self.comer.severity, masks, self.space.plan, rng)


def scan_at(
    person: RepeatedPerson, site: Site, years: float, session: int, masks: tuple[LesionMask, ...] = ()
) -> SimulatedPerson:
    """One visit: the anatomy of that day in a fresh pose, with a bias field, texture and noise of its own.

    Its truth is against the healthy twin of the same day, who aged as controls do; a control's is therefore nothing.

    Raises:
        ValueError: a volume change cannot be made on this grid.
    """
    space, seed, number = person.space, person.seed, person.comer.number
    plan, region = space.plan, region_of(space)
    change = person.progress(years)
    displacement = _after(person.first, change)
    turned = pose(space, person.course, stream(seed, number, POSE, session))

    def image_of(inverse: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        tissue = sample_tissue(deformation.compose(inverse, turned), plan, region)
        rng = stream(seed, number, APPEARANCE, session)
        return noiseless_scan(tissue, site, plan.spacing_mm, rng), tissue.brain > 0.5

    inverse = _inverse([person.healthy, person.condition, change], displacement)
    image, brain = image_of(inverse)
    truth = ScanTruth(np.zeros(plan.shape, np.float32), np.zeros(plan.shape, bool))
    if person.condition is not None:
        aged = person.healthy_progress(years)
        twin = _after(person.healthy.displacement, aged)
        changed = np.abs(image - image_of(_inverse([person.healthy, aged], twin))[0]) > CHANGED_INTENSITY
        planted = deformation.log_jacobian(_after(person.condition.displacement, change))
        planted = planted if aged is None else planted - aged.log_jacobian
        truth = ScanTruth(
            np.where(space.mask, planted, 0).astype(np.float32),
            changed & space.mask,
            percent_changes(space, displacement, twin),
            0.0,
            largest_error(person.condition, person.planted),
        )
    elif person.comer.condition is not None and person.comer.condition.kind == "lesion":
        lesion = person.lesion(masks)
        to_first = deformation.compose(person.first, deformation.compose(inverse, turned))
        moved = Lesion(deformation.warp(lesion.fraction, to_first), lesion.level, lesion.name)
        image, truth = with_lesion(image, moved, plan)
    scan = add_noise(image, site, plan.spacing_mm, stream(seed, number, NOISE, session))
    return SimulatedPerson(scan, image, brain, truth, volumes_ml(space, displacement))


def region_of(space: AnatomySpace) -> NDArray[np.bool_]:
    """Where a person's brain may reach [X, Y, Z]."""
    return np.asarray(ndimage.binary_dilation(space.mask, iterations=MARGIN_VOXELS))


def pose(space: AnatomySpace, course: Course, rng: np.random.Generator) -> Floats:
    """Displacement [3, X, Y, Z] from the voxels of a visit's scan to where the head would lie without its shift and turn.

    Shift along and turn around each axis are normal, with the SDs of the course; the turn is around the middle of the grid.
    """
    shift = course.repositioning_mm / space.plan.spacing_mm * rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.deg2rad(course.repositioning_degrees) * rng.standard_normal(3)).as_matrix()
    middle = (np.array(space.plan.shape) - 1)[:, None, None, None] / 2
    places = deformation.identity_grid(space.plan.shape) - middle
    moved = np.tensordot(turn - np.eye(3), places, axes=1) + shift[:, None, None, None]
    return moved.astype(np.float32)


def _after(outer: Floats, change: deformation.Reached | None) -> Floats:
    """Displacement of first the change, if there is one, then the anatomy."""
    return outer if change is None else deformation.compose(outer, change.displacement)


def _inverse(steps: list[deformation.Reached | None], displacement: Floats) -> Floats:
    """Displacement person -> template of the steps (the outermost first), whose composition is ``displacement``."""
    there = [step for step in steps if step is not None]
    guess = deformation.invert(there[0].displacement, deformation.exponential(-there[0].velocity))
    for step in there[1:]:
        guess = deformation.compose(deformation.exponential(-step.velocity), guess)
    return guess if len(there) == 1 else deformation.invert(displacement, guess)
