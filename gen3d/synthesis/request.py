"""The requested conditions of every synthetic scan, drawn from its own random stream.

A request names some conditions of the model. Each sample draws its values from a stream that depends only on the seed and
the sample's number, so the conditions of sample k do not depend on the number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BeforeValidator

from gen3d.cohort.coding import MISSING, UNKNOWN, Categorical, Coding, Numeric
from gen3d.core.errors import UserError
from gen3d.core.tables import parse_table

CONDITION, FIRST_NOISE, FRESH_NOISE = range(3)
"""Purposes of random numbers of a sample: a stream each."""

NUM_NEAREST = 10
"""Number of training people nearest in the named conditions; one of them, at random, supplies the unnamed conditions."""

JITTER_SD = 0.2
"""Numbers taken from a training person are moved by a normal draw of this many standard deviations (a smoothed bootstrap), so
that no person's exact values are released."""

SAME_SD = 0.25
"""A training person matches a single number when theirs differs by at most this many standard deviations."""

ID_COLUMNS = ("participant_id", "subject")
LARGEST_COUNT = 1_000_000

Value = int | float | str
Wanted = Value | tuple[Value, ...]
Unnamed = Literal["unknown", "as_trained"]


def _conditions(tree: Any) -> Any:
    """Values as numbers, texts, or lists of them; anything else is refused by name."""
    if not isinstance(tree, dict):
        raise ValueError("conditions are `name: value` pairs, for instance '{sex: F, age_years: [70, 80]}'")
    checked: dict[str, Wanted] = {}
    for name, wanted in tree.items():
        several = isinstance(wanted, (list, tuple))
        values = tuple(wanted) if several else (wanted,)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                hint = "put it in quotes" if isinstance(value, bool) else "write unknown to leave it open"
                raise ValueError(f"{name}={value!r} is neither a number nor a text; {hint}")
        checked[str(name)] = cast(Wanted, values if several else values[0])
    return checked


Conditions = Annotated[dict[str, Wanted], BeforeValidator(_conditions)]


def stream(seed: int, sample: int, purpose: int, step: int = 0) -> np.random.Generator:
    """The random numbers of one sample for one purpose (and step); they depend on nothing else."""
    return np.random.default_rng(np.random.SeedSequence([seed, sample, purpose, step]))


@dataclass(frozen=True)
class Request:
    """The requested people.

    `people` has one row per sample when a table lists them, otherwise it is None and `condition` holds for all. `trained` are
    the conditions of the training people, None where the run does not keep them.

    The constructor raises a UserError for a condition that the model does not know or cannot follow.
    """

    coding: Coding
    condition: Mapping[str, Wanted]
    count: int
    seed: int = 0
    unnamed: Unnamed = "unknown"
    extrapolate: bool = False
    people: pd.DataFrame | None = None
    trained: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        for name, wanted in self.condition.items():
            self._check(name, wanted)
        if self.people is not None:
            for number, row in enumerate(self.people.to_dict("records"), start=2):
                for column, value in row.items():
                    try:
                        self._check(str(column), value)
                    except UserError as error:
                        raise UserError(f"row {number} of table=: {error}") from None
        if self.unnamed == "as_trained" and self.trained is None:
            raise UserError(
                "unnamed=as_trained needs the conditions of the training people, which this run does not keep "
                "(conditions.tsv); use unnamed=unknown, or name every condition."
            )

    @property
    def named(self) -> tuple[str, ...]:
        """Conditions that the request names, in the model's order."""
        requested = self.condition if self.people is None else self.people.columns
        return tuple(name for name in self.coding.names if name in requested)

    def draw(self, samples: Sequence[int]) -> pd.DataFrame:
        """The conditions of these samples: one row each, a column per condition of the model, NaN where left unknown.

        Raises:
            UserError: unnamed=as_trained, and no training person has the categories that are named.
        """
        rows = [self._person(sample) for sample in samples]
        drawn = pd.DataFrame(rows, index=list(samples), columns=list(self.coding.names), dtype=object)
        return drawn.astype({c.name: np.float64 for c in self.coding.covariates if isinstance(c, Numeric)})

    @cached_property
    def outside(self) -> dict[str, dict[str, list[float]]]:
        """Requested and trained range, `asked` and `trained`, [low, high] each, of every condition outside its trained range."""
        ranges = {}
        for covariate in self.coding.covariates:
            if not isinstance(covariate, Numeric) or covariate.name not in self.named:
                continue
            values = self._numbers(covariate.name)
            if len(values) and (values.min() < covariate.low or values.max() > covariate.high):
                limits = [float(values.min()), float(values.max())]
                ranges[covariate.name] = {"asked": limits, "trained": [covariate.low, covariate.high]}
        return ranges

    def num_fitting(self) -> int | None:
        """How many training people match every condition at once; None where that is not known.

        Each condition may lie in its trained range while no training person has the combination; the model then extrapolates.
        """
        if self.trained is None or self.people is not None:
            return None
        fits = np.ones(len(self.trained), bool)
        for name, wanted in self.condition.items():
            choices = [value for value in _several(wanted) if not _unknown(value)]
            if choices:
                fits &= self._fitting(name, choices)
        return int(fits.sum())

    def remarks(self) -> list[str]:
        """Warnings about the request."""
        remarks = [
            f"{name} {limits['asked'][0]:g} to {limits['asked'][1]:g} is outside the range {limits['trained'][0]:g} to "
            f"{limits['trained'][1]:g} of the model's training people"
            for name, limits in self.outside.items()
        ]
        if self.num_fitting() == 0:
            remarks.append("no training person has all requested conditions together, so the model extrapolates")
        return remarks

    def describe(self) -> str:
        """A description of the request."""
        if self.people is not None:
            parts = [f"{', '.join(self.named) or 'nothing'} from a table"]
        else:
            parts = [_description(name, self.condition[name], self.coding) for name in self.named]
        others = [name for name in self.coding.names if name not in self.named]
        if others:
            parts.append(f"{', '.join(others)} {'as trained' if self.unnamed == 'as_trained' else UNKNOWN}")
        return "; ".join(parts) or "no conditions"

    def _check(self, name: str, wanted: Any) -> None:
        covariate, values = self.coding[name], _several(wanted)
        if not values:
            raise UserError(f"{name}=[]: an empty list; give a value, or leave {name} out.")
        for value in values:
            covariate.check(value, self.extrapolate)
        if isinstance(covariate, Numeric) and len(values) > 1:
            if len(values) > 2 or any(_unknown(value) for value in values):
                raise UserError(f"{name}={_shown(values)}: give a number, a range [low, high], or {UNKNOWN}.")
            if float(values[0]) > float(values[1]):
                raise UserError(f"{name}={_shown(values)}: an empty range; write the smaller number first.")

    def _person(self, sample: int) -> dict[str, Any]:
        generator = stream(self.seed, sample, CONDITION)
        if self.people is None:
            drawn = {name: self._value(name, self.condition[name], generator) for name in self.named}
        else:
            row = self.people.iloc[min(sample, len(self.people) - 1)]
            drawn = {name: row[name] for name in self.named if str(row[name]).strip().lower() not in MISSING}
        if self.unnamed == "as_trained":
            drawn = self._borrowed(drawn, generator) | drawn
        return {name: self._plain(name, drawn.get(name, UNKNOWN)) for name in self.coding.names}

    def _value(self, name: str, wanted: Wanted, generator: np.random.Generator) -> Value:
        values = _several(wanted)
        if len(values) == 1:
            return values[0]
        if isinstance(self.coding[name], Numeric):
            return float(generator.uniform(float(values[0]), float(values[1])))
        return values[int(generator.integers(len(values)))]

    def _borrowed(self, drawn: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """All conditions of a random training person with the named categories and near the named numbers."""
        distance = np.zeros(0 if self.trained is None else len(self.trained))
        for name, value in drawn.items():
            if _unknown(value):
                continue
            covariate = self.coding[name]
            if isinstance(covariate, Categorical):
                distance[~self._fitting(name, [value])] = np.inf
            else:
                codes = (self._columns[name] - covariate.mean) / covariate.std
                distance += np.where(np.isfinite(codes), np.square(codes - covariate.code(value)), np.inf)
        last = min(NUM_NEAREST, len(distance)) - 1
        farthest = np.partition(distance, last)[last]
        near = np.flatnonzero((distance <= farthest) & np.isfinite(distance))
        if not len(near):
            named = ", ".join(f"{name}={value}" for name, value in drawn.items())
            raise UserError(
                f"no training person has {named} together, so the other conditions cannot be taken from one; use "
                "unnamed=unknown, or name every condition."
            )
        row, borrowed = int(near[generator.integers(len(near))]), {}
        for covariate in self.coding.covariates:
            value = self._columns[covariate.name][row]
            if isinstance(covariate, Numeric):
                moved = value + JITTER_SD * covariate.std * generator.standard_normal()
                borrowed[covariate.name] = np.clip(moved, covariate.low, covariate.high)
            else:
                borrowed[covariate.name] = value
        return borrowed

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Conditions of the training people by name: numbers with NaN for a missing one, or codes."""
        assert self.trained is not None
        return {
            covariate.name: pd.to_numeric(self.trained[covariate.name], errors="coerce").to_numpy(dtype=np.float64)
            if isinstance(covariate, Numeric)
            else self.trained[covariate.name].astype(str).str.strip().to_numpy(dtype=str)
            for covariate in self.coding.covariates
        }

    def _plain(self, name: str, value: Any) -> Value:
        if _unknown(value):
            return float("nan")
        return float(value) if isinstance(self.coding[name], Numeric) else str(value).strip()

    def _fitting(self, name: str, choices: Sequence[Value]) -> NDArray[np.bool_]:
        """Which training people have one of these codes, or a number in their range."""
        covariate, values = self.coding[name], self._columns[name]
        fits: NDArray[np.bool_]
        if isinstance(covariate, Categorical):
            fits = np.isin(values, [str(choice).strip() for choice in choices])
        else:
            limits = [float(choice) for choice in choices]
            margin = SAME_SD * covariate.std if len(limits) == 1 else 0.0
            fits = (values >= min(limits) - margin) & (values <= max(limits) + margin)
        return fits

    def _numbers(self, name: str) -> NDArray[np.float64]:
        """All numbers that are named of a condition."""
        values = _several(self.condition[name]) if self.people is None else tuple(self.people[name])
        return np.array([float(value) for value in values if not _unknown(value)])


def read_people(path: Path, coding: Coding) -> pd.DataFrame:
    """A table (TSV) of requested people: a column per named condition, a row per person, as text; an id column is left out.

    Raises:
        UserError: no such table, one without rows, a column that is not a condition of the model.
    """
    try:
        table = parse_table(path, dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable table of requested people ({error}).") from None
    table.columns = [str(column).strip() for column in table.columns]
    table = table.drop(columns=[column for column in table.columns if column in ID_COLUMNS])
    if table.empty:
        raise UserError(f"{path}: lists no people; write a column per condition and a row per person.")
    for column in table.columns:
        try:
            coding[column]
        except UserError as error:
            raise UserError(f"{path}: column {column}: {error}") from None
    return table


def read_trained(path: Path, coding: Coding) -> pd.DataFrame | None:
    """The conditions of the training people that a run keeps, or None where it keeps none.

    Raises:
        UserError: the table is damaged.
    """
    if not path.is_file():
        return None
    try:
        table = parse_table(path, dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); copy the run folder again.") from None
    missing = [name for name in coding.names if name not in table.columns]
    if missing:
        raise UserError(f"{path}: lacks the column {', '.join(missing)}; copy the run folder again.")
    return table[list(coding.names)]


def _several(wanted: Any) -> tuple[Value, ...]:
    return tuple(wanted) if isinstance(wanted, (tuple, list)) else (wanted,)


def _unknown(value: Any) -> bool:
    return str(value).strip().lower() in MISSING | {UNKNOWN}


def _shown(values: Sequence[Value]) -> str:
    return "[" + ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values) + "]"


def _description(name: str, wanted: Wanted, coding: Coding) -> str:
    values = [f"{value:g}" if isinstance(value, float) else str(value) for value in _several(wanted)]
    if len(values) == 1:
        return f"{name} {values[0]}"
    if isinstance(coding[name], Numeric):
        return f"{name} {values[0]} to {values[1]}"
    return f"{name} {' or '.join(values)}"
