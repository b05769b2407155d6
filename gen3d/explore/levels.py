"""Levels of a column, the people at each, and bins of age within which labels can be exchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.columns import Cells, read_cells
from gen3d.cohort.manifest import CONTROL_NAMES, is_synthetic, is_twin
from gen3d.cohort.session_order import first_scans
from gen3d.cohort.target import FEWEST_DISTINCT, as_label, refuse_stray_words
from gen3d.cohort.visits import stage_of
from gen3d.core import words as spell
from gen3d.core.errors import UserError

SLICE_STAGES = ("nondemented", "verymilddemented", "milddemented", "moderatedemented")
"""Names of stages in the sets of slice images, from the healthy to the most affected."""


@dataclass(frozen=True)
class Exploring:
    """The people who are compared.

    Attributes:
        column: that the levels are of.
        levels: names in order.
        ordered: whether that order means something; else every level is compared with the first.
        table: a row per person: subject, level (its number), age_years (of the scans that are used, NaN unknown), and further
            columns of the person's first scan.
        scans: keys of every person's scans, first the first.
        age_bins: number of everybody's age bin [n].
        notes: sentences on who was left out, and on ages.
    """

    column: str
    levels: tuple[str, ...]
    ordered: bool
    table: pd.DataFrame
    scans: tuple[tuple[str, ...], ...]
    age_bins: NDArray[np.int64]
    notes: tuple[str, ...]

    @property
    def of_level(self) -> NDArray[np.int64]:
        """Number of everybody's level [n]."""
        return self.table["level"].to_numpy(np.int64)

    @property
    def ages(self) -> NDArray[np.float64]:
        """Years [n], NaN where unknown."""
        return self.table["age_years"].to_numpy(np.float64)

    def counts(self) -> dict[str, int]:
        """People at every level."""
        found = np.bincount(self.of_level, minlength=len(self.levels))
        return {name: int(num) for name, num in zip(self.levels, found, strict=True)}

    def comparisons(self) -> list[tuple[int, int]]:
        """Numbers of the two levels of each comparison: neighbours where levels have an order, else each with the first."""
        later = range(1, len(self.levels))
        return [(place - 1 if self.ordered else 0, place) for place in later]

    def describe(self) -> str:
        """`diagnosis: CN (30 people), AD (24 people)`."""
        return f"{self.column}: {', '.join(f'{name} ({spell.people(num)})' for name, num in self.counts().items())}"


@dataclass(frozen=True)
class LevelRule:
    """How a column becomes levels; see the settings of the verb."""

    column: str
    levels: tuple[str, ...] | None
    edges: tuple[float, ...]
    bins: int
    fewest: int
    age_bin_years: float
    every_scan: bool


def choose_people(manifest: pd.DataFrame, rule: LevelRule) -> Exploring:
    """Sort people into levels.

    Args:
        manifest: the cohort table, a row per scan; planted copies, excluded scans, and synthetic ones beside real ones are left
            out. A person's level is that of the first scan with one; scans at another level are left out.
        rule: of the levels.

    Raises:
        UserError: no such column, nobody with a value, an edge or a level that nobody is at, or fewer than two levels with
            enough people.
    """
    scans, notes = _usable(manifest)
    cells = read_cells(scans, rule.column, "by", FEWEST_DISTINCT)
    if not cells.known.any():
        raise UserError(f"by={rule.column}: no scan has a value of it; fill the column in, or name another.")
    names, of_scan, ordered = _levels(cells, rule)
    missing = int((~cells.known).sum())
    if missing:
        notes.append(f"{spell.count(missing, 'scan')} without {rule.column} {_were(missing)} left out")
    people, kept, some = _people(scans, of_scan, rule.every_scan)
    notes += some
    people, kept, names, some = _with_enough(people, kept, names, rule)
    notes += some
    bins, about_age = _age_bins(people["age_years"].to_numpy(np.float64), rule.age_bin_years)
    return Exploring(rule.column, names, ordered, people, kept, bins, (*notes, *about_age))


def _were(num: int) -> str:
    return "was" if num == 1 else "were"


def _usable(manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    used = manifest[~is_twin(manifest) & (manifest["role"] != "excluded")]
    drawn = is_synthetic(used)
    if drawn.any() and not drawn.all():
        notes.append(f"{spell.count(int(drawn.sum()), 'synthetic scan')} {_were(int(drawn.sum()))} left out")
        used = used[~drawn]
    if not len(used):
        raise UserError("the cohort holds no scan that can be described: all are excluded or planted copies.")
    # In an order that does not depend on the order of the table, so that permutations depend on the seed alone.
    return used.sort_values(["subject", "key"], kind="stable").reset_index(drop=True), notes


def _levels(cells: Cells, rule: LevelRule) -> tuple[tuple[str, ...], NDArray[np.int64], bool]:
    """Names in order, number of every scan's level (-1 for none), and whether the order means something."""
    if cells.numbers is not None and rule.levels is None:
        return _bins_of(cells.numbers, rule)
    if rule.edges:
        raise UserError(
            f"edges= divides numbers, and {rule.column} holds {_few(cells.levels)}; name its levels by levels=."
        )
    if rule.levels is None:
        refuse_stray_words(cells.labels, f"by={rule.column}")
        if len(cells.levels) > max(12, len(cells.labels) // 3):
            raise UserError(
                f"by={rule.column} has {len(cells.levels)} different values ({_few(cells.levels)}), so nearly everybody is alone; "
                "name a column that people share, or some of its values by levels=."
            )
    names, ordered = (rule.levels, True) if rule.levels else in_order(cells.levels)
    absent = [name for name in names if name not in cells.levels]
    if absent:
        raise UserError(f"levels: nobody has {rule.column} {absent[0]}; the column holds {_few(cells.levels)}.")
    if len(set(names)) < len(names):
        raise UserError(f"levels={list(names)} names a level twice.")
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([place.get(label, -1) for label in cells.labels], dtype=np.int64), ordered


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")


def _bins_of(numbers: NDArray[np.float64], rule: LevelRule) -> tuple[tuple[str, ...], NDArray[np.int64], bool]:
    known = np.isfinite(numbers)
    if rule.edges:
        edges = np.array(rule.edges)
        if (np.diff(edges) <= 0).any():
            raise UserError(f"edges={list(rule.edges)}: they must grow.")
    else:
        edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, rule.bins + 1)[1:-1]))
    of_scan = np.where(known, np.searchsorted(edges, numbers, side="right"), -1)
    text = [f"{edge:.4g}" for edge in edges]
    names = [
        f"below {text[0]}",
        *(f"{low} to {high}" for low, high in pairwise(text)),
        f"{text[-1]} and more",
    ]
    return tuple(names), of_scan.astype(np.int64), True


def in_order(labels: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Values in order, and whether it is a known one: numbers, or stages of the Alzheimer continuum; else controls stand first."""
    numbers = pd.to_numeric(pd.Series(list(labels), dtype=object), errors="coerce")
    if numbers.notna().all():
        return tuple(sorted(labels, key=float)), True
    places = [_stage(label) for label in labels]
    if all(place is not None for place in places) and len(set(places)) == len(places):
        return tuple(
            label for _, label in sorted(zip(places, labels, strict=True), key=lambda pair: pair[0] or 0)
        ), True
    return tuple(sorted(labels, key=lambda label: (label.lower() not in CONTROL_NAMES, label))), False


def _stage(label: str) -> int | None:
    plain = "".join(letter for letter in label.lower() if letter.isalnum())
    if plain in SLICE_STAGES:
        return SLICE_STAGES.index(plain)
    if plain in CONTROL_NAMES:
        return 0
    return stage_of(plain)


def _people(
    scans: pd.DataFrame, of_scan: NDArray[np.int64], every_scan: bool
) -> tuple[pd.DataFrame, tuple[tuple[str, ...], ...], list[str]]:
    """A row per person with a level, and the keys of the scans at it."""
    scans = scans.assign(level=of_scan)[of_scan >= 0].reset_index(drop=True)
    first = first_scans(scans)[0]
    start = {str(row["subject"]): row for row in scans[first].to_dict("records")}
    level = scans["subject"].map({subject: row["level"] for subject, row in start.items()})
    elsewhere = int((scans["level"] != level).sum())
    same = scans[(scans["level"] == level) & (first | every_scan)]
    rows, kept = [], []
    for subject, rows_of in same.groupby("subject", sort=True):
        beginning = str(start[str(subject)]["key"])
        kept.append((beginning, *(str(key) for key in rows_of["key"] if str(key) != beginning)))
        ages = pd.to_numeric(rows_of["age_years"], errors="coerce").to_numpy(float)
        age = float(np.mean(ages[np.isfinite(ages)])) if np.isfinite(ages).any() else math.nan
        rows.append({**start[str(subject)], "age_years": age})
    notes = []
    if elsewhere:
        notes.append(
            f"{spell.count(elsewhere, 'scan')} of people at another level than in their first scan {_were(elsewhere)} left out"
        )
    return pd.DataFrame(rows), tuple(kept), notes


def _with_enough(
    people: pd.DataFrame, kept: tuple[tuple[str, ...], ...], names: tuple[str, ...], rule: LevelRule
) -> tuple[pd.DataFrame, tuple[tuple[str, ...], ...], tuple[str, ...], list[str]]:
    """Without the levels that have too few people."""
    counts = (
        np.bincount(people["level"].to_numpy(np.int64), minlength=len(names))
        if len(people)
        else np.zeros(len(names), int)
    )
    enough = counts >= rule.fewest
    told = ", ".join(f"{name} {num}" for name, num in zip(names, counts, strict=True))
    if len(names) < 2:
        raise UserError(
            f"by={rule.column}: everybody is at one level ({told}), so there is nothing to compare; name another column."
        )
    if enough.sum() < 2:
        raise UserError(
            f"by={rule.column}: fewer than two levels have {rule.fewest} people ({told}); add people, or lower fewest=, or join "
            "levels in another column."
        )
    notes = [
        f"{rule.column} {name} was left out: {spell.people(int(num))}, fewer than {rule.fewest}"
        for name, num, well in zip(names, counts, enough, strict=True)
        if not well and num
    ]
    number = np.cumsum(enough) - 1
    of_level = people["level"].to_numpy(np.int64)
    stay = enough[of_level]
    left = people[stay].assign(level=number[of_level[stay]]).reset_index(drop=True)
    scans = tuple(keys for keys, well in zip(kept, stay, strict=True) if well)
    return left, scans, tuple(name for name, well in zip(names, enough, strict=True) if well), notes


def _age_bins(ages: NDArray[np.float64], width: float) -> tuple[NDArray[np.int64], list[str]]:
    known = np.isfinite(ages)
    if not known.any():
        return np.zeros(len(ages), np.int64), [
            "no age is known, so labels were shuffled among everybody and a difference may be one of age"
        ]
    bins = np.where(known, np.floor(np.where(known, ages, 0.0) / width), -1.0)
    unknown = int((~known).sum())
    notes = [f"{spell.people(unknown)} without an age {_were(unknown)} compared among themselves"] if unknown else []
    return np.unique(bins, return_inverse=True)[1].astype(np.int64), notes


def level_names(values: Sequence[object] | None) -> tuple[str, ...] | None:
    """Levels of a setting as the column spells them."""
    return None if values is None else tuple(as_label(value) for value in values)
