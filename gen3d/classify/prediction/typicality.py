"""Whether a scan lies where the people that a head learned from lie: out-of-distribution distances, ranked among theirs.

A scan can be unusual along the directions in which people differ (Mahalanobis distance on principal components), or
outside of them (what the components cannot express). Both are distances to a model of the training people; how large they
are for ordinary people is read from training people whom the model did not see, because those it saw lie too close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.maths.deviation import DeviationModel, deviation, fit_deviation

PARTS = ("along the components", "outside the components")
MAX_FOLDS = 20
"""Models behind the held-out distances, at most; with fewer people each is left out alone."""
NORMAL_MAD = 1.4826
COMPARED_AT_ONCE = 256
"""Scans that are compared with all others at a time."""

TINY = 1e-12

Array = NDArray[np.floating]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class TypicalityModel:
    """What is usual among training people.

    deviation: components, mean and covariance of all of them. reference: their held-out distances, [n, 2]. weights: 1 over the
    number of scans of the scan's person, [n], so that every person counts once. centre, spread: of the logarithms of the
    reference, [2]; the spread is 0 for a distance that does not vary, which then says nothing.
    """

    deviation: DeviationModel
    reference: Values
    weights: Values
    centre: Values
    spread: Values

    @property
    def num_people(self) -> float:
        """People behind the ranks."""
        return float(self.weights.sum())

    @property
    def smallest_tail(self) -> float:
        """The smallest p that so many people can give, 1 / (n + 1)."""
        return 1.0 / (self.num_people + 1.0)


@dataclass(frozen=True)
class Typicality:
    """Of scans: distances [m, 2] (PARTS), excess [m, 2], percentiles [m, 2] of each and [m] of both, p [m].

    excess: how far the logarithm of a distance is from its median in training people, in their robust SD. percentile: share (0 to
    100) of training people who are less unusual. p: share of n + 1 people at least as unusual, counting the scan itself.
    """

    distances: Values
    excess: Values
    part_percentiles: Values
    percentile: Values
    p: Values

    def beyond(self, tail: float) -> NDArray[np.bool_]:
        """Scans among the `tail` (for example 0.01) most unusual, [m]."""
        return np.asarray(self.p <= tail * (1.0 + 1e-9))

    def widest(self) -> NDArray[np.int64]:
        """Which of PARTS is the more unusual, [m]."""
        return np.asarray(self.excess.argmax(axis=1), dtype=np.int64)


def fit_typicality(
    values: Array, people: NDArray[np.int64], max_components: int = 20, seed: int = 0
) -> TypicalityModel:
    """Fit on the features of training people, and measure each person against a model of the others.

    Args:
        values: [n, d].
        people: number of the person of each scan [n]; a person's scans are left out together.
        max_components: components at most; no more than a fifth of the scans are used.
        seed: of the dealing of people into folds, where there are more than 20.

    Raises:
        UserError: fewer than 6 people, or values that do not vary.
    """
    features = np.asarray(values, dtype=np.float64)
    numbers, rows, counts = np.unique(people, return_inverse=True, return_counts=True)
    model = fit_deviation(features, max_components)
    rotated = _rotated(features - model.mean)
    dealt = np.random.default_rng(seed).permutation(len(numbers)) % min(MAX_FOLDS, len(numbers))
    reference = np.zeros((len(features), len(PARTS)))
    for fold in range(dealt.max() + 1):
        outside = dealt[rows] == fold
        others = fit_deviation(rotated[~outside], max_components)
        reference[outside] = _distances(others, rotated[outside])
    logs = np.log(np.maximum(reference, TINY))
    centre = np.median(logs, axis=0)
    spread = NORMAL_MAD * np.median(np.abs(logs - centre), axis=0)
    # A distance that rounding alone makes is of no use: latents that the components express completely.
    scale = float(np.linalg.norm(features - model.mean, axis=1).mean())
    spread[np.exp(centre) < 1e-6 * np.array([1.0, scale])] = 0.0
    return TypicalityModel(model, reference, 1.0 / counts[rows], centre, spread)


def typicality(model: TypicalityModel, values: Array) -> Typicality:
    """How unusual scans [m, d] are; the two distances together are ranked by the larger excess.

    The p is a conformal rank (Vovk, Gammerman and Shafer 2005, ch. 2): it needs no normal distribution, and cannot be below
    1 / (people + 1).
    """
    distances = _distances(model.deviation, np.asarray(values, dtype=np.float64))
    excess, reference = _excess(model, distances), _excess(model, model.reference)
    together, usual = excess.max(axis=1), reference.max(axis=1)
    at_least, lower = np.empty(len(distances)), np.empty(len(distances))
    by_part = np.empty(distances.shape)
    for start in range(
        0, len(distances), COMPARED_AT_ONCE
    ):  # so that memory does not grow with new people times training people
        rows = slice(start, start + COMPARED_AT_ONCE)
        at_least[rows] = ((usual >= together[rows, None]) * model.weights).sum(axis=1)
        lower[rows] = ((usual < together[rows, None]) * model.weights).sum(axis=1)
        by_part[rows] = ((model.reference[None] < distances[rows, None]) * model.weights[None, :, None]).sum(axis=1)
    num = model.num_people
    return Typicality(
        distances, excess, 100.0 * by_part / num, 100.0 * lower / num, np.asarray((1.0 + at_least) / (num + 1.0))
    )


def mean_typicality(results: Sequence[Typicality]) -> Typicality:
    """What several spaces say of the same scans, averaged; the p of one space stays as it is.

    Members of a family see almost the same people, so their p values are nearly the same number: the mean keeps its size.
    """
    names = ("distances", "excess", "part_percentiles", "percentile", "p")
    return Typicality(**{name: np.mean([getattr(result, name) for result in results], axis=0) for name in names})


def nearest_distances(values: Array, people: NDArray[np.int64]) -> Values:
    """Distance of each scan to the nearest scan of another person, [n]; infinite where there is only one person."""
    nearest = np.empty(len(values))
    for start in range(0, len(values), COMPARED_AT_ONCE):
        rows = slice(start, start + COMPARED_AT_ONCE)
        distances = pair_distances(values[rows], values)
        distances[people[rows, None] == people[None]] = np.inf
        nearest[rows] = distances.min(axis=1)
    return nearest


def pair_distances(first: Array, second: Array) -> Values:
    """Euclidean distances [m, n] of [m, k] and [n, k]; exactly 0 for equal rows."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return (
        np.stack([np.sqrt(np.square(other - row).sum(axis=1)) for row in one])
        if len(one)
        else np.zeros((0, len(other)))
    )


def _distances(model: DeviationModel, values: Values) -> Values:
    centred = values - model.mean
    inside = centred @ model.axes.T
    outside = np.linalg.norm(centred - inside @ model.axes, axis=1)
    return np.stack([deviation(model, values), outside], axis=1)


def _excess(model: TypicalityModel, distances: Values) -> Values:
    logs = np.log(np.maximum(distances, TINY)) - model.centre
    return np.where(model.spread > 0, logs / np.where(model.spread > 0, model.spread, 1.0), -np.inf)


def _rotated(centred: Values) -> Values:
    """The same distances in at most n dimensions, so that refits cost the same for any d."""
    if centred.shape[1] <= centred.shape[0]:
        return centred
    _, _, basis = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ basis.T)
