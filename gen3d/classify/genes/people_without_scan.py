"""People who have genes and a label but no scan: nothing is learned from them, and the genetic model of a fold predicts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.settings import StudySettings
from gen3d.classify.study.folds import StudyFold
from gen3d.classify.study.gene_inputs import Genes, known_of
from gen3d.classify.study.joining import id_column
from gen3d.cohort.target import Rows, Target, Values
from gen3d.core.user_table import read_user_table

Index = NDArray[np.int64]


@dataclass(frozen=True)
class WithoutScan:
    """Their table (key, subject, session), codes, and places in the folder of genotypes, [n]."""

    table: pd.DataFrame
    codes: Values
    rows: Index

    def __len__(self) -> int:
        return len(self.table)

    def of(self, chosen: Index) -> Rows:
        """As a recipe takes them."""
        table = self.table.iloc[chosen].reset_index(drop=True)
        return Rows(self.rows[chosen, None].astype(np.float64), table)


def without_scan(settings: StudySettings, genes: Genes, subjects: frozenset[str], target: Target) -> WithoutScan:
    """Who is in the folder of genotypes and has a label in table=, but no scan in the study.

    With only= nobody: whether they fulfil its conditions is not known without the columns of a cohort table.

    Args:
        settings: of the study.
        genes: of its people.
        subjects: everybody who has a scan, also those that are not tested.
        target: of the study.
    """
    nobody = pd.DataFrame({"key": [], "subject": [], "session": []}, dtype=object)
    empty = WithoutScan(nobody, np.empty(0), np.empty(0, dtype=np.int64))
    if settings.table is None or settings.only:
        return empty
    table = read_user_table(settings.table)
    column = id_column(table, "subject", settings.table)
    if column is None or target.name not in table.columns:
        return empty
    named = table[column].astype(str).str.removeprefix("sub-")
    table = table.assign(subject=named).drop_duplicates("subject")
    rows = genes.opened.of(table["subject"].tolist())
    codes = target.codes(table[target.name])
    known = (rows >= 0) & known_of(genes.opened)[np.maximum(rows, 0)] & np.isfinite(codes)
    chosen = np.flatnonzero(known & ~table["subject"].isin(subjects).to_numpy())
    if not len(chosen):
        return empty
    part = pd.DataFrame({"subject": table["subject"].to_numpy(dtype=object)[chosen]})
    part = part.assign(key=part["subject"], session="")
    return WithoutScan(part, codes[chosen], rows[chosen])


def folds_of(people: WithoutScan, genes: Genes, subjects: list[str], folds: tuple[StudyFold, ...]) -> list[Index]:
    """In each fold, which of them are predicted, so that nobody is by a model that learned from a relative.

    Args:
        people: without a scan.
        genes: of the study.
        subjects: of the scans, [n].
        folds: of the study.
    """
    families = genes.opened.relatives(people.table["subject"].astype(str).tolist()).astype(str)
    ours = genes.opened.relatives(subjects).astype(str)
    dealt: list[Index] = []
    for fold in folds:
        count = 1 + max(other.number for other in folds if other.repeat == fold.repeat)
        own = np.arange(len(people)) % count == fold.number
        here, elsewhere = np.isin(families, ours[fold.test]), np.isin(families, ours)
        learned = np.isin(families, ours[fold.train])
        dealt.append(np.flatnonzero(np.where(elsewhere, here, own) & ~learned))
    return dealt
