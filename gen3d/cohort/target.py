"""What a classifier is trained on and what it predicts: rows of features, and a column of categories, ordered grades or numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import CONTROL_NAMES
from gen3d.core.errors import UserError

Task = Literal["categories", "ordered", "number"]
Values = NDArray[np.float64]
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
FEWEST_DISTINCT = 6
"""A numeric column with fewer values is read as categories, unless the task is named."""


@dataclass(frozen=True)
class Target:
    """The column, the task, and the classes in order: the first is the reference (healthy), the last is the class to detect."""

    name: str
    task: Task
    classes: tuple[str, ...] = ()

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.task != "number" and len(self.classes) == 2

    @property
    def graded(self) -> bool:
        """Whether the classes are grades: ordered ones, or categories whose names are ascending numbers, as those of the CDR."""
        if self.task != "categories":
            return self.task == "ordered"
        values = pd.to_numeric(pd.Series(self.classes, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
        return len(values) > 2 and bool(np.isfinite(values).all() and (np.diff(values) > 0).all())

    @property
    def num_outputs(self) -> int:
        """Columns of a prediction: one per class, or 1 for a number."""
        return len(self.classes) if self.classes else 1

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Names of those columns in a prediction table: `p_AD`, or `predicted`."""
        return tuple(f"p_{name}" for name in self.classes) if self.classes else ("predicted",)

    def codes(self, column: pd.Series) -> NDArray[np.float64]:
        """Class number (0, 1, ...) or value of every row, NaN where it is missing or of no requested class, [n]."""
        if self.task == "number":
            return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        place = {name: float(index) for index, name in enumerate(self.classes)}
        return np.array([place.get(as_label(value), np.nan) for value in column], dtype=np.float64)

    def describe(self) -> str:
        """`diagnosis (AD against CN)`."""
        if self.task == "number":
            return self.name
        if self.is_binary:
            return f"{self.name} ({self.classes[1]} against {self.classes[0]})"
        return f"{self.name} ({', '.join(self.classes)})"


def as_label(value: Any) -> str:
    """A cell as the name of a class, a missing value as "".

    1, 1.0 and 1.00 are one name, because a table that was saved by another program has either. Any other text is a word as it
    stands: 007 is not 7, 1e3 not 1000, and two codes of any length differ where their digits do.
    """
    if value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value)):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value).strip()
    if text.lower() == "nan":
        return ""
    return text.rstrip("0").rstrip(".").replace("-0", "0") if _DECIMAL.fullmatch(text) else text


def refuse_stray_words(values: Iterable[Any], what: str) -> None:
    """Refuse a column of numbers in which a few cells are words: as it stands it would be taken for a column of words.

    Args:
        values: the cells.
        what: the column, and the setting that names it, for the sentence: `keep=education`.

    Raises:
        UserError: at least `FEWEST_DISTINCT` different numbers make up most of the cells, and others are words, which are named.
    """
    labels = [label for label in map(as_label, values) if label]
    numeric = np.isfinite(pd.to_numeric(pd.Series(labels, dtype=object), errors="coerce").to_numpy(dtype=np.float64))
    words = [label for label, number in zip(labels, numeric, strict=True) if not number]
    numbers = {label for label, number in zip(labels, numeric, strict=True) if number}
    if words and len(numbers) >= FEWEST_DISTINCT and 2 * len(words) < len(labels):
        shown = ", ".join(repr(word) for word in sorted(set(words))[:5])
        raise UserError(
            f"{what}: {len(labels) - len(words)} cells are numbers, but {len(words)} {'is' if len(words) == 1 else 'are'} not "
            f"({shown}); write a number or n/a there, or name another column."
        )


def make_target(column: pd.Series, name: str, classes: Sequence[Any] | None, task: Task | None) -> Target:
    """Choose the task and the classes from the settings and from what the column holds.

    Without a task: categories where classes are given, or where the column is text or has fewer than 6 distinct values;
    a number otherwise. Without classes: all that occur, controls' usual names first.

    Raises:
        UserError: a class that does not occur, one class only, a column of numbers with a few words, or task=number for a
            column of text.
    """
    if classes is None and task is None:
        refuse_stray_words(column, f"target={name}")
    labels = [as_label(value) for value in column]
    present = list(dict.fromkeys(label for label in labels if label))
    if not present:
        raise UserError(f"the column {name} is empty for everybody, so there is nothing to learn.")
    numeric = pd.to_numeric(pd.Series(present), errors="coerce").notna().all()
    settled: Task = task or (
        "number" if classes is None and numeric and len(present) >= FEWEST_DISTINCT else "categories"
    )
    if settled == "number":
        if classes is not None:
            raise UserError(
                f"task=number takes no classes; leave out classes=, or leave out task= to predict classes of {name}."
            )
        if not numeric:
            word = next(label for label in present if pd.isna(pd.to_numeric(label, errors="coerce")))
            raise UserError(
                f"{name} holds words (for example {word!r}), so task=number is not possible; leave out task=."
            )
        if len(present) < 2:
            raise UserError(f"{name} is {present[0]} for everybody, so there is nothing to learn.")
        return Target(name, settled)
    chosen = tuple(as_label(item) for item in classes) if classes is not None else _in_order(present, bool(numeric))
    counts = ", ".join(f"{label} {labels.count(label)}" for label in sorted(present))
    absent = [label for label in chosen if label not in present]
    if absent:
        raise UserError(f"nobody has {name} {absent[0]}; the column holds {counts} (scans).")
    if len(set(chosen)) != len(chosen):
        raise UserError(f"classes={list(chosen)} names a class twice.")
    if len(chosen) < 2:
        raise UserError(
            f"{name} has only one class ({counts}), and a classifier needs two; add people of another class."
        )
    return Target(name, settled, chosen)


def _in_order(present: list[str], numeric: bool) -> tuple[str, ...]:
    if numeric:
        return tuple(sorted(present, key=float))
    return tuple(sorted(present, key=lambda label: (label.lower() not in CONTROL_NAMES, label)))


@dataclass(frozen=True)
class Rows:
    """Scans: features [n, d] and their rows of the cohort table (without the target's column).

    `blocks` are the widths of the sources that were put side by side; `shape` is that of a spatial latent (channels and three
    sides), else (d,).
    """

    values: NDArray[np.floating]
    table: pd.DataFrame
    blocks: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def take(self, chosen: NDArray[Any]) -> Rows:
        """Some of the scans, by row number or boolean."""
        return Rows(self.values[chosen], self.table.iloc[chosen].reset_index(drop=True), self.blocks, self.shape)
