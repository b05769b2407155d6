"""The tables of `gen3d evaluate forecasts=`: skill, regions, coverage, direction, and paired differences between forecasters.

Every function returns rows of a table. The interval over people of a value `x` is in `x_low` and `x_high`; `num` is the number of
people. Errors of regions are in units of log volume change; 0.01 is about 1 % of volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import is_control
from gen3d.core.tables import Row
from gen3d.evaluate.forecasts.changes import Expected, with_both_sides
from gen3d.evaluate.forecasts.measures import (
    Floats,
    PerPerson,
    Resampling,
    as_columns,
    covered,
    crps_of_intervals,
    in_one_direction,
    mean_over_regions,
    noise_of,
    right_sign,
)
from gen3d.evaluate.forecasts.opening import COPY, POPULATION, Forecasts, pair_places
from gen3d.forecast.folder import LEVELS
from gen3d.maths.stats import Interval, correlation

HORIZONS = (1.5, 2.5, 4.0, 6.0)
"""Upper ends in years of the bins of time between two visits."""

ALL, HORIZON, DIAGNOSIS, VISITS = "all", "horizon", "diagnosis", "visits known"
"""How people are grouped; a row of `all` is everybody."""

BOTH = " (both)"
DIRECTIONS = {"lateral ventricle": 1, "inferior lateral ventricle": 1, "hippocampus": -1, "entorhinal": -1}
"""Structures of which ageing and Alzheimer's disease change the volume in one direction: 1 grows, -1 shrinks."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """A folder of forecasts with what came true.

    Attributes:
        forecasts: the folder.
        regions: names [R].
        true: true log volume change of its pairs [P, R].
        expected: model -> what it expected.
        images: rows of `images.image_rows`.
        least_change: size of a change that is not told from none, log units.
        resampling: how intervals are made.
    """

    forecasts: Forecasts
    regions: Sequence[str]
    true: Floats
    expected: dict[str, Expected]
    images: pd.DataFrame
    least_change: float
    resampling: Resampling

    @cached_property
    def years(self) -> Floats:
        """Years between the visits of each pair [P]."""
        return self.forecasts.pairs["years"].to_numpy(np.float64)

    @cached_property
    def noise(self) -> Floats:
        """Size of change by region [R] that is not told from none."""
        pairs = self.forecasts.pairs
        controls = is_control(pairs).to_numpy(bool)
        return noise_of(self.true, self.years, controls, pairs["subject"].tolist(), self.least_change)

    @cached_property
    def errors(self) -> dict[str, Floats]:
        """Model -> size of its error [P, R]."""
        return {model: np.abs(expected.change - self.true) for model, expected in self.expected.items()}

    def groups(self) -> Iterator[tuple[str, str, Mask]]:
        """How people are grouped, the group, and the pairs in it."""
        pairs = self.forecasts.pairs
        everybody = np.ones(len(pairs), dtype=bool)
        yield ALL, ALL, everybody
        for label, inside in by_horizon(self.years):
            yield HORIZON, label, inside
        for by, column in ((DIAGNOSIS, "diagnosis"), (VISITS, "known")):
            names = pairs[column].astype(str).to_numpy()
            for name in dict.fromkeys(sorted(names)) if len(set(names)) > 1 else ():
                yield by, name, names == name


def by_horizon(years: Floats) -> list[tuple[str, Mask]]:
    """Bins of the time between visits that hold any pair, with their names; [] where all are in one."""
    edges = (0.0, *HORIZONS, math.inf)
    bins = []
    for low, high in pairwise(edges):
        inside = (years > low) & (years <= high)
        if inside.any():
            name = (
                f"up to {high:g} years"
                if low == 0
                else f"over {low:g} years"
                if high == math.inf
                else f"{low:g} to {high:g} years"
            )
            bins.append((name, inside))
    return bins if len(bins) > 1 else []


def skill_rows(judged: Judged) -> list[Row]:
    """Per group of people and model: errors of regional change and of images, and their skill against both floors."""
    rows = []
    for by, group, inside in judged.groups():
        for model, floor in _models(judged):
            label = {"forecasts": judged.forecasts.name, "model": model, "floor": floor, "by": by, "group": group}
            row = label | {"num": 0, "num_pairs": int(inside.sum()), "mean_years": float(judged.years[inside].mean())}
            of_regions = _skill_of_regions(judged, model, inside)
            row["num"] = of_regions["region_error"].num
            rows.append(row | as_columns(of_regions) | _skill_of_images(judged, model, inside))
    return rows


def _models(judged: Judged) -> list[tuple[str, bool]]:
    floors = dict(judged.forecasts.models[["model", "floor"]].itertuples(index=False, name=None))
    return [(str(model), bool(floors.get(model, True))) for model in judged.expected]


def _skill_of_regions(judged: Judged, model: str, inside: Mask) -> dict[str, Interval]:
    draw, true, expected = judged.resampling, judged.true[inside], _of(judged.expected[model], inside)
    people = PerPerson(judged.forecasts.pairs["subject"][inside].tolist())
    error = people.mean(mean_over_regions(judged.errors[model][inside]))
    values = {"region_error": draw.mean(error)}
    for floor, name in ((COPY, "copy"), (POPULATION, "population")):
        if floor in judged.errors:
            of_floor = people.mean(mean_over_regions(judged.errors[floor][inside]))
            values[f"region_skill_{name}"] = draw.skill(error, of_floor)
    relative = judged.errors[model][inside] / np.maximum(np.abs(true), judged.noise)
    values["relative_error"] = draw.mean(people.mean(mean_over_regions(relative)))
    values["sign_accuracy"] = draw.mean(people.mean(mean_over_regions(right_sign(expected.change, true, judged.noise))))
    furthest = people.longest(judged.years[inside])
    values["slope"] = draw.slope(expected.change[furthest], true[furthest])
    values["crps"] = draw.mean(people.mean(mean_over_regions(crps_of_intervals(expected, true))))
    values["forecast_size"] = draw.mean(people.mean(mean_over_regions(np.abs(expected.change))))
    return values


def _of(expected: Expected, inside: Mask) -> Expected:
    low, high = ({level: ends[inside] for level, ends in side.items()} for side in (expected.low, expected.high))
    return Expected(expected.change[inside], low, high)


IMAGE_VALUES = (
    "image_error", "image_skill_copy", "image_skill_population", "difference_r", "ssim", "ssim_copy", "psnr", "psnr_copy", "rank_1",
    "rank_1_copy",
)  # fmt: skip


def _skill_of_images(judged: Judged, model: str, inside: Mask) -> Row:
    images, draw = judged.images, judged.resampling
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    found = dict.fromkeys(IMAGE_VALUES, nothing)
    rows = _images_of(judged, model, inside)
    if rows.empty:
        return {"num_images": 0} | as_columns(found)
    people = PerPerson(rows["subject"].tolist())

    def of(column: str) -> Floats:
        return people.mean(rows[column].to_numpy(np.float64))

    found |= {name: draw.mean(of(name)) for name in ("ssim", "ssim_copy", "psnr", "psnr_copy", "difference_r")}
    found["image_error"] = draw.mean(of("mse"))
    found["image_skill_copy"] = draw.skill(of("mse"), of("mse_copy"))
    for name in ("rank", "rank_copy"):
        found[name.replace("rank", "rank_1")] = draw.mean(people.mean((rows[name] == 1).to_numpy(np.float64)))
    population = images[images["model"] == POPULATION][["key", "key_later", "mse"]]
    if len(population):
        both = rows.merge(population, on=["key", "key_later"], suffixes=("", "_population"))
        shared = PerPerson(both["subject"].tolist())
        errors = [shared.mean(both[name].to_numpy(np.float64)) for name in ("mse", "mse_population")]
        found["image_skill_population"] = draw.skill(*errors)
    return {"num_images": len(people.people)} | as_columns(found)


def _images_of(judged: Judged, model: str, inside: Mask) -> pd.DataFrame:
    """Rows of images of a model and these pairs; copying the scan has the columns *_copy of the forecaster's."""
    pairs = judged.forecasts.pairs[inside][["key", "key_later"]]
    source = judged.forecasts.forecaster if model == COPY else model
    rows = judged.images[judged.images["model"] == source].merge(pairs, on=["key", "key_later"])
    if model != COPY:
        return rows
    return rows.assign(difference_r=np.nan, **{name: rows[f"{name}_copy"] for name in ("mse", "ssim", "psnr", "rank")})


def region_rows(judged: Judged) -> list[Row]:
    """Per model, time between visits and region: change forecast and true, skill, agreement of ranks over people, slope, coverage.

    Ranks and slope are of one pair per person, the furthest apart, so that a longer time is not taken for a better forecast.
    Structures with two sides have a row of their own, the mean of both, without coverage.
    """
    names, sides = with_both_sides(judged.regions, BOTH)
    regions, rows = [*judged.regions, *names], []
    true = _with_means(judged.true, sides)
    changes = {model: _with_means(expected.change, sides) for model, expected in judged.expected.items()}
    inside_90 = {model: covered(expected, judged.true, LEVELS[-1]) for model, expected in judged.expected.items()}
    for by, group, inside in judged.groups():
        if by not in (ALL, HORIZON):
            continue
        people = PerPerson(judged.forecasts.pairs["subject"][inside].tolist())
        furthest = people.longest(judged.years[inside])
        errors = {model: people.mean(np.abs(change - true)[inside]) for model, change in changes.items()}
        means = {model: people.mean(change[inside]) for model, change in changes.items()}
        true_means = people.mean(true[inside])
        for model, floor in _models(judged):
            last, last_true = changes[model][inside][furthest], true[inside][furthest]
            hits = people.mean(inside_90[model][inside])
            for place, region in enumerate(regions):
                label = {"forecasts": judged.forecasts.name, "model": model, "floor": floor, "by": by, "group": group}
                values = _of_region(judged, model, place, errors, means, true_means)
                values["spearman"] = correlation(last[:, place], last_true[:, place], "spearman")
                values["slope"] = judged.resampling.slope(last[:, place], last_true[:, place])
                if place < len(judged.regions):
                    values["coverage_90"] = judged.resampling.mean(hits[:, place])
                num = values["error"].num
                if num:
                    rows.append(label | {"region": region, "num": num} | as_columns(values))
    return rows


def _of_region(
    judged: Judged, model: str, place: int, errors: dict[str, Floats], means: dict[str, Floats], true: Floats
) -> dict[str, Interval]:
    draw, error = judged.resampling, errors[model][:, place]
    values = {
        "true_percent": draw.mean(100 * np.expm1(true[:, place])),
        "forecast_percent": draw.mean(100 * np.expm1(means[model][:, place])),
        "error": draw.mean(error),
    }
    for floor, name in ((COPY, "copy"), (POPULATION, "population")):
        if floor in errors:
            values[f"skill_{name}"] = draw.skill(error, errors[floor][:, place])
    return values


def _with_means(values: Floats, sides: NDArray[np.int64]) -> Floats:
    return np.concatenate([values, 0.5 * (values[:, sides[:, 0]] + values[:, sides[:, 1]])], axis=1)


def coverage_rows(judged: Judged) -> list[Row]:
    """Per group, model and level: share of regions whose true change lies in the interval, and the interval's width."""
    rows = []
    for by, group, inside in judged.groups():
        people = PerPerson(judged.forecasts.pairs["subject"][inside].tolist())
        for model, floor in _models(judged):
            expected, true = _of(judged.expected[model], inside), judged.true[inside]
            for level in LEVELS:
                hits = judged.resampling.mean(people.mean(mean_over_regions(covered(expected, true, level))))
                width = judged.resampling.mean(
                    people.mean(mean_over_regions(expected.high[level] - expected.low[level]))
                )
                if not hits.num:
                    continue
                label = {"forecasts": judged.forecasts.name, "model": model, "floor": floor, "by": by, "group": group}
                years = {"mean_years": float(judged.years[inside].mean()), "num": hits.num, "level": level}
                rows.append(label | years | as_columns({"coverage": hits, "width": width}))
    return rows


def direction_rows(judged: Judged) -> list[Row]:
    """Share of people whose forecasts go one way from one forecast year to the next, where the truth goes that way.

    Structures of DIRECTIONS, both sides together; only scans whose furthest visit has a true change in that direction.
    """
    names, sides = with_both_sides(judged.regions, BOTH)
    places = {name.removesuffix(BOTH): pair for name, pair in zip(names, sides, strict=True)}
    pairs = judged.forecasts.pairs
    scans = PerPerson(pairs["key"].tolist())
    furthest = scans.longest(judged.years)
    subjects = pairs["subject"].to_numpy()[furthest]
    regions = judged.forecasts.regions
    rows = []
    for structure, direction in DIRECTIONS.items():
        if structure not in places:
            continue
        two = [judged.regions[place] for place in places[structure]]
        truly = judged.true[furthest][:, places[structure]].mean(axis=1) * direction > 0
        chosen = regions[regions["region"].isin(two) & regions["key"].isin(scans.people[truly])]
        for model, part in chosen.groupby("model", sort=False):
            curve = part.pivot_table(index="key", columns="years", values="log_change", aggfunc="mean")
            if not (curve.columns == 0).any():
                curve.insert(0, 0.0, 0.0)
            if curve.shape[1] < 3:  # one step shows a direction, not that it is kept
                continue
            goes = in_one_direction(curve.sort_index(axis=1).to_numpy(np.float64), direction)
            owner = dict(zip(scans.people, subjects, strict=True))
            share = judged.resampling.mean(PerPerson([str(owner[str(key)]) for key in curve.index]).mean(goes))
            label = {"forecasts": judged.forecasts.name, "model": str(model), "region": structure + BOTH}
            way = {
                "direction": "grows" if direction > 0 else "shrinks",
                "num": share.num,
                "num_years": curve.shape[1] - 1,
            }
            rows.append(label | way | as_columns({"share": share}))
    return rows


def difference_rows(every: Sequence[Judged]) -> list[Row]:
    """Skill of each further folder's forecaster over that of the first, on the pairs that both have, of regions and images."""
    rows: list[Row] = []
    first = every[0]
    for other in every[1:]:
        one, two = pair_places(first.forecasts.pairs, other.forecasts.pairs)
        if not len(one):
            continue
        people = PerPerson(first.forecasts.pairs["subject"].iloc[one].tolist())
        errors = [
            people.mean(mean_over_regions(judged.errors[judged.forecasts.forecaster][places]))
            for judged, places in ((other, two), (first, one))
        ]
        values = {"region_skill": first.resampling.skill(*errors)}
        images = [part.images[part.images["model"] == part.forecasts.forecaster] for part in (other, first)]
        both = images[0].merge(images[1], on=["key", "key_later", "subject"], suffixes=("", "_first"))
        if len(both):
            shared = PerPerson(both["subject"].tolist())
            values["image_skill"] = first.resampling.skill(
                *(shared.mean(both[name].to_numpy()) for name in ("mse", "mse_first"))
            )
        label = {"forecasts": other.forecasts.name, "over": first.forecasts.name, "num": values["region_skill"].num}
        rows.append(label | as_columns(values))
    return rows


def change_rows(judged: Judged) -> pd.DataFrame:
    """Every pair, model and region: years, change as forecast and as it was, and the ends of the widest interval."""
    pairs, num = judged.forecasts.pairs, len(judged.regions)
    frames = []
    for model, expected in judged.expected.items():
        frame = pairs.loc[pairs.index.repeat(num)].reset_index(drop=True)
        ends = {
            f"{side}_{LEVELS[-1]}": part[LEVELS[-1]].ravel()
            for side, part in (("low", expected.low), ("high", expected.high))
        }
        frame = frame.assign(model=model, region=list(judged.regions) * len(pairs), forecast=expected.change.ravel())
        frames.append(frame.assign(true=judged.true.ravel(), **ends))
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "forecasts", judged.forecasts.name)
    return table[table["forecast"].notna() & table["true"].notna()].reset_index(drop=True)
