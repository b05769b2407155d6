"""A finished folder, opened for reading. Every capability's `folder.py` says what its own holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.artefact import Artefact, write_json
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.tables import Row, TableFile, read_record, read_table, records, rows_of, write_table

METRICS, FIGURES = "metrics.json", "figures"


def write_result(
    folder: Path, metrics: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], files_only: Sequence[str] = ()
) -> None:
    """Write every table as a file, and metrics.json with what else there is and the rows of all but `files_only`."""
    for name, table in tables.items():
        write_table(folder / f"{name}.tsv", table)
    listed = {name: records(table) for name, table in tables.items() if name not in files_only}
    write_json(folder / METRICS, {**metrics, "tables": listed})


def write_picture(folder: Path, name: str, png: bytes) -> None:
    """Write figures/<name>.png."""
    path = picture_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def picture_path(folder: Path, name: str) -> Path:
    """Where a picture lies."""
    return folder / FIGURES / f"{name}.png"


@dataclass(frozen=True)
class ResultFolder:
    """A finished folder, and the name by which a reader of several calls it.

    `companions` are other finished folders that were opened together: an input that has moved is looked for among them.
    """

    named_by: ClassVar[Literal["folder", "model", "input"]] = "folder"
    """What a reader of several calls it: its folder's name, the models behind it, or the first folder it was made from."""

    artefact: Artefact
    name: str
    companions: tuple[Artefact, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @property
    def cohort_rows(self) -> pd.DataFrame | None:
        """Rows of the cohort table, a scan each, where the folder holds them; else None."""
        return None

    @property
    def example_map(self) -> Path | None:
        """A volume on the cohort's grid, where the folder holds one; else None."""
        return None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json; {} where there is none."""
        return read_record(self.folder / METRICS)

    @property
    def summary(self) -> tuple[str, ...]:
        """The sentences of metrics.json, the verdict first."""
        sentences = self.part("summary", str | list, [])
        return (sentences,) if isinstance(sentences, str) else tuple(str(sentence) for sentence in sentences)

    def part(self, name: str, kind: Any, otherwise: Any) -> Any:
        """A part of metrics.json, or `otherwise` where it has none.

        Raises:
            UserError: it is of another kind.
        """
        value = self.metrics.get(name)
        if value is None:
            return otherwise
        if not isinstance(value, kind):
            raise UserError(
                f"{self.folder / METRICS}: damaged ({name} is {str(value)[:40]!r}); run `gen3d {self.artefact.verb}` again."
            )
        return value

    def rows(self, table: str, *columns: str) -> list[Row]:
        """The rows of a table, of metrics.json or of <table>.tsv; [] where the folder has none.

        Raises:
            UserError: the table is damaged or lacks one of `columns`.
        """
        tables = self.metrics.get("tables", {})
        rows = tables.get(table) if isinstance(tables, dict) else None
        if rows is None:
            rows = rows_of(self.table(table))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.damaged(table, "not a list of rows")
        absent = [name for name in columns if any(name not in row for row in rows)]
        if absent:
            raise self.damaged(table, f"no column {absent[0]}")
        return rows

    def table(self, name: str) -> pd.DataFrame:
        """<name>.tsv, empty where the folder has none."""
        path = self.folder / f"{name}.tsv"
        return read_table(path) if path.is_file() else pd.DataFrame()

    def scans(self, table: TableFile) -> pd.DataFrame:
        """A table with a row per scan.

        Raises:
            UserError: missing, damaged, or without scans' keys and subjects.
        """
        frame = read_table(self.folder / table.file)
        absent = [column for column in ("key", "subject", *table.columns) if column not in frame.columns]
        if absent:
            raise self.damaged(table.file.removesuffix(".tsv"), f"no column {absent[0]}")
        return frame

    def damaged(self, table: str, reason: str) -> UserError:
        """The sentence about a table that cannot be shown."""
        return UserError(
            f"{self.folder}: the table {table} is damaged ({reason}); run `gen3d {self.artefact.verb}` again."
        )

    def picture(self, name: str) -> bytes:
        """figures/<name>.png, b"" where there is none."""
        path = picture_path(self.folder, name)
        return path.read_bytes() if path.is_file() else b""

    def number(self, row: Row, column: str, table: str) -> float:
        """A cell as a number, NaN where it is missing.

        Raises:
            UserError: the cell is text.
        """
        value = row.get(column)
        if value is None or value == "":
            return math.nan
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.damaged(table, f"{column} is {value!r}, not a number") from None

    def numbers(self, rows: list[Row], column: str, table: str) -> NDArray[np.float64]:
        """One column of rows as numbers [n]."""
        return np.array([self.number(row, column, table) for row in rows], dtype=np.float64)

    def input_folders(self, *verbs: str) -> list[Path]:
        """The folders of these verbs that this one was made from, those that are found: among its companions, else by content."""
        moved = {artefact.key: artefact.folder for artefact in self.companions}
        items = inputs_of(self.artefact, verbs)
        found = [moved.get(str(item["key"])) or find_input(self.artefact, item) for item in items]
        return [folder for folder in found if folder is not None]

    def is_made_from(self, other: Artefact) -> bool:
        """Whether a folder was among the inputs of this one."""
        return any(str(item.get("key")) == other.key for item in inputs_of(self.artefact))


def inputs_of(artefact: Artefact, verbs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The folders that an artefact was made from, as its record describes them; of these verbs, or all."""
    items = [item for described in artefact.inputs.values() for item in described]
    return [item for item in items if not verbs or item.get("verb") in verbs]
