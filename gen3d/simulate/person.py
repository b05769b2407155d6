"""One simulated person: healthy anatomy, the condition on top, the scan, and the true changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.regions import all_regions, find
from gen3d.imaging import deformation
from gen3d.imaging.plan import GridPlan
from gen3d.simulate.anatomy import AnatomySpace, condition_anatomy, healthy_anatomy, healthy_targets, with_shift
from gen3d.simulate.appearance import (
    Site,
    Tissue,
    add_lesion,
    add_noise,
    lesion_fraction,
    noiseless_scan,
    sample_tissue,
)
from gen3d.simulate.conditions import Condition, condition_targets
from gen3d.simulate.lesion_masks import LesionMask, deal

Floats = NDArray[np.float32]

CHANGED_INTENSITY = 0.05  # of white matter: a voxel that differs more than this from the healthy twin has changed
MARGIN_VOXELS = 2  # around the template's brain, where a person's brain may reach

HINDBRAIN = tuple(
    label for name in ("cerebellar cortex", "cerebellar white matter", "brain-stem") for label in find(name)
)

# Streams of random numbers of a person: one purpose each, so that a condition never shifts the draws of another purpose.
VOLUMES, SHAPE, CONDITION, LESION, APPEARANCE, NOISE, PACE, POSE = range(8)


@dataclass(frozen=True)
class ScanTruth:
    """What differs from the healthy twin.

    ``log_jacobian`` of the condition in template coordinates, ``changed`` voxels of the noiseless scan, volume change by
    region, and the volume and mask of a lesion. ``error_percent`` is the largest relative error of a requested volume.
    """

    log_jacobian: Floats
    changed: NDArray[np.bool_]
    percent_change: dict[str, float] = field(default_factory=dict)
    lesion_ml: float = 0.0
    error_percent: float = 0.0
    lesion_mask: str = ""


@dataclass(frozen=True)
class SimulatedPerson:
    """A simulated scan on the plan's grid before the intensity rule: with noise, without, the brain, and the truth."""

    scan: Floats
    noiseless: Floats
    brain: NDArray[np.bool_]
    truth: ScanTruth
    volumes_ml: dict[str, float]


def stream(seed: int, person: int, purpose: int, session: int = 0) -> np.random.Generator:
    """The random numbers of one purpose for one person (and session); they depend on nothing else."""
    return np.random.default_rng([seed, 7, person, purpose, session])


def make_person(
    space: AnatomySpace,
    site: Site,
    age_years: float,
    condition: Condition | None,
    severity: float,
    seed: int,
    person: int,
    session: int,
    masks: tuple[LesionMask, ...] = (),
    shift: Mapping[int, float] = MappingProxyType({}),
) -> SimulatedPerson:
    """Simulate one scan; ``masks`` are those of a lesion, ``shift`` what alleles change of log volumes by label, if any.

    Sessions of a person share anatomy and condition, never noise, bias field or texture. The healthy twin is the same
    person with ``condition=None``. Raises ``ValueError`` when a volume change cannot be made on this grid.
    """
    targets = with_shift(healthy_targets(space, age_years, stream(seed, person, VOLUMES)), shift)
    healthy = healthy_anatomy(space, targets, stream(seed, person, SHAPE))
    inverse = deformation.invert(healthy.displacement, deformation.exponential(-healthy.velocity))
    region = ndimage.binary_dilation(space.mask, iterations=MARGIN_VOXELS)
    tissue = sample_tissue(inverse, space.plan, region)

    def noiseless(of_tissue: Tissue) -> Floats:
        return noiseless_scan(of_tissue, site, space.plan.spacing_mm, stream(seed, person, APPEARANCE, session))

    truth = ScanTruth(np.zeros(space.plan.shape, np.float32), np.zeros(space.plan.shape, bool))
    image, displacement = noiseless(tissue), healthy.displacement
    planted = condition_targets(condition, severity, stream(seed, person, CONDITION)) if condition else {}
    if planted:
        change = condition_anatomy(space, space.labels, planted, healthy.displacement)
        displacement = deformation.compose(healthy.displacement, change.displacement)
        first_guess = deformation.compose(deformation.exponential(-change.velocity), inverse)
        twin, tissue = image, sample_tissue(deformation.invert(displacement, first_guess), space.plan, region)
        image = noiseless(tissue)
        changed = (np.abs(image - twin) > CHANGED_INTENSITY) & space.mask
        truth = ScanTruth(
            np.where(space.mask, change.log_jacobian, 0),
            changed,
            percent_changes(space, displacement, healthy.displacement),
            0.0,
            largest_error(change, planted),
        )
    elif condition is not None and condition.kind == "lesion":
        where = lesion_place(tissue, space)
        image, truth = plant_lesion(image, where, condition, severity, masks, space.plan, stream(seed, person, LESION))
    scan = add_noise(image, site, space.plan.spacing_mm, stream(seed, person, NOISE, session))
    return SimulatedPerson(scan, image, tissue.brain > 0.5, truth, volumes_ml(space, displacement))


def plant_lesion(
    image: Floats,
    where: NDArray[np.bool_],
    condition: Condition,
    severity: float,
    masks: tuple[LesionMask, ...],
    plan: GridPlan,
    rng: np.random.Generator,
) -> tuple[Floats, ScanTruth]:
    """A focal lesion inside ``where``, dark on T1w; its truth is the voxels it fills by more than half.

    ``severity`` is its volume in ml. With ``masks`` one of them is dealt out, scaled to that volume or, where it is 0, as
    it is; without, the lesion is an irregular blob. Raises ``ValueError`` where it does not fit.
    """
    return with_lesion(image, drawn_lesion(where, condition, severity, masks, plan, rng), plan)


@dataclass(frozen=True)
class Lesion:
    """A focal lesion: the share of each voxel [X, Y, Z] that it takes, its intensity on T1w, the name of its mask."""

    fraction: Floats
    level: float
    name: str


def drawn_lesion(
    where: NDArray[np.bool_],
    condition: Condition,
    severity: float,
    masks: tuple[LesionMask, ...],
    plan: GridPlan,
    rng: np.random.Generator,
) -> Lesion:
    """A lesion inside ``where``, see `plant_lesion`."""
    name = ""
    if masks:
        name, fraction = deal(masks, severity or None, where, plan, rng)
    else:
        fraction = lesion_fraction(severity, where, plan.spacing_mm, rng)
    return Lesion(fraction, float(rng.uniform(*condition.level)), name)


def with_lesion(image: Floats, lesion: Lesion, plan: GridPlan) -> tuple[Floats, ScanTruth]:
    """The image with a lesion, and its truth."""
    volume_ml = float(lesion.fraction.sum()) * plan.spacing_mm**3 / 1000
    truth = ScanTruth(np.zeros_like(image), lesion.fraction > 0.5, {}, volume_ml, 0.0, lesion.name)
    return add_lesion(image, lesion.fraction, lesion.level), truth


def lesion_place(tissue: Tissue, space: AnatomySpace) -> NDArray[np.bool_]:
    """Where a simulated person can have a lesion [X, Y, Z]: brain tissue, not fluid, not the hindbrain."""
    found: NDArray[np.bool_] = (
        (tissue.brain > 0.99) & (tissue.fluid < 0.3) & space.mask & ~np.isin(space.labels, HINDBRAIN)
    )
    return found


def largest_error(change: deformation.Reached, planted: Mapping[int, float]) -> float:
    """Largest relative error of the requested volumes, percent."""
    return 100 * max(abs(float(np.expm1(change.log_changes[label] - log))) for label, log in planted.items())


def percent_changes(space: AnatomySpace, displacement: Floats, healthy: Floats) -> dict[str, float]:
    """Volume change of every region against the healthy twin, percent."""
    logs = [
        deformation.regional_log_volumes(deformation.jacobian_determinant(u), space.labels)
        for u in (displacement, healthy)
    ]
    change = 100 * np.expm1(logs[0] - logs[1])
    return {region.name: float(change[region.label]) for region in all_regions()}


def volumes_ml(space: AnatomySpace, displacement: Floats) -> dict[str, float]:
    """Volume of every region in the person, ml, in the space of the template."""
    logs = deformation.regional_log_volumes(deformation.jacobian_determinant(displacement), space.labels)
    voxel_ml = space.plan.spacing_mm**3 / 1000
    return {region.name: float(np.exp(logs[region.label])) * voxel_ml for region in all_regions()}
