"""Rates of change of people who were measured several times: a random-slope model, from sufficient statistics alone.

Quantity y of person i at time t: ``y = a_i + (x_i b + u_i) t + e``, u_i ~ N(0, tau^2), e ~ N(0, sigma^2) (Laird and Ware 1982,
Biometrics 38). Within-person centring takes the intercepts out: person i has the slope s_i, normal with mean x_i b and variance
``tau^2 (1 + ratio / S_i)``, where ``S_i = sum (t - mean t)^2`` is its information and ``ratio = sigma^2 / tau^2``, both in
years^2; the scatter of a person's points around the own line tells sigma^2 apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RATIOS = np.logspace(-3, 3, 31)
"""Of measurement variance to the variance of rates between people, years^2, from which one is chosen."""
USUAL_RATIO, ITS_SPREAD = 1.0, 2.3
"""Where the data do not tell: a change of one year is as large as its error. SD of the natural logarithm around that."""
POOLED_SPREAD = 0.7
"""SD of the logarithm of one quantity's ratio around that of all quantities together."""
TINY = 1e-30


@dataclass(frozen=True)
class Slopes:
    """Slopes of n people in m quantities.

    Attributes:
        values: [n, m] least-squares slope per year of every person.
        information: [n] sum of squared times around the person's mean time, years^2.
        scatter: [m] sum of squares of all points around their person's own line.
        freedom: degrees of freedom of the scatter: points beyond two per person.
    """

    values: NDArray[np.floating]
    information: Values
    scatter: Values
    freedom: int


def slopes(values: NDArray[np.floating], years: Values, people: Sequence[Sequence[NDArray[np.int64]]]) -> Slopes:
    """Slopes of people who have two or more different times in a stretch.

    Args:
        values: [v, m], a row per visit.
        years: [v].
        people: of each person the rows of every stretch: visits of one scanner, say, which share a level.
    """
    found = np.empty((len(people), values.shape[1]), values.dtype)
    information, scatter, freedom = np.empty(len(people)), np.zeros(values.shape[1]), 0
    for number, stretches in enumerate(people):
        time = np.concatenate([years[rows] - years[rows].mean() for rows in stretches])
        centred = np.concatenate([values[rows] - values[rows].mean(axis=0) for rows in stretches])
        information[number] = float(np.square(time).sum())
        found[number] = time @ centred / information[number]
        beyond = len(time) - len(stretches) - 1
        if beyond > 0:
            scatter += np.square(centred - np.outer(time, found[number])).sum(axis=0)
            freedom += beyond
    return Slopes(found, information, scatter, freedom)


def noise_ratios(design: Values, measured: Slopes) -> tuple[float, Values]:
    """sigma^2 / tau^2 of all quantities together, and of each one, partially pooled: REML over `RATIOS`.

    Args:
        design: [n, p] covariates of the people, intercept included.
        measured: their slopes.

    Returns:
        the ratio of all; [m] the ratios of each.
    """
    deviances = np.array([_deviances(design, measured, ratio) for ratio in RATIOS])
    known = np.isfinite(deviances).all(axis=0)
    logs = np.log(RATIOS)
    prior = np.square((logs - np.log(USUAL_RATIO)) / ITS_SPREAD)
    common = prior + (deviances[:, known].mean(axis=1) if known.any() else 0.0)
    of_all = float(RATIOS[int(np.argmin(common))])
    around = np.square((logs - np.log(of_all)) / POOLED_SPREAD)
    each = np.full(measured.values.shape[1], of_all)
    each[known] = RATIOS[np.argmin(deviances[:, known] + around[:, None], axis=0)]
    return of_all, each


def reliability(ratio: Values | float, information: Values | float) -> Values:
    """Share of a person's own deviation that is the person's and not measurement: 1 / (1 + ratio / information)."""
    return np.asarray(information / (information + np.asarray(ratio)), dtype=np.float64)


def _deviances(design: Values, measured: Slopes, ratio: float) -> Values:
    """-2 log restricted likelihood [m] up to a constant; tau^2 is profiled out."""
    weights = reliability(ratio, measured.information)
    root = np.sqrt(weights)[:, None]
    left, singular, _ = np.linalg.svd(root * design, full_matrices=False)
    rank = int((singular > 1e-8 * max(float(singular[0]), TINY)).sum())
    outcome = root * measured.values
    left = left[:, :rank]
    squares = np.square(outcome - left @ (left.T @ outcome)).sum(axis=0) + measured.scatter / ratio
    freedom = max(1, len(design) - rank + measured.freedom)
    volume = 2 * np.log(singular[:rank]).sum() - np.log(weights).sum() + measured.freedom * np.log(ratio)
    return np.asarray(freedom * np.log(np.maximum(squares / freedom, TINY)) + volume, dtype=np.float64)
