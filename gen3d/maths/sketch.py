"""Random projections of long vectors to a few numbers that keep inner products on average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SKETCHED = 2048
"""Numbers of a sketch."""


@dataclass(frozen=True)
class Sketch:
    """Every element of a vector has a place and a sign, and a number of the sketch is the sum at its place.

    Inner products are kept on average, with a variance of about 2 |x|^2 |y|^2 / numbers (feature hashing, Weinberger et al.
    2009, lemma 2). Places and signs are drawn without looking at a vector, so that nothing of test people enters a training
    fold, and time and memory grow with vectors and not with their square.
    """

    places: NDArray[np.int64]
    signs: NDArray[np.float32]
    num: int = SKETCHED

    @classmethod
    def of(cls, length: int, num: int = SKETCHED) -> Sketch:
        """The same for all vectors of a length, in every cohort."""
        generator = np.random.default_rng(0)
        signs = generator.choice(np.array([-1.0, 1.0], dtype=np.float32), size=length)
        return cls(generator.integers(num, size=length), signs, num)

    def __call__(self, vector: NDArray[np.floating]) -> NDArray[np.float32]:
        """[length] -> [num]."""
        return np.bincount(self.places, weights=vector * self.signs, minlength=self.num).astype(np.float32)

    def rows(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, length] -> [n, num]."""
        return np.stack([self(row) for row in vectors])
