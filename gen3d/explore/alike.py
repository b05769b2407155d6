"""How alike two scans are: two of one person, of two people at one level, and of people at two levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import DATA_RANGE, T1W
from gen3d.cohort.folder import Prepared
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.progress import track
from gen3d.explore.levels import Exploring
from gen3d.imaging.similarity import correlation, ssim

MEASURES = ("ssim", "correlation")
REPEAT, WITHIN, BETWEEN = "two scans of one person", "two people at one level", "people at two levels"
PAIRS = ".pairs"
CELL = ["kind", "level_a", "level_b", "measure", "value", "low", "high", "num_pairs", "num_people"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ComparedPair:
    """Two scans, the numbers of their people and of their levels."""

    kind: str
    people: tuple[int, int]
    levels: tuple[int, int]
    keys: tuple[str, str]


def choose_pairs(people: Exploring, most: int, age_years: float, seed: int) -> list[ComparedPair]:
    """At most `most` pairs of each kind and levels: of people no more than `age_years` apart, where there are any."""
    pairs = []
    for place, keys in enumerate(people.scans):
        if len(keys) > 1:
            level = int(people.of_level[place])
            pairs.append(ComparedPair(REPEAT, (place, place), (level, level), (keys[0], keys[1])))
    pairs = _some(pairs, most, (seed, 0))
    for first in range(len(people.levels)):
        for second in range(first, len(people.levels)):
            kind = WITHIN if first == second else BETWEEN
            found = _pairs_of(people, first, second, age_years)
            candidates = [
                ComparedPair(kind, (i, j), (first, second), (people.scans[i][0], people.scans[j][0]))
                for i, j in found.tolist()
            ]
            pairs += _some(candidates, most, (seed, 1, first, second))
    return pairs


def _pairs_of(people: Exploring, first: int, second: int, age_years: float) -> NDArray[np.int64]:
    one, other = (np.flatnonzero(people.of_level == level) for level in (first, second))
    pairs = np.stack([part.ravel() for part in np.meshgrid(one, other, indexing="ij")], axis=1)
    if first == second:
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    apart = np.abs(people.ages[pairs[:, 0]] - people.ages[pairs[:, 1]])
    near = apart <= age_years
    return pairs[near] if near.any() else pairs


def _some(pairs: list[ComparedPair], most: int, seed: tuple[int, ...]) -> list[ComparedPair]:
    if len(pairs) <= most:
        return pairs
    chosen = np.random.default_rng(seed).choice(len(pairs), most, replace=False)
    return [pairs[place] for place in sorted(chosen.tolist())]


def compare(out: Path, prepared: Prepared, pairs: list[ComparedPair], workers: int) -> pd.DataFrame:
    """Likeness of the T1w of every pair inside the brain: columns of `ComparedPair`, ssim and correlation; kept pair by pair."""
    kept = KeptRows(out / PAIRS)
    names = [f"{first}_{second}" for first, second in (pair.keys for pair in pairs)]
    job = (tuple(prepared.folders), prepared, kept)
    made = kept_or_made(
        list(zip(names, pairs, strict=True)),
        lambda part: kept.get(part[0]),
        _compare,
        job,
        lambda num: num_workers(workers, num),
    )
    by_name = {str(row["pair"]): row for row in track(made, "comparing scans", len(pairs))}
    rows = []
    for name, pair in zip(names, pairs, strict=True):
        row = by_name[name]
        rows.append((pair.kind, *pair.levels, *pair.people, *pair.keys, *(float(row[measure]) for measure in MEASURES)))
    columns = ["kind", "a", "b", "person_1", "person_2", "key_1", "key_2", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def _compare(job: tuple[Any, Prepared, KeptRows], parts: list[tuple[str, ComparedPair]]) -> list[dict[str, Any]]:
    _, prepared, kept = job
    box = _box(prepared.mask)
    mask, rows = prepared.mask[box], []
    for name, pair in parts:
        first, second = (prepared.volume(key, T1W)[box] for key in pair.keys)
        row = {
            "pair": name,
            "ssim": ssim(first, second, DATA_RANGE, mask),
            "correlation": correlation(first[mask], second[mask]),
        }
        kept.keep(name, row)
        rows.append(row)
    return rows


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The mask's bounding box."""
    along = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in along)


@dataclass(frozen=True)
class Likeness:
    """Tables: `cells` with the mean of every kind and levels, `excess` with what a comparison adds to two people of one level."""

    cells: pd.DataFrame
    excess: pd.DataFrame


def summarise(found: pd.DataFrame, people: Exploring, num: int, seed: int) -> Likeness:
    """Means with intervals from resampled people: a pair weighs what its two people weigh together.

    People are resampled within levels, and pairs that share a person stay together.
    """
    draws = _draws(people, num, seed)
    first, second = found["person_1"].to_numpy(np.int64), found["person_2"].to_numpy(np.int64)
    same = (found["kind"] == REPEAT).to_numpy()
    weights = np.where(same, draws[:, first], draws[:, first] * draws[:, second])
    cells, means = [], {}
    for (kind, first_level, second_level), rows in found.groupby(["kind", "a", "b"], sort=True):
        a, b = int(str(first_level)), int(str(second_level))
        places = rows.index.to_numpy()
        involved = len(set(first[places]) | set(second[places]))
        for measure in MEASURES:
            values = rows[measure].to_numpy(np.float64)
            means[kind, a, b, measure] = (float(values.mean()), _weighted(weights[:, places], values))
            low, high = _interval(means[kind, a, b, measure][1], involved)
            cells.append(
                (
                    kind,
                    people.levels[a],
                    people.levels[b],
                    measure,
                    float(values.mean()),
                    low,
                    high,
                    len(rows),
                    involved,
                )
            )
    return Likeness(pd.DataFrame(cells, columns=CELL), _excess(means, people))


def _draws(people: Exploring, num: int, seed: int) -> Floats:
    draws = np.zeros((num, len(people.table)))
    generator = np.random.default_rng((seed, 2))
    for level in range(len(people.levels)):
        members = np.flatnonzero(people.of_level == level)
        draws[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=num)
    return draws


def _weighted(weights: Floats, values: Floats) -> Floats:
    total = weights.sum(axis=1)
    return np.where(total > 0, weights @ values / np.maximum(total, 1e-12), np.nan)


def _interval(resampled: Floats, num_people: int) -> tuple[float, float]:
    known = resampled[np.isfinite(resampled)]
    if num_people < 2 or not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _excess(means: dict[Any, tuple[float, Floats]], people: Exploring) -> pd.DataFrame:
    """How much less alike people of two levels are than people of one, and its share of the unlikeness of these."""
    rows = []
    for a, b in people.comparisons():
        low_level, high_level = min(a, b), max(a, b)
        for measure in MEASURES:
            cells = [
                means.get(key)
                for key in ((WITHIN, a, a, measure), (WITHIN, b, b, measure), (BETWEEN, low_level, high_level, measure))
            ]
            if any(cell is None for cell in cells):
                continue
            (one, ones), (other, others), (between, betweens) = (cell for cell in cells if cell is not None)
            within, withins = (one + other) / 2, (ones + others) / 2
            excess, resampled = within - between, withins - betweens
            low, high = _interval(resampled, 2)
            share_low, share_high = _interval(resampled / np.maximum(1 - withins, 1e-9), 2)
            share = excess / max(1 - within, 1e-9)
            rows.append(
                (
                    people.levels[a],
                    people.levels[b],
                    measure,
                    within,
                    between,
                    excess,
                    low,
                    high,
                    share,
                    share_low,
                    share_high,
                )
            )
    columns = [
        "level_a",
        "level_b",
        "measure",
        "within",
        "between",
        "excess",
        "low",
        "high",
        "share",
        "share_low",
        "share_high",
    ]
    return pd.DataFrame(rows, columns=columns)
