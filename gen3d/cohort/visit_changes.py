"""How much each part of one person's brain changed between the visits, in the template's coordinates and by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.regions import all_regions, regions_on
from gen3d.imaging.person_space import person_space
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.within_person import align_visits, region_log_changes

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class VisitChanges:
    """Log volume of n visits relative to the space in their middle.

    Attributes:
        maps: [n, X, Y, Z] local log volume, on the template's voxels.
        regions: [n, R] log volume of every region; NaN for one that has no voxel.
    """

    maps: Floats
    regions: NDArray[np.float64]


def measure_visits(images: Sequence[Floats], plan: GridPlan) -> VisitChanges:
    """Measure one person's visits against each other, without favour, by one registration of all (`within_person`).

    The difference of two rows is the change between two visits, so changes add up over visits and change their sign with
    the order. Regions are counted in the middle space itself; only maps are carried to the template.

    Args:
        images: two or more T1w volumes [X, Y, Z] on the grid of `plan`, affinely aligned to the template.
    """
    middle = align_visits(images)
    logs = middle.log_jacobians()
    space = person_space(middle.mean, plan)
    labels = space.labels(regions_on(plan))
    regions = [region_log_changes(log, labels, len(all_regions())) for log in logs]
    return VisitChanges(np.stack([space.to_template(log) for log in logs]), np.stack(regions))
