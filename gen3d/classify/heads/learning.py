"""Fit a head with labels: settings by inner cross-validation, calibration on its held-out scores, and a threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.estimators import Scorer, estimator_of
from gen3d.classify.heads.inner_folds import inner_folds
from gen3d.classify.heads.probability_calibration import Scaling, fit_scaling, two_columns
from gen3d.classify.heads.settings import TableHead, Threshold
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError

Values = NDArray[np.float64]


@dataclass(frozen=True)
class FittedHead:
    """A fitted head. `scale` divides its inputs; `scalings` turn scores into probabilities (none for a number)."""

    settings: dict[str, Any]
    threshold: float
    target: Target
    scale: float
    scorer: Scorer
    scalings: tuple[Scaling, ...]

    def outputs(self, values: Values) -> Values:
        """Calibrated probabilities of the classes [n, classes], or predicted numbers [n, 1]."""
        scores = self.scorer.scores(np.asarray(values, dtype=np.float64) / self.scale)
        return scores.T if self.target.task == "number" else probabilities(scores, self.scalings, self.target)

    def state(self) -> dict[str, Any]:
        """What the inner cross-validation found, JSON-ready: with it the head can be fitted again without one."""
        return {"settings": self.settings, **calibration_state(self.scalings, self.threshold)}


@dataclass(frozen=True)
class Learner:
    """How values and labels become a head."""

    head: TableHead
    threshold: Threshold = "prevalence"

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FittedHead:
        """Choose the settings, calibrate and fit; see `Recipe.learn`.

        The settings are those with the highest mean AUC of held-out people within the inner folds (over the classes
        against the rest, or over the grades to exceed), or with the lowest mean absolute error of a number; of equals, the
        simplest. Held-out scores at these settings give the calibration.

        Raises:
            UserError: one class only, too few people for inner folds, or a number that is the same for everybody.
        """
        _check(codes, target)
        scaled, scale = _scaled(values)
        estimator = estimator_of(self.head, target.task == "number")
        targets = _problems(codes, target)
        folds = inner_folds(codes, groups, target, seed)
        held_out = estimator.out_of_fold(scaled, targets, folds, seed)
        merits = [_merit(scores, targets, folds, target) for scores in held_out]
        best = int(np.argmax(merits))
        setting = estimator.grid[best]
        scorer = estimator.fit(scaled, targets, setting, seed)
        scalings = scalings_of(held_out[best], codes, target)
        threshold = threshold_of(self.threshold, codes, target)
        return FittedHead(dict(setting), threshold, target, scale, scorer, scalings)

    def relearn(
        self,
        values: Values,
        codes: Values,
        groups: NDArray[np.int64],
        target: Target,
        seed: int,
        state: dict[str, Any],
    ) -> FittedHead:
        """Fit again at the settings, calibration and threshold of `FittedHead.state`, without an inner cross-validation."""
        scaled, scale = _scaled(values)
        estimator = estimator_of(self.head, target.task == "number")
        scorer = estimator.fit(scaled, _problems(codes, target), state["settings"], seed)
        scalings, threshold = kept_calibration(state)
        return FittedHead(dict(state["settings"]), threshold, target, scale, scorer, scalings)


def threshold_of(rule: Threshold, codes: Values, target: Target) -> float:
    """The threshold that a rule gives for these training scans; NaN where there are not two classes."""
    if not target.is_binary:
        return math.nan
    return float(codes.mean()) if rule == "prevalence" else rule


def calibration_state(scalings: tuple[Scaling, ...], threshold: float) -> dict[str, Any]:
    """Calibration and threshold, JSON-ready."""
    return {
        "threshold": None if math.isnan(threshold) else threshold,
        "calibration": [{"slope": scaling.slope, "biases": list(scaling.biases)} for scaling in scalings],
    }


def kept_calibration(state: Mapping[str, Any]) -> tuple[tuple[Scaling, ...], float]:
    """What `calibration_state` kept."""
    scalings = tuple(Scaling(float(kept["slope"]), tuple(kept["biases"])) for kept in state["calibration"])
    return scalings, math.nan if state["threshold"] is None else float(state["threshold"])


def probabilities(scores: Values, scalings: tuple[Scaling, ...], target: Target) -> Values:
    """Calibrated probabilities [n, classes] from scores [B, n].

    Ordered classes: the probabilities of exceeding each grade are each calibrated, made to fall by their running minimum,
    and the probability of a grade is the difference of two of them (Frank and Hall 2001).
    """
    if target.task != "ordered" or target.is_binary:
        return scalings[0].probabilities(two_columns(scores[0]) if target.is_binary else scores.T)
    exceeding = [scaling.probabilities(two_columns(row))[:, 1] for scaling, row in zip(scalings, scores, strict=True)]
    bounded = np.minimum.accumulate(np.stack([np.ones(scores.shape[1]), *exceeding]), axis=0)
    return np.asarray((bounded - np.vstack([bounded[1:], np.zeros(scores.shape[1])])).T, dtype=np.float64)


def problem_rows(scores: Values, target: Target) -> Values:
    """A network's scores [n, S] as calibration takes them, one row per problem: two logits are one difference."""
    if target.is_binary and scores.shape[1] == 2:
        return np.asarray((scores[:, 1] - scores[:, 0])[None])
    return scores.T


def scalings_of(scores: Values, codes: Values, target: Target) -> tuple[Scaling, ...]:
    """Calibration on held-out scores [B, n]: one for all categories, or one per grade to exceed; none for a number."""
    if target.task == "number":
        return ()
    if target.task == "categories" and not target.is_binary:
        return (fit_scaling(scores.T, codes.astype(np.int64)),)
    problems = _problems(codes, target).astype(np.int64)
    return tuple(fit_scaling(two_columns(row), problem) for row, problem in zip(scores, problems, strict=True))


def _problems(codes: Values, target: Target) -> Values:
    """Targets of the problems that a task is split into, [B, n]."""
    if target.task == "number":
        return np.asarray(codes, dtype=np.float64)[None]
    classes = np.arange(len(target.classes))
    if target.is_binary or target.task == "ordered":
        return (codes > classes[:-1, None]).astype(np.float64)
    return (codes == classes[:, None]).astype(np.float64)


def _merit(scores: Values, targets: Values, folds: NDArray[np.int64], target: Target) -> float:
    """How well held-out people are predicted; higher is better."""
    if target.task == "number":
        return -float(np.abs(scores - targets).mean())
    return float(np.mean([_auc_within(row, truth > 0.5, folds) for row, truth in zip(scores, targets, strict=True)]))


def _auc_within(scores: Values, positive: NDArray[np.bool_], folds: NDArray[np.int64]) -> float:
    """Share of pairs of the same fold in the right order: scores of different folds come from different models."""
    right, pairs = 0.0, 0
    for fold in range(int(folds.max()) + 1):
        ill, well = scores[(folds == fold) & positive], scores[(folds == fold) & ~positive]
        ordered = np.sort(well)
        below = np.searchsorted(ordered, ill, side="left").sum() + np.searchsorted(ordered, ill, side="right").sum()
        right += 0.5 * float(below)
        pairs += ill.size * well.size
    return right / pairs if pairs else 0.5


def _scaled(values: Values) -> tuple[Values, float]:
    """Inputs divided by the root of the mean variance of their columns, so that a penalty means the same everywhere."""
    inputs = np.asarray(values, dtype=np.float64)
    scale = float(np.sqrt(inputs.var(axis=0).mean())) if inputs.size else 0.0
    scale = scale if scale > 1e-12 else 1.0
    return inputs / scale, scale


def _check(codes: Values, target: Target) -> None:
    if target.task == "number":
        if np.ptp(codes) == 0:
            raise UserError(
                f"{target.name} is {codes[0]:g} for everybody in a training fold; there is nothing to learn."
            )
        return
    counts = np.bincount(codes.astype(np.int64), minlength=len(target.classes))
    missing = [name for name, count in zip(target.classes, counts, strict=True) if count == 0]
    if missing:
        raise UserError(
            f"nobody in a training fold has {target.name} {' or '.join(missing)}; use fewer folds, add people of that "
            "class, or leave the class out of classes=."
        )
