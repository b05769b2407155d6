"""What models that learn labels have in common: members per fold, looks at people who watch, and scores of whom they never saw."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.scores_folder import TEST, VALIDATION, ScoredMember, score_columns, write_description, write_scores
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import track
from gen3d.core.work_arrays import save_array
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.run_folder import weights_path
from gen3d.models.supervised.losses import num_scores
from gen3d.models.weights import fill, read_weights, statistics_in
from gen3d.train.engine.processes import Processes
from gen3d.train.labelled import Labelled
from gen3d.train.log import Painter
from gen3d.train.looks import best_of, look_steps, read_looks
from gen3d.train.material import TrainingMaterial
from gen3d.train.settings import TrainSettings

PART = "scores.npy"
"""In a member's folder until the run is finished: its scores of the people it did not learn from."""


class GivesScores(Protocol):
    """What gives the scores of rows."""

    at_once: ClassVar[int]
    """Rows that are scored together."""

    def scores(self, model: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Raw scores [n, num_scores]."""


@dataclass(frozen=True)
class ScoredMaterial(TrainingMaterial):
    """People with a label, and the share of each member."""

    prepared: Prepared
    labelled: Labelled
    settings: TrainSettings

    unused: ClassVar[frozenset[str]] = frozenset({"picture_every"})

    @property
    @abstractmethod
    def network_name(self) -> str:
        """What tables call the network."""

    @property
    @abstractmethod
    def watching(self) -> tuple[float, int]:
        """Share of the training people who only watch, and how many looks they take."""

    @abstractmethod
    def _scorer(self, member: int) -> GivesScores:
        """What scores people by a member."""

    def seen(self) -> SeenBy:
        """Everybody that a member was trained on or watched by: its weights were chosen by both."""
        members = []
        for share in self.labelled.shares:
            chosen = self.people.frame.iloc[np.concatenate([share.training, share.validation])]
            members.append(recorded(chosen, chosen["role"].tolist()))
        return SeenBy(tuple(members))

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        """None are needed."""
        return self.blank

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    def look_steps(self, member: int, steps: int) -> list[int]:
        watched = len(self.labelled.shares[member].validation)
        return look_steps(steps, self.watching[1] if watched else 1)

    def trained(self, member: int, processes: Processes) -> Model:
        """A member with its final weights, ready to score."""
        config, weights = self._complete, weights_path(self.settings.out, member)
        tensors = read_weights(weights, self.plan.key, config.kind)
        model = config.build(self.plan, self.channels, statistics_in(weights, tensors), 1)
        fill(weights, model, tensors)
        return model.to(self.settings.engine.chosen_device(processes.local_rank)).eval()

    @property
    def _complete(self) -> BaseModelConfig:
        return self.completed(self.settings.model)

    def after(self, member: int, processes: Processes) -> None:
        """Score the people that a member did not learn from; every process takes a share of them."""
        path = self._part(member)
        if processes.from_first(path.is_file()):
            return
        model = self.trained(member, processes)
        found = self._scored_by(self._scorer(member), model, member, processes)
        processes.on_first(lambda: save_array(path, found))

    def _scored_by(self, scorer: GivesScores, model: Model, member: int, processes: Processes) -> NDArray[np.float64]:
        """Scores of `scored_rows` [n, num_scores].

        Raises:
            UserError: they are not finite.
        """
        rows = self.scored_rows(member)
        mine = np.arange(processes.rank, len(rows), processes.num)
        found = np.zeros((len(rows), self._num_scores))
        starts = range(0, len(mine), scorer.at_once)
        for start in track(starts, f"scoring member {member + 1}") if starts else ():
            places = mine[start : start + scorer.at_once]
            found[places] = scorer.scores(model, rows[places])
        found = processes.sum_array(found)
        if not np.isfinite(found).all():
            raise UserError(
                f"{weights_path(self.settings.out, member)}: its scores are not finite; train again with a lower "
                "optim.learning_rate."
            )
        return found

    @property
    def _num_scores(self) -> int:
        return num_scores(self.labelled.target)

    def _part(self, member: int, name: str = PART) -> Path:
        return weights_path(self.settings.out, member).with_name(name)

    def scored_rows(self, member: int) -> NDArray[np.int64]:
        """Rows of the people whom a member scores: those who watched, then those it never saw."""
        share = self.labelled.shares[member]
        return np.concatenate([share.validation, share.test])

    def finish(self, processes: Processes) -> None:
        """Write scores.tsv and classifier.json; then let go of what was only needed until here."""
        if not processes.first:
            return
        write_scores(self.settings.out, self._scores_table())
        self._write_description()
        for member in range(self.num_members):
            self._part(member).unlink()

    def _scores_table(self, part: str = PART) -> pd.DataFrame:
        tables = []
        for member, share in enumerate(self.labelled.shares):
            rows = self.scored_rows(member)
            table = self.people.frame.iloc[rows][["key", "subject", "session"]].reset_index(drop=True)
            table["member"] = member
            table["part"] = [VALIDATION] * len(share.validation) + [TEST] * len(share.test)
            table["label"] = [self._label(code) for code in share.labels[rows]]
            values = np.load(self._part(member, part), allow_pickle=False)
            tables.append(table.join(pd.DataFrame(values, columns=score_columns(self._num_scores))))
        return pd.concat(tables, ignore_index=True)

    def _label(self, code: float) -> str | float:
        target = self.labelled.target
        return float(code) if target.task == "number" else target.classes[int(code)]

    def _write_description(self) -> None:
        members = []
        for index, share in enumerate(self.labelled.shares):
            looks = read_looks(weights_path(self.settings.out, index).parent)
            members.append(
                ScoredMember(index, share.variant, share.fold, share.permutation, tuple(looks), best_of(looks))
            )
        write_description(
            self.settings.out,
            self.labelled.target,
            self.network_name,
            self._complete.form,
            self.channels,
            self.watching[0],
            self.labelled.num_folds,
            members,
        )

    def describe(self, work: Work) -> None:
        super().describe(work)
        self._write_description()

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter | None:
        """None: what a network looks at is shown by `gen3d explain`."""
        return None

    def set_label_scale(self, model: Any, member: int) -> None:
        """Give a model the sizes of the classes among a member's training people, or mean and SD of a number."""
        share = self.labelled.shares[member]
        if self.labelled.target.task == "number":
            values = share.labels[share.training]
            model.centre.fill_(float(values.mean()))
            model.spread.fill_(float(values.std()) or 1.0)
        else:
            counts = self.labelled.class_people(share.training, share.labels)
            model.class_people.copy_(torch.from_numpy(counts))

    def people_sentences(self) -> list[str]:
        """Lines about the target and the shares of the first fold for the plan."""
        labelled = self.labelled
        target = labelled.target
        if target.task == "number":
            sentences = [f"target: {target.name} of {labelled.codes.min():.4g} to {labelled.codes.max():.4g}"]
        else:
            everybody = labelled.class_people(np.arange(len(labelled.codes)), labelled.codes)
            counts = [f"{name} {int(num)}" for name, num in zip(target.classes, everybody, strict=True)]
            sentences = [f"target: {target.name}, {target.task}: {', '.join(counts)} people"]
        first = labelled.shares[0]
        parts = [labelled.num_people(rows) for rows in (first.training, first.validation, first.test)]
        return [*sentences, f"first fold: {parts[0]} people train, {parts[1]} only watch, {parts[2]} are tested"]
