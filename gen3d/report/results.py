"""Folders whose findings are sentences and tables of metrics.json: classify, stratify, harmonise and predict.

A table that a folder lacks is empty; one that lacks a column, or holds words for numbers, is damaged and said to be so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_map
from gen3d.maths.stats import Interval
from gen3d.report.folders import Row, read_record, read_table, records


@dataclass(frozen=True)
class Result:
    """A finished folder with metrics.json, the name by which the report calls it, and its verb's name for advice."""

    artefact: Artefact
    name: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json; {} where there is none."""
        return read_record(self.folder / "metrics.json")

    @property
    def summary(self) -> tuple[str, ...]:
        """What was found, the verdict first."""
        found = self.metrics.get("summary", ())
        return (found,) if isinstance(found, str) else tuple(str(sentence) for sentence in found)

    def rows(self, table: str, *columns: str) -> list[Row]:
        """The rows of a table, of metrics.json or of <table>.tsv; [] where the folder has none.

        Raises:
            UserError: the table is damaged or lacks one of `columns`.
        """
        tables = self.metrics.get("tables", {})
        path = self.folder / f"{table}.tsv"
        found = tables.get(table) if isinstance(tables, dict) else None
        if found is None:
            found = records(read_table(path)) if path.is_file() else []
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise self.damaged(table, "not a list of rows")
        absent = [name for name in columns if any(name not in row for row in found)]
        if absent:
            raise self.damaged(table, f"no column {absent[0]}")
        return found

    def damaged(self, table: str, reason: str) -> UserError:
        """The sentence about a table that cannot be shown."""
        return UserError(
            f"{self.folder}: the table {table} is damaged ({reason}); run `gen3d {self.artefact.verb}` again."
        )

    def table(self, name: str) -> pd.DataFrame:
        """<name>.tsv, empty where the folder has none."""
        path = self.folder / f"{name}.tsv"
        return read_table(path) if path.is_file() else pd.DataFrame()

    def people_of(self, name: str) -> pd.DataFrame:
        """<name>.tsv with a row per scan.

        Raises:
            UserError: missing, damaged, or without scans' keys and subjects.
        """
        frame = read_table(self.folder / f"{name}.tsv")
        absent = [column for column in ("key", "subject") if column not in frame.columns]
        if absent:
            raise self.damaged(name, f"no column {absent[0]}")
        return frame

    def picture(self, name: str) -> bytes:
        """figures/<name>.png, b"" where there is none."""
        path = self.folder / "figures" / f"{name}.png"
        return path.read_bytes() if path.is_file() else b""

    def number(self, row: Row, column: str, table: str) -> float:
        """A cell as a number, NaN where it is missing.

        Raises:
            UserError: the cell holds words.
        """
        value = row.get(column)
        if value is None or value == "":
            return math.nan
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.damaged(table, f"{column} is {value!r}, not a number") from None

    def interval(self, row: Row, table: str, names: tuple[str, str, str] = ("value", "low", "high")) -> Interval:
        """A value with its interval, read from three columns."""
        value, low, high = (self.number(row, name, table) for name in names)
        num = self.number(row, "num_people", table)
        return Interval(value, low, high, int(num) if math.isfinite(num) else 0)

    def numbers(self, rows: list[Row], column: str, table: str) -> NDArray[np.float64]:
        """One column of rows as numbers [n]."""
        return np.array([self.number(row, column, table) for row in rows], dtype=np.float64)

    def is_made_from(self, other: Artefact) -> bool:
        """Whether a folder was among the inputs of this one."""
        return any(str(item.get("key")) == other.key for items in self.artefact.inputs.values() for item in items)


@dataclass(frozen=True)
class Head(Result):
    """Heads on latents and their baselines: how well they tell a target of people they never saw."""

    @property
    def target(self) -> dict[str, Any]:
        """name, task and classes."""
        found = self.metrics.get("target", {})
        return found if isinstance(found, dict) else {}

    @property
    def task(self) -> str:
        """categories, ordered or number."""
        return str(self.target.get("task", "categories"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the reference first."""
        return tuple(str(name) for name in self.target.get("classes") or ())

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per model, repeat and scan."""
        frame = self.table("predictions")
        for column in ("model", "kind", "split", "y_true", "y_pred"):
            if column in frame.columns:
                frame[column] = frame[column].astype(str)
        return frame

    @property
    def is_external(self) -> bool:
        """Whether saved heads were applied to people of other data."""
        if "split" in self.predictions.columns and len(self.predictions):
            return bool((self.predictions["split"] == "external").all())
        return bool(self.artefact.config.get("external"))


@dataclass(frozen=True)
class Strata(Result):
    """Clusters of people, what they are associated with, and a map of everybody."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """strata.tsv, a row per scan."""
        return self.people_of("strata")

    def thumbnail(self, key: str) -> bytes:
        """A small picture of a scan, b"" where there is none."""
        path = self.folder / "thumbnails" / f"{key}.png"
        return path.read_bytes() if path.is_file() else b""

    @cached_property
    def maps(self) -> tuple[tuple[int, str, Path], ...]:
        """Cluster, channel and file of every cluster-mean map, in order."""
        found = []
        for path in (self.folder / "maps").glob("cluster-*_desc-*_meanz.nii*"):
            cluster, _, rest = path.name.removeprefix("cluster-").partition("_desc-")
            if cluster.lstrip("-").isdigit():
                found.append((int(cluster), rest.split("_meanz")[0], path))
        return tuple(sorted(found))


def read_mean_map(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A map [X, Y, Z] and its affine [4, 4].

    Raises:
        UserError: not a readable image.
    """
    values = read_map(path)
    image: Any = nib.load(path)
    return values, np.asarray(image.affine, dtype=np.float64)


@dataclass(frozen=True)
class Harmonised(Result):
    """Latents from which differences between sites were taken, and what that did."""


@dataclass(frozen=True)
class Predicted(Result):
    """A saved head applied to new scans."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """predictions.tsv, a row per scan."""
        return self.people_of("predictions")

    @cached_property
    def neighbours(self) -> pd.DataFrame:
        """neighbours.tsv, rows per scan; empty where there is none."""
        return self.table("neighbours")
