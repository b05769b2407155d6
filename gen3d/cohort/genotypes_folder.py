"""The folder of genotypes: who is in it, which variants, and their dosages, each with the allele that is counted.

`gen3d genotypes` writes it; training, classifying and the report open it here. People are found by their subject, never by
their place in a file. A row of an array is a person whose verdict is `pass`, in the order of people.tsv; a column of dosages.npy
is a variant with `carried` yes, one of pruned.npy a variant with `pruned` yes, both in the order of variants.tsv.
The folder holds genotypes of people: it stays where they may be, and no run, report or message repeats them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.arrays import read_array
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.safe_cells import armed
from gen3d.core.tables import MISSING, TableFile, read_cells
from gen3d.core.work_arrays import save_array

VERB = "genotypes"
AGAIN = "run `gen3d genotypes` again"
PASS, EXCLUDED, KEPT = "pass", "excluded", "kept"
YES, NO = "yes", "no"

PEOPLE = TableFile(
    "people.tsv",
    (
        "subject",
        "genotype_id",
        "family",
        "genotyped",
        "missing",
        "heterozygosity",
        "sex_check",
        "related_to",
        "apoe",
        "apoe_e4",
        "apoe_e2",
        "apoe_note",
        "verdict",
        "reason",
    ),
    AGAIN,
)
"""One row per person that is in the cohort table and in the source, a table or a column of APOE.

genotyped: yes or no. missing, heterozygosity: shares of this person's calls. sex_check: ok, mismatch, unclear or n/a. related_to:
number of the group of relatives, n/a for none. apoe: e2e2 to e4e4 or n/a, and why in apoe_note. Further columns: `prs_NAME` and
`prs_NAME_without_apoe`, sums of effect alleles times weights.
"""

VARIANTS = TableFile(
    "variants.tsv",
    (
        "variant",
        "chromosome",
        "position",
        "build",
        "counted",
        "other",
        "frequency",
        "missing",
        "hwe_p",
        "info",
        "gene",
        "carried",
        "pruned",
        "verdict",
        "reason",
    ),
    AGAIN,
)
"""One row per variant of the source. counted: the allele whose copies a dosage is; other: the other one; forward strand where a
reference says so. frequency: of the counted allele among people that pass. info: of the imputation, n/a for hard calls."""

RELATIVES = TableFile("relatives.tsv", ("subject_1", "subject_2", "kinship", "relation", "group"), AGAIN)
"""Pairs of people with a kinship coefficient above the threshold; relation: duplicate or identical twin, first degree, ..."""

STEPS = TableFile(
    "steps.tsv", ("step", "rule", "people_before", "people_out", "variants_before", "variants_out"), AGAIN
)
"""Quality control in the order in which it was done, with counts."""

SCORES = TableFile(
    "scores.tsv",
    ("score", "region", "listed", "used", "share", "flipped", "swapped", "palindromic", "no_match", "absent", "build"),
    AGAIN,
)
"""Per polygenic score, `all` and `without_apoe`: variants listed, used, and why others were not."""

FEATURES = TableFile("features.tsv", ("feature", "table", "missing"), AGAIN)
"""Columns of omics.npy: further measurements of the same people (expression, proteins, ...)."""

COMPONENTS = TableFile("components.tsv", ("subject", "fitted"), AGAIN)
"""Ancestry components for the eye, `component_1`, ...: a verb that tests people fits its own on its training people."""

DOSAGES, PRUNED, OMICS = "dosages.npy", "pruned.npy", "omics.npy"
MOST_POSITION = 10**9
"""No chromosome is as long."""
MISSING_CALL = -1
"""In pruned.npy, which holds whole copies as int8; dosages.npy is float16 with NaN, omics.npy float32 with NaN."""


@dataclass(frozen=True)
class OpenGenotypes:
    """An opened folder of genotypes; arrays are read from disk as needed."""

    artefact: Artefact
    everybody: pd.DataFrame
    """People of people.tsv, of any verdict."""
    all_variants: pd.DataFrame
    """Variants of variants.tsv, of any verdict."""
    features: pd.DataFrame
    dosages: NDArray[np.float16]
    """[people, carried variants], copies of the counted allele, NaN where missing."""
    pruned: NDArray[np.int8]
    """[people, variants in low linkage disequilibrium], for ancestry components; -1 where missing."""
    omics: NDArray[np.float32]
    """[people, features], NaN where missing."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @cached_property
    def people(self) -> pd.DataFrame:
        """People with the verdict pass: row i is row i of every array."""
        return self.everybody[self.everybody["verdict"] == PASS].reset_index(drop=True)

    @cached_property
    def variants(self) -> pd.DataFrame:
        """Carried variants: row j is column j of `dosages`."""
        return self.all_variants[self.all_variants["carried"] == YES].reset_index(drop=True)

    @cached_property
    def pruned_variants(self) -> pd.DataFrame:
        """Variants of `pruned`: row j is its column j."""
        return self.all_variants[self.all_variants["pruned"] == YES].reset_index(drop=True)

    @property
    def score_columns(self) -> list[str]:
        """Columns of `people` that are polygenic scores."""
        return [name for name in self.everybody.columns if name.startswith("prs_")]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {str(subject): row for row, subject in enumerate(self.people["subject"])}

    def of(self, subjects: Sequence[str]) -> NDArray[np.int64]:
        """The row of each subject in `people` and the arrays, -1 for whom there is none; [n]."""
        return np.array([self._row_of.get(str(subject), -1) for subject in subjects], dtype=np.int64)

    def genotyped(self, subjects: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each subject has genotypes that passed; [n]."""
        has = (self.people["genotyped"] == YES).to_numpy()
        rows = self.of(subjects)
        return (rows >= 0) & has[rows] if len(has) else np.zeros(len(rows), dtype=bool)

    @cached_property
    def _group_of(self) -> dict[str, str]:
        related = self.everybody[self.everybody["related_to"] != ""]
        return {str(row.subject): f"relatives {row.related_to}" for row in related.itertuples()}

    def relatives(self, subjects: Sequence[str]) -> NDArray[Any]:
        """What each subject counts as in a split, object [n]: its group of relatives, or the subject where it has none."""
        return np.array([self._group_of.get(str(subject), str(subject)) for subject in subjects], dtype=object)


def write_arrays(
    folder: Path, dosages: NDArray[np.floating], pruned: NDArray[np.int8], omics: NDArray[np.floating]
) -> None:
    """Write the arrays of people with the verdict pass, each [people, columns]."""
    save_array(folder / DOSAGES, np.asarray(dosages, dtype=np.float16))
    save_array(folder / PRUNED, np.asarray(pruned, dtype=np.int8))
    save_array(folder / OMICS, np.asarray(omics, dtype=np.float32))


def open_genotypes(folder: Path) -> OpenGenotypes:
    """Open a finished folder of genotypes.

    Raises:
        UserError: not such a folder, damaged, or tables that do not fit its arrays.
    """
    artefact = read(folder, (VERB,))
    people, variants, features = read_people(folder), read_variants(folder), FEATURES.read(folder)
    passing = int((people["verdict"] == PASS).sum())
    widths = {
        DOSAGES: int((variants["carried"] == YES).sum()),
        PRUNED: int((variants["pruned"] == YES).sum()),
        OMICS: len(features),
    }
    kinds = {DOSAGES: "f", PRUNED: "i", OMICS: "f"}
    arrays = {name: _array(folder / name, (passing, width), kinds[name]) for name, width in widths.items()}
    return OpenGenotypes(artefact, people, variants, features, arrays[DOSAGES], arrays[PRUNED], arrays[OMICS])


def read_people(folder: Path) -> pd.DataFrame:
    """people.tsv with words as text, "" where a cell is empty, and shares, copies and scores as numbers, NaN where missing.

    Raises:
        UserError: missing or damaged, or a person listed twice.
    """
    numbers = ("missing", "heterozygosity", "apoe_e4", "apoe_e2")
    table = _typed(folder, PEOPLE, [name for name in PEOPLE.columns if name not in numbers])
    if table["subject"].duplicated().any():
        raise UserError(f"{folder / PEOPLE.file}: damaged (a person is listed twice); {AGAIN}.")
    return table


def read_variants(folder: Path) -> pd.DataFrame:
    """variants.tsv with words as text and shares as numbers, NaN where missing; positions are whole numbers.

    Raises:
        UserError: missing or damaged.
    """
    numbers = ("position", "frequency", "missing", "hwe_p", "info")
    table = _typed(folder, VARIANTS, [name for name in VARIANTS.columns if name not in numbers])
    if not table["position"].between(0, MOST_POSITION).all():
        raise UserError(f"{folder / VARIANTS.file}: damaged (a variant without a position); {AGAIN}.")
    return table.assign(position=table["position"].astype(np.int64))


def _typed(folder: Path, file: TableFile, words: Sequence[str]) -> pd.DataFrame:
    """A table with these columns as they are written, so that the id 007 stays 007, and all others as numbers."""
    table = armed(read_cells(folder / file.file, AGAIN))
    absent = [name for name in file.columns if name not in table.columns]
    if absent:
        raise UserError(f"{folder / file.file}: lacks the column {absent[0]}; {AGAIN}.")
    return table.assign(
        **{
            name: table[name].mask(table[name].isin(MISSING), "")
            if name in words
            else pd.to_numeric(table[name], errors="coerce")
            for name in table.columns
        }
    )


def _array(path: Path, shape: tuple[int, int], kind: str) -> NDArray[Any]:
    try:
        values = read_array(path, mapped=0 not in shape)  # an array without numbers cannot be mapped
        if values.shape != shape or values.dtype.kind != kind:
            raise ValueError(f"{values.dtype} of shape {values.shape} where the tables have {shape}")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {AGAIN}.") from None
    return values
