"""Genetic models as recipes: everything of them, ancestry components included, is fitted on training people alone.

A row's features are the place of the person's genes in their folder, so that no genotype is copied; the recipe looks them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.learning import FittedHead, Learner
from gen3d.classify.heads.settings import LinearSettings, Threshold
from gen3d.classify.study.gene_inputs import Genes
from gen3d.classify.study.reducing import FeatureReducer, Reduction
from gen3d.cohort.columns import PENALISED, TableCode, fit_columns
from gen3d.cohort.target import Rows, Target, Values
from gen3d.maths.ancestry import AncestryComponents, fit_ancestry

Part = Literal["apoe", "scores", "ancestry"]
MOST_FITTED, MOST_VARIANTS = 2000, 5000
"""Training people and variants from which components of ancestry are fitted at most, evenly spaced."""
LEAST_FITTED, LEAST_VARIANTS = 20, 50


@dataclass(frozen=True)
class GeneReducer:
    """Genes as numbers, fitted. `mean`, `sd`: of alleles and scores among the training people; a missing one is the mean."""

    genes: Genes
    parts: tuple[Part, ...]
    mean: Values
    sd: Values
    ancestry: AncestryComponents | None
    ancestry_sd: float
    columns: TableCode | None

    def apply(self, rows: Rows) -> Values:
        """[n, k]; people without genes are the mean person."""
        places = places_of(rows)
        known = places >= 0
        numbers = (measured(self.genes, self.parts)[np.maximum(places, 0)] - self.mean) / self.sd
        parts = [np.where(known[:, None] & np.isfinite(numbers), numbers, 0.0)]
        if self.ancestry is not None:
            calls = self.genes.opened.pruned[:, _spaced(self.genes.opened.pruned.shape[1], MOST_VARIANTS)]
            scores = self.ancestry.project(calls[np.maximum(places, 0)]) / self.ancestry_sd
            parts.append(np.where(known[:, None], scores, 0.0))
        if self.columns is not None:
            parts.append(self.columns.matrix(rows.table))
        return np.hstack(parts)


@dataclass(frozen=True)
class GeneRecipe:
    """Logistic regression on alleles, scores, ancestry components, and columns of the cohort table."""

    name: str
    genes: Genes
    parts: tuple[Part, ...]
    components: int = 0
    columns: tuple[str, ...] = ()
    threshold: Threshold = "prevalence"

    @property
    def features_description(self) -> str:
        """`copies of APOE e4 and e2, 2 polygenic scores, 5 components of ancestry`."""
        words = []
        if "apoe" in self.parts:
            words.append("copies of APOE e4 and e2")
        if "scores" in self.parts:
            words.append(f"polygenic scores ({len(self.genes.score_names)})")
        if "ancestry" in self.parts and self.components:
            words.append(f"up to {self.components} components of ancestry, fitted on training people")
        return ", ".join([*words, *self.columns])

    def reduce(self, train: Rows) -> GeneReducer:
        """Learn means, spreads, and axes of ancestry from training people."""
        places = places_of(train)
        numbers = measured(self.genes, self.parts)[places[places >= 0]]
        known = np.isfinite(numbers)
        mean = np.where(known, numbers, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        sd = np.sqrt((np.where(known, numbers - mean, 0) ** 2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        ancestry, width = self._ancestry(places)
        columns = fit_columns(train.table, self.columns, PENALISED) if self.columns else None
        return GeneReducer(self.genes, self.parts, mean, np.where(sd > 0, sd, 1.0), ancestry, width, columns)

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FittedHead:
        """Fit what needs labels."""
        return Learner(LinearSettings(), self.threshold).learn(values, codes, groups, target, seed)

    def _ancestry(self, places: NDArray[np.int64]) -> tuple[AncestryComponents | None, float]:
        """Axes from one person of each family, and the SD along the first, which divides all: lesser ones stay lesser."""
        opened = self.genes.opened
        if "ancestry" not in self.parts or not self.components or opened.pruned.shape[1] < LEAST_VARIANTS:
            return None, 1.0
        people = np.unique(places[places >= 0])
        family = opened.relatives(opened.people["subject"].iloc[people].astype(str).tolist()).astype(str)
        people = people[np.sort(np.unique(family, return_index=True)[1])]
        if len(people) < LEAST_FITTED:
            return None, 1.0
        people = people[_spaced(len(people), MOST_FITTED)]
        calls = opened.pruned[:, _spaced(opened.pruned.shape[1], MOST_VARIANTS)][people]
        fitted = fit_ancestry(calls, self.components)
        width = float(fitted.project(calls)[:, :1].std()) if fitted.num else 1.0
        return (fitted, width) if width > 0 else (None, 1.0)


@dataclass(frozen=True)
class JoinedReducer:
    """Components of the scan's features beside the genes, which get the components' mean variance."""

    scan: FeatureReducer
    genes: GeneReducer
    scale: float

    def apply(self, rows: Rows) -> Values:
        """[n, k]."""
        return np.hstack([self.scan.apply(_scan_of(rows)), self.scale * self.genes.apply(_genes_of(rows))])


@dataclass(frozen=True)
class JoinedRecipe:
    """Concatenation: one logistic regression on components of the scan's features and on genes. The last feature is the place."""

    name: str
    reduction: Reduction
    genes: GeneRecipe

    def reduce(self, train: Rows) -> JoinedReducer:
        """Fit both label-free parts on training people."""
        scan = self.reduction.fit(_scan_of(train))
        spread = float(np.sqrt(scan.apply(_scan_of(train)).var(axis=0).mean()))
        return JoinedReducer(scan, self.genes.reduce(_genes_of(train)), spread if spread > 0 else 1.0)

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FittedHead:
        """Fit what needs labels."""
        return self.genes.learn(values, codes, groups, target, seed)


def measured(genes: Genes, parts: tuple[Part, ...]) -> Values:
    """Alleles and scores of the people of the folder, NaN where not known, [people, k]."""
    columns = {"apoe": genes.alleles, "scores": genes.scores}
    chosen = [columns[part] for part in parts if part in columns]
    return np.hstack([np.zeros((len(genes.opened.people), 0)), *chosen])


def places_of(rows: Rows) -> NDArray[np.int64]:
    """The place of each row's genes in their folder, -1 for none, [n]."""
    return np.asarray(rows.values)[:, -1].astype(np.int64)


def _scan_of(rows: Rows) -> Rows:
    return Rows(rows.values[:, :-1], rows.table, rows.blocks, (rows.values.shape[1] - 1,))


def _genes_of(rows: Rows) -> Rows:
    return Rows(rows.values[:, -1:], rows.table)


def _spaced(num: int, most: int) -> NDArray[np.int64]:
    return np.arange(num) if num <= most else np.linspace(0, num - 1, most).astype(np.int64)
