"""Labelled scans: the material of classifiers, and what is left of each member besides its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.scores_folder import PERMUTED, TWIN
from gen3d.core.disk import remove_folder
from gen3d.core.errors import UserError
from gen3d.core.words import listed
from gen3d.core.work import Inputs
from gen3d.models.base import BaseModelConfig, Model
from gen3d.models.supervised.classifier import EXACT_ON_CPU, Classifier, ClassifierConfig
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import BatchSource, PreparedSource
from gen3d.train.engine.processes import Processes
from gen3d.train.features import FeatureSource, compute_features, feature_shape, open_features
from gen3d.train.labelled import GivenFolds, choose_labelled
from gen3d.train.learners import RunPeople
from gen3d.train.looks import LookJudge
from gen3d.train.material import design_of, require_scans_alone
from gen3d.train.material_scored import ScoredMaterial
from gen3d.train.scoring import RowScorer, norms_of
from gen3d.train.settings import TrainSettings

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
class LabelledMaterial(ScoredMaterial):
    """Prepared scans of people with a label, and the share of each member."""

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        require_scans_alone(settings, "labelled scans", "everybody with a label")
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
        self.set_label_scale(model, member)
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

    def planned(self, model: Model) -> Model:
        """Steps read the features of a cached trunk, not scans."""
        assert isinstance(model, Classifier)
        if self.caches_trunk:
            model.cached_shape = self._feature_shape
        return model

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

    @property
    def network_name(self) -> str:
        return self.config.network.kind

    @property
    def watching(self) -> tuple[float, int]:
        config = cast(ClassifierConfig, self.settings.model)
        return config.validation, config.looks

    def _scorer(self, member: int) -> RowScorer:
        last = self.config.frozen if self.caches_trunk else ""
        return RowScorer(self.source_of(member), last, self.settings.optim.batch_size)

    def _plain_scorer(self, member: int) -> RowScorer:
        return RowScorer(self._volumes(self.labelled.shares[member].labels), "", self.settings.optim.batch_size)

    def after(self, member: int, processes: Processes) -> None:
        """As of all; the features of a trunk that no other member reads are let go of."""
        super().after(member, processes)
        if self._recalibrates(member) and processes.first:
            remove_folder(self._trunk_folder(member))

    def finish(self, processes: Processes) -> None:
        """As of all; features of trunks are let go of."""
        super().finish(processes)
        if processes.first:
            remove_folder(self.settings.out / "checkpoint" / TRUNKS)

    def augmentation(self, settings: AugmentConfig) -> AugmentConfig:
        return AugmentConfig() if self.caches_trunk else settings

    def sentences(self) -> list[str]:
        labelled, config = self.labelled, self.config
        sentences = [
            f"volumes: {len(self.channels)} channel(s) ({', '.join(self.channels)}) on {self.plan.describe()}",
            f"view: {config.window_in(self.plan).describe(self.plan.shape)}, intensities {config.intensity}",
            *self.people_sentences(),
        ]
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
