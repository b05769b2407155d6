"""Tables of dosages: a row per person, a column per variant, as text or Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.genotypes.keyed_table import numbers_of, read_keyed
from gen3d.genotypes.sources import Columns, Dosages, Source, parts_of, people_table
from gen3d.genotypes.variants import variant_table

_NAME = re.compile(r"(?:chr)?([0-9A-Za-z]+)[:_](\d+)[:_]([ACGTacgt]+)[:_]([ACGTacgt]+)")
DEFINED = ("variant", "chromosome", "position", "counted", "other")
NOT_VARIANTS = ("family", "fid", "sex")


class DosageTable(Source):
    """A table whose first column of ids names people, and whose other columns are variants.

    A column is named chromosome:position:counted:other, or a second table says this of every name.
    """

    imputed = True

    def __init__(self, path: Path, variants: Path | None = None) -> None:
        super().__init__(path)
        self._definitions = variants
        self._id, self._table = read_keyed(path)
        self._names = [name for name in self._table.columns if name != self._id and name.lower() not in NOT_VARIANTS]

    @cached_property
    def people(self) -> pd.DataFrame:
        columns = {name.lower(): name for name in self._table.columns}
        blank = pd.Series([""] * len(self._table))
        family, sex = (self._table[columns[name]] if name in columns else blank for name in ("family", "sex"))
        return people_table(self._table[self._id], family, sex)

    @cached_property
    def variants(self) -> pd.DataFrame:
        if self._definitions is not None:
            return self._defined(self._definitions)
        _ = self._values  # cells that are no copies are found before anything is written
        parts = {name: _NAME.fullmatch(name) for name in self._names}
        nameless = [name for name, part in parts.items() if part is None]
        if nameless:
            raise UserError(
                f"{self.path}: the column {nameless[0]} does not say which allele it counts; name columns "
                "chromosome:position:counted:other, or give variants= a table with variant, chromosome, position, counted, other."
            )
        found = [part.groups() for part in parts.values() if part is not None]
        chromosomes, positions, counted, other = zip(*found, strict=True) if found else ((), (), (), ())
        unnamed = [""] * len(found)
        return variant_table(self.path, unnamed, chromosomes, [int(place) for place in positions], counted, other)

    def _defined(self, path: Path) -> pd.DataFrame:
        table = read_user_table(path)
        absent = [name for name in DEFINED if name not in table.columns]
        if absent:
            raise UserError(f"{path}: lacks the column {absent[0]}; it needs {', '.join(DEFINED)}.")
        twice = table.loc[table["variant"].duplicated(), "variant"]
        if len(twice):
            raise UserError(f"{path}: {twice.iloc[0]} is listed twice.")
        by_name = table.set_index("variant")
        lost = [name for name in self._names if name not in by_name.index]
        if lost:
            raise UserError(f"{path}: says nothing of {lost[0]}, a column of {self.path} ({len(lost)} such columns).")
        _ = self._values
        rows = by_name.loc[self._names]
        info = pd.to_numeric(rows["info"], errors="coerce").to_numpy(dtype=float) if "info" in rows.columns else None
        chromosomes, positions, counted, other = (rows[name].tolist() for name in DEFINED[1:])
        return variant_table(path, self._names, chromosomes, positions, counted, other, info=info)

    def read(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        for part in parts_of(columns, size):
            yield part, self._values[:, part]

    @cached_property
    def _values(self) -> Dosages:
        """All cells, [people, variants]."""
        values = np.empty((len(self._table), len(self._names)), dtype=np.float32)
        for place, name in enumerate(self._names):
            values[:, place] = numbers_of(self.path, self._table[name], name)
            if (values[:, place] < 0).any() or (values[:, place] > 2).any():
                raise UserError(
                    f"{self.path}: the column {name} has values outside 0 to 2, so it does not hold copies of an allele; "
                    "write n/a for a missing one."
                )
        return values
