"""`gen3d classify`: predict a column of the cohort table from latents or by trained networks, and compare with baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gen3d.classify.folder import CLASS_COLUMNS, HEAD, MODEL_COLUMNS, write_study
from gen3d.classify.genes.sentences import adds, gene_sentences
from gen3d.classify.genes.study import what_genes_add
from gen3d.classify.genes.tables import GeneTables
from gen3d.classify.head_folder import HeadFamily, member_folder, open_heads, save_head
from gen3d.classify.heads.network_recipe import NetworkRecipe
from gen3d.classify.picture import draw_performance
from gen3d.classify.scores.checklist import checklist
from gen3d.classify.scores.readers import published_readers, reader_table
from gen3d.classify.scores.scorecard import ScoreSettings, permutation_row, score
from gen3d.classify.scores.sentences import network_sentences, reader_sentences
from gen3d.classify.scores.summary import summary
from gen3d.classify.settings import StudySettings
from gen3d.classify.study.cautions import cautions
from gen3d.classify.study.contestants import contestants
from gen3d.classify.study.crossvalidation import (
    ClassifyStudy,
    Contestant,
    chosen_settings,
    cross_validated,
    fit,
    prediction_rows,
)
from gen3d.classify.study.external import External, Policies, TestedPeople, open_external
from gen3d.classify.study.network_records import network_records
from gen3d.classify.study.permutation import null_values, observed, prepare, prepare_scores, statistic_name
from gen3d.classify.study.question import Question, open_question
from gen3d.classify.study.recipe import HeadRecipe, KeptLearned
from gen3d.classify.study.untrained import NAME as UNTRAINED
from gen3d.cohort.target import Target
from gen3d.core.artefact import write_json
from gen3d.core.disk import remove_folder
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track, warn
from gen3d.core.result_folder import METRICS, write_picture
from gen3d.core.tables import Row, parse_table, records, write_table


class Classify(StudySettings):
    """Predict a column of the cohort table: heads on latents, trained networks and baselines, cross-validated by person.

    Everything (harmonisation, confounds, scaling, components, settings, calibration, threshold) is fitted on the training
    people of a fold. People that a model behind the latents was trained on are not tested. The baselines are covariates,
    each of a few volumes of the same scans, both together, voxels, a network that never learned (untrained=true), and permuted
    labels. A run of a classifier among the heads gives its folds to all: nobody is tested by a network that saw the person. With
    readers=, people who read the same scans are compared with the primary classifier. With genotypes=, genes, the scan and both
    are. With fit= and external=, a finished head is tested on other people instead.

    Writes predictions.tsv, metrics.json with every table behind the figures, checklist.tsv and the head itself.
    """

    def plan(self) -> list[str]:
        """Classes and people, folds and heads."""
        opened = self.open_inputs()
        lines = [*opened.question.plan(), *opened.plan()] if isinstance(opened, ExternalTest) else opened.plan()
        return [*lines, f"writes {self.out}"]

    def open_inputs(self) -> Question | ExternalTest:
        """Open the scans, the target, the features and the folds; with fit=, the head and the people to be tested."""
        question = open_question(self)
        if self.fit is None:
            return question
        # The policies are those given here: those of the study that fitted the head were about its own people.
        given = self.model_fields_set
        policies = Policies(
            self.seen if "seen" in given else "refuse", self.duplicates if "duplicates" in given else "refuse"
        )
        external = open_external(question, policies, given)
        family = open_heads(self.fit / HEAD)
        _same_study(question, family, self.fit)
        return ExternalTest(external, family)

    def write(self, work: Work, opened: Question | ExternalTest) -> dict[str, Any]:
        """Write the folder."""
        figures = external_test(opened) if isinstance(opened, ExternalTest) else cross_validate(opened)
        say(f"{self.out / METRICS}")
        return figures


PARTS = ".parts"
NETWORKS = ("residual", UNTRAINED)
"""Models that run a network."""


@dataclass(frozen=True)
class ExternalTest:
    """A finished head and the people that it is tested on."""

    external: External
    family: HeadFamily

    @property
    def question(self) -> Question:
        """What was asked when the head was fitted, with the voxels of both cohorts."""
        return self.external.question

    def plan(self) -> list[str]:
        """Who would be tested."""
        return self.external.plan()


@dataclass(frozen=True)
class StudyResult:
    """Predictions of all models, the settings chosen for each, the row of the permutation test if there is one, and networks."""

    predictions: pd.DataFrame
    chosen: dict[str, list[Row]]
    permutation: Row | None
    networks: list[Row]
    genes: GeneTables | None = None
    """What genes add, with genotypes."""


def cross_validate(question: Question) -> Row:
    """Run every model through the folds, score, keep the first head; returns the artefact's summary."""
    models = contestants(question)
    study = ClassifyStudy(
        question.features,
        question.codes,
        question.families,
        question.target,
        question.folds,
        question.settings.seed,
        _controls_known(question),
        question.groups,
    )
    for line in question.plan():
        say(line)
    parts = question.settings.out / PARTS
    parts.mkdir(exist_ok=True)
    tables, chosen = [], {}
    for place, model in enumerate(models):
        predictions, settings = _of_model(model, study, parts / f"{place}.tsv")
        tables.append(predictions)
        chosen[model.name] = settings
    null = _permutation(models[0], study, question, parts / "permutations.json")
    genes = what_genes_add(question, study, tables[0]) if question.genes is not None else None
    result = StudyResult(pd.concat(tables, ignore_index=True), chosen, null, network_records(question, study), genes)
    head_note = no_head(question) if question.networks_lead else kept_head(question, models[0], study)
    written = _write(question, models, result, head_note, TestedPeople.of(question))
    remove_folder(parts)
    return written


def external_test(test: ExternalTest) -> Row:
    """Test a finished head on other people, and baselines that were fitted on its training people."""
    external, family, question = test.external, test.family, test.question
    features, codes, settings = external.features, external.codes, question.settings
    models = contestants(question)
    everybody, tested = np.arange(len(question.features)), np.arange(len(codes))
    shared = (question.target, (), settings.seed, _controls_known(question))
    study = ClassifyStudy(question.features, question.codes, question.groups, *shared)
    others = ClassifyStudy(features, codes, tested, *shared)
    where = {"repeat": 0, "fold": 0, "split": "external"}
    tables, chosen = [], {}
    for place, model in enumerate(track(models, "testing")):
        if place == 0:
            spaces = [others.tested(model, member, tested) for member in range(len(family.heads))]
            outputs, learned = family.outputs(spaces), [head.learned for head in family.heads]
            threshold = family.threshold
        else:
            fitted = fit(model, study, 0, everybody)
            outputs, learned = fitted.outputs(others.tested(model, 0, tested)), [fitted.learned]
            threshold = fitted.learned.threshold
        tables.append(
            prediction_rows(model.name, model.kind, question.target, features.table, codes, outputs, threshold, where)
        )
        chosen[model.name] = chosen_settings([dict(each.settings) for each in learned])
    result = StudyResult(pd.concat(tables, ignore_index=True), chosen, None, [])
    return _write(question, models, result, f"the head of {settings.fit}", external.people)


def _controls_known(question: Question) -> bool:
    harmonise = question.settings.harmonise
    return harmonise is not None and harmonise.unknown == "controls"


def _of_model(model: Contestant, study: ClassifyStudy, path: Path) -> tuple[pd.DataFrame, list[Row]]:
    """Predictions and chosen settings of one model, from disk where an interrupted run left them."""
    settings_path = path.with_suffix(".json")
    if path.is_file() and settings_path.is_file():
        return _read_part(path, study.target), json.loads(settings_path.read_text(encoding="utf-8"))
    parts, settings = [], []
    # These problems are small, so threads would wait for each other, most of all on a busy machine. Networks gain from them.
    with threadpool_limits(None if model.name in NETWORKS else 1):
        for table, chosen in track(cross_validated(model, study), f"{model.kind} {model.name}", total=len(study.folds)):
            parts.append(table)
            settings.append(chosen)
    predictions, counted = pd.concat(parts, ignore_index=True), chosen_settings(settings)
    write_table(path, predictions, digits=17)
    write_json(settings_path, counted)
    return predictions, counted


def _read_part(path: Path, target: Target) -> pd.DataFrame:
    text_columns = ["key", "subject", "session", "site", "sex", *MODEL_COLUMNS]
    text_columns += [] if target.task == "number" else CLASS_COLUMNS  # a class called 0.5 is no number
    return parse_table(path, na_values=["n/a"], dtype=dict.fromkeys(text_columns, str))


def _permutation(model: Contestant, study: ClassifyStudy, question: Question, path: Path) -> Row | None:
    num = question.settings.permutations
    if not num:
        return None
    if path.is_file():
        kept: Row = json.loads(path.read_text(encoding="utf-8"))
        return kept
    is_network = isinstance(model.recipe, NetworkRecipe)
    job = prepare_scores(model, study) if is_network else prepare(model, study)
    statistics: list[float] = []
    steps = track(
        null_values(job, num, question.settings.workers), f"permuted labels ({model.name})", total=-(-num // 20)
    )
    for part in steps:
        statistics += part.tolist()
    row = permutation_row(observed(job), np.sort(statistics), model.name, statistic_name(study.target), is_network)
    write_json(path, row)
    return row


def _same_study(question: Question, family: HeadFamily, folder: Path) -> None:
    """Check that the head was trained on the same target, the same people and in the same space."""
    target, made_by = family.first.target, family.first.made_by
    if target != question.target:
        raise UserError(
            f"{folder}: its head predicts {target.describe()}, not {question.target.describe()}; give the same target=, "
            "classes= and task=."
        )
    if tuple(made_by) != question.features.made_by or len(family.heads) != question.features.num_members:
        raise UserError(
            f"{folder}: its head was trained in another space than {question.features.words}; encode with its run."
        )
    if family.subjects != set(question.features.table["subject"].astype(str)):
        raise UserError(
            f"{folder}: its head was trained on other people than these latents hold; give the latents= (and only=) that "
            "it was fitted with, so that the baselines are trained on the same people."
        )


def _write(
    question: Question,
    models: Sequence[Contestant],
    result: StudyResult,
    head_note: str,
    tested: TestedPeople,
) -> Row:
    settings = question.settings
    scoring = ScoreSettings(bootstrap=settings.bootstrap, seed=settings.seed, prevalences=settings.prevalences)
    tables = score(result.predictions, question.target, scoring)
    if result.permutation is not None:
        tables["permutation"] = pd.DataFrame([result.permutation])
    tables |= _reader_tables(question, result.predictions, models[0].name)
    genes = [] if result.genes is None else gene_sentences(result.genes)
    tables |= {} if result.genes is None else result.genes.tables
    split = str(result.predictions["split"].iloc[0])
    sentences = summary(tables, question.target, models[0].name, split, question.without_voxels)
    sentences += reader_sentences(tables, models[0].name)
    sentences += network_sentences(result.networks, question.target)
    sentences += cautions(question, tables)
    people = {
        "num_people": int(result.predictions["subject"].nunique()),
        "num_scans": int(result.predictions["key"].nunique()),
        "by_class": tested.counts,
        "left_out": list(tested.notes),
    }
    target = {"name": question.target.name, "task": question.target.task, "classes": list(question.target.classes)}
    guard = {
        "seen_policy": tested.policies.seen,
        "num_seen": tested.num_seen,
        "waivers": list(tested.waivers),
        "duplicates_policy": tested.policies.duplicates,
        "duplicates": [asdict(pair) for pair in tested.pairs],
    }
    described = [
        {"name": model.name, "kind": model.kind, "features": model.description, "settings": result.chosen[model.name]}
        for model in models
    ]
    metrics: Row = {
        "target": target,
        "summary": sentences,
        "people": people,
        "guard": guard,
        "models": described,
        "networks": result.networks,
        **({} if result.genes is None else {"genes": {"summary": genes, "adds": adds(result.genes)}}),
        "split": question.split_words if question.networks else "",
        "head": head_note,
        "head_kept": (settings.out / HEAD).is_dir(),
    }
    rows = {name: records(table) for name, table in tables.items()}
    items = checklist({**metrics, "tables": rows}, settings.settings())
    write_study(settings.out, result.predictions, metrics, tables, items)
    picture = draw_performance(tables, question.target)
    if picture is not None:
        write_picture(settings.out, "performance", picture)
    for sentence in (*genes, *sentences):
        say(sentence)
    for waiver in tested.waivers:
        warn(f"waiver: {waiver}.")
    summarised = [*genes[:1], *sentences[:1]]
    return {"summary": summarised, "num_people": people["num_people"], "waivers": list(tested.waivers)}


def _reader_tables(question: Question, predictions: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """Readers of the same people; without them what was published about readers of others."""
    settings = question.settings
    if question.readings is None:
        published = published_readers(question.target)
        return {"published_readers": published} if len(published) else {}
    readings = question.readings.table
    return {"readers": reader_table(predictions, question.target, model, readings, settings.bootstrap, settings.seed)}


def no_head(question: Question) -> str:
    """Why nothing is kept for `gen3d predict`."""
    network = question.networks[0]
    return (
        f"the primary classifier is the network of {network.folder}, which is kept there; no head is kept here: predict new people "
        "by `gen3d predict head=` with that run"
    )


def kept_head(question: Question, model: Contestant, study: ClassifyStudy) -> str:
    """Fit the primary head on everybody and keep it; returns a sentence on what was kept.

    Of a cross-fitted family the head of each member is kept, as it was tested in the first repeat.
    """
    num_members, folder = question.features.num_members, question.settings.out / HEAD
    everybody = np.arange(len(question.features))
    trained = [everybody] if num_members == 1 else _training_of_members(study)
    for member, chosen in enumerate(trained):
        fitted = fit(model, study, member, chosen)
        rows, codes, groups = study.training(model, member, chosen)
        save_head(
            member_folder(folder, member, num_members),
            cast(HeadRecipe, model.recipe),  # the first contestant is a head, see `contestants`
            cast(KeptLearned, fitted.learned),
            rows,
            codes,
            np.concatenate([study.persons[chosen], study.persons.max() + 1 + groups[len(chosen) :]]),
            study.target,
            study.seed,
            question.features,
            num_members,
        )
    num_people = len(np.unique(study.persons))
    alone = "" if question.genes is None else "; it reads the scan alone, and models of genes are not kept"
    if num_members == 1:
        return f"the {model.name} head, fitted on all {num_people} people, is in head/{alone}"
    return (
        f"the {num_members} {model.name} heads that were tested, one in the space of each member of the family, are in head/; "
        f"new people get the mean of their predictions{alone}"
    )


def _training_of_members(study: ClassifyStudy) -> list[NDArray[np.int64]]:
    """Training scans of the fold of each member in the first repeat: the member was not trained on the people of that fold."""
    folds = {fold.member: fold.train for fold in study.folds if fold.repeat == 0}
    return [folds[member] for member in sorted(folds)]
