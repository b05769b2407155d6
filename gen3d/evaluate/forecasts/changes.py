"""Regional change: what was forecast for the time of a visit, and what came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.core.pool import as_done, num_workers
from gen3d.core.progress import track
from gen3d.evaluate.forecasts.opening import COPY, Forecasts, LaterVisits
from gen3d.forecast.folder import INTERVALS, LEVELS
from gen3d.imaging.person_space import person_space
from gen3d.imaging.within_person import log_change, region_log_changes
from gen3d.simulate.folder import AGAIN, FOLDER, TRUTH_VOLUMES, VOLUME_ML

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What one model expected at the times of the visits, natural logarithms of volume ratios.

    Attributes:
        change: [P, R], a row per pair of visits and a column per region; NaN where nothing was forecast.
        low, high: level in percent -> ends of its interval [P, R]; NaN where there is none.
    """

    change: Floats
    low: Mapping[int, Floats]
    high: Mapping[int, Floats]


def true_changes(truth: LaterVisits, pairs: pd.DataFrame, workers: int) -> Floats:
    """True log volume change of every pair and region [P, R].

    A simulated cohort tells it exactly. In others it is measured between the two scans of a person, by registration in the
    space between them, and holds the error of that measurement.

    Raises:
        UserError: a simulated cohort without the volumes of these scans.
    """
    unique = list(dict.fromkeys(zip(pairs["key"].astype(str), pairs["key_later"].astype(str), strict=True)))
    if truth.simulated:
        found = _simulated(truth, unique)
    else:
        jobs = as_done(_measured, truth.prepared, unique, num_workers(workers, len(unique)))
        found = dict(track(jobs, "measuring what came true", len(unique)))
    rows = [found[str(a), str(b)] for a, b in zip(pairs["key"], pairs["key_later"], strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(pairs), len(truth.region_names))


def _simulated(truth: LaterVisits, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Floats]:
    table = TRUTH_VOLUMES.read(truth.folder / FOLDER)
    wide = table.pivot_table(index="key", columns="region", values=VOLUME_ML, aggfunc="first")
    absent = [key for pair in pairs for key in pair if key not in wide.index]
    if absent:
        raise UserError(f"{truth.folder / FOLDER / TRUTH_VOLUMES.file}: has no volumes of {absent[0]}; {AGAIN}.")
    logs = np.log(wide.reindex(columns=truth.region_names).to_numpy(np.float64))
    place = {str(key): row for row, key in enumerate(wide.index)}
    return {(first, second): logs[place[second]] - logs[place[first]] for first, second in pairs}


def _measured(prepared: Prepared, pair: tuple[str, str]) -> tuple[tuple[str, str], Floats]:
    earlier, later = (prepared.volume(key, "t1w") for key in pair)
    labels = person_space(earlier, prepared.plan).labels(prepared.regions)
    num_regions = len(prepared.region_table)
    return pair, region_log_changes(log_change(earlier, later), labels, num_regions)


def expected_changes(forecasts: Forecasts, regions: Sequence[str], tolerance_years: float) -> dict[str, Expected]:
    """Model -> what it expected at the time of each pair's later visit; copy-forward expects no change, and is always there.

    The change is interpolated linearly between the forecast years, from none at 0 years; a visit up to `tolerance_years`
    after the last forecast year continues the last line. The distances of the ends of an interval from the forecast are
    interpolated too, and before the first forecast year they are those of the first: measuring is no surer after a shorter time.
    """
    shape = (len(forecasts.pairs), len(regions))
    expected: dict[str, Expected] = {}
    by_model = {str(model): rows for model, rows in forecasts.regions.groupby("model", sort=False)}
    for model in forecasts.models["model"].astype(str):
        curves = _curves(by_model[model], regions) if model in by_model else {}
        values = np.full((*shape, 1 + len(INTERVALS)), np.nan)
        for place, (key, years) in enumerate(zip(forecasts.pairs["key"], forecasts.pairs["years"], strict=True)):
            if str(key) in curves:
                values[place] = at_time(*curves[str(key)], float(years), tolerance_years)
        ends = {name: values[..., 1 + place] for place, name in enumerate(INTERVALS)}
        low, high = ({level: ends[f"{side}_{level}"] for level in LEVELS} for side in ("low", "high"))
        expected[model] = Expected(values[..., 0], low, high)
    if COPY not in by_model:
        nothing = {level: np.full(shape, np.nan) for level in LEVELS}
        expected[COPY] = Expected(np.zeros(shape), nothing, nothing)
    return expected


def _curves(rows: pd.DataFrame, regions: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """Key -> forecast years [H] ascending, and change and interval ends [H, R, 1 + ends]."""
    columns = ["log_change", *INTERVALS]
    place = {name: index for index, name in enumerate(regions)}
    curves = {}
    for key, part in rows.groupby("key", sort=False):
        horizons, at = np.unique(pd.to_numeric(part["years"]).to_numpy(np.float64), return_inverse=True)
        values = np.full((len(horizons), len(regions), len(columns)), np.nan)
        values[at, part["region"].map(place).to_numpy()] = part[columns].apply(pd.to_numeric).to_numpy(np.float64)
        curves[str(key)] = (horizons, values)
    return curves


def at_time(horizons: Floats, values: Floats, years: float, tolerance_years: float) -> Floats:
    """Change and ends of intervals [R, K] at a time, from those at the forecast years.

    Args:
        horizons: [H] ascending.
        values: [H, R, K], the change first, then ends of intervals.
        years: from the scan.
        tolerance_years: how far beyond the last horizon the last line is continued; NaN further on.
    """
    if years > horizons[-1] + tolerance_years:
        return np.full(values.shape[1:], np.nan)
    change, offsets = values[..., :1], values[..., 1:] - values[..., :1]
    if horizons[0] > 0:
        horizons = np.concatenate([[0.0], horizons])
        change = np.concatenate([np.zeros_like(change[:1]), change])
        offsets = np.concatenate([offsets[:1], offsets])
    after = int(np.clip(np.searchsorted(horizons, years), 1, max(1, len(horizons) - 1)))
    if len(horizons) == 1:
        return np.asarray(np.concatenate([change[0], change[0] + offsets[0]], axis=-1))
    share = (years - horizons[after - 1]) / (horizons[after] - horizons[after - 1])
    here = change[after - 1] + share * (change[after] - change[after - 1])
    spread = offsets[after - 1] + min(share, 1.0) * (offsets[after] - offsets[after - 1])
    return np.asarray(np.concatenate([here, here + spread], axis=-1))


def with_both_sides(regions: Sequence[str], both: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names of structures with two sides, `hippocampus (both)`, and the places of left and right [n, 2]."""
    place = {name: index for index, name in enumerate(regions)}
    sides = [
        (name.removeprefix("left "), index, place[f"right {name.removeprefix('left ')}"])
        for name, index in place.items()
        if name.startswith("left ") and f"right {name.removeprefix('left ')}" in place
    ]
    return [name + both for name, _, _ in sides], np.array([pair[1:] for pair in sides], dtype=np.int64).reshape(-1, 2)
