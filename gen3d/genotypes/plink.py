"""PLINK 1 (.bed with .bim and .fam) by bed-reader, and PLINK 2 (.pgen with .pvar and .psam) by pgenlib."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.core.errors import UserError
from gen3d.genotypes.builds import build_of_contigs
from gen3d.genotypes.imputation import stated_info
from gen3d.genotypes.sources import Columns, Dosages, Source, companion, needed, parts_of, people_table
from gen3d.genotypes.variants import TWO_ALLELES, variant_table

PGEN_MISSING = -9


class Bed(Source):
    """PLINK 1. bed-reader counts allele 1, the fifth column of the .bim file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for ending in (".bim", ".fam"):
            companion(path, ending)
        library = needed("bed_reader", path)
        try:
            self._file: Any = library.open_bed(path, count_A1=True)
            self._file.shape  # noqa: B018  reads both companions
        except Exception as error:
            raise UserError(f"{path}: cannot be read ({_short(error)}); look at its .bim and .fam.") from None

    @cached_property
    def people(self) -> pd.DataFrame:
        return people_table(self._file.iid, self._file.fid, self._file.sex)

    @cached_property
    def variants(self) -> pd.DataFrame:
        bed = self._file
        return variant_table(self.path, bed.sid, bed.chromosome, bed.bp_position, bed.allele_1, bed.allele_2)

    def read(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        for part in parts_of(columns, size):
            try:
                yield part, self._file.read(np.s_[:, part], dtype="float32", order="C")
            except Exception as error:
                raise UserError(f"{self.path}: damaged ({_short(error)}); copy it again.") from None


class Pgen(Source):
    """PLINK 2. pgenlib counts the alternative allele."""

    imputed = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._library = needed("pgenlib", path)
        self._pvar, self._psam = companion(path, ".pvar"), companion(path, ".psam")

    @cached_property
    def people(self) -> pd.DataFrame:
        _, rows = _table_of(self._psam, ["FID", "IID", "PAT", "MAT", "SEX"])
        if "IID" not in rows.columns:
            raise UserError(f"{self._psam}: lacks the column IID.")
        blank = pd.Series([""] * len(rows))
        return people_table(rows["IID"], rows.get("FID", blank), rows.get("SEX", blank))

    @cached_property
    def variants(self) -> pd.DataFrame:
        header, rows = _table_of(self._pvar, ["CHROM", "ID", "CM", "POS", "ALT", "REF"])
        absent = [name for name in ("CHROM", "POS", "ID", "REF", "ALT") if name not in rows.columns]
        if absent:
            raise UserError(f"{self._pvar}: lacks the column {absent[0]}.")
        self.stated_build = build_of_contigs(header)
        several = rows["ALT"].str.contains(",")
        info = stated_info(rows["INFO"]) if "INFO" in rows.columns else None
        reasons = np.where(several, TWO_ALLELES, "").tolist()
        names, chromosomes, positions, counted, other = (
            rows[name].tolist() for name in ("ID", "CHROM", "POS", "ALT", "REF")
        )
        return variant_table(self._pvar, names, chromosomes, positions, counted, other, info=info, reasons=reasons)

    def read(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        num = len(self.people)
        try:
            reader = self._library.PgenReader(
                bytes(self.path), raw_sample_ct=num, variant_ct=len(self.variants), **self._alleles
            )
            for part in parts_of(columns, size):
                values = np.empty((len(part), num), dtype=np.float32)
                reader.read_dosages_list(part.astype(np.uint32), values)
                values[values == PGEN_MISSING] = np.nan
                yield part, np.ascontiguousarray(values.T)
            reader.close()
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            raise UserError(f"{self.path}: damaged, or not of its .pvar and .psam ({_short(error)}).") from None

    @cached_property
    def _alleles(self) -> dict[str, Any]:
        """Where the alleles of each variant begin, which a file with more than two of them needs."""
        _, rows = _table_of(self._pvar, ["CHROM", "ID", "CM", "POS", "ALT", "REF"])
        counts = rows["ALT"].str.count(",").to_numpy() + 2
        if (counts == 2).all():
            return {}
        return {"allele_idx_offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.uintp)}


def _table_of(path: Path, names: list[str]) -> tuple[str, pd.DataFrame]:
    """The lines ## of a .pvar or .psam file, and its rows as text; `names`: of the columns where the file has no header.

    Raises:
        UserError: not such a table.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            start, skipped = stream.readline(), []
            while start.startswith("##"):
                skipped.append(start)
                start = stream.readline()
        header = start[1:].split() if start.startswith("#") else names
        rows = pd.read_csv(
            path,
            sep=r"\s+",
            skiprows=len(skipped) + start.startswith("#"),
            header=None,
            names=header,
            dtype=str,
            keep_default_na=False,
            index_col=False,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_short(error)}).") from None
    return "".join(skipped), rows


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
