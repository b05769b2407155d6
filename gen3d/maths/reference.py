"""p of a person's score among the scores of controls, one or two of whom may be outliers.

A rank needs no model and is exact, but its extreme values belong to single people: below 39 controls a p of 5 % means
"beyond every control", so one control with an unusual brain hides every patient. Therefore the largest
`most_outlying(n)` scores are tested by a rule that is fixed beforehand. A log-normal tail is fitted to the upper half
of the other scores, by least squares of their logarithms on the normal quantiles of their ranks (Blom 1958, Statistical
estimates and transformed beta variables, ch. 6). A control is outlying if among n controls fewer than `EXPECTED` would
be expected as far out (an outlier identifier as in Davies and Gather 1993, JASA 88:782; a tail whose largest values were
trimmed before the fit as in Bhattacharya, Kallitsis and Stoev 2019, Electronic Journal of Statistics 13:1872).
Without an outlying control p is the rank. With one, p is that of the fitted tail.

Error rates over simulated controls, with and without outliers: `analysis/15_outlying_controls.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr

from gen3d.maths.significance import conformal_p, conformal_resolution

EXPECTED = 0.2
"""Controls as far out as an outlying one that the fitted tail may expect among all."""

FEWEST_FITTED = 5
"""Scores that a tail is fitted to, at least."""

CONTROLS_PER_OUTLIER = 15
MOST_OUTLYING = 3


def most_outlying(num_controls: int) -> int:
    """How many of the largest scores may be outlying: 1 below 30 controls, 2 below 45, then 3."""
    return min(MOST_OUTLYING, max(1, num_controls // CONTROLS_PER_OUTLIER))


@dataclass(frozen=True)
class Tail:
    """A log-normal tail: P(score > x) = P(T > (log x - centre) / spread), T Student's t with `dof`, for x from `start`."""

    centre: float
    spread: float
    dof: int
    start: float

    def p(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(score > x) for values above 0, same shape."""
        return np.asarray(stdtr(self.dof, (self.centre - np.log(values)) / self.spread))


@dataclass(frozen=True)
class ReferenceScores:
    """The scores of controls, largest first [n], and how many of them are outlying, with the tail of the others."""

    scores: NDArray[np.float64]
    num_outlying: int = 0
    tail: Tail | None = None

    @classmethod
    def of(cls, scores: ArrayLike) -> ReferenceScores:
        """The reference of controls' scores [n]; larger is more unusual, none is negative, NaN is left out."""
        values = np.asarray(scores, dtype=np.float64).ravel()
        ordered = np.sort(values[np.isfinite(values)])[::-1]
        trimmed = most_outlying(len(ordered))
        tail = _fit_tail(ordered, trimmed)
        if tail is None:
            return cls(ordered)
        expected = len(ordered) * tail.p(ordered[:trimmed])
        return cls(ordered, int((expected < EXPECTED).sum()), tail)

    @property
    def outlying(self) -> NDArray[np.float64]:
        """The outlying scores, largest first."""
        return self.scores[: self.num_outlying]

    @property
    def smallest_p(self) -> float:
        """The smallest p that a rank can give, 1 / (n + 1)."""
        return conformal_resolution(len(self.scores))

    @property
    def next_score(self) -> float:
        """The largest score that is not outlying; NaN without any."""
        return float(self.scores[self.num_outlying]) if len(self.scores) > self.num_outlying else math.nan

    def p(self, values: ArrayLike) -> NDArray[np.float64]:
        """p of each score, same shape; NaN stays.

        The rank (1 + controls at least as far out) / (n + 1) where no control is outlying, or below the tail; else the
        share of the fitted tail beyond the score.
        """
        asked = np.asarray(values, dtype=np.float64)
        p = conformal_p(self.scores, asked)
        if self.num_outlying and self.tail is not None:
            beyond = asked > self.tail.start
            p[beyond] = self.tail.p(asked[beyond])
        return p


def _fit_tail(ordered: NDArray[np.float64], trimmed: int) -> Tail | None:
    """The tail of the upper half of scores, largest first, without the `trimmed` largest; None with too few above 0."""
    num = len(ordered)
    last = min(max(num // 2, trimmed + FEWEST_FITTED), int((ordered > 0).sum()))
    used = last - trimmed
    if used < FEWEST_FITTED or last >= num:
        return None
    ranks = np.arange(trimmed + 1, last + 1)
    quantiles = -ndtri((ranks - 0.375) / (num + 0.25))
    logs = np.log(ordered[trimmed:last])
    centred = quantiles - quantiles.mean()
    slope = float(centred @ logs / (centred @ centred))
    if not slope > 0:
        return None
    centre = float(logs.mean() - slope * quantiles.mean())
    # A new score differs from the fitted centre by its own spread and by the error of the centre.
    return Tail(centre, slope * math.sqrt(1.0 + 2.0 / num), max(used - 1, 2), float(ordered[last - 1]))
