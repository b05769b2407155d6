"""The people that a finished head is tested on: who they are, who was excluded, and the voxels of both cohorts together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.study.baselines import read_voxels
from gen3d.classify.study.features import Features
from gen3d.classify.study.question import (
    BEHIND_FEATURES,
    Question,
    class_counts,
    opened_features,
    readings_of,
)
from gen3d.classify.study.scans import SWITCHED_OFF, prepared_behind
from gen3d.classify.study.selection import with_answers
from gen3d.classify.study.untrained import untrained_features
from gen3d.cohort.duplicates import Duplicates, Pair, find_duplicates, judge_duplicates
from gen3d.cohort.latents_folder import require_one_space
from gen3d.cohort.seen import TRAINING, Guard, SeenBy, SeenPolicy, named
from gen3d.core.errors import UserError

HEAD = Guard("the head to be tested", "a test of them would be too good", "give other people")


@dataclass(frozen=True)
class Policies:
    """What to do with people of an external test who were seen by a model, or who look like a training person."""

    seen: SeenPolicy
    duplicates: Duplicates


@dataclass(frozen=True)
class TestedPeople:
    """What the record of a study says of the people it tested: `counts` per class, exclusions, waivers and duplicates."""

    counts: dict[str, int]
    notes: tuple[str, ...]
    waivers: tuple[str, ...]
    num_seen: int
    policies: Policies
    pairs: tuple[Pair, ...]

    @classmethod
    def of(cls, question: Question) -> TestedPeople:
        """Those of a cross-validation: the people of the question."""
        policies = Policies(question.settings.seen, question.settings.duplicates)
        return cls(question.counts(), question.all_notes, question.waivers, question.num_seen, policies, question.pairs)


@dataclass(frozen=True)
class External:
    """Other people in the same space: `features` and `codes` [m]; the question with the voxels of both cohorts."""

    question: Question
    features: Features
    codes: NDArray[np.float64]
    people: TestedPeople

    def plan(self) -> list[str]:
        """Who would be tested."""
        counts = ", ".join(f"{label} {count}" for label, count in self.people.counts.items())
        num = self.features.table["subject"].nunique()
        return [f"tests the head on {num} other people ({counts})", *self.people.notes, *self.people.waivers]


def open_external(question: Question, policies: Policies, asked: Collection[str]) -> External:
    """Open the people of external=.

    `policies` are about people on whom the head, or a model behind the features, was trained; those of the study that
    fitted the head were about its own people. `asked`: settings of this test itself; voxels=true and untrained=true among them
    may not be left out.

    Raises:
        UserError: another space, nobody of any class, or people on whom the head or a model behind it was trained.
    """
    settings = question.settings
    assert settings.external is not None
    features = opened_features(settings, settings.external, ())
    require_one_space([question.features.space, features.space], families=True)
    if features.harmonised:
        raise UserError(
            f"{settings.external[0]}: latents that were harmonised separately are not one space; give raw latents and "
            "harmonise.by=site, which harmonises within the head."
        )
    features, codes = with_answers(features, question.target)
    if not len(features):
        raise UserError(
            f"{settings.external[0]}: nobody there has a {question.target.name} among {', '.join(question.target.classes)}."
        )
    learned = SeenBy.rows(question.features.table, TRAINING)
    # A test on the training people of the head is worthless: they can be excluded, but never waived.
    unseen_by_head = HEAD.clear(
        features.table, learned.seen_by(features.table), "leave_out" if policies.seen == "leave_out" else "refuse"
    )
    features, codes = features.take(np.flatnonzero(unseen_by_head.testable)), codes[unseen_by_head.testable]
    cleared = BEHIND_FEATURES.clear(features.table, features.seen_by(), policies.seen)
    kept = np.flatnonzero(cleared.testable)
    features, codes = features.take(kept), codes[kept]
    pairs = _known_under_another_id(question, features)
    taken_for_others = _judged(pairs, policies.duplicates)
    question = _with_voxels(question, features, "voxels" in asked)
    question, without_untrained = _with_untrained(question, features, "untrained" in asked)
    question = replace(question, readings=readings_of(settings, features.table, question.target))
    notes = (*features.notes, *unseen_by_head.notes, *cleared.notes, *filter(None, [question.without_voxels]))
    notes += without_untrained
    notes += question.readings.notes if question.readings is not None else ()
    notes += tuple(f"when the head was fitted: {waiver}" for waiver in question.waivers)
    people = TestedPeople(
        class_counts(question.target, codes, np.unique(features.table["subject"], return_inverse=True)[1]),
        notes,
        (*cleared.waivers, *taken_for_others),
        cleared.num_seen,
        policies,
        tuple(pairs),
    )
    return External(question, features, codes, people)


def _known_under_another_id(question: Question, features: Features) -> list[Pair]:
    """People to be tested whose scans look like those of a training person of the head."""
    learned = question.features.table["subject"].astype(str).tolist()
    vectors = np.concatenate([question.features.values[0], features.values[0]])
    pairs = find_duplicates(vectors, [*learned, *features.table["subject"].astype(str)])
    return [pair for pair in pairs if (pair.first in learned) != (pair.second in learned)]


def _judged(pairs: list[Pair], policy: Duplicates) -> tuple[str, ...]:
    """The waiver about pairs of a training and a tested person; a pair cannot be merged across training and test.

    Raises:
        UserError: without a waiver, naming the pairs.
    """
    if not pairs or policy == "waive":
        return judge_duplicates(pairs, policy)
    listing = named([f"{pair.first} and {pair.second} (r {pair.similarity:.3f})" for pair in pairs])
    raise UserError(
        f"{len(pairs)} pair(s) of a tested and a training person look like one person each: {listing}; leave these people out "
        "of external=, or set duplicates=waive if they are different people."
    )


def _with_voxels(question: Question, features: Features, asked: bool) -> Question:
    """The question with the voxels of training and tested scans, or with the reason why there are none.

    Raises:
        UserError: `voxels=true` was asked for and is impossible.
    """
    settings = question.settings
    if not settings.voxels:
        return replace(question, without_voxels=SWITCHED_OFF)
    keys = _keys_of_both(question, features)
    try:
        prepared = prepared_behind(settings, features)
        absent = sorted(set(keys) - set(prepared.manifest["key"].astype(str)))
        if absent:
            raise UserError(
                f"{prepared.folders[0]}: lacks the scan {absent[0]}; give prepared=FOLDERS of both cohorts."
            )
        return replace(question, voxels=read_voxels(prepared, keys), without_voxels="")
    except UserError as error:
        if asked:
            raise
        return replace(question, without_voxels=f"the voxel-wise baseline could not be run ({str(error).rstrip('.')})")


def _with_untrained(question: Question, features: Features, asked: bool) -> tuple[Question, tuple[str, ...]]:
    """The question with the untrained network of training and tested scans, where it was asked for; and a note if it cannot be.

    Raises:
        UserError: `untrained=true` was asked for this test and is impossible.
    """
    settings = question.settings
    if not settings.untrained:
        return question, ()
    try:
        scans = prepared_behind(settings, features)
        return replace(question, untrained=untrained_features(scans, _keys_of_both(question, features))), ()
    except UserError as error:
        if asked:
            raise
        return question, (f"the untrained network could not be run ({str(error).rstrip('.')})",)


def _keys_of_both(question: Question, features: Features) -> list[str]:
    return pd.concat([question.features.table["key"], features.table["key"]]).astype(str).tolist()
