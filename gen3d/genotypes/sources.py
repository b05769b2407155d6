"""Where genotypes come from: PLINK 1 (.bed), PLINK 2 (.pgen), VCF and BCF, and tables of dosages, read block by block.

A reader says who is in its file, which variants there are and which allele its dosages count; `Source.blocks` gives dosages of the
allele that `gen3d.genotypes.variants` counts, so that all readers of the same data agree.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError

Dosages = NDArray[np.float32]
Columns = NDArray[np.int64]
SEXES = {"1": "M", "2": "F", "M": "M", "F": "F", "MALE": "M", "FEMALE": "F"}
EXTRA = "pip install 'gen3d[genetics]'"


class Source(ABC):
    """A file of genotypes.

    Attributes:
        path: of the file.
        imputed: whether dosages may be fractions.
        stated_build: what the file says of its build, "" for nothing.
    """

    imputed: bool = False
    stated_build: str = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    @abstractmethod
    def people(self) -> pd.DataFrame:
        """One row per person in the order of the file: genotype_id, family, sex (M, F or "")."""

    @cached_property
    @abstractmethod
    def variants(self) -> pd.DataFrame:
        """One row per variant in the order of the file, see `variant_table`."""

    @abstractmethod
    def read(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        """At most `size` of these ascending columns at a time, and dosages [people, block] of the reader's allele; NaN: missing."""

    def replace_variants(self, variants: pd.DataFrame) -> None:
        """Take over the same variants with other alleles or reasons, of a comparison with a reference."""
        self.__dict__["variants"] = variants

    def blocks(self, columns: Columns, size: int) -> Iterator[tuple[Columns, Dosages]]:
        """As `read`, but copies of the allele `counted` of `variants`."""
        turned = self.variants["turned"].to_numpy(dtype=bool)
        for block, dosages in self.read(columns, size):
            turn = turned[block]
            if turn.any():
                dosages[:, turn] = 2 - dosages[:, turn]
            yield block, dosages


def open_source(path: Path, variants: Path | None = None, field: str = "auto") -> Source:
    """The reader of a file of genotypes, by how its name ends.

    Args:
        path: .bed, .pgen, .vcf, .vcf.gz, .bcf, or a table of dosages: .tsv, .csv, .parquet.
        variants: for a table of dosages whose columns are not named chromosome:position:counted:other.
        field: of a VCF: GT, DS, or auto for DS where the file has it.

    Raises:
        UserError: no such file, or of no known kind.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give source= a .bed, .pgen, .vcf, .vcf.gz, .bcf, .tsv, .csv or .parquet file."
        )
    name = path.name.lower()
    endings = {
        ".bed": "plink:Bed",
        ".pgen": "plink:Pgen",
        ".vcf": "vcf:Vcf",
        ".vcf.gz": "vcf:Vcf",
        ".vcf.bgz": "vcf:Vcf",
        ".bcf": "vcf:Vcf",
        ".tsv": "dosage_table:DosageTable",
        ".csv": "dosage_table:DosageTable",
        ".txt": "dosage_table:DosageTable",
        ".parquet": "dosage_table:DosageTable",
    }
    ending = next((ending for ending in endings if name.endswith(ending)), None)
    if ending is None:
        raise UserError(
            f"{path}: not a kind of genotypes that is known; give a .bed, .pgen, .vcf, .vcf.gz, .bcf, .tsv, .csv or .parquet file."
        )
    module, _, reader = endings[ending].partition(":")
    kind = getattr(importlib.import_module(f"gen3d.genotypes.{module}"), reader)
    given: dict[str, dict[str, Any]] = {"Vcf": {"field": field}, "DosageTable": {"variants": variants}}
    source: Source = kind(path, **given.get(reader, {}))
    _require_ids(source)
    return source


def needed(module: str, path: Path) -> Any:
    """A library that reads a format, imported when it is needed.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{path}: reading it needs the package {module.replace('_', '-')}; {EXTRA}.") from None


def companion(path: Path, ending: str) -> Path:
    """The file next to a .bed or .pgen file that names its people or variants.

    Raises:
        UserError: it is not there.
    """
    beside = path.with_suffix(ending)
    if not beside.is_file():
        packed = beside.with_name(f"{beside.name}.zst")
        if packed.is_file():
            raise UserError(f"{packed}: is compressed; unpack it to {beside.name} (`zstd -d`).")
        raise UserError(f"{path}: {beside.name} is not beside it; copy it there.")
    return beside


def people_table(ids: Any, families: Any, sexes: Any) -> pd.DataFrame:
    """The people of a source; sexes as 1, 2, M, F or anything else for unknown."""
    frame = pd.DataFrame({"genotype_id": [str(name) for name in ids]}, dtype=object)
    frame["family"] = ["" if str(name) in ("0", "") else str(name) for name in families]
    frame["sex"] = [SEXES.get(str(sex).strip().upper(), "") for sex in sexes]
    return frame


def _require_ids(source: Source) -> None:
    ids = source.people["genotype_id"]
    if not len(ids):
        raise UserError(f"{source.path}: holds no people.")
    twice = ids[ids.duplicated()]
    if len(twice):
        raise UserError(
            f"{source.path}: the id {twice.iloc[0]} is there twice ({len(twice)} such rows); people are joined by id, so give each "
            "an id of its own."
        )


def parts_of(columns: Columns, size: int) -> Iterator[Columns]:
    """Columns in runs of at most `size`."""
    for start in range(0, len(columns), size):
        yield columns[start : start + size]
