"""Associations of clusters with every column of the cohort table, confounds such as scanner and age first.

One statistic serves every column: the share of a column's variance that lies between clusters, of ranks for numbers
(then it is Kruskal and Wallis's), of frequencies for categories (then it is Pearson's chi-squared). Adjusted for
confounds it is the same share of what the confounds leave, with permutations of those residuals within sites
(Freedman and Lane 1983).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from gen3d.cohort.columns import Cells, Rules, fit_columns, read_cells
from gen3d.cohort.target import FEWEST_DISTINCT
from gen3d.maths.significance import fdr_adjust

Floats = NDArray[np.float64]

CONFOUND_NAMES = ("site", "age_years", "sex", "session", "seen", "verdict", "reason")
CONFOUND_PARTS = (
    *("scanner", "manufacturer", "vendor", "field_strength", "tesla", "protocol", "sequence", "coil", "software"),
    *("quality", "qc", "snr", "cnr", "noise", "motion", "sharpness", "tilt"),
)
SHOWN_ONLY = ("seen", "reason")
"""Confounds that are tested but not adjusted for: training people of a model were chosen by diagnosis, so adjusting for
them would remove the diagnosis too."""

BOOKKEEPING = ("key", "subject", "folder", "path", "source", "base", "generator", "role", "fold", "scan_hash")
STRONG_V, STRONG_EPSILON = 0.5, 0.25
"""Effects from which a column explains the clusters; epsilon squared is a share of variance, V the root of one."""

ASSOCIATION_COLUMNS = ("column", "confound", "num", "effect", "effect_name", "p", "q", "p_adjusted")


CONFOUNDS = Rules(
    fewest_numbers=FEWEST_DISTINCT,
    standardise_words=False,
    flag_missing_above=0.0,
    flag_missing_words=True,
    allow_stray_words=True,
)


def response(cells: Cells, chosen: NDArray[np.bool_]) -> Floats:
    """Centred ranks [n, 1] of numbers, or indicators divided by the root of their frequency [n, levels], of chosen rows."""
    if cells.numbers is not None:
        ranks = rankdata(cells.numbers[chosen])[:, None]
        return np.asarray(ranks - ranks.mean())
    labels = cells.labels[chosen]
    indicators = labels[:, None] == np.unique(labels)[None, :]
    share = indicators.mean(axis=0)
    return np.asarray((indicators - share) / np.sqrt(share))


def is_confound(name: str) -> bool:
    """Whether a column describes the scan or the person's age and sex rather than a disease."""
    lowered = name.lower()
    return lowered in CONFOUND_NAMES or has_part(lowered, CONFOUND_PARTS)


def has_part(name: str, parts: tuple[str, ...]) -> bool:
    """Whether one of the parts begins a word of a column's name: `motion` is in head_motion_mm but not in emotion."""
    return any(re.search(rf"(^|[^a-z]){part}", name.lower()) for part in parts)


def columns_of(table: pd.DataFrame) -> list[Cells]:
    """The columns that can be tested: not those that name scans, are constant, or differ for nearly everybody."""
    names = (str(name) for name in table.columns if str(name) not in BOOKKEEPING)
    columns = (read_cells(table, name, fewest_numbers=FEWEST_DISTINCT) for name in names)
    return [cells for cells in columns if len(cells.levels) > 1 and (cells.numbers is not None or _is_shared(cells))]


def _is_shared(cells: Cells) -> bool:
    """Whether people share its words, so that it is no name of every scan."""
    return len(cells.levels) <= cells.known.sum() / 2


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
    design = confound_design(table, confounds)
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
                response(column, known), clusters[known], design[known], strata[known], num_permutations, generator
            )
        rows.append((column.name, confound, int(known.sum()), effect, name, p, np.nan, adjusted))
    frame = pd.DataFrame(rows, columns=list(ASSOCIATION_COLUMNS))
    frame["q"] = fdr_adjust(frame["p"].to_numpy(dtype=np.float64))
    return frame.sort_values(["confound", "p"], ascending=[False, True], kind="stable").reset_index(drop=True)


def strongest_confound(table: pd.DataFrame, level: float = 0.05) -> pd.Series | None:
    """The confound that explains the clusters most: q below `level`, V >= 0.5 or epsilon squared >= 0.25; else None."""
    if not len(table):
        return None
    least = np.where(table["effect_name"] == "Cramer's V", STRONG_V, STRONG_EPSILON)
    strong = table[table["confound"].astype(bool) & (table["q"] < level) & (table["effect"] >= least)]
    if not len(strong):
        return None
    share = np.where(strong["effect_name"] == "Cramer's V", strong["effect"] ** 2, strong["effect"])
    return strong.iloc[int(np.argmax(share))]


def _unadjusted(
    cells: Cells, clusters: NDArray[np.int64], num_permutations: int, generator: np.random.Generator
) -> tuple[float, str, float]:
    known, num = cells.known, int(cells.known.sum())
    values, labels = response(cells, known), clusters[known]
    share = _between_share(values, _cluster_basis(labels, np.ones((num, 1))))
    num_clusters = len(np.unique(labels))
    if cells.numbers is not None:  # H = (n - 1) times the share of the ranks' variance between groups, ties included
        p = float(chi2.sf((num - 1) * share, num_clusters - 1))
        return share, "epsilon squared", p
    ones, together = np.ones((num, 1)), np.zeros(num, dtype=np.int64)
    p = _permutation_p(values, labels, ones, together, num_permutations, generator)
    num_levels = values.shape[1]
    return corrected_cramers_v(share * (values**2).sum(), num, num_levels, num_clusters), "Cramer's V", p


def corrected_cramers_v(chi_squared: float, num: int, num_rows: int, num_columns: int) -> float:
    """Cramer's V without its bias upwards in small samples (Bergsma 2013), between 0 and 1."""
    rows = num_rows - (num_rows - 1) ** 2 / (num - 1)
    columns = num_columns - (num_columns - 1) ** 2 / (num - 1)
    squared = max(0.0, chi_squared / num - (num_rows - 1) * (num_columns - 1) / (num - 1))
    smaller = min(rows, columns) - 1
    return min(1.0, float(np.sqrt(squared / smaller))) if smaller > 0 else float("nan")


def confound_design(table: pd.DataFrame, confounds: Sequence[Cells]) -> Floats:
    """A constant, numbers standardised (missing: the mean and an indicator), categories as indicators, [n, p]."""
    code = fit_columns(table, [cells.name for cells in confounds], CONFOUNDS)
    return np.concatenate([np.ones((len(table), 1)), code.matrix(table)], axis=1)


def _strata(confounds: Sequence[Cells], num: int) -> NDArray[np.int64]:
    site = next((cells for cells in confounds if cells.name == "site" and cells.numbers is None), None)
    return np.zeros(num, dtype=np.int64) if site is None else np.unique(site.labels, return_inverse=True)[1]


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
