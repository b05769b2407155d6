"""From rates of change to the future: a stationary velocity that has these rates, integrated to any number of years.

One velocity per year serves every horizon (``exp(t v)``), so that two years are one year twice, no forecast folds, and image and
volumes agree by construction. Of all velocities with the given divergence it is the one of least energy (Khanal et al.
2016, NeuroImage 134); what the brain gains or loses is taken up outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.deformation import exponential, jacobian_determinant, velocity_from_divergence, warp
from gen3d.imaging.person_space import PersonSpace, person_space
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.registration import MINIMUM_JACOBIAN
from gen3d.imaging.within_person import region_log_changes
from gen3d.models.forecast.base import Future, KnownVisits

Floats = NDArray[np.float32]
Values = NDArray[np.float64]

NUM_CORRECTIONS = 6
"""Of the divergence, until that of central differences, by which volumes are counted, is what is wanted."""
STRENGTH = 1.5
"""Largest correction of a region in one step, relative to what is still missing: small regions answer weakly."""

_spaces: WeakKeyDictionary[KnownVisits, PersonSpace] = WeakKeyDictionary()


def space_of(known: KnownVisits, plan: GridPlan) -> PersonSpace:
    """The space between the template and the last scan; computed once per person."""
    if known.space is not None:
        return known.space
    if known not in _spaces:
        _spaces[known] = person_space(known.volume("t1w"), plan)
    return _spaces[known]


def velocity_of_rates(rates: Floats, labels: NDArray[np.int16], regions: Values, mask: NDArray[np.bool_]) -> Floats:
    """Velocity [3, X, Y, Z] in voxels per year.

    Args:
        rates: [X, Y, Z] wanted log volume change per year.
        labels: [X, Y, Z], 1 to R.
        regions: [R] wanted mean over each region, NaN where `rates` alone decides.
        mask: [X, Y, Z] where rates count; elsewhere the sum of all is taken up.
    """
    outside = ~(mask | (labels > 0))
    inside = ~outside
    sizes = np.maximum(np.bincount(labels.ravel(), minlength=len(regions) + 1), 1)
    shift = np.zeros(len(regions) + 1)
    wanted = np.concatenate([[np.nan], regions])
    wanted[sizes == 0] = np.nan
    given = np.where(inside, rates, 0).astype(np.float32)
    divergence = given
    velocity = np.zeros((3, *rates.shape), np.float32)
    for _ in range(NUM_CORRECTIONS):
        total = divergence + np.where(inside, shift[labels], 0).astype(np.float32)
        velocity = velocity_from_divergence(_balanced(total, outside))
        reached = sum(np.gradient(velocity[axis], axis=axis) for axis in range(3))
        means = np.bincount(labels.ravel(), weights=reached.ravel(), minlength=len(wanted)) / sizes
        missing = np.where(np.isnan(wanted), 0.0, wanted - means)
        if np.abs(missing).max(initial=0.0) < 1e-5 and _ > 0:
            break
        shift += STRENGTH * missing
    return velocity


def _balanced(divergence: Floats, outside: NDArray[np.bool_]) -> Floats:
    """The divergence with its sum spread evenly over the voxels outside."""
    num = int(outside.sum())
    if num == 0:
        return divergence
    return (divergence - outside * np.float32(divergence.sum(dtype=np.float64) / num)).astype(np.float32)


def futures_of(
    known: KnownVisits, velocity: Floats, years: Sequence[float], num_regions: int, mask: NDArray[np.bool_]
) -> list[Future]:
    """The scan moved along a velocity per year on its own voxels, for each of these years."""
    return [moved(known, (velocity * np.float32(time)), num_regions, mask) for time in years]


def moved(known: KnownVisits, velocity: Floats, num_regions: int, mask: NDArray[np.bool_]) -> Future:
    """The scan after exp(velocity)."""
    t1w = known.volume("t1w")
    if not velocity.any():
        return unchanged(known, num_regions, mask)
    determinant = jacobian_determinant(exponential(velocity))
    change = np.log(np.maximum(determinant, np.float32(MINIMUM_JACOBIAN)))
    image = warp(np.asarray(t1w, np.float32), exponential(-velocity))
    return Future((image * mask).astype(np.float32), change, region_log_changes(change, known.labels, num_regions))


def unchanged(known: KnownVisits, num_regions: int, mask: NDArray[np.bool_]) -> Future:
    """The scan itself."""
    change = np.zeros(known.labels.shape, np.float32)
    t1w = (known.volume("t1w") * mask).astype(np.float32)
    return Future(t1w, change, region_log_changes(change, known.labels, num_regions))
