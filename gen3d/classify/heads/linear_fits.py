"""Penalised linear fits for many problems and penalties at once: L2 logistic regression and ridge regression.

An inner cross-validation is the same rows with other weights: a row that is held out has weight 0. So the folds, classes
and penalties of one head are fitted in one batch, which is what makes thousands of label permutations affordable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Values = NDArray[np.float64]

GRADIENT = 1e-9
"""Largest entry of the gradient of the mean loss at which a fit has converged."""
MOST_STEPS = 100
MOST_HALVINGS = 30
JITTER = 1e-10
"""Added to the diagonal of the Hessian: without it the intercept of separated classes makes it singular."""


def balanced_weights(positive: NDArray[np.bool_], used: NDArray[np.bool_]) -> Values:
    """Weights of rows that sum to 1, half for each class, and 0 where a row is not used.

    Args:
        positive: class of each row, [..., n].
        used: whether the row is learned from, [..., n]; both classes must occur among these.
    """
    weights = np.zeros(np.broadcast_shapes(positive.shape, used.shape))
    for member in (positive & used, ~positive & used):
        weights = weights + 0.5 * member / np.maximum(member.sum(axis=-1, keepdims=True), 1)
    return np.asarray(weights, dtype=np.float64)


def logistic_path(
    values: Values, positive: NDArray[np.bool_], weights: Values, penalties: Sequence[float]
) -> tuple[Values, Values]:
    """L2 logistic regression of P problems at S penalties, by Newton's method, each penalty started from the one before.

    Minimises sum_i weights_i log(1 + exp(-s_i (x_i w + b))) + penalty / 2 |w|^2 with s = +1 or -1; the intercept b is free.

    Args:
        values: [n, k], the same for all problems.
        positive: class of each row in each problem, [P, n].
        weights: [P, n], summing to 1 in each problem (see `balanced_weights`).
        penalties: from the strongest to the weakest, all above 0.

    Returns:
        Coefficients [S, P, k] and intercepts [S, P].
    """
    design = np.hstack([values, np.ones((len(values), 1))])
    theta = np.zeros((len(positive), design.shape[1]))
    path = []
    for penalty in penalties:
        theta = _logistic(design, np.where(positive, 1.0, -1.0), weights, penalty, theta)
        path.append(theta)
    thetas = np.stack(path)
    return thetas[:, :, :-1], thetas[:, :, -1]


def _logistic(design: Values, sign: Values, weights: Values, penalty: float, theta: Values) -> Values:
    shrink = np.full(design.shape[1], penalty)
    shrink[-1] = 0.0
    loss = _loss(design, sign, weights, shrink, theta)
    for _ in range(MOST_STEPS):
        wrong = expit(-sign * (theta @ design.T))
        gradient = shrink * theta - (weights * sign * wrong) @ design
        active = np.flatnonzero(np.abs(gradient).max(axis=1) > GRADIENT)
        if not len(active):
            break
        curvature = (weights * wrong * (1.0 - wrong))[active]
        hessian = (design.T[None] * curvature[:, None, :]) @ design
        diagonal = np.arange(design.shape[1])
        hessian[:, diagonal, diagonal] += shrink + JITTER
        step = np.linalg.solve(hessian, gradient[active][:, :, None])[:, :, 0]
        moved, lower = _descend(design, sign[active], weights[active], shrink, theta[active], step, loss[active])
        if np.array_equal(moved, theta[active]):
            break  # no step lowers the loss any more: rounding is reached
        theta = theta.copy()
        theta[active], loss[active] = moved, lower
    return theta


def _descend(
    design: Values, sign: Values, weights: Values, shrink: Values, theta: Values, step: Values, loss: Values
) -> tuple[Values, Values]:
    """Newton's step, halved in each problem until its loss does not rise; a problem in which none helps stays."""
    length = np.ones(len(theta))
    for _ in range(MOST_HALVINGS):
        moved = theta - length[:, None] * step
        lower = _loss(design, sign, weights, shrink, moved)
        risen = lower > loss + 1e-14
        if not risen.any():
            return moved, lower
        length[risen] /= 2.0
    moved[risen], lower[risen] = theta[risen], loss[risen]
    return moved, lower


def _loss(design: Values, sign: Values, weights: Values, shrink: Values, theta: Values) -> Values:
    margin = sign * (theta @ design.T)
    # log(1 + exp(-m)) without overflow, and several times faster than logaddexp.
    each = np.log1p(np.exp(-np.abs(margin))) + np.maximum(-margin, 0.0)
    return np.asarray((weights * each).sum(axis=1) + 0.5 * (theta**2) @ shrink, dtype=np.float64)


def ridge_path(values: Values, numbers: Values, penalties: Sequence[float]) -> tuple[Values, Values]:
    """Ridge regression at S penalties, in closed form from one singular value decomposition.

    Minimises mean_i (y_i - x_i w - b)^2 + penalty |w|^2 (Hoerl and Kennard 1970); the intercept b is free.

    Args:
        values: [n, k].
        numbers: y, [n].
        penalties: all above 0.

    Returns:
        Coefficients [S, k] and intercepts [S].
    """
    centre, level = values.mean(axis=0), float(numbers.mean())
    left, singular, right = np.linalg.svd(values - centre, full_matrices=False)
    projected = left.T @ (numbers - level)
    shrunk = [singular * projected / (singular**2 + penalty * len(values)) for penalty in penalties]
    coefficients = np.stack(shrunk) @ right
    return coefficients, level - coefficients @ centre
