"""Labelled scans: the material of classifiers, and what is left of each member besides its weights."""

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
from gen3d.cohort.scores_folder import (
    PERMUTED,
    TEST,
    TWIN,
    VALIDATION,
    ScoredMember,
    score_columns,
    write_description,
    write_scores,
)
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.core.disk import remove_folder
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import track
from gen3d.core.words import listed
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.run_folder import weights_path
from gen3d.models.supervised.classifier import EXACT_ON_CPU, Classifier, ClassifierConfig
from gen3d.models.weights import fill, read_weights, statistics_in
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import BatchSource, PreparedSource
from gen3d.train.engine.processes import Processes
from gen3d.train.features import FeatureSource, compute_features, feature_shape, open_features
from gen3d.train.labelled import GivenFolds, Labelled, choose_labelled
from gen3d.train.learners import RunPeople
from gen3d.train.log import Painter
from gen3d.train.looks import LookJudge, best_of, look_steps, read_looks
from gen3d.train.material import TrainingMaterial, design_of
from gen3d.train.scoring import RowScorer, norms_of
from gen3d.train.settings import TrainSettings

PART = "scores.npy"
"""In a member's folder until the run is finished: its scores of the people it did not learn from."""
TRUNKS = "trunks"


@dataclass(frozen=True)
class LabelledSource(PreparedSource):
    """Scans with labels; `values` and `ages` have one entry per scan, `ages` where the network takes them."""

    values: NDArray[np.float64]
    ages: NDArray[np.float64] | None

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.values[rows].astype(np.float32)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None if self.ages is None else self.ages[rows, None].astype(np.float32)


@dataclass(frozen=True)
class LabelledMaterial(TrainingMaterial):
    """Prepared scans of people with a label, and the share of each member."""

    prepared: Prepared
    labelled: Labelled
    settings: TrainSettings

    unused: ClassVar[frozenset[str]] = frozenset({"picture_every"})

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = f"model.kind={settings.model.kind}"
        if settings.prepared is None:
            raise ValueError(f"{kind} needs prepared=FOLDER: labelled scans")
        extra = [name for name in ("latents", "autoencoder") if getattr(settings, name) is not None]
        if extra:
            raise ValueError(f"{extra[0]}= goes with latent diffusion, not with {kind}")
        if settings.patients:
            raise ValueError(f"patients= is for generative models; {kind} learns from everybody with a label")
        if settings.folds is not None and settings.cross_fit != 1:
            raise ValueError("folds=RUN brings the number of folds; leave cross_fit out")
        if settings.optim.plateau < 1 and cast(ClassifierConfig, settings.model).validation == 0:
            raise ValueError(
                "optim.plateau waits for the validation loss, and model.validation=0 leaves nobody to validate"
            )

    @classmethod
    def open(cls, settings: TrainSettings) -> LabelledMaterial:
        """Open the scans and deal their people.

        Raises:
            UserError: see `choose_labelled`; a view that the network cannot take; a person without age for a network that takes
                the age.
        """
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        prepared.require_channels(settings.channels)
        config = cast(ClassifierConfig, settings.model)
        given = GivenFolds.of(settings.folds) if settings.folds is not None else None
        labelled = choose_labelled(prepared, config, settings.cross_fit, settings.seed, given)
        people = RunPeople(labelled.frame, tuple(share.training for share in labelled.shares))
        material = cls(prepared.plan, settings.channels, people, design_of(people), prepared, labelled, settings)
        ages = material.ages
        if ages is not None and not np.isfinite(ages).all():
            num = int((~np.isfinite(ages)).sum())
            raise UserError(
                f"model.network takes the age, and {num} of {len(ages)} scans have no age_years; fill it in."
            )
        return material

    @property
    def config(self) -> ClassifierConfig:
        """The classifier's settings, complete."""
        return self.completed(self.settings.model)

    def completed(self, model: BaseModelConfig) -> ClassifierConfig:
        return cast(ClassifierConfig, model).completed(self.plan, self.labelled.target)

    @property
    def inputs(self) -> Inputs:
        named: dict[str, Path | Sequence[Path]] = {"prepared": list(self.prepared.folders)}
        if self.settings.folds is not None:
            named["folds"] = self.settings.folds
        weights = getattr(cast(ClassifierConfig, self.settings.model).network, "weights", None)
        if isinstance(weights, Path):
            named["weights"] = weights
        return named

    @property
    def ages(self) -> NDArray[np.float64] | None:
        """Age of every scan, where the network takes it."""
        takes = getattr(cast(ClassifierConfig, self.settings.model).network, "age", False)
        return self.people.frame["age_years"].to_numpy(dtype=np.float64) if takes else None

    def fingerprint(self) -> str:
        return self.prepared.fingerprint()

    def seen(self) -> SeenBy:
        """Everybody that a member was trained on or watched by: its weights were chosen by both."""
        members = []
        for share in self.labelled.shares:
            chosen = self.people.frame.iloc[np.concatenate([share.training, share.validation])]
            members.append(recorded(chosen, chosen["role"].tolist()))
        return SeenBy(tuple(members))

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        """None are needed: a view has its own intensities."""
        return self.blank

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    @property
    def source(self) -> BatchSource:
        return self._volumes(self.labelled.codes)

    def _volumes(self, labels: NDArray[np.float64]) -> LabelledSource:
        frame = self.people.frame
        keys, subjects = (tuple(str(value) for value in frame[name]) for name in ("key", "subject"))
        return LabelledSource(self.prepared, keys, subjects, self.channels, labels, self.ages)

    def source_of(self, member: int) -> BatchSource:
        volumes = self._volumes(self.labelled.shares[member].labels)
        if not self.caches_trunk:
            return volumes
        shape = self._feature_shape
        _, features = open_features(self._trunk_folder(member), len(self.people.frame), shape)
        return FeatureSource(features, volumes)

    def initial(self, member: int) -> int:
        """Members of all folds start from the same weights, and random twins from others."""
        share = self.labelled.shares[member]
        return self.labelled.num_folds if share.variant == TWIN else 0

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """Weights learned elsewhere, the sizes of classes, and features of a trunk that stays as it is."""
        assert isinstance(model, Classifier)
        share, config = self.labelled.shares[member], self.config
        if config.pretrained and share.variant != TWIN:
            network = config.built_network(len(self.channels), model.window, pretrained=True)
            model.network.load_state_dict(network.state_dict())
        if self.labelled.target.task == "number":
            values = share.labels[share.training]
            model.centre.fill_(float(values.mean()))
            model.spread.fill_(float(values.std()) or 1.0)
        else:
            counts = self.labelled.class_people(share.training, share.labels)
            model.class_people.copy_(torch.from_numpy(counts))
        model.to(self.settings.engine.chosen_device(processes.local_rank))
        if self._recalibrates(member):
            self._plain_scorer(member).settle_trunk(model, config.frozen, share.training)
        if self.caches_trunk:
            folder, engine = self._trunk_folder(member), self.settings.engine
            precision = engine.chosen_precision(model.brain_mask.device, EXACT_ON_CPU)
            what = f"trunk of {config.network.kind}" + (" with random weights" if share.variant == TWIN else "")
            processes.on_first(
                lambda: compute_features(model, config.frozen, self._volumes(share.labels), folder, precision, what)
            )
            model.cached_shape = self._feature_shape

    @property
    def caches_trunk(self) -> bool:
        """Whether stages stay as they are for the whole training and meet the same volumes in every epoch."""
        config = cast(ClassifierConfig, self.settings.model)
        still = config.shift == 0 and not self.settings.augment.changes
        return bool(config.frozen) and config.unfreeze_after is None and still

    def _trunk_folder(self, member: int) -> Path:
        number = member if self._recalibrates(member) else self.initial(member)
        return self.settings.out / "checkpoint" / TRUNKS / str(number)

    def _recalibrates(self, member: int) -> bool:
        """Whether the trunk is frozen with random weights: its batch normalisations then get statistics of training scans."""
        learned = self.config.pretrained and self.labelled.shares[member].variant != TWIN
        return bool(self.config.frozen) and not learned and self._trunk_has_norms

    @cached_property
    def _blank_network(self) -> StagedNetwork:
        """The network without contents."""
        with torch.device("meta"):
            return self.config.built_network(len(self.channels), self.config.window_in(self.plan), pretrained=False)

    @property
    def _trunk_has_norms(self) -> bool:
        return bool(norms_of(self._blank_network, self._blank_network.upto(self.config.frozen)))

    @property
    def _batch_norms(self) -> bool:
        """Whether batches are normalised in stages that are trained."""
        network, config = self._blank_network, self.config
        frozen = network.upto(config.frozen) if config.unfreeze_after is None else ()
        return bool(norms_of(network, [name for name in network.stage_names if name not in frozen]))

    @cached_property
    def _feature_shape(self) -> tuple[int, ...]:
        config = self.config
        with torch.device("meta"):
            model = config.build(self.plan, self.channels, self.blank, 1)
        return feature_shape(model.eval(), config.frozen)

    def judge(self, member: int) -> LookJudge:
        """Batch normalisations are settled on training people; those who watch give the loss."""
        share, scorer = self.labelled.shares[member], self._scorer(member)
        labels = share.labels[share.validation]

        def settle(module: nn.Module) -> None:
            scorer.settle(module, share.training)

        def loss(module: nn.Module) -> float:
            return scorer.loss(module, share.validation, labels)

        return LookJudge(settle, loss if len(share.validation) else None)

    def look_steps(self, member: int, steps: int) -> list[int]:
        watched = len(self.labelled.shares[member].validation)
        return look_steps(steps, cast(ClassifierConfig, self.settings.model).looks if watched else 1)

    def _scorer(self, member: int) -> RowScorer:
        last = self.config.frozen if self.caches_trunk else ""
        return RowScorer(self.source_of(member), last, self.settings.optim.batch_size)

    def _plain_scorer(self, member: int) -> RowScorer:
        return RowScorer(self._volumes(self.labelled.shares[member].labels), "", self.settings.optim.batch_size)

    def after(self, member: int, processes: Processes) -> None:
        """Score the people that a member did not learn from; every process takes a share of them."""
        path, rows = self._part(member), self._scored_rows(member)
        if processes.from_first(path.is_file()):
            return
        config, weights = self.config, weights_path(self.settings.out, member)
        tensors = read_weights(weights, self.plan.key, config.kind)
        model = config.build(self.plan, self.channels, statistics_in(weights, tensors), 1)
        fill(weights, model, tensors)
        model = model.to(self.settings.engine.chosen_device(processes.local_rank)).eval()
        scorer, places = self._scorer(member), range(processes.rank, len(rows), processes.num)
        found = np.zeros((len(rows), self._num_scores))
        for place in track(places, f"scoring member {member + 1}") if places else ():
            found[place] = scorer.scores(model, rows[place : place + 1])[0]
        found = processes.sum_array(found)
        if not np.isfinite(found).all():
            raise UserError(f"{weights}: its scores are not finite; train again with a lower optim.learning_rate.")
        processes.on_first(lambda: save_array(path, found))
        if self._recalibrates(member) and processes.first:
            remove_folder(self._trunk_folder(member))

    @property
    def _num_scores(self) -> int:
        target = self.labelled.target
        return {"categories": len(target.classes), "ordered": len(target.classes) - 1, "number": 1}[target.task]

    def _part(self, member: int) -> Path:
        return weights_path(self.settings.out, member).with_name(PART)

    def _scored_rows(self, member: int) -> NDArray[np.int64]:
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
        remove_folder(self.settings.out / "checkpoint" / TRUNKS)

    def _scores_table(self) -> pd.DataFrame:
        tables = []
        for member, share in enumerate(self.labelled.shares):
            rows = self._scored_rows(member)
            table = self.people.frame.iloc[rows][["key", "subject", "session"]].reset_index(drop=True)
            table["member"] = member
            table["part"] = [VALIDATION] * len(share.validation) + [TEST] * len(share.test)
            table["label"] = [self._label(code) for code in share.labels[rows]]
            values = np.load(self._part(member), allow_pickle=False)
            tables.append(table.join(pd.DataFrame(values, columns=score_columns(self._num_scores))))
        return pd.concat(tables, ignore_index=True)

    def _label(self, code: float) -> str | float:
        target = self.labelled.target
        return float(code) if target.task == "number" else target.classes[int(code)]

    def _write_description(self) -> None:
        config, members = self.config, []
        for index, share in enumerate(self.labelled.shares):
            looks = read_looks(weights_path(self.settings.out, index).parent)
            members.append(
                ScoredMember(index, share.variant, share.fold, share.permutation, tuple(looks), best_of(looks))
            )
        write_description(
            self.settings.out,
            self.labelled.target,
            config.network.kind,
            config.form,
            self.channels,
            config.validation,
            self.labelled.num_folds,
            members,
        )

    def describe(self, work: Work) -> None:
        super().describe(work)
        self._write_description()

    def augmentation(self, settings: AugmentConfig) -> AugmentConfig:
        return AugmentConfig() if self.caches_trunk else settings

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter | None:
        """None: what a network looks at is shown by `gen3d explain`."""
        return None

    def sentences(self) -> list[str]:
        labelled, config = self.labelled, self.config
        target = labelled.target
        sentences = [
            f"volumes: {len(self.channels)} channel(s) ({', '.join(self.channels)}) on {self.plan.describe()}",
            f"view: {config.window_in(self.plan).describe(self.plan.shape)}, intensities {config.intensity}",
        ]
        if target.task == "number":
            sentences.append(f"target: {target.name} of {labelled.codes.min():.4g} to {labelled.codes.max():.4g}")
        else:
            everybody = labelled.class_people(np.arange(len(labelled.codes)), labelled.codes)
            counts = [f"{name} {int(num)}" for name, num in zip(target.classes, everybody, strict=True)]
            sentences.append(f"target: {target.name}, {target.task}: {', '.join(counts)} people")
        first = labelled.shares[0]
        parts = [labelled.num_people(rows) for rows in (first.training, first.validation, first.test)]
        sentences.append(f"first fold: {parts[0]} people train, {parts[1]} only watch, {parts[2]} are tested")
        if self._batch_norms:
            sentences.append(
                "batch normalisation: its statistics are those of the volumes that a process computes at once, so the number of "
                "processes and engine.volumes_at_once change the result"
            )
        variants = [share.variant for share in labelled.shares]
        further = [f"{variants.count(name)} {name}" for name in (TWIN, PERMUTED) if name in variants]
        if further:
            sentences.append(f"of the members, {listed(further)}: they are baselines of the others")
        if self.caches_trunk:
            size = np.prod(self._feature_shape) * len(labelled.codes) * 2 / 2**30
            num = len({self._trunk_folder(member) for member in range(self.num_members)})
            sentences.append(
                f"trunk: stages up to {config.frozen} are computed once per scan, {num * size:.2f} GiB on disk meanwhile"
            )
        return sentences
