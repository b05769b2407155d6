"""VCF and BCF by cyvcf2: hard calls (GT) or dosages (DS) of the alternative allele."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.core.errors import UserError
from gen3d.genotypes.builds import build_of_contigs
from gen3d.genotypes.imputation import number_of
from gen3d.genotypes.sources import Columns, Dosages, Source, needed, people_table
from gen3d.genotypes.variants import TWO_ALLELES, variant_table

MISSING_CALL = 3
"""Of cyvcf2, where 0, 1 and 2 are copies of the alternative allele; half of a call is missing too."""


class Vcf(Source):
    """A VCF or BCF file, read from its start for every pass."""

    def __init__(self, path: Path, field: str = "auto") -> None:
        super().__init__(path)
        self._library = needed("cyvcf2", path)
        opened = self._open()
        header = str(opened.raw_header)
        self._ids = list(opened.samples)
        opened.close()
        formats = {name for name in ("GT", "DS") if f"##FORMAT=<ID={name}," in header}
        if not self._ids or not formats:
            lacks = "people" if not self._ids else "genotypes (FORMAT has neither GT nor DS)"
            raise UserError(
                f"{path}: a VCF without {lacks}, so only a list of variants; give the file that has the calls."
            )
        wanted = ("DS" if "DS" in formats else "GT") if field == "auto" else field
        if wanted not in formats:
            raise UserError(f"{path}: has no {wanted}, only {', '.join(sorted(formats))}; leave field=auto.")
        self._field = wanted
        self.imputed = wanted == "DS"
        self.stated_build = build_of_contigs(header)

    def _open(self) -> Any:
        try:
            return self._library.VCF(str(self.path), gts012=True, strict_gt=True)
        except Exception as error:
            raise UserError(f"{self.path}: cannot be read as VCF or BCF ({error}).") from None

    @cached_property
    def people(self) -> pd.DataFrame:
        blank = [""] * len(self._ids)
        return people_table(self._ids, blank, blank)

    @cached_property
    def variants(self) -> pd.DataFrame:
        rows = [
            (
                record.ID or "",
                record.CHROM,
                record.POS,
                ",".join(record.ALT) or ".",
                record.REF,
                np.nan if record.INFO.get("TYPED") else number_of(record.INFO),
                TWO_ALLELES
                if len(record.ALT) != 1
                else f"filtered by its file ({record.FILTER})"
                if record.FILTER
                else "",
            )
            for record in self._records()
        ]
        if not rows:
            raise UserError(f"{self.path}: holds no variants.")
        names, chromosomes, positions, counted, other, info, reasons = zip(*rows, strict=True)
        return variant_table(
            self.path, names, chromosomes, positions, counted, other, info=np.array(info), reasons=reasons
        )

    def _records(self) -> Iterator[Any]:
        opened = self._open()
        try:
            yield from opened
        except Exception as error:
            raise UserError(f"{self.path}: damaged ({error}); copy it again.") from None
        finally:
            opened.close()

    def read(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        wanted, block = 0, []
        for number, record in enumerate(self._records()):
            if wanted == len(columns):
                break
            if number != columns[wanted]:
                continue
            block.append(self._dosages(record))
            wanted += 1
            if len(block) == size or wanted == len(columns):
                yield columns[wanted - len(block) : wanted], np.stack(block, axis=1)
                block = []

    def _dosages(self, record: Any) -> Dosages:
        """Of one variant, [people]."""
        if self._field == "DS":
            stated = record.format("DS")
            if stated is not None:
                values = np.asarray(stated, dtype=np.float32)[:, 0]
                return np.where((values >= 0) & (values <= 2), values, np.float32(np.nan))
        calls = np.asarray(record.gt_types)
        return np.where(calls == MISSING_CALL, np.nan, calls).astype(np.float32)
