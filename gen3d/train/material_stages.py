"""Scans at the stages of a disease: the material of transitions, one member per step of the chain and fold of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.cohort.target import Target, make_target
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.words import listed
from gen3d.core.work import Inputs
from gen3d.imaging.volume import SLOPE
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.transition.framing import Frame, Pictures
from gen3d.models.transition.transition import Transition, TransitionConfig, mean_pictures
from gen3d.nets.classifiers.base import recalibrate
from gen3d.train.batches import BatchSource
from gen3d.train.engine.processes import Processes
from gen3d.train.labelled import FOLDS, SHUFFLED, WATCHING, LabelledPeople, Rows, real_scans
from gen3d.train.learners import RunPeople
from gen3d.train.log import Painter
from gen3d.train.looks import LookJudge
from gen3d.train.material import TrainingMaterial, design_of, require_scans_alone
from gen3d.train.settings import TrainSettings

PAIRING = 3
"""Use of the seed, next to those of `labelled`."""

REPEATS = 4
"""Times that every picture of the larger stage comes in the table of pairs, each time with another partner."""

MOST_SETTLED = 256
"""Pictures that settle the batch normalisations of a trained generator."""


@dataclass(frozen=True)
class Staged:
    """Scans with a stage, a row each: `codes` [n] are places in the order of stages, `folds` [n] are people's (-1: none)."""

    frame: pd.DataFrame
    target: Target
    codes: NDArray[np.int64]
    folds: Rows
    num_folds: int

    def training(self, fold: int) -> Rows:
        """Rows that a fold's generators are trained on: all people but those who are held out of it."""
        return np.flatnonzero(self.folds != fold)

    def people_at(self, rows: Rows, stage: int) -> list[list[int]]:
        """Of these rows those at a stage, one list per person."""
        chosen = rows[self.codes[rows] == stage]
        subjects = self.frame["subject"].astype(str).to_numpy()[chosen]
        return [chosen[subjects == subject].tolist() for subject in dict.fromkeys(subjects)]

    def count(self, rows: Rows, stage: int) -> int:
        """People at a stage among these rows."""
        return len(self.people_at(rows, stage))


def choose_staged(prepared: Prepared, config: TransitionConfig, cross_fit: int, seed: int) -> Staged:
    """Everybody with one of the stages, whatever the role, dealt over folds by person; with one fold a share is held out.

    A person whose stage changes between visits counts at every stage that the visits show, and lies on one side.

    Raises:
        UserError: no such column, a stage that nobody has, or one with too few people to train on.
    """
    used = real_scans(prepared, config.target)
    target = make_target(used[config.target], config.target, config.classes, "ordered")
    codes = target.codes(used[config.target])
    frame, codes = used[np.isfinite(codes)].reset_index(drop=True), codes[np.isfinite(codes)]
    people = LabelledPeople.of(frame, target, codes)
    if cross_fit > 1:
        if len(people.subjects) < 2 * cross_fit:
            raise UserError(
                f"{target.name}: {words.people(len(people.subjects))} with a stage are too few for {cross_fit} folds; add people "
                "or lower cross_fit=."
            )
        fold = people.deal(cross_fit, np.random.default_rng([seed, FOLDS]))
    else:
        everybody = np.ones(len(people.subjects), dtype=bool)
        held_out = people.watching(config.validation, everybody, np.random.default_rng([seed, WATCHING, 0]))
        fold = np.where(held_out, 0, -1)
    if config.permuted:
        codes = people.permuted(codes, np.random.default_rng([seed, SHUFFLED]))
    staged = Staged(frame, target, codes.astype(np.int64), people.spread(fold), cross_fit)
    for number in range(cross_fit):
        rows = staged.training(number)
        for stage, name in enumerate(target.classes):
            if (num := staged.count(rows, stage)) < config.fewest:
                raise UserError(
                    f"{target.name}: {words.people(num)} to train on {'is' if num == 1 else 'are'} at stage {name}, and "
                    f"model.fewest={config.fewest} are needed; add people, merge it with its neighbour in the table, or leave it "
                    "out of model.classes."
                )
    return staged


def pair_table(before: list[list[int]], after: list[list[int]], num_pictures: int, seed: Sequence[int]) -> Rows:
    """Pairs of scans of two stages, [n, 3]: row before, row after, number of the picture.

    People are paired at random, and unpaired by construction. Everybody of a stage comes as often as everybody else of it,
    give or take once, however many scans a person has and however small the stage is.
    """
    generator = np.random.default_rng(list(seed))
    num = REPEATS * num_pictures * max(len(before), len(after))

    def cycled(size: int) -> NDArray[np.int64]:
        return np.concatenate([generator.permutation(size) for _ in range(-(-num // size))])[:num]

    columns = []
    for people in (before, after):
        scans = [people[person] for person in cycled(len(people))]
        columns.append(np.array([rows[generator.integers(len(rows))] for rows in scans], dtype=np.int64))
    return np.column_stack([*columns, cycled(num_pictures)])


@dataclass(frozen=True)
class StageSource:
    """Pairs of pictures of two stages, with the brain of each, [n, 4, ...]; a row is one of `pairs`.

    The brain of a picture is found in that picture, before any network has seen it.
    """

    prepared: Prepared
    keys: tuple[str, ...]
    owners: tuple[str, ...]
    channel: str
    pairs: Rows
    frame: Frame
    mask: NDArray[np.bool_] | None

    @cached_property
    def subjects(self) -> Sequence[str]:
        """The two people of every pair."""
        return [f"{self.owners[before]} and {self.owners[after]}" for before, after, _ in self.pairs]

    @property
    def channels(self) -> tuple[str, ...]:
        return (self.channel,)

    def scan(self, row: int, which: Sequence[int] | None = None) -> tuple[Pictures, Pictures]:
        """The pictures of a scan and their brains, [S, *padded] each, in stored units."""
        pictures = self.frame.pictures(self.prepared.stored(self.keys[row], self.channel), which) * np.float32(SLOPE)
        return pictures, self.frame.masks(pictures, self.mask, which)

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        made = []
        for before, after, number in self.pairs[rows]:
            which = None if self.frame.positions is None else [int(number)]
            (x, x_brain), (y, y_brain) = (self.scan(int(row), which) for row in (before, after))
            made.append(np.stack([x, y, x_brain, y_brain]) if which else np.concatenate([x, y, x_brain, y_brain]))
        return np.stack(made)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None


@dataclass(frozen=True)
class StageMaterial(TrainingMaterial):
    """Prepared scans with a stage. Member f (K - 1) + t is the generator from stage t to t + 1 of fold f."""

    prepared: Prepared
    staged: Staged
    settings: TrainSettings

    unused: ClassVar[frozenset[str]] = frozenset({"picture_every"})

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = require_scans_alone(settings, "scans with a stage", "everybody with a stage")
        if len(settings.channels) != 1:
            raise ValueError(f"{kind} translates one channel; set channels=[t1w]")
        if settings.augment.changes:
            raise ValueError(f"augment= changes volumes, and {kind} learns how stages differ; leave it out")

    @classmethod
    def open(cls, settings: TrainSettings) -> StageMaterial:
        """Open the scans and deal their people.

        Raises:
            UserError: see `choose_staged`.
        """
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        prepared.require_channels(settings.channels)
        config = cast(TransitionConfig, settings.model)
        staged = choose_staged(prepared, config, settings.cross_fit, settings.seed)
        members = []
        for fold in range(staged.num_folds):
            rows = staged.training(fold)
            members += [rows[np.isin(staged.codes[rows], (step, step + 1))] for step in range(len(config.steps))]
        people = RunPeople(staged.frame, tuple(members))
        return cls(prepared.plan, settings.channels, people, design_of(people), prepared, staged, settings)

    @property
    def config(self) -> TransitionConfig:
        """The settings of the model, complete."""
        return self.completed(self.settings.model)

    def completed(self, model: BaseModelConfig) -> TransitionConfig:
        config = cast(TransitionConfig, model)
        # A stage is "1" whether the table or the settings say 1 or 1.0.
        return config.model_copy(update={"classes": self.staged.target.classes}).completed(self.mask)

    @property
    def inputs(self) -> Inputs:
        return {"prepared": list(self.prepared.folders)}

    def fingerprint(self) -> str:
        return self.prepared.fingerprint()

    def seen(self) -> SeenBy:
        """Of every generator, all people that the chain of its fold was trained on: a chain judges with all its generators."""
        frame, members = self.people.frame, []
        for fold in range(self.staged.num_folds):
            chosen = frame.iloc[self.staged.training(fold)]
            members += [recorded(chosen, chosen["role"].tolist())] * len(self.config.steps)
        return SeenBy(tuple(members))

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        """None are needed: intensities are scaled by `intensity_range`."""
        return self.blank

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    def _people(self, member: int) -> tuple[list[list[int]], list[list[int]]]:
        """Rows of scans by person, of the stage before and of that after."""
        fold, step = divmod(member, len(self.config.steps))
        rows = self.staged.training(fold)
        return self.staged.people_at(rows, step), self.staged.people_at(rows, step + 1)

    def _source(self, member: int) -> StageSource:
        config, frame = self.config, self.people.frame
        keys, owners = (tuple(str(value) for value in frame[name]) for name in ("key", "subject"))
        view = config.frame(self.plan)
        pairs = pair_table(*self._people(member), view.num_pictures, (self.settings.seed, PAIRING, member))
        mask = self.mask if config.mask == "prepared" else None
        return StageSource(self.prepared, keys, owners, self.channels[0], pairs, view, mask)

    @property
    def source(self) -> BatchSource:
        return self._source(0)

    def source_of(self, member: int) -> BatchSource:
        return self._source(member)

    def rows_of(self, member: int) -> NDArray[np.int64]:
        """All pairs of the member's two stages."""
        return np.arange(len(self._source(member).pairs))

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """Mean pictures and intensities of the two stages, which floors are made of."""
        assert isinstance(model, Transition)
        source = self._source(member)
        for name, people in zip(("before", "after"), self._people(member), strict=True):
            mean, quantiles = mean_pictures(source.scan, people)
            getattr(model, f"mean_{name}").copy_(torch.from_numpy(mean))
            getattr(model, f"quantiles_{name}").copy_(torch.from_numpy(quantiles))

    def judge(self, member: int) -> LookJudge:
        """The last weights are kept; their batch normalisations are settled on training pictures of the stage before."""
        source, size = self._source(member), self.settings.optim.batch_size
        num = min(len(source.pairs), MOST_SETTLED) // size * size or min(len(source.pairs), MOST_SETTLED)

        def settle(module: nn.Module) -> None:
            assert isinstance(module, Transition)
            device = next(module.parameters()).device

            def pictures(start: int) -> torch.Tensor:
                loaded = torch.from_numpy(source.load(np.arange(start, min(start + size, num)))[:, :1]).to(device)
                return module.scaled(loaded.squeeze(2) if module.config.dimensions == 2 else loaded)

            recalibrate(module.generator, (pictures(start) for start in range(0, num, size)))

        return LookJudge(settle, None)

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter | None:
        """None: a trained chain is drawn by `gen3d stages`."""
        return None

    def sentences(self) -> list[str]:
        config, staged = self.config, self.staged
        view = config.frame(self.plan)
        everybody = np.arange(len(staged.codes))
        counts = [f"{name} {staged.count(everybody, stage)}" for stage, name in enumerate(config.classes)]
        trained = staged.training(0)
        at_first = [f"{name} {staged.count(trained, stage)}" for stage, name in enumerate(config.classes)]
        seen = "whole volumes" if view.positions is None else f"{view.num_pictures} {config.plane} slices of each scan"
        steps = listed([f"{before} to {after}" for before, after in config.steps])
        return [
            f"sees {seen}, {' x '.join(map(str, view.padded))} pixels; brain: {config.mask}",
            f"stages ({config.target}): {', '.join(counts)} people; the first fold trains on {', '.join(at_first)}",
            f"generators: {steps}, unpaired: people of neighbouring stages are different people",
            "batch normalisation: its statistics are those of the pictures that a process computes at once, so the number of "
            "processes and engine.volumes_at_once change the result",
        ]
