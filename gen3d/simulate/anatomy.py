"""Healthy people: inter-subject anatomy with age effects, in the space an affine registration leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.regions import all_regions, find, regions_on
from gen3d.imaging import deformation
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.simulate.conditions import region_effects

Floats = NDArray[np.float32]

REFERENCE_AGE_YEARS = 60.0  # age at which volumes are the template's
GLOBAL_AGEING_PERCENT = -0.27  # per year: what affine registration takes up of the ageing of the whole brain
SHARED_VARIANCE = (
    0.40,
    0.35,
)  # of log volumes: common to a lobe, common to left and right; the rest is the region's own
SHAPE_SCALES_MM = ((16.0, 1.8), (7.0, 0.7))  # smoothness and amplitude of the random part of the anatomy
LOBES: dict[str, tuple[str, ...]] = {
    "temporal": ("hippocampus", "amygdala", "entorhinal", "parahippocampal", "fusiform", "temporal"),
    "frontal": ("frontal", "precentral", "anterior cingulate", "insula"),
    "parietal": ("parietal", "precuneus", "postcentral", "supramarginal", "posterior cingulate"),
    "occipital": ("pericalcarine", "cuneus", "lingual", "occipital"),
    "fluid": ("ventricle",),
    "hindbrain": ("cerebell", "brain-stem"),
    "centre": ("",),
}
LARGEST_DEVIATION = 2.2  # standard deviations: people are drawn from a clipped normal distribution
COMPENSATION_REACH_MM = 15.0


@dataclass(frozen=True)
class AnatomySpace:
    """What every person of a cohort is made from.

    ``labels`` of the regions, ``fluid`` that can give or take volume, brain ``mask``, all [X, Y, Z].
    """

    plan: GridPlan
    labels: NDArray[np.int16]
    fluid: Floats
    mask: NDArray[np.bool_]

    @cached_property
    def response(self) -> NDArray[np.float64]:
        """Of the regions' volumes to a divergence prescribed in them, see `deformation.linear_response`."""
        return deformation.linear_response(self.labels, self.sigma_voxels)

    @property
    def sigma_voxels(self) -> float:
        """Smoothing of prescribed divergence: about one millimetre, at least 0.5 voxels."""
        return max(0.5, 1.4 / self.plan.spacing_mm)


def cohort_space(plan: GridPlan) -> AnatomySpace:
    """The template's space on a plan's grid."""
    labels, template = regions_on(plan), template_on(plan)
    fluid = np.where(np.isin(labels, find("sulcal CSF")), 1.0, 0.25 * template.csf).astype(np.float32)
    return AnatomySpace(plan, labels, fluid, template.mask)


def healthy_targets(space: AnatomySpace, age_years: float, rng: np.random.Generator) -> dict[int, float]:
    """Log volume change of each region against the template, by label: ageing, and variation that regions share.

    Regions of a lobe correlate (about 0.4), left and right of a structure more (about 0.75). The mean over all tissue is
    taken out: affine registration takes up how large a brain is, and sulcal CSF alone could not pay for it.
    """
    variation = region_effects("variation")
    lobes = {name: rng.standard_normal() for name in LOBES}
    structures = {name: rng.standard_normal() for name in dict.fromkeys(region.structure for region in all_regions())}
    single = rng.standard_normal(len(all_regions()))
    shares = np.sqrt([*SHARED_VARIANCE, 1 - sum(SHARED_VARIANCE)])
    spread, tissue = {}, []
    for label, _, _, kind, structure in all_regions():
        if label in variation:
            deviation = shares @ np.array([lobes[lobe_of(structure)], structures[structure], single[label - 1]])
            clipped = float(np.clip(deviation, -LARGEST_DEVIATION, LARGEST_DEVIATION))
            spread[label] = float(np.log1p(variation[label] / 100)) * clipped
            tissue += [label] if kind != "CSF" else []
    sizes = np.bincount(space.labels.ravel(), minlength=len(all_regions()) + 1)[tissue]
    mean = float(np.average([spread[label] for label in tissue], weights=sizes))
    return {
        label: value - mean * (label in tissue) + ageing_effect(label, age_years) for label, value in spread.items()
    }


def with_shift(targets: Mapping[int, float], shift: Mapping[int, float]) -> dict[int, float]:
    """Log volumes by label with what a person's alleles change of them; regions without a target keep none."""
    return {label: value + shift[label] if label in shift else value for label, value in targets.items()}


def lobe_of(structure: str) -> str:
    """The group of structures that vary together."""
    return next(lobe for lobe, parts in LOBES.items() if any(part in structure for part in parts))


def ageing_effect(label: int, age_years: float) -> float:
    """Expected log volume change of a region at an age, against age 60 and relative to the whole brain."""
    rate = region_effects("ageing")[label] - GLOBAL_AGEING_PERCENT
    return float(rate / 100 * (age_years - REFERENCE_AGE_YEARS))


def healthy_anatomy(space: AnatomySpace, targets: Mapping[int, float], rng: np.random.Generator) -> deformation.Reached:
    """Deformation template -> healthy person: a random smooth part, plus what gives each region its volume.

    Volumes are nearly always met within 5 %, most within 1 %; those reached are recorded, so that they are known in any case.
    """
    spacing, shape = space.plan.spacing_mm, space.plan.shape
    parts = [
        deformation.random_velocity(shape, max(sigma / spacing, 1.5), amplitude / spacing, rng, space.mask)
        for sigma, amplitude in SHAPE_SCALES_MM
    ]
    random_part = parts[0] + parts[1]
    reason: ValueError | None = None
    for attenuation in (1.0, 0.7, 0.4):
        try:
            return deformation.reach_volumes(
                space.labels,
                {label: attenuation * value for label, value in targets.items()},
                space.fluid,
                base=(attenuation * random_part).astype(np.float32),
                response=space.response,
                sigma_voxels=space.sigma_voxels,
                tolerance=0.05,
                acceptance=0.3,
                max_iterations=6,
            )
        except ValueError as error:  # folded, or a volume out of reach: this person is drawn milder
            reason = error
    raise ValueError("no healthy anatomy could be made on this grid") from reason


def condition_anatomy(
    space: AnatomySpace, labels: NDArray[np.int16], targets: Mapping[int, float], after: Floats | None
) -> deformation.Reached:
    """Deformation of a condition in the space of ``labels``; each target is met within 0.4 %, nearby CSF takes it up.

    ``after`` is the displacement of the person's healthy anatomy, applied afterwards, so that the change holds for the
    person's own volumes.
    """
    return _changed(space, labels, targets, after, tolerance=0.004, acceptance=0.0095)


def progressed_anatomy(space: AnatomySpace, targets: Mapping[int, float], after: Floats) -> deformation.Reached:
    """Deformation of the years since the first visit, as `condition_anatomy` but within 0.05 % (at worst 0.3 %).

    A healthy region loses half a percent a year. ``after`` is the displacement of the first visit's anatomy.
    """
    return _changed(space, space.labels, targets, after, tolerance=0.0005, acceptance=0.003)


def _changed(
    space: AnatomySpace,
    labels: NDArray[np.int16],
    targets: Mapping[int, float],
    after: Floats | None,
    tolerance: float,
    acceptance: float,
) -> deformation.Reached:
    changed = np.isin(labels, [label for label, value in targets.items() if value])
    fluid = np.where(changed, 0, space.fluid).astype(np.float32)
    near = deformation.nearby_compensation(fluid, changed, COMPENSATION_REACH_MM / space.plan.spacing_mm)
    return deformation.reach_volumes(
        labels,
        targets,
        near,
        after=after,
        response=space.response,
        sigma_voxels=space.sigma_voxels,
        tolerance=tolerance,
        acceptance=acceptance,
        max_iterations=24,
    )
