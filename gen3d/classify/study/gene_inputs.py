"""Genotypes of the people of a study, found by subject: who has any, what they say, and who is related to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from gen3d.classify.study.folds import StudyFold
from gen3d.cohort.genotypes_folder import OpenGenotypes, open_genotypes
from gen3d.core import words as spell
from gen3d.core.errors import UserError

Values = NDArray[np.float64]
Index = NDArray[np.int64]

ALLELES = ("apoe_e4", "apoe_e2")
WITHOUT_APOE = "_without_apoe"
"""Ends the name of a score without the region of APOE, which is counted by itself."""
FEWEST_BOTH = 20
"""People with a scan and genes, below whom nothing is compared."""


@dataclass(frozen=True)
class Genes:
    """Genes of the people of a study.

    Attributes:
        opened: the folder of genotypes.
        rows: of its arrays for each scan of the study, -1 for people of whom nothing is known, [n].
        kin: number of the family of each scan: people of one family are never on both sides of a fold, [n].
        num_families: of two or more people of the study.
        num_related: people in them.
    """

    opened: OpenGenotypes
    rows: Index
    kin: Index
    num_families: int
    num_related: int

    @property
    def folder(self) -> Path:
        """Of the genotypes."""
        return self.opened.folder

    @cached_property
    def alleles(self) -> Values:
        """Copies of e4 and e2 of the people of the folder, NaN where not known, [people, 2]."""
        return self.opened.people[list(ALLELES)].to_numpy(dtype=np.float64)

    @cached_property
    def score_names(self) -> tuple[str, ...]:
        """Polygenic scores, without the region of APOE where a score has others."""
        return score_names(self.opened)

    @cached_property
    def scores(self) -> Values:
        """Of the people of the folder, [people, scores]."""
        return self.opened.people[list(self.score_names)].to_numpy(dtype=np.float64)

    @property
    def has_apoe(self) -> bool:
        """Whether APOE is known of anybody in the study."""
        return bool(np.isfinite(self.alleles[self.rows[self.rows >= 0]]).any())

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether anything is known of the person of each scan, [n]."""
        return self.rows >= 0

    def folds(self, folds: Sequence[StudyFold]) -> tuple[StudyFold, ...]:
        """The same folds, of people with genes."""
        present = self.present
        return tuple(
            replace(fold, train=fold.train[present[fold.train]], test=fold.test[present[fold.test]]) for fold in folds
        )

    def notes(self, table: pd.DataFrame) -> tuple[str, ...]:
        """Who has genes and who does not, and who is related."""
        subjects = table["subject"].astype(str)
        num, everybody = subjects[self.present].nunique(), subjects.nunique()
        lines = [f"{num} of the {spell.people(everybody)} have genes in {self.folder}"]
        if self.num_families:
            families = spell.count(self.num_families, "family", "families")
            lines.append(
                f"{spell.people(self.num_related)} are related to one another ({families}): a family is never on both sides of "
                "a fold"
            )
        return tuple(lines)


def score_names(opened: OpenGenotypes) -> tuple[str, ...]:
    """Columns of polygenic scores: the one without the region of APOE, unless nothing is left of a score without it."""
    people = opened.people
    chosen = []
    for name in opened.score_columns:
        if name.endswith(WITHOUT_APOE):
            continue
        other = f"{name}{WITHOUT_APOE}"
        chosen.append(other if other in people.columns and people[other].notna().any() else name)
    return tuple(name for name in chosen if people[name].notna().any())


def known_of(opened: OpenGenotypes) -> NDArray[np.bool_]:
    """Whether a person of the folder has APOE or a score, [people]."""
    columns = opened.people[[*ALLELES, *score_names(opened)]].to_numpy(dtype=np.float64)
    return np.asarray(np.isfinite(columns).any(axis=1))


def open_genes(folder: Path, table: pd.DataFrame, people: Index) -> Genes:
    """Find the genes of the people of a study by their subject.

    Args:
        folder: of `gen3d genotypes`.
        table: of the scans, [n].
        people: number of the person of each scan, [n].

    Raises:
        UserError: not such a folder, nobody in common, nothing known of those in common, or too few of them.
    """
    opened = open_genotypes(folder)
    subjects = table["subject"].astype(str).tolist()
    known = known_of(opened)
    if not known.any():
        raise UserError(
            f"{folder}: holds neither APOE nor a polygenic score of anybody who passed, so there is nothing to predict from; run "
            "`gen3d genotypes` with scores=, or with genotypes or a column that say APOE."
        )
    everybody, ours = set(opened.everybody["subject"].astype(str)), list(dict.fromkeys(subjects))
    shared = [subject for subject in ours if subject in everybody]
    if not shared:
        alike = (
            f"Both have {spell.people(len(ours))}, which does not make them the same people: rows are never joined by their order"
            if len(ours) == len(everybody)
            else "Rows are never joined by their order"
        )
        theirs = spell.people(len(everybody))
        raise UserError(
            f"{folder}: none of its {theirs} is among the {spell.people(len(ours))} of this study, as ids such "
            f"as {opened.everybody['subject'].iloc[0]} and {ours[0]} show. {alike}; run `gen3d genotypes` with the table= of "
            "these people, or with ids= that say who is who."
        )
    rows = opened.of(subjects)
    rows = np.where((rows >= 0) & known[np.maximum(rows, 0)], rows, -1)
    both = len({subject for subject, row in zip(subjects, rows.tolist(), strict=True) if row >= 0})
    if not both:
        raise UserError(
            f"{folder}: of the {spell.people(len(shared))} who are in it and in this study, none has APOE or a score that passed "
            "quality control; look at reason in its people.tsv."
        )
    if both < FEWEST_BOTH:
        raise UserError(
            f"{folder}: {spell.people(both)} of this study have genes, and at least {FEWEST_BOTH} are needed to compare them with "
            "the scan; add people, or leave out genotypes=."
        )
    kin = _families(people, opened.relatives(subjects))
    members = pd.Series(people).groupby(kin).nunique()
    several = members[members > 1]
    return Genes(opened, rows, kin, len(several), int(several.sum()))


def _families(people: Index, labels: NDArray[np.object_]) -> Index:
    """Number of the family of each scan: scans of one person, or of people with one label, are in one, [n]."""
    persons = np.unique(people, return_inverse=True)[1].ravel()
    names = np.unique(labels.astype(str), return_inverse=True)[1].ravel()
    size = int(persons.max()) + 1 + int(names.max()) + 1
    links = coo_matrix((np.ones(len(persons)), (persons, persons.max() + 1 + names)), shape=(size, size))
    family = connected_components(links, directed=False)[1]
    return np.asarray(family[persons], dtype=np.int64)
