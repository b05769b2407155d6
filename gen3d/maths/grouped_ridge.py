"""Ridge regression of many outcomes at once, with penalties chosen by leaving out people, not rows.

Every outcome has its own penalties: those that make n log(error of people left out) least, where the mean of this over all outcomes
is added. So an outcome with much to learn gets a weak penalty, and one that shows little goes with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

PENALTIES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, np.inf)
"""From which each block of predictors gets one; infinite: the block is not used."""
BLOCK = 20_000
"""Outcomes at once."""
TINY = 1e-300


@dataclass(frozen=True)
class RidgeFit:
    """A fitted regression.

    Attributes:
        coefficients: [p, m].
        deviations: [n, m] of every person's outcomes from what is predicted without that person, mean over the person's rows.
        chosen: [m] number of the penalties of every outcome.
        penalties: those that are numbered, one per block of predictors.
    """

    coefficients: Values
    deviations: Values
    chosen: NDArray[np.int64]
    penalties: tuple[tuple[float, ...], ...]


def fit_ridge(
    design: Values, blocks: NDArray[np.int64], person: NDArray[np.int64], trust: Values, outcomes: NDArray[np.floating]
) -> RidgeFit:
    """Fit the outcomes of people by predictors of their rows; all rows of a person have the same outcomes.

    Args:
        design: [s, p] predictors of about unit SD; a column of ones is the intercept.
        blocks: [p] block of every column, from 1 on; columns of block 0 have no penalty.
        person: [s] person of every row, 0 to n - 1.
        trust: [n] weight of every person, such as the inverse of the outcome's variance, whatever the number of rows.
        outcomes: [n, m].
    """
    counts = np.bincount(person, minlength=len(trust))
    importance = (trust / counts)[person]
    found = list(_candidates(design, blocks, person, importance))
    errors = np.empty((len(found), outcomes.shape[1]))
    for start in range(0, outcomes.shape[1], BLOCK):
        some = outcomes[:, start : start + BLOCK].astype(np.float64)
        for number, each in enumerate(found):
            errors[number, start : start + BLOCK] = importance @ np.square(each.left_out @ some) / importance.sum()
    deviance = len(trust) * np.log(errors + TINY)
    chosen = np.argmin(deviance + deviance.mean(axis=1)[:, None], axis=0)
    coefficients = np.zeros((design.shape[1], outcomes.shape[1]))
    deviations = np.zeros(outcomes.shape)
    for number in np.unique(chosen):
        taken, each = np.flatnonzero(chosen == number), found[number]
        some = outcomes[:, taken].astype(np.float64)
        coefficients[:, taken] = each.weights @ some
        total = np.zeros((len(trust), len(taken)))
        np.add.at(total, person, each.left_out @ some)
        deviations[:, taken] = total / counts[:, None]
    return RidgeFit(coefficients, deviations, chosen, tuple(each.penalties for each in found))


@dataclass(frozen=True)
class _Candidate:
    """Coefficients and errors with the person left out as linear functions of people's outcomes: [p, n], [s, n]."""

    penalties: tuple[float, ...]
    weights: Values
    left_out: Values


def _candidates(
    design: Values, blocks: NDArray[np.int64], person: NDArray[np.int64], importance: Values
) -> Iterator[_Candidate]:
    """The regression with every choice of penalties, by the exact formula for people left out (Allen 1974, by blocks of rows)."""
    numbers = [int(block) for block in np.unique(blocks) if block > 0]
    spread = np.eye(person.max() + 1)[person]
    for penalties in product(PENALTIES, repeat=len(numbers)):
        of_block = dict(zip(numbers, penalties, strict=True))
        penalty = np.array([of_block.get(int(block), 0.0) for block in blocks])
        used = np.isfinite(penalty)
        chosen = design[:, used]
        weighted = chosen.T * importance
        # The pseudo-inverse gives an unpenalised column without variation the coefficient 0.
        solved = np.linalg.pinv(weighted @ chosen + np.diag(penalty[used]), rcond=1e-10, hermitian=True) @ weighted
        residual = np.eye(len(design)) - chosen @ solved
        left_out = np.empty_like(residual)
        for rows in (np.flatnonzero(person == each) for each in range(person.max() + 1)):
            left_out[rows] = np.linalg.solve(residual[np.ix_(rows, rows)] + 1e-9 * np.eye(len(rows)), residual[rows])
        weights = np.zeros((design.shape[1], spread.shape[1]))
        weights[used] = solved @ spread
        yield _Candidate(penalties, weights, left_out @ spread)
