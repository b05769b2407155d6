"""Regions against planted truth: AUC, detection of people by one region, bias, and paired differences between models.

The mean of left and right of a structure is a region of its own: rows named ``hippocampus (both)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.folder import P_CONFORMAL
from gen3d.core.memory import announce_memory
from gen3d.core.tables import Row
from gen3d.evaluate.folder import SHARE_P_CONFORMAL
from gen3d.evaluate.truth import SIGNED_CHANNELS, CohortTruth, EvaluatedMaps
from gen3d.evaluate.voxels_and_people import FALSE_POSITIVE_PEOPLE, Settings, columns
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.stats import Interval, correlation, delong_interval, wilson_interval

CHANGED_PERCENT = 0.5
"""A region counts as changed by a condition when its mean true volume change exceeds this in size."""

ONLY_REGIONAL = ("contrast",)
"""Channels without voxel maps whose truth is that of the deformation channel."""

VOLUME_CHANNELS = ("deformation", "contrast")
BOTH = " (both)"
LEFT, RIGHT = "left ", "right "


class Regional(NamedTuple):
    """Tables of one channel, one row per key and one column per region: z, effect (percent) and conformal p."""

    z: pd.DataFrame
    effect: pd.DataFrame
    p: pd.DataFrame


def regional(maps: EvaluatedMaps, channel: str) -> Regional:
    """The region table of a channel as wide tables; z and effect also hold the means of left and right."""
    z, effect, p = (maps.folder.by_region(channel, value) for value in ("z", "effect_percent", P_CONFORMAL))
    return Regional(with_both(z), with_both(effect), p)


def with_both(table: pd.DataFrame) -> pd.DataFrame:
    """A table with a column ``X (both)`` added for every pair of columns ``left X`` and ``right X``: their mean."""
    names = [name.removeprefix(LEFT) for name in table.columns if str(name).startswith(LEFT)]
    paired = [name for name in names if RIGHT + name in table.columns]
    means = {name + BOTH: table[[LEFT + name, RIGHT + name]].mean(axis=1, skipna=False) for name in paired}
    return pd.concat([table, pd.DataFrame(means, index=table.index)], axis=1)


def region_rows(maps: EvaluatedMaps, truth: CohortTruth, settings: Settings) -> list[Row]:
    """Per channel, condition and region: separation from controls, and error of the volume change.

    AUC and sensitivity use z in the direction of the true change (changed regions of the volume channels), z itself in the
    structural channel, and |z| elsewhere. `sensitivity` is the share of people whose conformal p against held-out controls
    is at most 5 %; it is empty with fewer than 19 controls. `bias_percent` is estimated minus true change; `recovered` is
    the ratio of their means.
    """
    controls = set(maps.held_out["key"])
    rows = []
    for channel in (*maps.channels, *(name for name in ONLY_REGIONAL if (maps.regions["channel"] == name).any())):
        z, effect, p = regional(maps, channel)
        reference = z[z.index.isin(controls)]
        for condition in truth.conditions:
            keys = [key for key in maps.with_condition(condition)["key"] if key in z.index]
            if not keys:
                continue
            true = with_both(truth.percent_change(keys, [name for name in z.columns if not name.endswith(BOTH)]))
            volume = channel in VOLUME_CHANNELS
            rows += [
                {"maps": maps.name, "channel": channel, "condition": condition, "region": region}
                | _region(z.loc[keys, region], reference[region], true[region], channel)
                | _significant(p, keys, region)
                | _bias(effect.loc[keys, region] if volume and region in effect else None, true[region], settings)
                for region in z.columns
            ]
    return rows


def _scores(z: pd.Series, mean_true: float, channel: str) -> NDArray[np.float64]:
    """Scores that are large where the region is abnormal in the planted direction."""
    values = z.to_numpy(dtype=float)
    if channel in VOLUME_CHANNELS and abs(mean_true) > CHANGED_PERCENT:
        return math.copysign(1.0, mean_true) * values
    return values if channel in SIGNED_CHANNELS else np.abs(values)


def _region(z: pd.Series, reference: pd.Series, true: pd.Series, channel: str) -> Row:
    mean_true = float(true.mean())
    values, controls = _scores(z, mean_true, channel), _scores(reference, mean_true, channel)
    return (
        {"changed": abs(mean_true) > CHANGED_PERCENT, "true_percent": mean_true, "num": int(z.notna().sum())}
        | {"num_controls": int(reference.notna().sum()), "mean_z": float(z.mean())}
        | columns("auc", delong_interval(values, controls))
        | columns("sensitivity", _sensitivity(values, controls))
        | columns("spearman", correlation(z.to_numpy(dtype=float), true.to_numpy(dtype=float), method="spearman"))
    )


def _sensitivity(values: NDArray[np.float64], controls: NDArray[np.float64]) -> Interval:
    """Share of people whose p among the controls is at most 5 %; NaN where no rank can be that small."""
    values, reference = values[np.isfinite(values)], ReferenceScores.of(controls)
    possible = reference.smallest_p <= FALSE_POSITIVE_PEOPLE + 1e-12
    detected = int(np.sum(reference.p(values) <= FALSE_POSITIVE_PEOPLE + 1e-12))
    return wilson_interval(detected, len(values) if possible else 0)


def _significant(p: pd.DataFrame, keys: list[str], region: str) -> Row:
    values = p[region].reindex(keys).dropna() if region in p else pd.Series(dtype=float)
    return columns(SHARE_P_CONFORMAL, wilson_interval(int((values <= 0.05 + 1e-12).sum()), len(values)))


def _bias(effect: pd.Series | None, true: pd.Series, settings: Settings) -> Row:
    """Estimated minus true percent change over people; empty columns where the effect is not a volume."""
    errors = np.array([]) if effect is None else (effect - true).dropna().to_numpy(dtype=float)
    row = columns("bias_percent", settings.interval(errors))
    mean_true = float(true.mean())
    usable = effect is not None and abs(mean_true) > CHANGED_PERCENT
    return row | {"recovered": float(effect.mean()) / mean_true if effect is not None and usable else math.nan}


def _announce(num_people: int, num_controls: int) -> None:
    """What the comparisons of one condition and region take: who wins by two models, and their difference."""
    what = f"the comparisons of {num_people} people with {num_controls} controls"
    announce_memory(what, 6 * 8 * num_people * num_controls, "evaluate fewer people")


def region_difference_rows(opened: Sequence[EvaluatedMaps], truth: CohortTruth, settings: Settings) -> list[Row]:
    """AUC of each further maps folder minus that of the first, in every changed region of the deformation channel.

    Both are measured on the same scans. Intervals are percentiles over resampled people: a planted twin and the scan it
    was made from are drawn together.
    """
    rows: list[Row] = []
    first = opened[0]
    tables = {id(maps): regional(maps, "deformation").z for maps in opened if "deformation" in maps.channels}
    for other in opened[1:]:
        if id(first) not in tables or id(other) not in tables:
            continue
        one, two = tables[id(first)], tables[id(other)]
        shared = [key for key in first.subjects["key"] if key in one.index and key in two.index]
        subjects = first.subjects.set_index("key").loc[shared, "subject"]
        controls = [key for key in first.held_out["key"] if key in subjects.index]
        for condition in truth.conditions:
            people = [key for key in first.with_condition(condition)["key"] if key in subjects.index]
            if not people or not controls:
                continue
            _announce(len(people), len(controls))
            single = [name for name in one.columns if not name.endswith(BOTH) and name in two.columns]
            mean_true = with_both(truth.percent_change(people, single)).mean()
            for region in mean_true.index[mean_true.abs() > CHANGED_PERCENT]:
                wins = [_wins(table[region], people, controls, mean_true[region]) for table in (one, two)]
                interval = paired_auc_difference(
                    wins[0], wins[1], subjects[people].to_numpy(), subjects[controls].to_numpy(), settings
                )
                rows.append(
                    {"maps": other.name, "minus": first.name, "channel": "deformation", "condition": condition}
                    | {"region": region, "true_percent": float(mean_true[region]), "num": interval.num}
                    | {"num_controls": len(controls)}
                    | columns("auc", interval)
                )
    return rows


def _wins(z: pd.Series, people: list[str], controls: list[str], mean_true: float) -> NDArray[np.float64]:
    """[people, controls]: 1 where the person is more abnormal than the control, 0.5 where equal, NaN where unknown."""
    ill, well = (_scores(z.loc[keys], mean_true, "deformation") for keys in (people, controls))
    difference = ill[:, None] - well[None, :]
    return np.where(np.isnan(difference), np.nan, (difference > 0) + 0.5 * (difference == 0))


def paired_auc_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    subjects: NDArray[np.object_],
    control_subjects: NDArray[np.object_],
    settings: Settings,
) -> Interval:
    """AUC of the second minus that of the first, with a bootstrap interval over people.

    ``first`` and ``second`` [people, controls] hold 1 where the person is more abnormal than the control, 0.5 where both
    are equal, and 0 otherwise. `subjects` and `control_subjects` name rows and columns, so that scans of one person are
    drawn together. Pairs that are NaN in either are dropped from both.
    """
    known = np.isfinite(first) & np.isfinite(second)
    difference = np.where(known, second - first, 0.0)
    num = int(known.any(axis=1).sum())
    if not known.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    everybody, numbers = np.unique(np.concatenate([subjects, control_subjects]).astype(str), return_inverse=True)
    rows, cols = numbers[: len(subjects)], numbers[len(subjects) :]
    draws = np.random.default_rng(settings.seed).multinomial(
        len(everybody), np.full(len(everybody), 1 / len(everybody)), size=settings.bootstrap
    )
    ill, well = draws[:, rows].astype(float), draws[:, cols].astype(float)
    total = np.sum((ill @ known) * well, axis=1)
    resampled = np.sum((ill @ difference) * well, axis=1)[total > 0] / total[total > 0]
    value = float(difference.sum() / known.sum())
    if num < 2 or not len(resampled):
        return Interval(value, math.nan, math.nan, num)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high), num)
