"""Are there groups, how many, and would they be found again? Clusters against a cohort that has none.

Any cohort can be cut into clusters, and skewed or drawn-out ones are cut in the same place every time. So the best
solution is compared with those of cohorts drawn from one group of the same correlations, skew and tails (a Gaussian
copula of unimodal marginals), cut by the same rule. Structure is what passes every test of `verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN
from sklearn.metrics import silhouette_score

from gen3d.core import words as spell
from gen3d.core.progress import track
from gen3d.maths.neighbourhoods import MOST_JUDGED
from gen3d.stratify.agreement import adjusted_rand_index, jaccard
from gen3d.stratify.mixture import Mixture, fit_mixtures, one_group_bic, starting_centres
from gen3d.stratify.one_group import nearest_unimodal, one_group

Floats = NDArray[np.float64]
Method = Literal["mixture", "density"]

SMALLEST_PEOPLE, SMALLEST_SHARE = 5, 0.05
LEVEL = 0.05
VALLEY_LEVEL = 0.1
"""Level of the test that people are rarer between two clusters. The test has little power alone; together with the others
it only has to reject one elongated or curved group."""
LEAST_AGREEMENT = 0.6
"""Adjusted Rand index of the clusters of resampled people below which clusters are unstable."""
RANDOM_STARTS = 4
BOOTSTRAPS_OF_A_NULL = 10
"""Few, because every null cohort is resampled, and only the mean agreement of each is compared."""
RUNS_AT_ONCE = 100
"""Mixtures that are fitted in one batch, which bounds the memory."""
NUMBERS_AT_ONCE = 1 << 25
"""Probabilities of a batch of mixtures (256 MiB); of many people fewer mixtures are fitted in one batch."""
COMPARED_AT_ONCE = 1024
"""People who are compared with the others of their cluster at a time."""
MOST_OTHERS = 4000
"""People of a cluster that each person's consensus is with, evenly over larger clusters."""
MOST_IN_SILHOUETTE = 5000
"""People whose silhouettes are averaged, a random choice of larger cohorts."""
MANY_FOR_DENSITY = 5000
"""People from which the time of HDBSCAN is said."""
ABSENT = -2
"""Label of a person who was not drawn; -1 is one in no cluster."""


@dataclass(frozen=True)
class Solution:
    """People in k clusters: labels [n] from 0, the largest first (-1: in none), certainty [n], and how good it is.

    `bic` is that of the labels' model, lower is better; `gain` how far it is below that of one group.
    """

    num_clusters: int
    labels: NDArray[np.int64]
    certainty: Floats
    bic: float
    gain: float
    mixture: Mixture | None

    @property
    def smallest(self) -> int:
        """People in the smallest cluster."""
        return int(np.bincount(self.labels[self.labels >= 0], minlength=self.num_clusters).min())


@dataclass(frozen=True)
class Stability:
    """Over bootstraps of people: adjusted Rand index with the solution [b], how often each person was with the others of
    the cluster [n], and Hennig's Jaccard similarity of each cluster [k]."""

    agreement: Floats
    consensus: Floats
    clusters: Floats


@dataclass(frozen=True)
class Structure:
    """The verdict, the solution it is about (None: no admissible one), and the tables `structure` and `solutions`."""

    is_stable: bool
    reasons: tuple[str, ...]
    solution: Solution | None
    stability: Stability | None
    statistics: pd.DataFrame
    solutions: pd.DataFrame


def limits_with_many(num: int, method: Method) -> list[str]:
    """What is done otherwise with so many people, for a dry run; none where all are compared with all."""
    lines = []
    if num > min(MOST_OTHERS, MOST_IN_SILHOUETTE):
        lines.append(
            f"consensus is with {MOST_OTHERS} people of a cluster at most, silhouettes are of {MOST_IN_SILHOUETTE} and map quality "
            f"is of {MOST_JUDGED}, because comparing all {num} people with each other takes time that grows with their square"
        )
    if method == "density" and num > MANY_FOR_DENSITY:
        lines.append(
            f"density clustering compares all {num} people with each other, and the time grows with their square; "
            "method=mixture does not"
        )
    return lines


def fewest(num: int) -> int:
    """The smallest cluster that counts: 5 % of the people, and 5 of them."""
    return max(SMALLEST_PEOPLE, int(np.ceil(SMALLEST_SHARE * num)))


def find_structure(
    values: Floats, method: Method, max_clusters: int, num_bootstraps: int, num_null: int, seed: int
) -> Structure:
    """Cluster principal components [n, d] and judge the result.

    Args:
        values: one row per person; no column constant.
        method: mixtures (`gen3d.stratify.mixture`; their number by BIC), or HDBSCAN (Campello et al. 2013).
        max_clusters: most groups of a mixture.
        num_bootstraps: resamplings of people behind the stability.
        num_null: cohorts of one group to compare with; at least 20, or no structure can reach 5 %.
        seed: of all that is random.
    """
    generator = np.random.default_rng(seed)
    candidates = solve(values, method, max_clusters, generator)
    chosen = best(candidates, len(values))
    null, nothing = one_group(values), (-np.inf, 0.0, 0.0)
    num_chosen = 2 if chosen is None else chosen.num_clusters
    drawn = [
        _measured(null.draw(len(values), generator), method, max_clusters, num_chosen, generator)
        for _ in track(range(num_null), "comparing with cohorts of one group")
    ]
    reference = np.array(drawn).reshape(-1, 3)
    stabilities = {
        solution.num_clusters: bootstrap(values, solution, method, num_bootstraps, generator, solution is chosen)
        for solution in candidates
    }
    stability = None if chosen is None else stabilities[chosen.num_clusters]
    observed = (
        nothing if chosen is None or stability is None
        else (chosen.gain, valley(values, chosen), float(stability.agreement.mean()))
    )  # fmt: skip
    statistics = _statistics(observed, reference, chosen, len(values))
    reasons = (
        verdict(statistics) if chosen is not None else ("every solution has a cluster that is too small to count",)
    )
    return Structure(
        not reasons, reasons, chosen, stability, statistics, _table(values, candidates, stabilities, chosen)
    )


def solve(values: Floats, method: Method, max_clusters: int, generator: np.random.Generator) -> list[Solution]:
    """Every solution of the method, by number of clusters; none where HDBSCAN finds only noise."""
    if method == "density":
        return _by_density(values)
    ones = np.ones(len(values))
    single = one_group_bic(values)
    candidates = []
    for num in range(2, min(max_clusters, len(values) // SMALLEST_PEOPLE) + 1):
        # The likelihood has many maxima, so each number of groups is fitted from several starts.
        starts = starting_centres(values, num, RANDOM_STARTS, generator)
        fits = fit_mixtures(values, np.tile(ones, (len(starts), 1)), starts)
        small = [np.bincount(labels, minlength=num).min() < fewest(len(values)) for labels in fits.labels]
        # A fit with a cluster too small to count is taken only where every start ends in one.
        index = int(np.argmin(np.where(small, fits.bic + 1e9, fits.bic)))
        order = np.argsort(-np.bincount(fits.labels[index], minlength=num), kind="stable")
        mixture = fits.mixture(index)
        mixture = replace(mixture, weights=mixture.weights[order], means=mixture.means[order])
        probabilities = mixture.probabilities(values)
        labels = probabilities.argmax(axis=1).astype(np.int64)
        bic = float(fits.bic[index])
        candidates.append(Solution(num, labels, probabilities.max(axis=1), bic, single - bic, mixture))
    return candidates


def _by_density(values: Floats) -> list[Solution]:
    clustered = HDBSCAN(min_cluster_size=fewest(len(values)), copy=True).fit(values)
    raw = np.asarray(clustered.labels_, dtype=np.int64)
    num = int(raw.max()) + 1
    if num < 2:
        return []
    place = np.empty(num, dtype=np.int64)
    place[np.argsort(-np.bincount(raw[raw >= 0], minlength=num), kind="stable")] = np.arange(num)
    labels = np.where(raw >= 0, place[raw], -1)
    inside = labels >= 0
    bic, single = _labelled_bic(values[inside], labels[inside], num), one_group_bic(values[inside])
    return [Solution(num, labels, np.asarray(clustered.probabilities_, dtype=np.float64), bic, single - bic, None)]


def _labelled_bic(values: Floats, labels: NDArray[np.int64], num_clusters: int) -> float:
    """BIC of the mixture that starts from these labels: one step of expectation maximisation."""
    centres = np.stack([values[labels == cluster].mean(axis=0) for cluster in range(num_clusters)])
    return float(fit_mixtures(values, np.ones((1, len(values))), centres[None], num_steps=1).bic[0])


def best(candidates: list[Solution], num: int) -> Solution | None:
    """The solution of lowest BIC among those whose every cluster is large enough to count."""
    admissible = [solution for solution in candidates if solution.smallest >= fewest(num)]
    return min(admissible, key=lambda solution: solution.bic, default=None)


def valley(values: Floats, solution: Solution) -> float:
    """How empty the space between clusters is: the least over pairs of the distance from a single mode, times root n.

    The people of two clusters are projected on the line that separates them best, and the distribution is compared with
    its nearest unimodal one: the dip of Hartigan and Hartigan 1985, on Fisher's direction.
    """
    labels, num = solution.labels, solution.num_clusters
    centres = np.stack([values[labels == cluster].mean(axis=0) for cluster in range(num)])
    if solution.mixture is not None:
        centres, within = solution.mixture.means, solution.mixture.variances
    else:
        inside = labels >= 0
        within = np.maximum(((values - centres[labels])[inside] ** 2).mean(axis=0), 1e-12)
    depths = []
    for first in range(num):
        for second in range(first):
            rows = (labels == first) | (labels == second)
            projected = values[rows] @ ((centres[first] - centres[second]) / within)
            depths.append(nearest_unimodal(projected).distance * np.sqrt(rows.sum()))
    return float(min(depths))


def _measured(
    values: Floats, method: Method, max_clusters: int, num_clusters: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Gain of the best solution of a cohort; valley and bootstrap agreement of the one with as many clusters as found in
    the real cohort (by density: of the only one). A cohort without a solution has the least of each."""
    candidates = solve(values, method, max_clusters, generator)
    chosen = best(candidates, len(values))
    gain = -np.inf if chosen is None else chosen.gain
    alike = [each for each in candidates if method == "density" or each.num_clusters == num_clusters]
    if not alike or alike[0].smallest < 2:
        return gain, 0.0, 0.0
    stability = bootstrap(values, alike[0], method, BOOTSTRAPS_OF_A_NULL, generator, with_consensus=False)
    return gain, valley(values, alike[0]), float(stability.agreement.mean())


def bootstrap(
    values: Floats,
    solution: Solution,
    method: Method,
    num_resamples: int,
    generator: np.random.Generator,
    with_consensus: bool = True,
) -> Stability:
    """Cluster resampled people into as many clusters and compare on those who were drawn (Hennig 2007).

    with_consensus: whether people's consensus, which takes most of the time with many people, is needed; NaN where it is not.
    """
    num = len(values)
    drawn = generator.multinomial(num, np.full(num, 1.0 / num), size=num_resamples)
    agreement, overlap = np.empty(num_resamples), np.empty((num_resamples, solution.num_clusters))
    resampled_labels = np.empty((num_resamples, num), dtype=np.int32)
    per_block = max(1, min(RUNS_AT_ONCE, NUMBERS_AT_ONCE // (num * solution.num_clusters)) // 4)
    for start in range(0, num_resamples, per_block):
        block = drawn[start : start + per_block]
        labelled = (
            _again(values, solution, block, generator) if method == "mixture" else _again_by_density(values, block)
        )
        for place, (counts, labels) in enumerate(zip(block, labelled, strict=True), start=start):
            inside = counts > 0
            original, resampled = solution.labels[inside] + 1, labels[inside] + 1  # noise is a group of its own
            agreement[place] = adjusted_rand_index(original, resampled)
            similar = jaccard(original, resampled)
            overlap[place] = np.append(similar, np.full(solution.num_clusters, np.nan))[1 : solution.num_clusters + 1]
            resampled_labels[place] = np.where(inside, labels, ABSENT)
    consensus = _consensus(solution.labels, resampled_labels) if with_consensus else np.full(num, np.nan)
    return Stability(agreement, np.where(solution.labels >= 0, consensus, np.nan), _mean_known(overlap))


def _consensus(labels: NDArray[np.int64], resampled: NDArray[np.int32]) -> Floats:
    """Per person [n], the mean over the others of the cluster of how often both fell into one cluster when both were drawn.

    labels [n]; resampled [resamples, n], `ABSENT` where a person was not drawn. Some people are compared with at most
    MOST_OTHERS of the cluster at a time, so that memory and time grow with people and not with their square.
    """
    drawn = (resampled != ABSENT).T.astype(np.float32)
    members = np.concatenate(
        [cluster == resampled.T for cluster in range(int(resampled.max(initial=-1)) + 1)] or [drawn[:, :0]], axis=1
    ).astype(np.float32)
    consensus = np.zeros(len(labels))
    for cluster in np.unique(labels[labels >= 0]):
        people = np.flatnonzero(labels == cluster)
        others = people
        if len(people) > MOST_OTHERS:
            others = people[np.linspace(0, len(people) - 1, MOST_OTHERS).round().astype(np.int64)]
        for start in range(0, len(people), COMPARED_AT_ONCE):
            rows = people[start : start + COMPARED_AT_ONCE]
            together = (members[rows] @ members[others].T).astype(np.float64)  # counts, exact in single precision
            possible = (drawn[rows] @ drawn[others].T).astype(np.float64)
            share = np.divide(together, possible, out=np.zeros_like(together), where=possible > 0)
            oneself = rows[:, None] == others[None, :]
            share[oneself] = 0.0
            consensus[rows] = share.sum(axis=1) / np.maximum(len(others) - oneself.sum(axis=1), 1)
    return consensus


def _mean_known(values: Floats) -> Floats:
    known = np.isfinite(values)
    num = known.sum(axis=0)
    return np.where(num > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(num, 1), np.nan)


def _again(
    values: Floats, solution: Solution, drawn: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Labels [b, n] of mixtures of resampled people: the best of the old centres and of three cuts of the cohort."""
    assert solution.mixture is not None
    cuts = starting_centres(values, solution.num_clusters, 0, generator)[:3]
    starts = np.concatenate([solution.mixture.means[None], cuts])
    num, each = len(drawn), len(starts)
    fits = fit_mixtures(values, np.repeat(drawn, each, axis=0).astype(np.float64), np.tile(starts, (num, 1, 1)))
    chosen = fits.bic.reshape(num, each).argmin(axis=1)
    return fits.labels.reshape(num, each, -1)[np.arange(num), chosen]


def _again_by_density(values: Floats, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels [b, n] of HDBSCAN of those who were drawn, each once: copies would be dense by themselves."""
    labelled = np.full(drawn.shape, -1, dtype=np.int64)
    for row, counts in enumerate(drawn):
        inside = np.flatnonzero(counts)
        labelled[row, inside] = HDBSCAN(min_cluster_size=fewest(len(inside)), copy=True).fit(values[inside]).labels_
    return labelled


def _statistics(
    observed: tuple[float, float, float], reference: Floats, chosen: Solution | None, num: int
) -> pd.DataFrame:
    rows = []
    for name, value, null in zip(("separation", "valley", "bootstrap_ari"), observed, reference.T, strict=True):
        finite = null[np.isfinite(null)]
        mean, high = (finite.mean(), np.quantile(finite, 0.95)) if len(finite) else (np.nan, np.nan)
        rows.append((name, value, mean, high, (1 + (null >= value).sum()) / (len(null) + 1)))
    smallest = np.nan if chosen is None else float(chosen.smallest)
    rows.append(("smallest_cluster", smallest, np.nan, float(fewest(num)), np.nan))
    return pd.DataFrame(rows, columns=["statistic", "value", "null_mean", "null_95", "p"])


def verdict(statistics: pd.DataFrame) -> tuple[str, ...]:
    """Sentences on why a solution is no stable structure; empty where it passes every test.

    That clusters are more stable than those of one group is reported but not required: an elongated group is cut in the
    same place by every resampling, so the index cannot exceed it even where groups are far apart.
    """
    by_name = statistics.set_index("statistic")
    p, ari = by_name["p"], float(by_name["value"]["bootstrap_ari"])
    reasons = []
    if not p["separation"] < LEVEL:
        reasons.append(
            f"one group with the same skew and tails separates as well (p {spell.probability(p['separation'])})"
        )
    if not p["valley"] < VALLEY_LEVEL:
        reasons.append(f"people are not rarer between the clusters than within (p {spell.probability(p['valley'])})")
    if not ari >= LEAST_AGREEMENT:
        reasons.append(f"resampled people fall into other clusters (adjusted Rand index {spell.number(ari)})")
    return tuple(reasons)


def _table(
    values: Floats, candidates: list[Solution], stabilities: dict[int, Stability], chosen: Solution | None
) -> pd.DataFrame:
    nothing = {"silhouette": np.nan, "ari": np.nan, "ari_low": np.nan, "ari_high": np.nan}
    rows = [{"k": 1, "bic": one_group_bic(values), **nothing, "smallest": len(values), "chosen": False}]
    for solution in candidates:
        agreement = stabilities[solution.num_clusters].agreement
        low, high = np.quantile(agreement, [0.025, 0.975])
        inside = solution.labels >= 0
        rows.append(
            {
                "k": solution.num_clusters,
                "bic": solution.bic,
                "silhouette": _silhouette(values[inside], solution.labels[inside]),
                "ari": float(agreement.mean()),
                "ari_low": float(low),
                "ari_high": float(high),
                "smallest": solution.smallest,
                "chosen": solution is chosen,
            }
        )
    return pd.DataFrame(rows)


def _silhouette(values: Floats, labels: NDArray[np.int64]) -> float:
    """Mean silhouette of people, of a random choice of many, as its time grows with the square of people; NaN of one cluster."""
    if len(values) > MOST_IN_SILHOUETTE:
        chosen = np.random.default_rng(0).permutation(len(values))[:MOST_IN_SILHOUETTE]
        values, labels = values[chosen], labels[chosen]
    return float(silhouette_score(values, labels)) if len(np.unique(labels)) > 1 else np.nan
