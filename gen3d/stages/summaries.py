"""From rows of scans to tables: means over people with intervals, differences from floors, directions, identity, sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.tables import Row
from gen3d.maths.set_distances import Pool, compare_sets, half_draws, median_distance
from gen3d.maths.stats import Interval, bootstrap_interval, wilson_interval
from gen3d.stages.folder import CHAIN, COPY, MEASURES, PAIRED, SHIFT

INCEPTION = "Inception"
"""The network whose distances of sets are published as FID."""
READ = ("fluid", "tissue")
RISES = {"fluid": True, "tissue": False}
"""Which way a reading goes as a disease of tissue loss goes on."""


def metric_rows(compared: pd.DataFrame, num_resamples: int, seed: int) -> list[Row]:
    """Mean of every measure over people, by start, stage, protocol and candidate."""
    rows = []
    for group, part in _grouped(compared, "start", "stage", "protocol", "candidate"):
        for measure in _measures(compared):
            interval = bootstrap_interval(part[measure], num_resamples=num_resamples, seed=seed)
            rows.append({**group, "measure": measure, **columns(interval)})
    return rows


def difference_rows(compared: pd.DataFrame, num_resamples: int, seed: int) -> list[Row]:
    """The chain minus every other candidate on the same scans, by measure: mean over people, with interval."""
    rows = []
    for group, part in _grouped(compared, "start", "stage", "protocol"):
        for measure in _measures(compared):
            wide = part.pivot(index="key", columns="candidate", values=measure)
            for name in [name for name in wide.columns if name != CHAIN]:
                apart = (wide[CHAIN] - wide[name]).replace([np.inf, -np.inf], np.nan)
                interval = bootstrap_interval(apart, num_resamples=num_resamples, seed=seed)
                rows.append({**group, "against": name, "measure": measure, **columns(interval)})
    return rows


def verdict(compared: pd.DataFrame, num_resamples: int, seed: int) -> tuple[str, Interval, Interval]:
    """Protocol, and the chain's error in the brain minus that of the shift over all single steps, with its interval over people;
    and the error of the shift.

    Of the person's own later scans where there are any, else by the published protocol. A person who is sent from two stages
    counts once, by the mean of both.
    """
    single = compared[compared["steps"] == 1]
    protocol = PAIRED if (single["protocol"] == PAIRED).any() else "published"
    part = single[single["protocol"] == protocol]
    wide = part.pivot_table(index=["subject", "start"], columns="candidate", values="mse_brain")
    by_person = wide.groupby("subject").mean()
    apart = bootstrap_interval(by_person[CHAIN] - by_person[SHIFT], num_resamples=num_resamples, seed=seed)
    return protocol, apart, bootstrap_interval(by_person[SHIFT], num_resamples=num_resamples, seed=seed)


def direction_rows(readings: pd.DataFrame, compared: pd.DataFrame) -> list[Row]:
    """Share of people whose fluid rises and whose tissue falls along every step that was made, by candidate; and in truth.

    The candidate `same person, truth` has the people whose own later scan is there.
    """
    real = readings[readings["candidate"] == ""].set_index("key")
    rows = []
    for group, part in _grouped(readings[readings["candidate"] != ""], "start", "stage", "candidate"):
        source = real.loc[part["key"]]
        rows += _directions(group, part, source)
    paired = compared[(compared["protocol"] == PAIRED) & (compared["candidate"] == COPY)]
    for group, part in _grouped(paired, "start", "stage"):
        known = part[part["partner"].isin(real.index)]
        if len(known):
            rows += _directions(
                {**group, "candidate": "same person, truth"},
                real.loc[known["partner"]].reset_index(),
                real.loc[known["key"]],
            )
    return rows


def _directions(group: Row, later: pd.DataFrame, source: pd.DataFrame) -> list[Row]:
    rows = []
    for name in READ:
        change = later[name].to_numpy(dtype=np.float64) - source[name].to_numpy(dtype=np.float64)
        right = int((change > 0).sum() if RISES[name] else (change < 0).sum())
        mean = bootstrap_interval(change)
        share = columns(wilson_interval(right, len(change)), "share")
        rows.append({**group, "reading": name, **share, **columns(mean, "change"), "n": len(change)})
    return rows


def monotone(readings: pd.DataFrame, stages: Sequence[str]) -> Interval:
    """Share of people, sent from the first stage to the last, whose fluid rises at every step of the chain."""
    chained = readings[(readings["start"] == stages[0]) & readings["candidate"].isin(["", CHAIN])]
    wide = chained.pivot_table(index="key", columns="stage", values="fluid")
    if any(stage not in wide.columns for stage in stages):
        return wilson_interval(0, 0)
    values = wide[list(stages)].dropna().to_numpy(dtype=np.float64)
    return wilson_interval(int((np.diff(values, axis=1) > 0).all(axis=1).sum()), len(values))


def identity_rows(retrieved: Callable[[int, int, str], tuple[int, int]], made: Any, stages: Sequence[str]) -> list[Row]:
    """Share of made scans whose own source is the most similar among all sources, by candidate; by chance 1 / n."""
    rows = []
    for start, stage, name in sorted(made):
        right, num = retrieved(start, stage, name)
        row = {"start": stages[start], "stage": stages[stage], "candidate": name}
        rows.append({**row, **columns(wilson_interval(right, num)), "chance": 1.0 / num})
    return rows


def set_rows(
    network: str,
    vectors: dict[tuple[int, int, str], dict[int, NDArray[np.float32]]],
    real: dict[int, NDArray[np.float32]],
    codes: NDArray[np.int64],
    stages: Sequence[str],
    repeats: int,
    seed: int,
) -> tuple[list[Row], list[str]]:
    """FD and KID of what is made of a stage against real scans at the later one, with the floor at the same n; and remarks.

    The floor is the distance of two halves of the real people; intervals are over halves of people.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for start, stage in sorted({key[:2] for key in vectors}):
        there = [row for row in real if codes[row] == stage]
        parts = {name: list(by_row.values()) for (s, t, name), by_row in vectors.items() if (s, t) == (start, stage)}
        num = min(len(there) // 2, *(len(part) for part in parts.values()))
        if num < 2:
            notes.append(
                f"no distance of sets from {stages[start]} to {stages[stage]}: {len(there)} real people at {stages[stage]} leave "
                "fewer than 2 in each half"
            )
            continue
        features = np.concatenate(
            [np.stack([real[row] for row in there]), *(np.stack(part) for part in parts.values())]
        )
        features = features.astype(np.float64)
        pool = Pool(features, median_distance(features.reshape(-1, features.shape[-1])))
        sizes = np.cumsum([len(there), *(len(part) for part in parts.values())])
        places = {name: (np.arange(low, high), False) for name, low, high in zip(parts, sizes, sizes[1:], strict=False)}
        draws = half_draws(len(there), min(len(part) for part in parts.values()), repeats, seed)
        for metric, name_of_metric in (("fid", "FID" if network == INCEPTION else "FD"), ("kid", "KID")):
            floor, by_set = compare_sets(getattr(pool, metric), draws, places)
            for name, found in by_set.items():
                row: Row = {"start": stages[start], "stage": stages[stage], "candidate": name}
                row["metric"] = f"{name_of_metric}, {network}, n={found.value.num}"
                row["n"] = found.value.num
                rows.append(
                    {**row, **columns(found.value), **columns(floor, "floor"), **columns(found.excess, "excess")}
                )
    return rows, notes


def consistency_rows(changes: pd.DataFrame, num_resamples: int, seed: int) -> list[Row]:
    """Mean absolute changes in the brain and the drift of its intensity, over people, with intervals."""
    return [
        {**group, **columns(bootstrap_interval(part["value"], num_resamples=num_resamples, seed=seed))}
        for group, part in _grouped(changes, "what", "start", "stage")
    ]


def columns(interval: Interval, name: str = "value") -> Row:
    """An interval as columns: value, low, high and n; those of another name are `x`, `x_low`, `x_high`."""
    if name == "value":
        return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.num}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _measures(compared: pd.DataFrame) -> list[str]:
    return [measure for measure in MEASURES if measure in compared.columns]


def _grouped(table: pd.DataFrame, *by: str) -> list[tuple[Row, pd.DataFrame]]:
    groups = table.groupby(list(by), sort=False)
    return [(dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)), part) for key, part in groups]
