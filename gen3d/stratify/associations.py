"""What clusters mean: every column of the cohort table against them, what a scanner or age could explain first.

One statistic serves every column: the share of a column's variance that lies between clusters, of ranks for numbers
(then it is Kruskal and Wallis's), of frequencies for categories (then it is Pearson's chi-squared). Adjusted for
confounds it is the same share of what the confounds leave, with permutations of those residuals within sites
(Freedman and Lane 1983).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from gen3d.cohort.target import FEWEST_DISTINCT, as_label
from gen3d.maths.significance import fdr_adjust

Floats = NDArray[np.float64]
Kind = Literal["number", "category"]

CONFOUND_NAMES = ("site", "age_years", "sex", "session", "seen", "verdict", "reason")
CONFOUND_PARTS = (
    *("scanner", "manufacturer", "vendor", "field_strength", "tesla", "protocol", "sequence", "coil", "software"),
    *("quality", "qc", "snr", "cnr", "noise", "motion", "sharpness", "tilt"),
)
SHOWN_ONLY = ("seen", "reason")
"""Confounds that are tested but not adjusted for: whom a model learned from was chosen by diagnosis."""

BOOKKEEPING = ("key", "subject", "folder", "path", "source", "base", "generator", "role", "fold")
STRONG_V, STRONG_EPSILON = 0.5, 0.25
"""From here on a column is said to explain the clusters; epsilon squared is a share of variance, V the root of one."""

ASSOCIATION_COLUMNS = ("column", "confound", "num", "effect", "effect_name", "p", "q", "p_adjusted")


@dataclass(frozen=True)
class Column:
    """A column of the table as numbers, or as numbers of categories; `known` rows have a value."""

    name: str
    kind: Kind
    values: Floats
    levels: tuple[str, ...]
    known: NDArray[np.bool_]

    def response(self, chosen: NDArray[np.bool_]) -> Floats:
        """Centred ranks [n, 1], or indicators divided by the root of their frequency [n, levels], of the chosen rows."""
        values = self.values[chosen]
        if self.kind == "number":
            ranks = rankdata(values)[:, None]
            return np.asarray(ranks - ranks.mean())
        indicators = values[:, None] == np.unique(values)[None, :]
        share = indicators.mean(axis=0)
        return np.asarray((indicators - share) / np.sqrt(share))


def is_confound(name: str) -> bool:
    """Whether a column says how, where or of whom a scan was made rather than what is wrong with the person."""
    lowered = name.lower()
    return lowered in CONFOUND_NAMES or has_part(lowered, CONFOUND_PARTS)


def has_part(name: str, parts: tuple[str, ...]) -> bool:
    """Whether one of the parts begins a word of a column's name: `motion` is in head_motion_mm but not in emotion."""
    return any(re.search(rf"(^|[^a-z]){part}", name.lower()) for part in parts)


def columns_of(table: pd.DataFrame) -> list[Column]:
    """The columns that can be tested: not those that name scans, are constant, or differ for nearly everybody."""
    found = (_column(str(name), table[name]) for name in table.columns if str(name) not in BOOKKEEPING)
    return [column for column in found if column is not None]


def _column(name: str, cells: pd.Series) -> Column | None:
    labels = np.array([as_label(cell) for cell in cells], dtype=object)
    known = labels != ""
    levels = tuple(dict.fromkeys(sorted(labels[known])))
    if len(levels) < 2:
        return None
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    if np.isfinite(numbers[known]).all() and len(levels) >= FEWEST_DISTINCT:
        return Column(name, "number", numbers, (), known)
    if len(levels) > known.sum() / 2:
        return None  # a name of every scan, not a property that people share
    place = {level: float(index) for index, level in enumerate(levels)}
    return Column(name, "category", np.array([place.get(label, np.nan) for label in labels]), levels, known)


def associations(table: pd.DataFrame, clusters: NDArray[np.int64], num_permutations: int, seed: int) -> pd.DataFrame:
    """Every usable column of a cohort table against clusters; confounds first, then by p.

    Args:
        table: one row per person.
        clusters: number of each person's cluster [n].
        num_permutations: behind the p of categories and every adjusted p.
        seed: of the permutations.

    Returns:
        Columns `ASSOCIATION_COLUMNS`. Effects: epsilon squared H / (n - 1) of Kruskal and Wallis for numbers, the
        bias-corrected V of Bergsma 2013 for categories. q: Benjamini and Hochberg over all rows. p_adjusted: of
        columns that are no confounds, with site, age, sex and the other confounds held fixed.
    """
    columns = columns_of(table)
    confounds = [column for column in columns if is_confound(column.name) and column.name not in SHOWN_ONLY]
    design = confound_design(confounds, len(table))
    strata = _strata(confounds, len(table))
    generator = np.random.default_rng(seed)
    rows = []
    for column in columns:
        known = column.known
        if len(np.unique(clusters[known])) < 2 or known.sum() < 2 * len(np.unique(clusters[known])):
            continue
        effect, name, p = _unadjusted(column, clusters, num_permutations, generator)
        confound, adjusted = is_confound(column.name), np.nan
        if not confound and design.shape[1] > 1:
            adjusted = _permutation_p(
                column.response(known), clusters[known], design[known], strata[known], num_permutations, generator
            )
        rows.append((column.name, confound, int(known.sum()), effect, name, p, np.nan, adjusted))
    frame = pd.DataFrame(rows, columns=list(ASSOCIATION_COLUMNS))
    frame["q"] = fdr_adjust(frame["p"].to_numpy(dtype=np.float64))
    return frame.sort_values(["confound", "p"], ascending=[False, True], kind="stable").reset_index(drop=True)


def strongest_confound(found: pd.DataFrame, level: float = 0.05) -> pd.Series | None:
    """The confound that explains the clusters most: q below `level`, V >= 0.5 or epsilon squared >= 0.25; else None."""
    if not len(found):
        return None
    least = np.where(found["effect_name"] == "Cramer's V", STRONG_V, STRONG_EPSILON)
    strong = found[found["confound"].astype(bool) & (found["q"] < level) & (found["effect"] >= least)]
    if not len(strong):
        return None
    share = np.where(strong["effect_name"] == "Cramer's V", strong["effect"] ** 2, strong["effect"])
    return strong.iloc[int(np.argmax(share))]


def _unadjusted(
    column: Column, clusters: NDArray[np.int64], num_permutations: int, generator: np.random.Generator
) -> tuple[float, str, float]:
    known, num = column.known, int(column.known.sum())
    response, labels = column.response(known), clusters[known]
    share = _between_share(response, _cluster_basis(labels, np.ones((num, 1))))
    num_clusters = len(np.unique(labels))
    if column.kind == "number":  # H = (n - 1) times the share of the ranks' variance between groups, ties included
        p = float(chi2.sf((num - 1) * share, num_clusters - 1))
        return share, "epsilon squared", p
    ones, together = np.ones((num, 1)), np.zeros(num, dtype=np.int64)
    p = _permutation_p(response, labels, ones, together, num_permutations, generator)
    num_levels = response.shape[1]
    return corrected_cramers_v(share * (response**2).sum(), num, num_levels, num_clusters), "Cramer's V", p


def corrected_cramers_v(chi_squared: float, num: int, num_rows: int, num_columns: int) -> float:
    """Cramer's V without its bias upwards in small samples (Bergsma 2013), between 0 and 1."""
    rows = num_rows - (num_rows - 1) ** 2 / (num - 1)
    columns = num_columns - (num_columns - 1) ** 2 / (num - 1)
    squared = max(0.0, chi_squared / num - (num_rows - 1) * (num_columns - 1) / (num - 1))
    smaller = min(rows, columns) - 1
    return min(1.0, float(np.sqrt(squared / smaller))) if smaller > 0 else float("nan")


def confound_design(confounds: list[Column], num: int) -> Floats:
    """A constant, numbers standardised (missing: the mean and an indicator), categories as indicators, [n, p]."""
    parts = [np.ones((num, 1))]
    for column in confounds:
        values = column.values
        if column.kind == "number":
            spread = np.nanstd(values) or 1.0
            parts.append(np.nan_to_num((values - np.nanmean(values)) / spread)[:, None])
        else:
            parts.append((values[:, None] == np.arange(1, len(column.levels))[None, :]).astype(np.float64))
        if not column.known.all():
            parts.append((~column.known[:, None]).astype(np.float64))
    return np.concatenate(parts, axis=1)


def _strata(confounds: list[Column], num: int) -> NDArray[np.int64]:
    site = next((column for column in confounds if column.name == "site" and column.kind == "category"), None)
    return np.zeros(num, dtype=np.int64) if site is None else np.nan_to_num(site.values, nan=-1).astype(np.int64)


def residuals(values: Floats, design: Floats) -> Floats:
    """What a linear model leaves of values [n, m]: rank-deficient designs [n, p] are allowed."""
    return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0])


def _cluster_basis(labels: NDArray[np.int64], design: Floats) -> Floats:
    """Orthonormal directions [n, at most k - 1] of the clusters that the design does not hold."""
    indicators = (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    left, singular, _ = np.linalg.svd(residuals(indicators, design), full_matrices=False)
    return np.asarray(left[:, singular > 1e-8 * np.sqrt(len(labels))])


def _between_share(response: Floats, basis: Floats) -> float:
    total = float((response**2).sum())
    return float(((basis.T @ response) ** 2).sum()) / total if total > 0 else 0.0


def _permutation_p(
    response: Floats,
    labels: NDArray[np.int64],
    design: Floats,
    strata: NDArray[np.int64],
    num_permutations: int,
    generator: np.random.Generator,
) -> float:
    """(1 + permutations that explain as much) / (permutations + 1); 1 where the confounds leave nothing to explain."""
    basis, left = _cluster_basis(labels, design), residuals(response, design)
    observed = _between_share(left, basis)
    if not basis.shape[1] or float((left**2).sum()) < 1e-9 * max(1.0, float((response**2).sum())):
        return 1.0
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    order = np.arange(len(labels))
    reached = 0
    for _ in range(num_permutations):
        for rows in members:
            order[rows] = generator.permutation(rows)
        reached += _between_share(left[order], basis) >= observed * (1 - 1e-9)
    return (1 + reached) / (num_permutations + 1)
