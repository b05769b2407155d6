"""How a head is fitted, in two parts that see training people only: what needs no labels, and what does.

A recipe is all that is done between the features of a scan and a prediction. It gets the rows of training people, and
nothing of anybody else; predictions are made by what it returns. That is what keeps scaling, components, harmonisation,
confounds, settings, calibration and threshold inside a fold.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.target import Rows, Target, Values


class Reducer(Protocol):
    """The label-free part, fitted: scans to a few numbers."""

    def apply(self, rows: Rows) -> Values:
        """[n, k]; row by row, so that a scan's numbers do not depend on which others are given."""
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
            groups: number of the person of each scan [n]; a person's scans are never apart.
            target: what the codes mean.
            seed: of everything random.
        """
        ...
