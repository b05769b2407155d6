"""Genetic models, the scan and their fusion on the same folds and people; genes of other people as controls.

Predictions of genetic models are kept in memory alone: six values of a model of APOE would name everybody's genotype. What is
written are figures over people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from threadpoolctl import threadpool_limits

from gen3d.classify.genes.fusion import fused
from gen3d.classify.genes.people_without_scan import WithoutScan, folds_of, without_scan
from gen3d.classify.genes.recipes import GeneRecipe, JoinedRecipe
from gen3d.classify.genes.sentences import SHUFFLED, WITHIN
from gen3d.classify.genes.tables import FUSION, GENETICS, GeneTables, control_row, headline, tables_of
from gen3d.classify.heads.settings import RunSettings
from gen3d.classify.study.crossvalidation import ClassifyStudy, Contestant, fit, prediction_rows
from gen3d.classify.study.features import Features
from gen3d.classify.study.folds import StudyFold
from gen3d.classify.study.gene_inputs import Genes
from gen3d.classify.study.question import Question
from gen3d.classify.study.reducing import Reduction
from gen3d.cohort.columns import read_cells
from gen3d.cohort.target import Rows
from gen3d.core.progress import track
from gen3d.core.tables import Row
from gen3d.maths.ancestry import fit_ancestry

Index = NDArray[np.int64]
APOE, APOE_COVARIATES, SCORES, JOINED = "APOE", "APOE and covariates", "polygenic scores", "concatenation"
CONTROLS = (SHUFFLED, WITHIN)
MOST_GROUPS = 4
"""Of ancestry, within which genes are permuted: two groups that lie apart are never mixed by as many."""
LEAST_ANCESTRY = 50
"""Variants from which groups of ancestry are told."""


@dataclass(frozen=True)
class GeneStudy:
    """A study and the genes of its people."""

    question: Question
    study: ClassifyStudy
    genes: Genes
    scan: pd.DataFrame
    """Predictions of the primary model, from the scan."""

    @property
    def folds(self) -> tuple[StudyFold, ...]:
        """The folds of the study, of people with genes."""
        return self.genes.folds(self.study.folds)


def what_genes_add(question: Question, study: ClassifyStudy, scan: pd.DataFrame) -> GeneTables:
    """Compare genes, the scan and both.

    Args:
        question: with genes.
        study: of the question.
        scan: predictions of the primary model.
    """
    assert question.genes is not None
    own = GeneStudy(question, study, question.genes, scan)
    with threadpool_limits(1):
        models = _models(own)
        frames = {model.name: _predictions(own, model, own.genes.rows) for model in track(models, "genes")}
        genetics = frames[GENETICS]
        frames[FUSION] = fused(scan, genetics, question.target, FUSION).assign(kind="head")
        controls = [_control(own, name) for name in CONTROLS]
        alone = without_scan(question.settings, own.genes, question.everybody, question.target)
        alone_genetics = _of_people_without_scan(own, models[0], alone)
    people = {"scan": scan, "genes": genetics, "both": frames[FUSION], "without_scan": alone_genetics}
    notes = (*question.genes.notes(question.features.table), _ancestry_words(own))
    return tables_of(question.target, question.settings, scan, frames, controls, people, notes)


def _models(own: GeneStudy) -> list[Contestant]:
    """Genetics first, then its parts, and the concatenation where the scan has features."""
    genes, settings = own.genes, own.question.settings
    covariates = tuple(name for name in settings.covariates if name != own.question.target.name)
    for name in covariates:
        read_cells(own.question.features.table, name, "covariates")
    threshold, components = settings.threshold, settings.ancestry_components
    recipes = [GeneRecipe(GENETICS, genes, ("apoe", "scores", "ancestry"), components, threshold=threshold)]
    if genes.has_apoe:
        recipes.append(GeneRecipe(APOE, genes, ("apoe",), threshold=threshold))
        if covariates:
            recipes.append(GeneRecipe(APOE_COVARIATES, genes, ("apoe",), columns=covariates, threshold=threshold))
    if genes.score_names:
        recipes.append(GeneRecipe(SCORES, genes, ("scores",), threshold=threshold))
    models = [Contestant(recipe.name, "baseline", recipe, _nothing, recipe.features_description) for recipe in recipes]
    if own.question.features.values.shape[2] and not isinstance(settings.heads[0], RunSettings):
        reduction = Reduction(settings.components, settings.confounds, settings.harmonise)
        joined = JoinedRecipe(JOINED, reduction, recipes[0])
        words = f"components of {own.question.features.words}, and {recipes[0].features_description}"
        models.append(Contestant(JOINED, "head", joined, _scan_features, words))
    return models


def _nothing(features: Features, member: int, chosen: Index) -> Rows:
    return Rows(np.empty((len(chosen), 0)), features.table.iloc[chosen].reset_index(drop=True))


def _scan_features(features: Features, member: int, chosen: Index) -> Rows:
    return features.rows(member, chosen)


def _with_places(model: Contestant, places: Index) -> Contestant:
    """The model with the place of each scan's genes [n] as the last feature."""

    def rows(features: Features, member: int, chosen: Index) -> Rows:
        own = model.rows(features, member, chosen)
        values = np.hstack([np.asarray(own.values, dtype=np.float64), places[chosen, None].astype(np.float64)])
        return Rows(values, own.table, own.blocks, (values.shape[1],))

    return replace(model, rows=rows)


def _predictions(own: GeneStudy, model: Contestant, places: Index) -> pd.DataFrame:
    """Of people with genes, fold by fold; `places` [n] says whose genes each scan's person is given."""
    study, model = own.study, _with_places(model, places)
    parts = []
    for fold in own.folds:
        if not len(fold.test):
            continue
        fitted = fit(model, study, fold.member, fold.train)
        outputs = fitted.outputs(study.tested(model, fold.member, fold.test))
        table = study.features.table.iloc[fold.test].reset_index(drop=True)
        where = {"repeat": fold.repeat, "fold": fold.number, "split": "cross-validation"}
        codes = study.codes[fold.test]
        parts.append(
            prediction_rows(
                model.name, model.kind, study.target, table, codes, outputs, fitted.learned.threshold, where
            )
        )
    return pd.concat(parts, ignore_index=True)


def _of_people_without_scan(own: GeneStudy, model: Contestant, people: WithoutScan) -> pd.DataFrame:
    """Predictions of the genetic model for people who have no scan; no row where there are none."""
    study, model = own.study, _with_places(model, own.genes.rows)
    subjects = study.features.table["subject"].astype(str).tolist()
    parts = []
    for fold, chosen in zip(own.folds, folds_of(people, own.genes, subjects, own.folds), strict=True):
        if len(chosen):
            fitted = fit(model, study, fold.member, fold.train)
            where = {"repeat": fold.repeat, "fold": fold.number, "split": "cross-validation"}
            rows, codes = people.of(chosen), people.codes[chosen]
            outputs, cut = fitted.outputs(rows), fitted.learned.threshold
            parts.append(prediction_rows(model.name, model.kind, study.target, rows.table, codes, outputs, cut, where))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _control(own: GeneStudy, name: str) -> Row:
    """The gain with genes of other people, many times."""
    target, settings = own.question.target, own.question.settings
    recipe = GeneRecipe(
        GENETICS, own.genes, ("apoe", "scores", "ancestry"), settings.ancestry_components, threshold=settings.threshold
    )
    model = Contestant(GENETICS, "baseline", recipe, _nothing, "")
    strata = _strata(own) if name == WITHIN else np.zeros(len(own.genes.rows), dtype=np.int64)
    scan = own.scan[own.scan["key"].isin(_keys(own))]
    alone = headline(scan, target)
    gains = []
    for number in track(range(settings.gene_permutations), f"genes {name}"):
        generator = np.random.default_rng([settings.seed, 6151, CONTROLS.index(name), number])
        places = permuted(own.genes.rows, own.question.groups, strata, generator)
        genetics = _predictions(own, model, places)
        both = headline(fused(scan, genetics, target, FUSION), target)
        gains.append(both - max(alone, headline(genetics, target)))
    return control_row(name, np.array(gains))


def _keys(own: GeneStudy) -> Sequence[str]:
    return own.study.features.table.loc[own.genes.present, "key"].astype(str).tolist()


def permuted(places: Index, people: Index, strata: Index, generator: np.random.Generator) -> Index:
    """Places in which the people of a stratum have exchanged their genes; who has none stays without, [n].

    Args:
        places: of each scan's genes, -1 for none.
        people: number of the person of each scan.
        strata: of each scan; that of a person's first scan counts.
        generator: of the exchange.
    """
    _, first, inverse = np.unique(people, return_index=True, return_inverse=True)
    own = places[first].copy()
    for stratum in np.unique(strata[first]):
        members = np.flatnonzero((strata[first] == stratum) & (own >= 0))
        own[members] = own[generator.permutation(members)]
    return np.asarray(own[inverse.ravel()], dtype=np.int64)


def _strata(own: GeneStudy) -> Index:
    """Diagnosis and group of ancestry of each scan, [n]."""
    groups = ancestry_groups(own.genes, own.question.settings.seed)
    return np.asarray(own.study.codes.astype(np.int64) * (groups.max() + 1) + groups)


def ancestry_groups(genes: Genes, seed: int) -> Index:
    """Group of ancestry of each scan, 0 where it cannot be told, [n]: k-means on the first two components of everybody.

    These groups only say among whom genes are exchanged; no model learns from them.
    """
    places = np.unique(genes.rows[genes.rows >= 0])
    if genes.opened.pruned.shape[1] < LEAST_ANCESTRY or len(places) < 10 * MOST_GROUPS:
        return np.zeros(len(genes.rows), dtype=np.int64)
    calls = np.asarray(genes.opened.pruned[places])
    scores = fit_ancestry(calls, 2).project(calls)
    labels = kmeans2(scores, MOST_GROUPS, minit="++", seed=seed)[1]
    found = np.zeros(len(genes.rows), dtype=np.int64)
    present = genes.present
    found[present] = labels[np.searchsorted(places, genes.rows[present])]
    return found


def _ancestry_words(own: GeneStudy) -> str:
    if own.genes.opened.pruned.shape[1] < LEAST_ANCESTRY:
        return (
            "the folder of genes has too few variants to tell ancestry, so genes were permuted within diagnosis alone"
        )
    groups = len(np.unique(ancestry_groups(own.genes, own.question.settings.seed)))
    return f"ancestry, within which genes were permuted: {groups} groups by two components"
