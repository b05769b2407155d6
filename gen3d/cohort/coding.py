"""How the conditions of a generative model become numbers: fitted once, kept with the weights, refused when it differs.

Not `cohort.columns`, because a generator embeds its conditions: a category is the number of its embedding, not an indicator; a
missing value stays missing (NaN), because the network has a token for it, instead of becoming the mean. A single value
that a user types is coded as well, and checked against the codes and the range of the training people.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import TEXT
from gen3d.cohort.target import refuse_stray_words
from gen3d.core.errors import UserError

MISSING = frozenset(("", "n/a", "na", "nan", "none", "<na>"))
UNKNOWN = "unknown"
"""What a user writes to leave a condition open."""

LEAST_SD_SHARE = 1e-6


@dataclass(frozen=True)
class Numeric:
    """A number per person: standardised by the mean and SD of the training people, known to lie in [low, high] there."""

    name: str
    mean: float
    std: float
    low: float
    high: float

    def code(self, value: Any) -> float:
        """(value - mean) / SD, NaN for an unknown one."""
        return (_number(value, self.name) - self.mean) / self.std

    def check(self, value: Any, extrapolate: bool = False) -> None:
        """Refuse what is no number, or lies outside the trained range.

        Raises:
            UserError: saying the range.
        """
        number = _number(value, self.name)
        if not np.isfinite(number) and str(value).strip().lower() not in MISSING | {UNKNOWN}:
            raise UserError(f"{self.name}={value}: not a finite number.")
        if np.isfinite(number) and not self.low <= number <= self.high and not extrapolate:
            raise UserError(
                f"{self.name}={number:g} is outside the range {self.low:g} to {self.high:g} of the training people; choose a "
                "value within it, or set extrapolate=true and read the result with care."
            )

    def describe(self) -> str:
        """The condition and its range, for a sentence."""
        return f"{self.name} ({self.low:g} to {self.high:g})"


@dataclass(frozen=True)
class Categorical:
    """A category per person, coded by its place in `codes`."""

    name: str
    codes: tuple[str, ...]

    def code(self, value: Any) -> float:
        """Index of the code, NaN for an unknown value."""
        text = str(value).strip()
        if text.lower() in MISSING | {UNKNOWN}:
            return float("nan")
        self.check(text)
        return float(self.codes.index(text))

    def check(self, value: Any, extrapolate: bool = False) -> None:
        """Refuse a code that the model never saw.

        Raises:
            UserError: listing the codes.
        """
        text = str(value).strip()
        if text in self.codes or text.lower() in MISSING | {UNKNOWN}:
            return
        near = difflib.get_close_matches(text.lower(), [code.lower() for code in self.codes], 1)
        meant = next((code for code in self.codes if near and code.lower() == near[0]), "")
        hint = f"; did you mean {meant}?" if meant else "."
        raise UserError(f"{self.name}={text}: the model knows {', '.join(self.codes)} (and {UNKNOWN}){hint}")

    def describe(self) -> str:
        """The condition and its codes, for a sentence."""
        return f"{self.name} ({', '.join(self.codes)})"


Covariate = Numeric | Categorical


@dataclass(frozen=True)
class Coding:
    """The conditions of a model in their order."""

    covariates: tuple[Covariate, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the cohort table."""
        return tuple(covariate.name for covariate in self.covariates)

    @classmethod
    def fit(cls, frame: pd.DataFrame, names: Sequence[str]) -> Coding:
        """The coding of these columns of the training people: a column of numbers is numeric, every other categorical.

        A text column of the cohort table (site, diagnosis, ...) is categorical even where its codes are numbers.

        Raises:
            UserError: a column that is not there, is empty, has one value only, or holds numbers with a few words among them.
        """
        return cls(tuple(_fit(frame, name) for name in names))

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """Coded rows [n, p]; NaN where a value is missing.

        Raises:
            UserError: a column is missing, or holds a code that the model never saw.
        """
        absent = [name for name in self.names if name not in frame.columns]
        if absent:
            raise UserError(
                f"the table has no column {', '.join(absent)}, which the model is conditioned on ({', '.join(self.names)})."
            )
        columns = [[covariate.code(value) for value in frame[covariate.name]] for covariate in self.covariates]
        return np.array(columns, dtype=np.float32).reshape(len(columns), len(frame)).T

    def check(self, name: str, value: Any, extrapolate: bool = False) -> None:
        """Refuse a condition that the model does not know, or a value that it never saw.

        Raises:
            UserError: what is known instead.
        """
        self[name].check(value, extrapolate)

    def __getitem__(self, name: str) -> Covariate:
        match = next((covariate for covariate in self.covariates if covariate.name == name), None)
        if match is None:
            known = ", ".join(covariate.describe() for covariate in self.covariates) or "nothing"
            near = difflib.get_close_matches(name, self.names, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"condition {name}: the model is conditioned on {known}.{hint}")
        return match

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON and YAML can hold."""
        return {
            covariate.name: {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(covariate).items()
                if name != "name"
            }
            for covariate in self.covariates
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Coding:
        """The coding that `to_dict` described."""
        return cls(
            tuple(
                Categorical(name, tuple(str(code) for code in fields["codes"]))
                if "codes" in fields
                else Numeric(name, **{key: float(value) for key, value in fields.items()})
                for name, fields in values.items()
            )
        )


def _fit(frame: pd.DataFrame, name: str) -> Covariate:
    if name not in frame.columns:
        near = difflib.get_close_matches(name, [str(column) for column in frame.columns], 3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else f"the columns are {', '.join(map(str, frame.columns))}."
        )
        raise UserError(f"model.conditions names {name}, which is no column of the cohort table; {hint}")
    values = frame[name]
    known = [value for value in values if str(value).strip().lower() not in MISSING]
    if len({str(value).strip() for value in known}) < 2:
        only = f"the one value {known[0]}" if known else "no value at all"
        raise UserError(f"model.conditions names {name}, which has {only} in the training people; leave it out.")
    numbers = pd.to_numeric(pd.Series(known), errors="coerce").to_numpy(dtype=np.float64)
    # The text columns of the cohort table are words even where they look like numbers: site 3 is no quantity.
    if name in TEXT or not np.isfinite(numbers).all():
        if name not in TEXT:
            refuse_stray_words(known, f"model.conditions names {name}")
        return Categorical(name, tuple(sorted({str(value).strip() for value in known})))
    std = float(numbers.std())
    return Numeric(
        name,
        float(numbers.mean()),
        max(std, LEAST_SD_SHARE * float(np.abs(numbers).max())),
        float(numbers.min()),
        float(numbers.max()),
    )


def _number(value: Any, name: str) -> float:
    if str(value).strip().lower() in MISSING | {UNKNOWN}:
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}={value}: a number is needed.") from None
