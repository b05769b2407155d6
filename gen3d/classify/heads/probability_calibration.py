"""Scores to probabilities: Platt's sigmoid for two classes, temperature scaling with a bias per class for more.

Heads are fitted with balanced class weights, so their scores say nothing about how common a class is. The biases put that
back: calibrated probabilities refer to the shares of the classes among the people calibrated on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_SLOPE = 0.05
"""Smallest change of the log odds per standard deviation of the scores.

Where there is nothing to find, out-of-fold scores of a small sample often point the wrong way. A slope of 0 or below would
throw away or turn round the order of the scores, which is not what calibration is for."""
LEAST_SPREAD = 1e-6
"""Standard deviation of scores (log odds or the like) below which they are rounding, and everybody gets the shares."""
MOST_STEPS = 100


@dataclass(frozen=True)
class Scaling:
    """probabilities = softmax(slope * scores + biases); the bias of the first class is 0."""

    slope: float
    biases: tuple[float, ...]

    def probabilities(self, scores: Values) -> Values:
        """[n, classes] from scores [n, classes]."""
        return _softmax(self.slope * scores + np.array(self.biases))


def two_columns(scores: Values) -> Values:
    """Scores of the second of two classes [n] as scores of both [n, 2]."""
    return np.stack([np.zeros_like(scores), scores], axis=1)


def fit_scaling(scores: Values, codes: NDArray[np.int64]) -> Scaling:
    """Slope and biases by maximum likelihood on held-out scores.

    With two classes this is Platt 1999; with more, the temperature scaling of Guo et al. 2017 (slope = 1 / temperature)
    with a bias per class. Targets are smoothed as Platt does, (n_c + 1) / (n_c + number of classes) for the n_c rows of
    class c, so that scores that separate a small sample perfectly do not become certainties.

    Args:
        scores: [n, classes], of people held out from the training of the scoring model.
        codes: class number of each row, [n]; every class occurs.
    """
    num_classes = scores.shape[1]
    spread = float((scores - scores.mean(axis=1, keepdims=True)).std(axis=0).max())
    unit = spread if spread > LEAST_SPREAD else 1.0
    inputs, targets = scores / unit, _smoothed(codes, num_classes)
    start = np.concatenate([[1.0], _log_shares(targets)])
    parameters = _newton(inputs, targets, start, free_slope=True)
    if parameters[0] < LEAST_SLOPE:
        start[0] = LEAST_SLOPE
        parameters = _newton(inputs, targets, start, free_slope=False)
    return Scaling(float(parameters[0] / unit), (0.0, *(float(bias) for bias in parameters[1:])))


def _smoothed(codes: NDArray[np.int64], num_classes: int) -> Values:
    counts = np.bincount(codes, minlength=num_classes)
    targets = np.repeat(1.0 / (counts[codes] + num_classes)[:, None], num_classes, axis=1)
    targets[np.arange(len(codes)), codes] *= counts[codes] + 1.0
    return targets


def _log_shares(targets: Values) -> Values:
    shares = targets.mean(axis=0)
    return np.asarray(np.log(shares[1:] / shares[0]), dtype=np.float64)


def _newton(scores: Values, targets: Values, start: Values, free_slope: bool) -> Values:
    """Parameters (slope, biases of all classes but the first) that minimise the mean cross-entropy, which is convex."""
    num_classes = scores.shape[1]
    # design[i, c, :]: derivative of the logit of class c in row i by each parameter.
    design = np.zeros((len(scores), num_classes, num_classes))
    design[:, :, 0] = scores
    design[:, 1:, 1:] = np.eye(num_classes - 1)
    free = np.arange(0 if free_slope else 1, num_classes)
    part = design[:, :, free]
    parameters = start.copy()
    loss = _cross_entropy(design @ parameters, targets)
    for _ in range(MOST_STEPS):
        predicted = _softmax(design @ parameters)
        gradient = np.einsum("nc,ncp->p", predicted - targets, part) / len(scores)
        if np.abs(gradient).max() < 1e-10:
            break
        mean = np.einsum("nc,ncp->np", predicted, part)
        hessian = np.einsum("nc,ncp,ncq->pq", predicted, part, part) - mean.T @ mean
        step = np.linalg.solve(hessian / len(scores) + 1e-10 * np.eye(len(free)), gradient)
        for halving in range(30):
            moved = parameters.copy()
            moved[free] -= step / 2.0**halving
            lower = _cross_entropy(design @ moved, targets)
            if lower <= loss + 1e-14:
                break
        else:
            break
        parameters, loss = moved, lower
    return parameters


def _cross_entropy(logits: Values, targets: Values) -> float:
    highest = logits.max(axis=1, keepdims=True)
    return float(-(targets * (logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True)))).mean())


def _softmax(logits: Values) -> Values:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)
