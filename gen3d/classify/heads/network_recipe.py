"""The scores of a trained network as a recipe: nothing is trained but the calibration, on people who only watched the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.learning import probabilities, problem_rows, scalings_of, threshold_of
from gen3d.classify.heads.probability_calibration import Scaling
from gen3d.classify.heads.settings import Threshold
from gen3d.cohort.target import Rows, Target, Values

FEWEST_OF_CLASS = 2
"""Validation people of every class from which probabilities are calibrated."""


@dataclass(frozen=True)
class ScoresAsTheyAre:
    """Raw scores; NaN for people of the training share who have none."""

    def apply(self, rows: Rows) -> Values:
        """[n, scores]."""
        return np.asarray(rows.values, dtype=np.float64)


@dataclass(frozen=True)
class CalibratedNetwork:
    """Scores, calibrated and with a threshold; see `study.recipe.Learned`."""

    target: Target
    scalings: tuple[Scaling, ...]
    threshold: float
    num_people: int

    @property
    def settings(self) -> dict[str, Any]:
        """On how many people the probabilities rest; 0: on none, and the shares of the classes stand for a calibration."""
        return {} if self.target.task == "number" else {"validation people": self.num_people}

    def outputs(self, values: Values) -> Values:
        """Calibrated probabilities of the classes [n, classes], or predicted numbers [n, 1]."""
        if self.target.task == "number":
            return values
        return probabilities(problem_rows(values, self.target), self.scalings, self.target)


@dataclass(frozen=True)
class NetworkRecipe:
    """A network that was trained elsewhere, on the training people of the same fold.

    `learn` sees scores of the fold's validation people alone: they chose the network's checkpoint, and were not learned from.
    Platt's sigmoid or temperature scaling is fitted on them. With fewer than two of a class (or with `calibrated` off) the
    scores, which refer to classes that weigh the same, are given the shares of the classes among the training people.
    """

    name: str
    features_description: str
    threshold: Threshold = "prevalence"
    calibrated: bool = True

    def reduce(self, train: Rows) -> ScoresAsTheyAre:
        """Nothing to fit."""
        return ScoresAsTheyAre()

    def learn(
        self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int
    ) -> CalibratedNetwork:
        """Calibrate; see `Recipe.learn`. Scores [n, scores] are NaN for those the network learned from."""
        if target.task == "number":
            return CalibratedNetwork(target, (), math.nan, 0)
        known = np.isfinite(values).all(axis=1)
        counts = [len(np.unique(groups[known & (codes == code)])) for code in range(len(target.classes))]
        if not self.calibrated or min(counts) < FEWEST_OF_CLASS:
            cut = threshold_of(self.threshold, codes, target)
            return CalibratedNetwork(target, _shares(codes, target), cut, 0)
        scalings = scalings_of(problem_rows(values[known], target), codes[known], target)
        cut = threshold_of(self.threshold, codes[known], target)
        return CalibratedNetwork(target, scalings, cut, len(np.unique(groups[known])))


def _shares(codes: Values, target: Target) -> tuple[Scaling, ...]:
    """Scores of balanced classes, moved to the shares of the classes in `codes` [n], all of which occur."""
    counts = np.bincount(codes.astype(np.int64), minlength=len(target.classes)).astype(np.float64)
    if target.is_binary or target.task != "ordered":
        return (Scaling(1.0, tuple(float(bias) for bias in np.log(counts / counts[0]))),)
    above = np.cumsum(counts[::-1])[::-1][1:]
    return tuple(Scaling(1.0, (0.0, float(bias))) for bias in np.log(above / (counts.sum() - above)))
