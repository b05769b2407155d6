"""Trained classifiers as contestants: whose scores each member has, checked against everybody that the member saw.

A run of `gen3d train model.kind=classifier cross_fit=K` scored everybody by the member that never saw the person. Its folds become
those of the study, so that heads and baselines learn from the same people and are tested on the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.folder import twin_of
from gen3d.classify.heads.settings import RunSettings
from gen3d.cohort.fusion_folder import of_subset
from gen3d.cohort.scores_chosen import chosen_in_each_fold
from gen3d.cohort.scores_folder import MAIN, PERMUTED, TEST, TWIN, RunScores, ScoredMember, read_scores
from gen3d.cohort.scores_repeated import repeated
from gen3d.cohort.seen import identities, named
from gen3d.cohort.target import Rows, Target, as_label
from gen3d.core.errors import UserError

Index = NDArray[np.int64]
AGAIN = "train it again"
NUMBER_TOLERANCE = 1e-5
"""Of a number that was a label, which tables hold to six digits."""


@dataclass(frozen=True)
class Network:
    """A run under the name that tables have for it."""

    name: str
    run: RunScores
    choice: tuple[str, ...] = ()
    """The run that was chosen in each fold, by its folder's name; empty where there was no choice."""
    repeats: int = 1
    """Trainings with other seeds, each with folds of its own; folds are counted through all of them."""

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.run.folder

    @property
    def description(self) -> str:
        """`network r3d_18 on t1w`."""
        return f"network {self.run.network} on {' and '.join(self.run.channels)}"

    @property
    def num_folds(self) -> int:
        """Folds that it was trained in, of all repeats."""
        return len(self.run.of(MAIN))

    @property
    def folds_each(self) -> int:
        """Folds of one repeat."""
        return self.num_folds // self.repeats

    @property
    def has_twin(self) -> bool:
        """Whether the same network with random weights was trained in every fold."""
        return len(self.run.of(TWIN)) == self.num_folds

    @property
    def twin_name(self) -> str:
        """As tables call the twin."""
        return twin_of(self.name)

    @property
    def permuted(self) -> dict[int, tuple[ScoredMember, ...]]:
        """Members that were trained with permuted labels, by the number of the permutation."""
        numbers = sorted({member.permutation or 0 for member in self.run.of(PERMUTED)})
        return {
            number: tuple(member for member in self.run.of(PERMUTED) if (member.permutation or 0) == number)
            for number in numbers
        }

    @cached_property
    def _rows(self) -> dict[int, dict[str, int]]:
        """Member -> scan -> row of its score."""
        rows: dict[int, dict[str, int]] = {}
        table = self.run.table
        for row, (member, key) in enumerate(zip(table["member"], table["key"], strict=True)):
            rows.setdefault(int(member), {})[str(key)] = row
        return rows

    def scores(self, member: int, keys: Sequence[str]) -> NDArray[np.float64]:
        """Raw scores of scans by one member, NaN for those that it has none of, [n, scores]."""
        places = self._rows.get(member, {})
        found = np.full((len(keys), self.run.num_scores), np.nan)
        rows = np.array([places.get(str(key), -1) for key in keys], dtype=np.int64)
        found[rows >= 0] = self.run.scores(self.run.table.iloc[rows[rows >= 0]])
        return found

    def rows(self, member: int, table: pd.DataFrame) -> Rows:
        """Scans as a recipe takes them: scores of a member instead of features."""
        return Rows(self.scores(member, table["key"].astype(str).tolist()), table)

    def fold_of(self, table: pd.DataFrame) -> Index:
        """The fold in which each scan is tested in every repeat, -1 for those without a score, [repeats, n].

        Raises:
            UserError: a person whom a member of the fold was trained on or watched by, or who is tested in two folds.
        """
        folds = np.full((self.repeats, len(table)), -1, dtype=np.int64)
        keys, blind = table["key"].astype(str), self.run.seen.blind(table)
        for member in self.run.members:
            tested = keys.isin(set(self.run.rows(member.index, TEST)["key"].astype(str))).to_numpy()
            known = tested & ~blind[member.index]
            if known.any():
                people = table.loc[known, "subject"].astype(str).drop_duplicates().tolist()
                raise UserError(
                    f"{self.folder}: {len(people)} people ({named(people)}) have scores as people who were held out from the "
                    f"member {member.index} (fold {member.fold % self.folds_each + 1}), which was trained on them or watched by "
                    f"them; {AGAIN}."
                )
            if member.variant == MAIN:
                repeat = member.fold // self.folds_each
                folds[repeat] = self._set(folds[repeat], tested, member.fold, table)
        return folds

    def _set(self, folds: Index, tested: NDArray[np.bool_], fold: int, table: pd.DataFrame) -> Index:
        twice = tested & (folds >= 0)
        if twice.any():
            raise UserError(
                f"{self.folder}: {table.loc[twice, 'subject'].iloc[0]} is tested in the folds "
                f"{folds[twice][0] % self.folds_each + 1} and {fold % self.folds_each + 1}; {AGAIN}."
            )
        return np.where(tested, fold, folds)

    def learned(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether the member of a fold was trained on the person of a scan or watched by that person, [folds, n]."""
        blind = self.run.seen.blind(table)
        return np.stack([~blind[member.index] for member in self.run.of(MAIN)])

    def num_others(self, table: pd.DataFrame) -> int:
        """People that it was trained on, and that the table does not have."""
        everybody = {person for people in self.run.seen.subjects for person in people}
        here = {person[0] for person in identities(table)}
        return len(everybody - here)

    def check_labels(self, table: pd.DataFrame, target: Target) -> None:
        """Compare the labels that it was trained for with the column to predict.

        Raises:
            UserError: they differ for somebody.
        """
        members = [member.index for member in self.run.of(MAIN)]
        trained = self.run.table[self.run.table["member"].isin(members)]
        labels: Mapping[str, object] = dict(zip(trained["key"].astype(str), trained["label"], strict=True))
        differ = [
            str(subject)
            for key, subject, value in zip(table["key"].astype(str), table["subject"], table[target.name], strict=True)
            if key in labels and not _same(labels[key], value, target)
        ]
        if differ:
            people = list(dict.fromkeys(differ))
            raise UserError(
                f"{self.folder}: was trained with another {target.name} of {len(people)} people ({named(people)}) than the table "
                "has; give the table= that it was trained with, or train it again."
            )


def _same(trained: object, value: object, target: Target) -> bool:
    if target.task != "number":
        return as_label(trained) == as_label(value)
    one, two = (float(pd.to_numeric(pd.Series([item]), errors="coerce").iloc[0]) for item in (trained, value))
    return bool(np.isclose(one, two, rtol=NUMBER_TOLERANCE))


def open_networks(heads: Sequence[object]) -> tuple[Network, ...]:
    """The runs among the heads of a study.

    Raises:
        UserError: no classifier run, or one that tests nobody.
    """
    networks = tuple(_network(head) for head in heads if isinstance(head, RunSettings))
    for network in networks:
        if network.num_folds < 2 or network.run.table.empty:
            raise UserError(
                f"{network.folder}: has {network.num_folds} network, so that nobody was held out to be tested; train with "
                "cross_fit=5, and everybody is scored by a network that never saw the person."
            )
        if [member.fold for member in network.run.of(MAIN)] != list(range(network.num_folds)):
            raise UserError(f"{network.folder}: damaged (its networks are not one per fold); {AGAIN}.")
    return networks


def _network(head: RunSettings) -> Network:
    if head.again:
        each = [of_subset(read_scores(folder), head.subset) for folder in head.repeats]
        return Network(head.called, repeated(each), repeats=len(each))
    runs = [of_subset(read_scores(folder), head.subset) for folder in head.candidates]
    if len(runs) == 1:
        return Network(head.called, runs[0])
    for run in runs:
        if len(run.of(MAIN)) < 2:
            raise UserError(
                f"{run.folder}: has one network, so that there is no fold to choose it in; train with cross_fit=5."
            )
    chosen, choice = chosen_in_each_fold(runs)
    return Network(head.called, chosen, tuple(runs[place].folder.resolve().name for place in choice))


def shared_target(networks: Sequence[Network], target: Target) -> None:
    """Check that all networks predict what the study asks.

    Raises:
        UserError: one predicts another column, other classes, or the same in another order.
    """
    for network in networks:
        theirs = network.run.target
        if theirs != target:
            raise UserError(
                f"{network.folder}: predicts {_whole(theirs)}, and this study {_whole(target)}; give the same target=, classes= "
                "and task=, or train it for these."
            )


def _whole(target: Target) -> str:
    """`diagnosis (AD against CN, as categories)`."""
    kind = {"categories": "categories", "ordered": "ordered grades", "number": "a number"}[target.task]
    return f"{target.describe()} as {kind}"
