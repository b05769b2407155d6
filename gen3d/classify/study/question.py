"""A classification study, opened: scans, target, people who may be tested, and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.heads.settings import RunSettings, SvmSettings
from gen3d.classify.settings import StudySettings, contestant_names
from gen3d.classify.study.baselines import MOST_WHOLE, SKETCH_COMPONENTS, Voxels
from gen3d.classify.study.features import Features, one_scan_each, open_features, scans_alone
from gen3d.classify.study.folds import (
    Layout,
    StudyFold,
    leave_one_site_out,
    make_folds,
    one_site_classes,
    require_all_classes,
)
from gen3d.classify.study.gene_inputs import Genes, open_genes
from gen3d.classify.study.joining import with_columns
from gen3d.classify.study.network_folds import NetworkFolds, network_folds
from gen3d.classify.study.networks import Network, open_networks, shared_target
from gen3d.classify.study.readings import ReaderScores, open_readings
from gen3d.classify.study.scans import open_voxels, prepared_behind
from gen3d.classify.study.selection import column_of, only_those, with_answers
from gen3d.classify.study.untrained import UntrainedFeatures, untrained_features
from gen3d.cohort.duplicates import Pair, equal_scans, find_duplicates, groups_of, judge_duplicates
from gen3d.cohort.latents_folder import require_one_space
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import Guard
from gen3d.cohort.target import Target, as_label, make_target
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input, input_of
from gen3d.core.memory import announce_memory
from gen3d.maths.sketch import SKETCHED

NOT_COMPARED = (
    "without latents and voxels, a person under two ids is found where scans are equal, and not where they are alike"
)
FEWEST_PEOPLE = 10
"""Fewer people cannot fill five folds with one person of each of two classes."""
BEHIND_FEATURES = Guard(
    "a model behind these features",
    "a test of them would be too good",
    "train with cross_fit=5 patients=1 (everybody is then tested with a member that was not trained on them)",
    ("leave_out", "train_only", "waive"),
)


@dataclass(frozen=True)
class Question:
    """Scans and their codes [n]; `groups` are people; synthetic scans are for training only.

    `notes` say who was excluded, `waivers` what the user waived. `without_voxels` is the reason why there is no voxel-wise
    baseline, "" where there is one. With external= these are the people that the head learned from.
    """

    settings: StudySettings
    features: Features
    target: Target
    codes: NDArray[np.float64]
    groups: NDArray[np.int64]
    testable: NDArray[np.bool_]
    voxels: tuple[Voxels, ...]
    pairs: tuple[Pair, ...]
    synthetic: Features | None
    synthetic_codes: NDArray[np.float64]
    num_seen: int
    notes: tuple[str, ...]
    waivers: tuple[str, ...]
    without_voxels: str = ""
    networks: tuple[Network, ...] = ()
    """Trained classifiers that are compared; none with external=, where they have no scores."""
    readings: ReaderScores | None = None
    """What readers said of the people who are tested."""
    genes: Genes | None = None
    """Genes of these people; with them, families are never on both sides of a fold."""
    untrained: UntrainedFeatures | None = None
    """What a network that never learned makes of the scans, with untrained=true."""
    everybody: frozenset[str] = frozenset()
    """Subjects of all scans of the features, also of those that are left out."""

    @property
    def families(self) -> NDArray[np.int64]:
        """What is never split between training and tested people, [n]: people, or with genes their families."""
        return self.groups if self.genes is None else self.genes.kin

    @property
    def networks_lead(self) -> bool:
        """Whether the classifier that the verdict is about is a trained network."""
        return bool(self.networks) and isinstance(self.settings.heads[0], RunSettings)

    @property
    def layout(self) -> Layout:
        """What folds are made from."""
        return Layout(
            self.codes,
            self.families,
            self.testable,
            np.ones(len(self.codes), dtype=bool),
            self.features.may_test(waived=self.settings.seen == "waive"),
            [str(site) for site in self.features.table["site"]],
        )

    @cached_property
    def network_folds(self) -> NetworkFolds | None:
        """The folds of the networks, None where there are no networks."""
        return network_folds(self.networks, self.features, self.layout, self.target) if self.networks else None

    @cached_property
    def folds(self) -> tuple[StudyFold, ...]:
        """Who is tested in which fold."""
        if self.network_folds is not None:
            return self.network_folds.folds
        settings, layout = self.settings, self.layout
        if settings.split == "sites":
            return tuple(leave_one_site_out(layout, self.target))
        return tuple(make_folds(layout, self.target, settings.folds, settings.repeats, settings.seed))

    @property
    def one_site_classes(self) -> list[tuple[str, str]]:
        """(class, site) of classes that exist at one site only."""
        return one_site_classes(self.codes, self.features.table["site"].astype(str).tolist(), self.target)

    def counts(self) -> dict[str, int]:
        """People per class; {"people": n} for a number. With networks, of those who are tested."""
        rows = np.arange(len(self.codes))
        if self.networks:
            rows = np.concatenate([fold.test for fold in self.folds])
        return class_counts(self.target, self.codes[rows], self.groups[rows])

    def plan(self) -> list[str]:
        """What would be done."""
        counts = ", ".join(f"{label} {count}" for label, count in self.counts().items())
        num = len(np.unique(self.groups))
        lines = [
            f"predicts {self.target.describe()} of {num} people ({counts}) from {self.features.words}",
            f"heads: {', '.join(contestant_names(self.settings.heads))}",
        ]
        if any(voxels.sketched for voxels in self.voxels):
            lines.append(
                f"the voxel-wise baseline is a logistic or ridge regression on {SKETCH_COMPONENTS} components of {SKETCHED} random "
                f"projections of voxels: a support vector machine of more than {MOST_WHOLE} scans takes time that grows with "
                "their square"
            )
        if self.untrained is not None:
            lines.append(f"a network that never learned reads {len(self.untrained.keys)} scans, 5 to 10 s each at 2 mm")
        if self.settings.external is None:
            lines.append(self.split_words)
        return lines if self.settings.external is not None else [*lines, *self.all_notes, *self.waivers]

    @property
    def split_words(self) -> str:
        """`5 stratified folds by person, 2 times`."""
        if self.networks:
            first = self.networks[0]
            times = "once" if first.repeats == 1 else f"{first.repeats} times with other seeds"
            return f"the {first.folds_each} folds in which {first.name} was trained, {times}: folds and repeats are not used"
        repeats = 1 + max(fold.repeat for fold in self.folds)
        kind = "sites left out one by one" if self.settings.split == "sites" else "stratified folds by person"
        return f"{len(self.folds) // repeats} {kind}, {repeats} times"

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Who was excluded, also from the folds of networks."""
        in_folds = self.network_folds.notes if self.network_folds is not None else ()
        return (*self.notes, *in_folds, *(self.readings.notes if self.readings is not None else ()))


def class_counts(target: Target, codes: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, int]:
    """People per class; {"people": n} for a number."""
    if target.task == "number":
        return {"people": len(np.unique(groups))}
    return {label: len(np.unique(groups[codes == index])) for index, label in enumerate(target.classes)}


def like_the_fit(settings: StudySettings) -> StudySettings:
    """With fit=, settings that are not given are those of that head; `prepared` is that of this test alone.

    `seen` and `duplicates` are always those of the head, for they are about the people that it learned from; what was
    given here is about the people to be tested (`Policies`).
    """
    if settings.fit is None:
        return settings
    given = settings.model_fields_set - {"seen", "duplicates"}
    explicit = settings.model_dump(mode="json", by_alias=True, include=given)
    fitted = read(settings.fit, ("classify",))
    # Paths in its settings were written where it was started; its inputs are found wherever this is.
    if any(isinstance(head, Mapping) and head.get("kind") == "run" for head in fitted.config.get("heads", [])[:1]):
        raise UserError(
            f"{settings.fit}: its first classifier is a trained network, of which no head was kept; give a study whose first head "
            "is one on latents."
        )
    found = {
        name: [_place(fitted, name, item) for item in items]
        for name, items in fitted.inputs.items()
        if name not in explicit and name not in ("heads", "readers")
    }
    paths = {name: places[0] if name in ("table", "fit") else places for name, places in found.items()}
    return type(settings).model_validate(fitted.config | paths | {"prepared": None, "readers": None} | explicit)


def _place(fitted: Artefact, name: str, item: Mapping[str, Any]) -> str:
    """Where an input of a fitted head is now; one that the test of a head does not open may be gone."""
    if name in ("latents", "beside", "table"):
        return str(input_of(fitted, item, f"give {name}="))
    return str(find_input(fitted, item) or item["path"])


def open_question(request: StudySettings) -> Question:
    """Open everything and check it, before anything is fitted.

    Raises:
        UserError: see the functions that do it; fewer than 10 people.
    """
    settings = like_the_fit(request)
    features = opened_features(settings, settings.latents or (), settings.beside)
    everybody = frozenset(features.table["subject"].astype(str))
    column = column_of(features.table, settings.target)
    networks = () if settings.external is not None else open_networks(settings.heads)
    target = _target(column, settings, networks)
    features, codes = with_answers(features, target)
    for network in networks:
        network.check_labels(features.table, target)
    num = features.table["subject"].nunique()
    if num < FEWEST_PEOPLE:
        raise UserError(
            f"{num} people have a {target.name} to predict; at least {FEWEST_PEOPLE} are needed, so add people."
        )
    synthetic, synthetic_codes = _synthetic(settings, features, target)
    seen_by = features.seen_by(synthetic.seen if synthetic is not None else None)
    cleared = BEHIND_FEATURES.clear(features.table, seen_by, settings.seen)
    kept = np.flatnonzero(cleared.usable)
    features, codes, testable = features.take(kept), codes[kept], cleared.testable[kept]
    _refuse_constant(features)
    if any(isinstance(head, SvmSettings) for head in settings.heads):
        announce_memory(
            f"the inner products of {len(features)} scans (svm)", 4 * 8 * len(features) ** 2, "leave svm out of heads"
        )
    external = settings.external is not None  # the voxels of both cohorts are read together, see `open_external`
    voxels, voxel_notes = ((), ()) if external else open_voxels(settings, features)
    pairs = _duplicates(features, voxels)
    sentences = judge_duplicates(pairs, settings.duplicates)
    unlike = () if voxels or features.values.shape[2] else (NOT_COMPARED,)
    notes = (
        *features.notes,
        *cleared.notes,
        *voxel_notes,
        *unlike,
        *(sentences if settings.duplicates == "merge" else ()),
    )
    waivers = (*cleared.waivers, *(sentences if settings.duplicates == "waive" else ()))
    subjects = features.table["subject"].astype(str).tolist()
    question = Question(
        settings,
        features,
        target,
        codes,
        groups_of(subjects, pairs if settings.duplicates == "merge" else ()),
        testable,
        voxels,
        tuple(pairs),
        synthetic,
        synthetic_codes,
        cleared.num_seen,
        notes,
        waivers,
        "; ".join(voxel_notes),
        networks,
    )
    if settings.untrained and not external:
        scans = prepared_behind(settings, features)
        question = replace(question, untrained=untrained_features(scans, features.table["key"].astype(str).tolist()))
    if settings.genotypes is not None:
        if target.task == "number":
            raise UserError(
                f"genotypes= compares classifiers, and {target.name} is a number; name classes= of it, or leave out genotypes=."
            )
        genes = open_genes(settings.genotypes, features.table, question.groups)
        question = replace(question, genes=genes, everybody=everybody, notes=(*notes, *genes.notes(features.table)))
        for fold in genes.folds(question.folds):
            require_all_classes(question.layout, fold, target, f"people with genes, fold {fold.number + 1}")
    if settings.readers is not None and not external:
        tested = np.unique(np.concatenate([fold.test for fold in question.folds]))
        question = replace(question, readings=readings_of(settings, features.table.iloc[tested], target))
    if not external:
        assert question.folds, (
            "make_folds refuses what has none"
        )  # made here, so that a split that is impossible stops the verb at once
    return question


def _target(column: pd.Series, settings: StudySettings, networks: Sequence[Network]) -> Target:
    """The target of the settings; classes and task that are not given are those that the networks were trained for.

    Raises:
        UserError: a network predicts something else, or see `make_target`.
    """
    classes, task = settings.classes, settings.task
    if networks and networks[0].run.target.name == settings.target:
        trained = networks[0].run.target
        classes, task = (classes or trained.classes or None), task or trained.task
    target = make_target(column, settings.target, classes, task)
    shared_target(networks, target)
    return target


def readings_of(settings: StudySettings, tested: pd.DataFrame, target: Target) -> ReaderScores | None:
    """The readers of the people who are tested, None where there is no table of them."""
    if settings.readers is None:
        return None
    return open_readings(settings.readers, tested, target, settings.reader_threshold)


def opened_features(settings: StudySettings, folders: Sequence[Path], beside: Sequence[Path]) -> Features:
    """The scans of some folders that a study is about, with its further columns.

    Raises:
        UserError: no scan of a person is left.
    """
    features = open_features(folders, beside) if folders else scans_alone(settings.prepared or ())
    if settings.table is not None:
        features = with_columns(features, settings.table)
    features = only_those(features, settings.only) if settings.only else features
    features = one_scan_each(features, settings.sessions)
    if not len(features):
        where = (*folders, *(settings.prepared or ()))[0]
        raise UserError(f"{where}: holds planted copies or synthetic scans only; give latents of people.")
    return features


def _synthetic(
    settings: StudySettings, features: Features, target: Target
) -> tuple[Features | None, NDArray[np.float64]]:
    """Synthetic scans that were drawn as one of the classes."""
    if settings.synthetic is None:
        return None, np.empty(0)
    synthetic = open_features(settings.synthetic)
    require_one_space([features.space, synthetic.space])
    generated = synthetic.table.get("generator")
    if generated is None or any(as_label(value) == "" for value in generated) or is_twin(synthetic.table).any():
        raise UserError(
            f"{settings.synthetic[0]}: holds scans of people; synthetic= takes what `gen3d sample` drew, encoded."
        )
    codes = target.codes(column_of(synthetic.table, target.name))
    known = np.flatnonzero(np.isfinite(codes))
    if not len(known):
        raise UserError(
            f"{settings.synthetic[0]}: no synthetic scan has a {target.name} among the classes; draw scans of these classes."
        )
    return synthetic.take(known), codes[known]


def _refuse_constant(features: Features) -> None:
    if not features.values.shape[2]:  # networks alone
        return
    spread = np.ptp(np.asarray(features.values, dtype=np.float64), axis=1)
    if not np.isfinite(spread).all():
        raise UserError(f"the features hold NaN or infinite values ({features.words}); encode again.")
    if not (spread > 0).any():
        raise UserError(
            f"the features are identical for everybody ({features.words}): the VAE has collapsed; train it with a lower model.beta."
        )


def _duplicates(features: Features, voxels: Sequence[Voxels]) -> list[Pair]:
    """The same person under two ids: by voxels where there are any, else by latents; without both by equal scans alone."""
    vectors = voxels[0].values if voxels else features.values[0]
    subjects = features.table["subject"].astype(str).tolist()
    found = find_duplicates(vectors, subjects) if vectors.shape[1] else []
    return _with_equal_scans(found, features.table)


def _with_equal_scans(found: list[Pair], table: pd.DataFrame) -> list[Pair]:
    """The pairs, and people with one scan who are not among them."""
    known = {(pair.first, pair.second) for pair in found}
    return [*(pair for pair in equal_scans(table) if (pair.first, pair.second) not in known), *found]
