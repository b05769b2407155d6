"""Whether maps of attention may be believed: alike over members, as ablation says, and unlike those of permuted labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]

LEAST_STABLE = 0.5
"""Mean correlation of the maps of two members."""

LEAST_AGREEING = 0.5
"""Correlation of the map with what ablation says of the same cells."""

MOST_P = 0.05
LEAST_PERMUTED = 19
"""With fewer permutations no p can reach 0.05."""


@dataclass(frozen=True)
class AttentionChecks:
    """The mean map [G, R], three figures (NaN where they cannot be computed), and p of every cell [G, R]."""

    mean: Map
    stability: float
    agreement: float
    p: float
    cells: Map
    num_permuted: int

    @property
    def believed(self) -> bool:
        """Whether all three hold."""
        fine = self.stability >= LEAST_STABLE and self.agreement >= LEAST_AGREEING
        return bool(fine and self.p <= MOST_P)

    @property
    def reasons(self) -> list[str]:
        """What does not hold, in words; empty where all do."""
        found = []
        if not self.stability >= LEAST_STABLE:
            found.append(
                f"members disagree (mean correlation of their maps {_figure(self.stability)}, at least {LEAST_STABLE:g} is asked)"
            )
        if not self.agreement >= LEAST_AGREEING:
            found.append(
                f"taking tokens away tells another story (correlation with ablation {_figure(self.agreement)}, at least "
                f"{LEAST_AGREEING:g} is asked)"
            )
        if self.num_permuted < LEAST_PERMUTED:
            found.append(
                f"it was compared with {self.num_permuted} members with permuted labels, and {LEAST_PERMUTED} are needed for p <= "
                f"{MOST_P:g} (model.permuted={LEAST_PERMUTED})"
            )
        elif not self.p <= MOST_P:
            found.append(f"members with permuted labels have maps as strong (p = {_figure(self.p)})")
        return found


def check_maps(maps: Map, ablations: Map, permuted: Map) -> AttentionChecks:
    """Compare maps of members with each other, with ablation, and with those of members with permuted labels.

    A cell's p is the share of permuted maps whose strongest cell is at least as strong as it, the observed one included (max
    statistic: Westfall and Young 1993; Nichols and Holmes 2002).

    Args:
        maps: of the members [M, G, R], in units of the answer.
        ablations: change of the answer when a genetic and an image token are taken away, [M, G, R].
        permuted: of members with permuted labels [P, G, R].
    """
    mean = maps.mean(axis=0)
    pairs = [_correlation(maps[i], maps[j]) for i in range(len(maps)) for j in range(i)]
    strongest = permuted.reshape(len(permuted), -1).max(axis=1) if len(permuted) else np.zeros(0)
    above = (strongest[:, None, None] >= mean[None]).sum(axis=0)
    cells = (1.0 + above) / (1.0 + len(strongest))
    return AttentionChecks(
        mean,
        float(np.mean(pairs)) if pairs else float("nan"),
        _correlation(mean, ablations.mean(axis=0)),
        float(cells.min()) if len(strongest) else float("nan"),
        cells,
        len(strongest),
    )


def _correlation(one: Map, other: Map) -> float:
    """Pearson's, NaN where one is flat."""
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _figure(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "unknown"
