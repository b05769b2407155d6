"""Whether maps of attention may be believed: alike over members, as ablation says, unlike those of permuted labels, and of tokens
that tell something."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Map = NDArray[np.float64]

LEAST_RELIABLE = 0.7
"""Reliability of the mean map of all members, which is what is shown: a limit that is usual for scores of groups."""

LEAST_AGREEING = 0.5
"""Correlation of the map with what ablation says of the same cells."""

MOST_P = 0.05
LEAST_PERMUTED = 19
"""With fewer permutations no p can reach 0.05."""


@dataclass(frozen=True)
class Worth:
    """What each token tells of people whom the networks never saw, beyond all other tokens.

    Attributes:
        gain: mean loss of a person that is added when the token changes places among people, by token [T].
        p: that it is no more than 0, one-sided, by Holm (1979) for the number of tokens, [T].
    """

    gain: NDArray[np.float64]
    p: NDArray[np.float64]

    @property
    def told(self) -> NDArray[np.bool_]:
        """Tokens that tell something, [T]."""
        return np.asarray(self.p <= MOST_P)


def worth_of(added: NDArray[np.float64]) -> Worth:
    """Test what the loss of people gains by shuffling tokens (permutation importance, Breiman 2001) by Student's t over people.

    Args:
        added: loss with the token shuffled less the loss as it is, of independent people and tokens [n, T].
    """
    gain = added.mean(axis=0)
    if len(added) < 2:
        return Worth(gain, np.ones(added.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = gain / (added.std(axis=0, ddof=1) / np.sqrt(len(added)))
    p = np.where(np.isfinite(t), stats.t.sf(t, len(added) - 1), np.where(gain > 0, 0.0, 1.0))
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return Worth(gain, adjusted)


@dataclass(frozen=True)
class AttentionChecks:
    """The mean map [G, R], three figures (NaN where they cannot be computed), p of every cell [G, R], and what tokens tell.

    Members may agree on a region that matters beside any genetic token: a pair counts only where both of its tokens tell something.
    """

    mean: Map
    stability: float
    agreement: float
    cells: Map
    num_permuted: int
    num_maps: int
    genes: Worth
    regions: Worth

    @property
    def reliability(self) -> float:
        """How far the mean of as many other members' maps would correlate with this one (Spearman 1910; Brown 1910)."""
        if self.stability <= 0:
            return self.stability
        return self.num_maps * self.stability / (1 + (self.num_maps - 1) * self.stability)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Pairs of which both tokens tell something, [G, R]."""
        return np.asarray(np.outer(self.genes.told, self.regions.told))

    @property
    def strongest(self) -> tuple[int, int]:
        """The strongest pair that counts; of all pairs where none does."""
        mean = np.where(self.counted, self.mean, -np.inf) if self.counted.any() else self.mean
        row, column = np.unravel_index(int(mean.argmax()), mean.shape)
        return int(row), int(column)

    @property
    def p(self) -> float:
        """Of the strongest pair against permuted labels; NaN without such members."""
        return float(self.cells[self.strongest]) if self.num_permuted else float("nan")

    @property
    def believed(self) -> bool:
        """Whether all hold."""
        fine = self.reliability >= LEAST_RELIABLE and self.agreement >= LEAST_AGREEING
        return bool(fine and self.p <= MOST_P and self.counted.any())

    @property
    def reasons(self) -> list[str]:
        """What does not hold, in words; empty where all do."""
        found = []
        if not self.reliability >= LEAST_RELIABLE:
            found.append(
                f"members disagree (maps of two correlate {_figure(self.stability)}, which makes the reliability of the mean of "
                f"{self.num_maps} {_figure(self.reliability)}; at least {LEAST_RELIABLE:g} is asked)"
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
        for worth, what in ((self.genes, "genetic"), (self.regions, "image")):
            if not worth.told.any():
                found.append(
                    f"no {what} token tells anything of people whom the networks never saw (least p of {len(worth.p)} "
                    f"{_figure(float(worth.p.min()))}, by Holm)"
                )
        return found


def check_maps(maps: Map, ablations: Map, permuted: Map, genes: Worth, regions: Worth) -> AttentionChecks:
    """Compare maps of members with each other, with ablation, with those of members with permuted labels, and with what tokens
    tell.

    A cell's p is the share of permuted maps whose strongest cell is at least as strong as it, the observed one included (max
    statistic: Westfall and Young 1993; Nichols and Holmes 2002).

    Args:
        maps: of the members [M, G, R], in units of the answer.
        ablations: change of the answer when a genetic and an image token are taken away, [M, G, R].
        permuted: of members with permuted labels [P, G, R].
        genes: what genetic tokens tell.
        regions: what image tokens tell.
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
        cells,
        len(strongest),
        len(maps),
        genes,
        regions,
    )


def _correlation(one: Map, other: Map) -> float:
    """Pearson's, NaN where one is flat."""
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _figure(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "unknown"
