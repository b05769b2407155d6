"""Is this scan usable? Measures that separate failed registrations from unusual brains, and a verdict with its reason.

Two kinds of limits: absolute ones, which no correctly aligned brain passes, and robust ones (median and MAD) against the scans of
the same site, where it has at least ten, because what is usual depends on the scanner and the mask; of a smaller site against the
whole cohort, where that has at least ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

Verdict = Literal["keep", "warn", "exclude"]

MIN_COHORT = 10
MADS = 4.0
MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Limit:
    """One number, beyond which a scan is excluded or warned about; `mads` also compares with the cohort."""

    column: str
    name: str
    unit: str = ""
    lowest: float | None = None
    highest: float | None = None
    warn_below: float | None = None
    warn_above: float | None = None
    mads_below: bool = False
    mads_above: bool = False
    meaning: str = ""


LIMITS = (
    Limit("coverage_percent", "part of the template's brain inside the scan's field of view", "%", lowest=85.0, warn_below=97.0,
          meaning="this is a slab, or the brain is cut off"),
    Limit("mutual_information", "mutual information with the template", lowest=0.6, warn_below=0.7, mads_below=True,
          meaning="the brain is not aligned, or this is no T1w scan"),
    Limit("correlation", "correlation with the template", lowest=0.6, warn_below=0.75, mads_below=True,
          meaning="the brain is not aligned, or its contrast is unusual"),
    Limit("mask_dice", "overlap of brain and template (Dice)", lowest=0.85, warn_below=0.92, mads_below=True,
          meaning="the brain mask or the alignment is wrong"),
    Limit("remains_percent", "tissue outside the brain", "%", highest=5.0, warn_above=1.5,
          meaning="membranes, eyes or neck remain"),
    Limit("volume_scale", "volume scale of the alignment", lowest=0.4, highest=1.6, warn_below=0.5, warn_above=1.3,
          meaning="the head would be implausibly small or large"),
    Limit("stretch", "stretch of the alignment (longest over shortest axis)", highest=1.6, warn_above=1.3, mads_above=True,
          meaning="the alignment is implausibly sheared"),
    Limit("tissue_ratio", "grey over white matter intensity", highest=0.95, lowest=0.25, warn_above=0.85, mads_above=True,
          mads_below=True, meaning="the contrast is unusual: another sequence, strong bias or motion"),
    Limit("correlation_after", "correlation after the deformation", lowest=0.7, warn_below=0.8, mads_below=True,
          meaning="the deformation did not find this brain"),
    Limit("folded_percent", "folded voxels of the deformation", "%", highest=1.0, warn_above=0.1,
          meaning="the deformation tears this brain"),
    Limit("log_jacobian_sd", "spread of the log-Jacobian", highest=0.9, warn_above=0.65, mads_above=True,
          meaning="the deformation is implausibly large"),
)  # fmt: skip


def judge(rows: pd.DataFrame, sites: Sequence[str] | None = None) -> pd.DataFrame:
    """Verdict (keep, warn, exclude) and reason of every scan.

    Args:
        rows: one row per scan with the columns of `measure`; a column `failure` (text, empty where the scan was read) excludes.
        sites: the site of every row; None: all are of one.

    Returns:
        columns `verdict` and `reason`, same index. Values beyond a robust limit warn; so do mild absolute ones, and a remark on
        the brain mask (column `mask_remark`).
    """
    fine = rows["failure"].fillna("") == ""
    where = pd.Series(list(sites) if sites is not None else "", index=rows.index, dtype=object)
    measured = [limit for limit in LIMITS if limit.column in rows]
    whole = {limit.column: _robust_limits(rows.loc[fine], limit, "in this cohort") for limit in measured}
    counts = where[fine].value_counts()
    of_site = {
        site: {
            limit.column: _robust_limits(rows.loc[fine & (where == site)], limit, f"at the site {site}")
            for limit in measured
        }
        for site, count in counts.items()
        if count >= MIN_COHORT and len(counts) > 1
    }
    verdicts, reasons = [], []
    for (_, row), site in zip(rows.iterrows(), where, strict=True):
        if row["failure"]:
            verdicts.append("exclude")
            reasons.append(str(row["failure"]))
            continue
        usual = of_site.get(site, whole)
        outcomes = [_judge_one(float(row[limit.column]), limit, usual[limit.column]) for limit in measured]
        severe = [text for verdict, text in outcomes if verdict == "exclude"]
        mild = [text for verdict, text in outcomes if verdict == "warn"]
        if isinstance(remark := row.get("mask_remark"), str) and remark:
            mild.append(remark)
        verdicts.append("exclude" if severe else "warn" if mild else "keep")
        reasons.append("; ".join(severe + mild))
    return pd.DataFrame({"verdict": verdicts, "reason": reasons}, index=rows.index)


@dataclass(frozen=True)
class _Usual:
    """Lowest and highest usual value and the median; `where` they are usual, for the sentence."""

    low: float
    high: float
    median: float
    where: str


def _robust_limits(rows: pd.DataFrame, limit: Limit, where: str) -> _Usual:
    """What is usual among these scans."""
    values = rows[limit.column].astype(float).dropna()
    if len(values) < MIN_COHORT:
        return _Usual(-np.inf, np.inf, float("nan"), where)
    median = float(values.median())
    spread = MADS * MAD_TO_SD * float((values - median).abs().median())
    low, high = (median - spread if limit.mads_below else -np.inf), (median + spread if limit.mads_above else np.inf)
    return _Usual(low, high, median, where)


def _judge_one(value: float, limit: Limit, usual: _Usual) -> tuple[Verdict, str]:
    if not np.isfinite(value):
        return "keep", ""
    shown = f"{limit.name} is {value:.3g}{' ' + limit.unit if limit.unit else ''}"
    if limit.lowest is not None and value < limit.lowest:
        return "exclude", f"{shown}, below {limit.lowest:g}: {limit.meaning}"
    if limit.highest is not None and value > limit.highest:
        return "exclude", f"{shown}, above {limit.highest:g}: {limit.meaning}"
    if limit.warn_below is not None and value < limit.warn_below:
        return "warn", f"{shown}, below {limit.warn_below:g}"
    if limit.warn_above is not None and value > limit.warn_above:
        return "warn", f"{shown}, above {limit.warn_above:g}"
    if value < usual.low or value > usual.high:
        return "warn", f"{shown}, unusual {usual.where} (median {usual.median:.3g})"
    return "keep", ""
