"""How a head is fitted, in two parts that see training people only: one without labels, and one with labels.

A recipe is every step from the features of a scan to its prediction. It gets the rows of training people only, and
predictions are made by what it returns. So scaling, components, harmonisation, confounds, settings, calibration and
threshold stay inside a fold.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.settings import Threshold
from gen3d.cohort.target import Rows, Target, Values
from gen3d.core.config import Config


class Reducer(Protocol):
    """The label-free part, fitted: scans to a few numbers."""

    def apply(self, rows: Rows) -> Values:
        """[n, k]; row by row, so that a scan's numbers do not depend on the other scans."""
        ...


class Learned(Protocol):
    """The part that saw labels, fitted, calibrated and with its threshold."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the inner cross-validation chose, JSON-ready."""
        ...

    @property
    def threshold(self) -> float:
        """Of the last class's probability, for two classes; NaN otherwise."""
        ...

    def outputs(self, values: Values) -> Values:
        """Calibrated probabilities of the classes [n, classes], or predicted numbers [n, 1]."""
        ...


class KeptLearned(Learned, Protocol):
    """A fitted head that can be kept."""

    def state(self) -> dict[str, Any]:
        """The fitted state, from which `HeadRecipe.relearn` makes the same head: JSON-ready, but for `weights` if there
        are any, {name: array}."""
        ...


class Recipe(Protocol):
    """A head, or a baseline."""

    @property
    def name(self) -> str:
        """As tables call it: `logistic`, `hippocampus_ml`."""
        ...

    def reduce(self, train: Rows) -> Reducer:
        """Fit what needs no labels, on training people."""
        ...

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> Learned:
        """Fit what needs labels; settings, calibration and threshold by inner cross-validation over `groups` (people).

        Args:
            values: [n, k] from the reducer.
            codes: class numbers or values [n].
            groups: number of the person of each scan [n]; scans of a person are never split.
            target: what the codes mean.
            seed: of everything random.
        """
        ...


class HeadRecipe(Recipe, Protocol):
    """The recipe of a head that can be kept and opened again."""

    @property
    def settings(self) -> Config:
        """The head's own settings, with its `kind`."""
        ...

    @property
    def threshold(self) -> Threshold:
        """The rule of the threshold."""
        ...

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> KeptLearned:
        """See `Recipe.learn`."""
        ...

    def relearn(
        self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int, state: dict[str, Any]
    ) -> KeptLearned:
        """The head of `KeptLearned.state()`, fitted again on the same people without an inner cross-validation."""
        ...
