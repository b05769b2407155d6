"""Every random choice of a training as a function of the run's seed and the place it is made at.

Nothing depends on what was drawn before, so a resumed run needs no generator state to go on as if never interrupted.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

INITIAL_WEIGHTS, ORDER, VOLUME = 0, 1, 2


def seed_of(*place: int) -> int:
    """A 63-bit number that depends on every part of `place` (for instance seed, member, step, position)."""
    words = np.random.SeedSequence(place).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


@lru_cache(maxsize=4)
def _order(seed: int, member: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, ORDER, member, epoch]))
    return generator.permutation(num_rows)


def rows_at(step: int, batch_size: int, num_rows: int, seed: int, member: int) -> NDArray[np.int64]:
    """Rows of the global batch of one step: consecutive places in an endless sequence of shuffled epochs.

    Every row comes once per epoch; a batch may reach into the next epoch, none is dropped.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(places, num_rows)
    return np.array([_order(seed, member, int(e), num_rows)[w] for e, w in zip(epochs, within, strict=True)])
