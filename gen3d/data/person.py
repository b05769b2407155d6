"""One simulated person: healthy anatomy, the condition on top, the scan, and what is known to be true about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.data.anatomy import Space, condition_anatomy, healthy_anatomy, healthy_targets
from gen3d.data.appearance import Site, Tissue, add_lesion, add_noise, lesion_fraction, noiseless_scan, sample_tissue
from gen3d.data.conditions import Condition, condition_targets
from gen3d.data.regions import all_regions, find
from gen3d.maths import deformation

Floats = NDArray[np.float32]

CHANGED_INTENSITY = 0.05  # of white matter: a voxel that differs more than this from the healthy twin has changed
LESION_LEVELS = (0.30, 0.55)  # T1w intensity inside a lesion, between fluid and grey matter
MARGIN_VOXELS = 2  # around the template's brain, where a person's brain may reach

HINDBRAIN = tuple(
    label for name in ("cerebellar cortex", "cerebellar white matter", "brain-stem") for label in find(name)
)

# Streams of random numbers of a person: one purpose each, so that a condition never shifts the draws of another purpose.
VOLUMES, SHAPE, CONDITION, LESION, APPEARANCE, NOISE = range(6)


@dataclass(frozen=True)
class Truth:
    """What differs from the healthy twin.

    ``log_jacobian`` of the condition in template coordinates, ``changed`` voxels of the noiseless scan, volume change by
    region, and the volume of a lesion. ``error_percent`` is the largest relative error of a volume that was asked for.
    """

    log_jacobian: Floats
    changed: NDArray[np.bool_]
    percent_change: dict[str, float] = field(default_factory=dict)
    lesion_ml: float = 0.0
    error_percent: float = 0.0


@dataclass(frozen=True)
class Person:
    """A simulated scan on the plan's grid before the intensity rule: with noise, without, the brain, and the truth."""

    scan: Floats
    noiseless: Floats
    brain: NDArray[np.bool_]
    truth: Truth
    volumes_ml: dict[str, float]


def stream(seed: int, person: int, purpose: int, session: int = 0) -> np.random.Generator:
    """The random numbers of one purpose for one person (and session); they depend on nothing else."""
    return np.random.default_rng([seed, 7, person, purpose, session])


def make_person(
    space: Space,
    site: Site,
    age_years: float,
    condition: Condition | None,
    severity: float,
    seed: int,
    person: int,
    session: int,
) -> Person:
    """Simulate one scan.

    Sessions of a person share anatomy and condition, never noise, bias field or texture. The healthy twin is the same
    person with ``condition=None``. Raises ``ValueError`` when a volume change cannot be made on this grid.
    """
    targets = healthy_targets(space, age_years, stream(seed, person, VOLUMES))
    healthy = healthy_anatomy(space, targets, stream(seed, person, SHAPE))
    inverse = deformation.invert(healthy.displacement, deformation.exponential(-healthy.velocity))
    region = ndimage.binary_dilation(space.mask, iterations=MARGIN_VOXELS)
    tissue = sample_tissue(inverse, space.plan, region)

    def noiseless(of_tissue: Tissue) -> Floats:
        return noiseless_scan(of_tissue, site, space.plan.spacing_mm, stream(seed, person, APPEARANCE, session))

    truth = Truth(np.zeros(space.plan.shape, np.float32), np.zeros(space.plan.shape, bool))
    image, displacement = noiseless(tissue), healthy.displacement
    planted = condition_targets(condition, severity, stream(seed, person, CONDITION)) if condition else {}
    if planted:
        change = condition_anatomy(space, space.labels, planted, healthy.displacement)
        displacement = deformation.compose(healthy.displacement, change.displacement)
        first_guess = deformation.compose(deformation.exponential(-change.velocity), inverse)
        twin, tissue = image, sample_tissue(deformation.invert(displacement, first_guess), space.plan, region)
        image = noiseless(tissue)
        changed = (np.abs(image - twin) > CHANGED_INTENSITY) & space.mask
        truth = Truth(
            np.where(space.mask, change.log_jacobian, 0),
            changed,
            _percent_changes(space, displacement, healthy.displacement),
            0.0,
            _error(change, planted),
        )
    elif condition is not None and condition.kind == "lesion":
        where = (tissue.brain > 0.99) & (tissue.fluid < 0.3) & space.mask & ~np.isin(space.labels, HINDBRAIN)
        image, truth = plant_lesion(image, where, severity, space.plan.spacing_mm, stream(seed, person, LESION))
    scan = add_noise(image, site, space.plan.spacing_mm, stream(seed, person, NOISE, session))
    return Person(scan, image, tissue.brain > 0.5, truth, _volumes(space, displacement))


def plant_lesion(
    image: Floats, where: NDArray[np.bool_], volume_ml: float, spacing_mm: float, rng: np.random.Generator
) -> tuple[Floats, Truth]:
    """A focal lesion of ``volume_ml`` inside ``where``, dark on T1w; its truth is the voxels it fills by more than half."""
    fraction = lesion_fraction(volume_ml, where, spacing_mm, rng)
    with_lesion = add_lesion(image, fraction, float(rng.uniform(*LESION_LEVELS)))
    return with_lesion, Truth(np.zeros_like(image), fraction > 0.5, {}, float(fraction.sum()) * spacing_mm**3 / 1000)


def _error(change: deformation.Reached, planted: Mapping[int, float]) -> float:
    """Largest relative error of the volumes asked for, percent."""
    return 100 * max(abs(float(np.expm1(change.log_changes[label] - log))) for label, log in planted.items())


def _percent_changes(space: Space, displacement: Floats, healthy: Floats) -> dict[str, float]:
    """Volume change of every region against the healthy twin, percent."""
    logs = [
        deformation.regional_log_volumes(deformation.jacobian_determinant(u), space.labels)
        for u in (displacement, healthy)
    ]
    change = 100 * np.expm1(logs[0] - logs[1])
    return {region.name: float(change[region.label]) for region in all_regions()}


def _volumes(space: Space, displacement: Floats) -> dict[str, float]:
    """Volume of every region in the person, ml, in the space of the template."""
    logs = deformation.regional_log_volumes(deformation.jacobian_determinant(displacement), space.labels)
    voxel_ml = space.plan.spacing_mm**3 / 1000
    return {region.name: float(np.exp(logs[region.label])) * voxel_ml for region in all_regions()}


def plant_in_scan(
    space: Space, scan: Floats, to_scan: Floats, condition: Condition | None, severity: float, rng: np.random.Generator
) -> tuple[Floats, Truth]:
    """A condition planted in a real, prepared scan, which is its own healthy twin.

    ``to_scan`` is the displacement template -> scan of a registration: it carries the region labels into the scan, where
    the change is made, and the truth back. Regions that have no voxel in this scan are left out.
    """
    empty = Truth(np.zeros(scan.shape, np.float32), np.zeros(scan.shape, bool))
    if condition is None or condition.kind == "null":
        return scan, empty
    if condition.kind == "lesion":
        where = (scan > 0.6) & space.mask & ~np.isin(space.labels, HINDBRAIN)
        return plant_lesion(scan, where, severity, space.plan.spacing_mm, rng)
    to_template = deformation.invert(to_scan)
    labels = deformation.warp(space.labels, to_template, order=0)
    local = Space(space.plan, labels, deformation.warp(space.fluid, to_template), space.mask)
    planted = condition_targets(condition, severity, rng)
    wanted = {label: log for label, log in planted.items() if (labels == label).any()}
    change = condition_anatomy(local, labels, wanted, None)
    backwards = deformation.invert(change.displacement, deformation.exponential(-change.velocity))
    image = np.maximum(deformation.warp(scan, backwards, order=3), 0)
    changed = (np.abs(image - scan) > CHANGED_INTENSITY) & space.mask
    log_jacobian = np.where(space.mask, deformation.warp(change.log_jacobian, to_scan), 0)
    names = {region.label: region.name for region in all_regions()}
    percent = {names[label]: 100 * float(np.expm1(log)) for label, log in change.log_changes.items()}
    return image, Truth(log_jacobian, changed, percent, 0.0, _error(change, wanted))
