"""The people of a classifier: who has a label, in which fold, and who only watches a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import is_synthetic, is_twin, subject_hash
from gen3d.cohort.scores_folder import MAIN, PERMUTED, TWIN, is_classifier, read_scores
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.session_order import first_scans
from gen3d.cohort.target import Target, make_target
from gen3d.cohort.tested_folds import STUDY, blind_in_folds
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.progress import warn
from gen3d.models.run_folder import TRAIN, read_seen
from gen3d.models.supervised.label_config import LabelConfig

Rows = NDArray[np.int64]
FOLDS, WATCHING, SHUFFLED = 0, 1, 2
"""Uses of the seed."""
NUM_STRATA = 5
"""Quantiles of a number over which its people are dealt."""
MOST_NAMED = 5


GroupsOf = Callable[[Sequence[str]], NDArray[Any]]
"""What each subject counts as when people are dealt, object [n]: those with the same never come on two sides."""


@dataclass(frozen=True)
class Share:
    """One member's part of the scans, by row: trained on, only watching, never seen; and the labels it learns [n]."""

    variant: str
    fold: int
    permutation: int | None
    training: Rows
    validation: Rows
    test: Rows
    labels: NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Scans with a label, a row each; `codes` [n] are class numbers or values; `folds` [n], all 0 with one fold."""

    frame: pd.DataFrame
    target: Target
    codes: NDArray[np.float64]
    folds: Rows
    num_folds: int
    shares: tuple[Share, ...]

    def num_people(self, rows: Rows) -> int:
        """LabelledPeople of these rows."""
        return int(self.frame["subject"].iloc[rows].nunique())

    def class_people(self, rows: Rows, labels: NDArray[np.float64]) -> NDArray[np.float32]:
        """LabelledPeople of every class among these rows with labels [n], [classes]."""
        chosen = pd.DataFrame({"subject": self.frame["subject"].iloc[rows].to_numpy(), "label": labels[rows]})
        people = chosen.drop_duplicates("subject")["label"].to_numpy().astype(np.int64)
        return np.bincount(people, minlength=len(self.target.classes)).astype(np.float32)


def choose_labelled(
    prepared: Prepared,
    config: LabelConfig,
    cross_fit: int,
    seed: int,
    given: GivenFolds | None = None,
    groups_of: GroupsOf | None = None,
) -> Labelled:
    """Everybody with a label, dealt over folds by person and shared out over the members.

    All roles count but `excluded`; planted twins and synthetic scans never do. Members: one per fold, then their twins with
    random weights where the network starts from learned ones, then those with permuted labels.

    Args:
        prepared: the scans.
        config: of the classifier.
        cross_fit: folds; with 1 a single member is trained on everybody.
        seed: of folds, of who watches, and of permutations.
        given: a run whose folds are taken.
        groups_of: people who stay on one side, such as relatives; none: everybody is a group.

    Raises:
        UserError: no such column, one class, a person of two classes, a class with fewer people than folds, people whom
            every member of the other run was trained on, or a group that is in two of its folds.
    """
    frame, target = _with_label(prepared, config)
    codes = target.codes(frame[target.name])
    if target.task != "number":
        _refuse_changing(frame, target, codes)
    people = LabelledPeople.of(frame, target, codes)
    dealt = people
    if groups_of is not None:
        dealt = LabelledPeople.of(frame.assign(subject=groups_of(frame["subject"].astype(str).tolist())), target, codes)
    if given is not None:
        folds = people.spread(given.deal(people, target, np.random.default_rng([seed, FOLDS])))
        num_folds = len(given.seen.members)
        _refuse_split(dealt, folds, given)
    else:
        dealt.require(cross_fit)
        folds, num_folds = dealt.spread(dealt.deal(cross_fit, np.random.default_rng([seed, FOLDS]))), cross_fit
    found = Labelled(frame, target, codes, folds, num_folds, ())
    variants: list[tuple[str, int, int | None]] = [(MAIN, k, None) for k in range(num_folds)]
    if config.has_twins:
        variants += [(TWIN, k, None) for k in range(num_folds)]
    variants += [(PERMUTED, number % num_folds, number) for number in range(config.permuted)]
    shares = [_share(found, dealt, people, config.validation, seed, *variant) for variant in variants]
    return Labelled(frame, target, codes, folds, num_folds, tuple(shares))


def real_scans(prepared: Prepared, column: str) -> pd.DataFrame:
    """Rows of the scans that labels may be learned from: not excluded, no planted twin, not synthetic.

    Raises:
        UserError: the table has no such column, or no such scan.
    """
    table = prepared.manifest
    if column not in table.columns:
        raise UserError(
            f"model.target={column}: the cohort table has no such column; it has "
            f"{', '.join(str(name) for name in table.columns if name not in ('key', 'folder'))}."
        )
    used = table[(table["role"] != "excluded") & ~is_twin(table) & ~is_synthetic(table)].reset_index(drop=True)
    if used.empty:
        raise UserError(f"{prepared.folders[0]}: no scan of a real person is left to learn from.")
    return used


def _with_label(prepared: Prepared, config: LabelConfig) -> tuple[pd.DataFrame, Target]:
    used = real_scans(prepared, config.target)
    if config.sessions == "first":
        first, unknown = first_scans(used)
        if unknown:
            warn(f"{_named(unknown)}: sessions in no plain order; the first by name is taken.")
        used = used[first].reset_index(drop=True)
    target = make_target(used[config.target], config.target, config.classes, config.task)
    if target.task != "categories" and config.imbalance == "adjusted":
        raise UserError(f"model.imbalance=adjusted is for categories, and {target.name} is {target.task}; use people.")
    known = np.isfinite(target.codes(used[config.target]))
    return used[known].reset_index(drop=True), target


def _refuse_changing(frame: pd.DataFrame, target: Target, codes: NDArray[np.float64]) -> None:
    labels = pd.Series(codes).groupby(frame["subject"].astype(str).to_numpy()).nunique()
    changing = sorted(labels.index[labels > 1])
    if changing:
        raise UserError(
            f"{target.name} changes between the sessions of {_named(changing)}, so these people would be in two classes; "
            "set model.sessions=first to use each person's first scan, or leave one of the classes out."
        )


def _refuse_split(dealt: LabelledPeople, folds: Rows, given: GivenFolds) -> None:
    """Refuse folds of another run that separate people who belong together."""
    groups = dealt.frame["subject"].astype(str).to_numpy()
    split = [group for group in dict.fromkeys(groups) if len(set(folds[groups == group])) > 1]
    if split:
        raise UserError(
            f"folds={given.folder}: its folds separate {len(split)} groups of relatives, who would be trained on and tested; "
            "train this one with cross_fit= first, and the other with folds= of this run."
        )


@dataclass(frozen=True)
class LabelledPeople:
    """LabelledPeople in an order that no table decides: stratum (class, or quantile of a number), site and sex of each [p]."""

    frame: pd.DataFrame
    target: Target
    subjects: NDArray[np.str_]
    strata: Rows
    sites: NDArray[np.str_]
    sexes: NDArray[np.str_]

    @classmethod
    def of(cls, frame: pd.DataFrame, target: Target, codes: NDArray[np.float64]) -> LabelledPeople:
        """The people of these scans, each by the first of theirs."""
        table = frame.assign(_code=codes, subject=frame["subject"].astype(str)).drop_duplicates("subject")
        table = table.loc[table["subject"].map(subject_hash).sort_values().index]
        values = table["_code"].to_numpy()
        if target.task == "number":
            cuts = np.quantile(values, np.linspace(0, 1, NUM_STRATA + 1)[1:-1])
            strata = np.searchsorted(cuts, values, side="right")
        else:
            strata = values
        words = {
            name: table[name].fillna("").astype(str).to_numpy(dtype=np.str_) for name in ("subject", "site", "sex")
        }
        return cls(frame, target, words["subject"], strata.astype(np.int64), words["site"], words["sex"])

    def require(self, num_folds: int) -> None:
        """Refuse folds that some class has too few people for; two of every class are needed to learn at all."""
        if self.target.task == "number":
            if len(self.subjects) < 2 * num_folds:
                raise UserError(
                    f"{self.target.name}: {len(self.subjects)} people are too few for {num_folds} folds; add people or "
                    "lower cross_fit=."
                )
            return
        for code, name in enumerate(self.target.classes):
            num = int((self.strata == code).sum())
            if num < max(2, num_folds):
                remedy = f"set cross_fit={num}" if num >= 3 else "add people"
                folds = f", fewer than the {num_folds} folds" if num_folds > 1 else ", too few to learn from"
                raise UserError(
                    f"{self.target.name}: {num} people are {name}{folds}; {remedy}, or leave the class out of model.classes."
                )

    def deal(self, num_folds: int, generator: np.random.Generator, among: NDArray[np.bool_] | None = None) -> Rows:
        """A fold of every person [p], -1 for those not `among`: each in random order to the fold with fewest of the class,
        then of the class at the site, then of the class and sex, then of all."""
        fold = np.full(len(self.subjects), -1, dtype=np.int64)
        counts: dict[tuple[object, ...], NDArray[np.int64]] = {}
        for person in generator.permutation(len(self.subjects)):
            if among is not None and not among[person]:
                continue
            stratum, site, sex = int(self.strata[person]), str(self.sites[person]), str(self.sexes[person])
            keys: list[tuple[object, ...]] = [(stratum,), (stratum, site, ""), (stratum, "", sex), ()]
            loads = [counts.setdefault(key, np.zeros(num_folds, dtype=np.int64)) for key in keys]
            fold[person] = np.lexsort((generator.random(num_folds), *reversed(loads)))[0]
            for load in loads:
                load[fold[person]] += 1
        return fold

    def watching(self, share: float, among: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_]:
        """The people who only watch [p]: this share of every class, at least one where the class has two, over sites and sexes."""
        chosen = np.zeros(len(self.subjects), dtype=bool)
        for stratum in np.unique(self.strata[among]) if share > 0 else ():
            inside = among & (self.strata == stratum)
            num, total = max(1, round(share * inside.sum())), int(inside.sum())
            if total < 2:
                continue
            rows = generator.permutation(np.flatnonzero(inside))
            rows = rows[np.lexsort((self.sexes[rows], self.sites[rows]))]
            first = generator.random()  # evenly spaced places in the order of sites and sexes
            chosen[rows[np.floor((np.arange(num) + first) * total / num).astype(np.int64)]] = True
        return chosen

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """A value of every person [p] as one of every scan [n]."""
        of = dict(zip(self.subjects.tolist(), values.tolist(), strict=True))
        return np.array([of[str(subject)] for subject in self.frame["subject"]], dtype=values.dtype)

    def permuted(self, codes: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
        """Labels [n] after people of the same site have exchanged theirs; of a number, that of a person's first scan."""
        first = {str(s): code for s, code in zip(reversed(self.frame["subject"].tolist()), codes[::-1], strict=True)}
        labels = np.array([first[subject] for subject in self.subjects])
        for site in np.unique(self.sites):
            rows = np.flatnonzero(self.sites == site)
            labels[rows] = labels[generator.permutation(rows)]
        of = dict(zip(self.subjects.tolist(), labels.tolist(), strict=True))
        return np.array([of[str(subject)] for subject in self.frame["subject"]])


def _share(
    found: Labelled,
    dealt: LabelledPeople,
    people: LabelledPeople,
    watching: float,
    seed: int,
    variant: str,
    fold: int,
    permutation: int | None,
) -> Share:
    """A member's part; variants of a fold have the same people in the same parts, and nobody's group is on two sides."""
    alone = found.num_folds == 1
    labels = found.codes
    if permutation is not None:
        labels = people.permuted(labels, np.random.default_rng([seed, SHUFFLED, permutation]))
    of_group = dict(zip(dealt.frame["subject"].astype(str), found.folds, strict=True))
    learners = np.array([alone or of_group[subject] != fold for subject in dealt.subjects])
    watchers = dealt.spread(dealt.watching(watching, learners, np.random.default_rng([seed, WATCHING, fold])))
    inside = alone | (found.folds != fold)
    return Share(
        variant,
        fold,
        permutation,
        training=np.flatnonzero(inside & ~watchers),
        validation=np.flatnonzero(watchers),
        test=np.flatnonzero(~inside),
        labels=labels,
    )


@dataclass(frozen=True)
class GivenFolds:
    """The folds of another cross-fitted run, or of a study: who is in fold k was not seen by its member k."""

    folder: Path
    seen: SeenBy

    @classmethod
    def of(cls, folder: Path) -> GivenFolds:
        """Those of a run: a classifier's, or of a model behind latents, so that both test everybody in the same fold; or those of
        a study of `gen3d classify`, of its first repeat.

        Raises:
            UserError: not a finished run of `gen3d train` or study, or one with a single member.
        """
        if read(folder, (TRAIN, STUDY)).verb == STUDY:
            return cls(folder, blind_in_folds(folder))
        seen = read_seen(folder)
        if is_classifier(folder):
            members = sorted(read_scores(folder).of(), key=lambda member: member.fold)
            seen = SeenBy(tuple(seen.members[member.index] for member in members))
        if len(seen.members) < 2:
            raise UserError(f"folds={folder}: a run with one member has no folds; give one with cross_fit above 2.")
        return cls(folder, seen)

    def deal(self, people: LabelledPeople, target: Target, generator: np.random.Generator) -> Rows:
        """The fold of every person [p]; people whom no member saw are dealt over all folds.

        Raises:
            UserError: people whom every member saw, or a class that is missing in a fold.
        """
        blind = self.seen.blind(people.frame)
        first: dict[str, int] = {}
        for row, subject in enumerate(people.frame["subject"].astype(str)):
            first.setdefault(subject, row)
        of_person = blind[:, [first[str(subject)] for subject in people.subjects]]
        seen_by_all = [str(subject) for subject in people.subjects[~of_person.any(axis=0)]]
        if seen_by_all:
            raise UserError(
                f"folds={self.folder}: every member of that run was trained on {len(seen_by_all)} of {len(people.subjects)} people "
                f"with {target.name} ({_named(seen_by_all)}); give a cross-fitted run, or other people."
            )
        free = of_person.sum(axis=0) > 1
        fold = np.where(free, people.deal(len(of_person), generator, among=free), of_person.argmax(axis=0))
        for code, name in enumerate(target.classes):
            empty = sorted(set(range(len(of_person))) - set(fold[people.strata == code].tolist()))
            if empty:
                raise UserError(f"folds={self.folder}: nobody in its fold {empty[0] + 1} is {name}; use other folds.")
        return np.asarray(fold, dtype=np.int64)


def _named(subjects: list[str]) -> str:
    return ", ".join(subjects[:MOST_NAMED]) + (" and others" if len(subjects) > MOST_NAMED else "")
