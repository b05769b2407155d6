"""The tables of `gen3d evaluate`: voxels, detection of people, regions, and calibration in people with nothing planted.

Every function returns rows of a table. The interval over people of a value `x` is in `x_low` and `x_high`; `num` is the
number of people of the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import NULL
from gen3d.core.progress import track
from gen3d.core.tables import Row, rows_of
from gen3d.evaluate.truth import SIGNED_CHANNELS, CohortTruth, EvaluatedMaps, anomaly_score
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.significance import fdr, p_values
from gen3d.maths.stats import (
    Interval,
    auprc,
    auroc,
    bootstrap_interval,
    correlation,
    delong_interval,
    dice,
    oracle_dice,
    wilson_interval,
)

FALSE_POSITIVE_VOXELS = 0.001
FALSE_POSITIVE_PEOPLE = 0.05
MAX_SEVERITIES = 6  # with more, too few people are left in each

ALL = "all"
ACROSS = "(across regions)"


@dataclass(frozen=True)
class Settings:
    """The settings of `Evaluate`; see its keys."""

    q: float
    bootstrap: int
    seed: int
    changed_log_jacobian: float

    def interval(self, values: NDArray[np.float64] | Sequence[float]) -> Interval:
        """Mean with its percentile interval over people."""
        return bootstrap_interval(values, num_resamples=self.bootstrap, seed=self.seed)


def columns(name: str, interval: Interval) -> Row:
    """A value and its interval as table columns."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


class ScoreHistogram:
    """Quantiles of anomaly scores pooled over many maps without keeping the maps; resolution 0.002."""

    def __init__(self) -> None:
        self.edges = np.linspace(-20.0, 60.0, 40001)
        self.counts = np.zeros(40000, dtype=np.int64)

    def add(self, scores: NDArray[np.float32]) -> None:
        """Count the scores of one map."""
        low, high = self.edges[0], self.edges[-1]
        self.counts += np.histogram(np.clip(scores, low, high - 1e-3), bins=40000, range=(low, high))[0]

    def threshold(self, share_above: float) -> float:
        """The smallest edge that at most this share of the scores exceeds; NaN when nothing was counted."""
        total = self.counts.sum()
        if total == 0:
            return math.nan
        above = total - np.cumsum(self.counts)
        return float(self.edges[1:][np.argmax(above <= share_above * total)])


def severity_groups(people: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """All people of a condition, then each severity (label, mean severity, rows).

    More than `MAX_SEVERITIES` distinct severities are cut into thirds.
    """
    yield ALL, float(people["severity"].mean()), people
    values = np.unique(people["severity"].to_numpy(dtype=float))
    if len(values) < 2:
        return
    if len(values) <= MAX_SEVERITIES:
        for value in values:
            yield f"{value:g}", float(value), people[people["severity"] == value]
        return
    ranks = people["severity"].rank(method="first").to_numpy() - 1
    for third in range(3):
        group = people[(3 * ranks // len(people)).astype(int) == third]
        low, high = group["severity"].min(), group["severity"].max()
        yield f"{low:.3g} to {high:.3g}", float(group["severity"].mean()), group


def null_rows(maps: EvaluatedMaps, channel: str, settings: Settings) -> tuple[list[Row], float]:
    """z where nothing is planted, and the score that 0.1 % of the voxels of held-out controls exceed.

    Groups: test controls, calibration controls (whose z is leave-one-out), and the null condition.
    """
    groups = {
        "test controls": maps.test_controls,
        "calibration controls": maps.other_controls,
        "null condition": maps.with_condition(NULL),
    }
    setting_thresholds = set(maps.held_out["key"])
    histogram = ScoreHistogram()
    rows = []
    for name, people in groups.items():
        figures = []
        for key in track(people["key"].tolist(), f"{maps.name} {channel}: {name}"):
            z = maps.z(key, channel)
            if z is None:
                continue
            significant = fdr(p_values(z), settings.q)
            figures.append((z.mean(), z.std(), np.mean(np.abs(z) > 1.96), significant.any(), significant.mean()))
            if key in setting_thresholds:
                histogram.add(anomaly_score(z, channel))
        values = np.asarray(figures, dtype=np.float64).reshape(-1, 5)
        rows.append(
            {"maps": maps.name, "channel": channel, "group": name, "num": len(values)}
            | columns("mean_z", settings.interval(values[:, 0]))
            | columns("sd_z", settings.interval(values[:, 1]))
            | columns("share_beyond_1_96", settings.interval(values[:, 2]))
            | columns("share_people_fdr_positive", wilson_interval(int(values[:, 3].sum()), len(values)))
            | columns("share_voxels_fdr_positive", settings.interval(values[:, 4]))
        )
    return rows, histogram.threshold(FALSE_POSITIVE_VOXELS)


VOXEL_MEASURES = (
    "auroc",
    "auprc",
    "dice_at_threshold",
    "sensitivity_at_threshold",
    "dice_fdr",
    "dice_oracle",
    "correlation",
)


def voxel_scores(
    maps: EvaluatedMaps, truth: CohortTruth, channel: str, threshold: float, settings: Settings
) -> list[Row]:
    """One row per scan with a planted change in this channel: how well the map shows where.

    `correlation` is that of z with the true log-Jacobian over voxels (deformation channel only).
    """
    planted = maps.subjects[maps.subjects["condition"].isin(set(truth.conditions) - {NULL})]
    rows = []
    scans = planted[["key", "subject", "condition", "severity"]].itertuples(index=False)
    for key, subject, condition, severity in track(scans, f"{maps.name} {channel}: planted changes", len(planted)):
        changed, z = truth.changed(key, channel, settings.changed_log_jacobian), maps.z(key, channel)
        if z is None or not changed.any():
            continue
        scores = anomaly_score(z, channel)
        beyond = scores > threshold
        rows.append(
            {
                "maps": maps.name,
                "channel": channel,
                "key": key,
                "subject": subject,
                "condition": condition,
                "severity": float(severity),
                "prevalence": float(changed.mean()),
                "auroc": auroc(scores, changed),
                "auprc": auprc(scores, changed),
                "threshold": threshold,
                "dice_at_threshold": dice(beyond, changed) if math.isfinite(threshold) else math.nan,
                "sensitivity_at_threshold": float(beyond[changed].mean()) if math.isfinite(threshold) else math.nan,
                "dice_fdr": dice(fdr(p_values(z), settings.q), changed),
                "dice_oracle": oracle_dice(scores, changed),
                "correlation": _agreement(z, truth.log_jacobian(key) if channel == "deformation" else None),
            }
        )
    return rows


def _agreement(z: NDArray[np.float32], true: NDArray[np.float32] | None) -> float:
    """Pearson correlation over voxels of z with the true log-Jacobian: signed, and free of any threshold."""
    return math.nan if true is None else correlation(z, true).value


def voxel_rows(scores: pd.DataFrame, settings: Settings) -> list[Row]:
    """Means over subjects of `voxel_scores`, by maps, channel, condition and severity.

    A subject with several scans counts once, with the mean of its scans.
    """
    rows: list[Row] = []
    if scores.empty:
        return rows
    for (name, channel, condition), people in scores.groupby(["maps", "channel", "condition"], sort=False):
        for label, severity, group in severity_groups(people):
            by_subject = group.groupby("subject")[[*VOXEL_MEASURES, "prevalence"]].mean()
            row: Row = {"maps": name, "channel": channel, "condition": condition, "severity": label}
            row |= {"mean_severity": severity, "num": len(by_subject)}
            row["prevalence"] = float(by_subject["prevalence"].mean())
            row["threshold"] = float(group["threshold"].iloc[0])
            for measure in VOXEL_MEASURES:
                row |= columns(measure, settings.interval(by_subject[measure].to_numpy(dtype=float)))
            rows.append(row)
    return rows


def difference_rows(scores: pd.DataFrame, names: Sequence[str], settings: Settings) -> list[Row]:
    """Each further maps folder minus the first, paired over the scans that both have; intervals over subjects."""
    rows: list[Row] = []
    if scores.empty:
        return rows
    index = ["channel", "condition", "key", "subject"]
    first = scores[scores["maps"] == names[0]].set_index(index)[list(VOXEL_MEASURES)]
    for name in names[1:]:
        other = scores[scores["maps"] == name].set_index(index)[list(VOXEL_MEASURES)]
        differences = (other - first).dropna(how="all").reset_index()
        for (channel, condition), group in differences.groupby(["channel", "condition"], sort=False):
            by_subject = group.groupby("subject")[list(VOXEL_MEASURES)].mean()
            row: Row = {"maps": name, "minus": names[0], "channel": channel, "condition": condition}
            row["num"] = len(by_subject)
            for measure in VOXEL_MEASURES:
                row |= columns(measure, settings.interval(by_subject[measure].to_numpy(dtype=float)))
            rows.append(row)
    return rows


def person_scores(maps: EvaluatedMaps) -> pd.DataFrame:
    """Scores that may separate patients from controls, one column each, indexed by key.

    Per channel the burden of the map and the most unusual region; then the latent deviation.
    """
    table = maps.subjects.set_index("key")
    scores = pd.DataFrame(index=table.index)
    for channel in maps.channels:
        if f"score_{channel}" in table.columns:
            scores[f"burden {channel}"] = pd.to_numeric(table[f"score_{channel}"], errors="coerce")
        regional = maps.regions[maps.regions["channel"] == channel]
        unusual = regional["z"] if channel in SIGNED_CHANNELS else regional["z"].abs()
        scores[f"largest region {channel}"] = unusual.groupby(regional["key"]).max()
    if "latent_d" in table.columns:
        scores["latent deviation"] = pd.to_numeric(table["latent_d"], errors="coerce")
    return scores


def detection_rows(maps: EvaluatedMaps, truth: CohortTruth) -> list[Row]:
    """How well one score separates people with a condition from controls, at each severity.

    Detected means a p of at most 5 % among held-out controls, which at most 5 % of controls reach: a rank, or where a
    control is outlying the tail of the others (`maths.reference`; `num_outlying` counts them). With fewer than 19 controls
    no person can be detected, and the columns are empty.
    """
    scores = person_scores(maps)
    held_out = maps.held_out["key"].tolist()
    rows = []
    for score in scores.columns:
        reference = scores.loc[held_out, score].dropna().to_numpy(dtype=float)
        ranks = ReferenceScores.of(reference)
        possible = ranks.smallest_p <= FALSE_POSITIVE_PEOPLE + 1e-12
        for condition in truth.conditions:
            people = maps.with_condition(condition)
            for label, severity, group in severity_groups(people) if len(people) else ():
                values = scores.loc[group["key"], score].dropna().to_numpy(dtype=float)
                detected = int(np.sum(ranks.p(values) <= FALSE_POSITIVE_PEOPLE + 1e-12))
                rows.append(
                    {"maps": maps.name, "score": score, "condition": condition, "severity": label}
                    | {"mean_severity": severity, "num": len(values), "num_controls": len(reference)}
                    | {"num_outlying": ranks.num_outlying}
                    | columns("auc", delong_interval(values, reference))
                    | columns("sensitivity", wilson_interval(detected, len(values) if possible else 0))
                )
    return rows


def profile_rows(maps: EvaluatedMaps, truth: CohortTruth, settings: Settings) -> list[Row]:
    """Agreement of a person's region z with the true changes: Spearman over regions, mean over people."""
    rows = []
    for channel in maps.channels:
        table = maps.regions[maps.regions["channel"] == channel]
        z = table.pivot_table(index="key", columns="region", values="z", aggfunc="first", sort=False)
        for condition in truth.conditions:
            people = maps.with_condition(condition)
            for label, severity, group in severity_groups(people) if len(people) else ():
                keys = [key for key in group["key"] if key in z.index]
                true = truth.percent_change(keys, list(z.columns)).to_numpy(dtype=float)
                ranks = [
                    correlation(z.loc[key].to_numpy(dtype=float), row, "spearman").value for key, row in zip(keys, true)
                ]
                interval = settings.interval(ranks)
                if interval.num:
                    row = {"maps": maps.name, "channel": channel, "condition": condition, "severity": label}
                    rows.append(row | {"mean_severity": severity, "num": interval.num} | columns("spearman", interval))
    return rows


def detection_limit(rows: pd.DataFrame) -> float | None:
    """The smallest severity from which on people are detected; None if there is none.

    Detected means an AUC interval above 0.5 and a sensitivity of at least 0.8 at 5 % false positives, at this and at every
    greater severity. `rows` are those of one score and condition.
    """
    graded = rows[rows["severity"] != ALL] if (rows["severity"] != ALL).any() else rows
    limit = None
    for row in rows_of(graded.sort_values("mean_severity", ascending=False)):
        if not (row["auc_low"] > 0.5 and row["sensitivity"] >= 0.8):
            break
        limit = float(row["mean_severity"])
    return limit
