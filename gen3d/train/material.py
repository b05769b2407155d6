"""The training material: scans, or the latents of scans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.calibrators import calibration_outlook
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import digest
from gen3d.core.output_folder import Work
from gen3d.core.work import Inputs
from gen3d.imaging.plan import GridPlan
from gen3d.maths.design import Design
from gen3d.models.base import BaseModelConfig, ClosedFormModel, Model, Statistics, VolumeSet
from gen3d.models.registry import learning_from
from gen3d.models.run_folder import write_people_and_plan
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import BatchSource, PreparedSource
from gen3d.train.engine.processes import Processes
from gen3d.train.learners import RunPeople, choose_people, statistics
from gen3d.train.log import Painter
from gen3d.train.looks import LookJudge
from gen3d.train.pictures import draw_reconstructions
from gen3d.train.settings import TrainSettings
from gen3d.train.start import InitialRun

NUM_PICTURED = 2


@dataclass(frozen=True)
class TrainingMaterial(ABC):
    """Volumes to train on, the people they show, and all else that a model of them is built from."""

    plan: GridPlan
    channels: tuple[str, ...]
    people: RunPeople
    design: Design

    unused: ClassVar[frozenset[str]] = frozenset()
    """Settings of a training that change nothing with this material."""

    counted: ClassVar[str] = "volumes"
    """What closed-form models are fitted to."""

    @classmethod
    @abstractmethod
    def refuse(cls, settings: TrainSettings) -> None:
        """Raise a ValueError where the settings do not go together with this material."""

    @classmethod
    @abstractmethod
    def open(cls, settings: TrainSettings) -> TrainingMaterial:
        """Open the inputs and choose the training people.

        Raises:
            UserError: inputs that do not fit, or no training people.
        """

    @property
    @abstractmethod
    def inputs(self) -> Inputs:
        """Fields of the verb that name what is read."""

    @property
    @abstractmethod
    def source(self) -> BatchSource:
        """The volumes, by row of `people.frame`."""

    @property
    def num_members(self) -> int:
        """Members of the family."""
        return len(self.people.members)

    def source_of(self, member: int) -> BatchSource:
        """The volumes as a member learns from them."""
        return self.source

    def rows_of(self, member: int) -> NDArray[np.int64]:
        """Rows of the source that a member learns from: its scans, or other things that come of them."""
        return self.people.members[member]

    def fit(self, model: Model, member: int) -> int:
        """Fit a closed-form model to the member's volumes; returns how many there were."""
        rows, source = self.rows_of(member), self.source
        volumes = VolumeSet(
            len(rows),
            lambda places: torch.from_numpy(source.load(rows[places])),
            self.covariates[rows] if model.uses_covariates else None,
        )
        cast(ClosedFormModel, model).fit(volumes)
        return len(rows)

    def initial(self, member: int) -> int:
        """Number of the initial weights that a member starts from."""
        return member

    @property
    def covariates(self) -> NDArray[np.float64]:
        """Rows of the fitted design, [n, p]."""
        return self.design.matrix(*_covariate_columns(self.people))

    @abstractmethod
    def fingerprint(self) -> str:
        """The same wherever the same data are readable."""

    def seen(self) -> SeenBy:
        """The people that each member was trained on."""
        return self.people.seen()

    def completed(self, model: BaseModelConfig) -> BaseModelConfig:
        """The model's settings with what only the material knows."""
        return model

    def planned(self, model: Model) -> Model:
        """A model on the meta device as a step of the training meets it."""
        return model

    def prepare(self, processes: Processes) -> None:  # noqa: B027 (most materials need nothing)
        """Compute once what is read in every step; every process calls it."""

    @abstractmethod
    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        """What a model is built from."""

    def set_initial_weights(self, model: Model, member: int) -> None:  # noqa: B027 (most members begin at random)
        """Load the weights that a member's new model begins with, where they are those of another run; every process calls it."""

    def set_frozen_parts(  # noqa: B027 (most models learn everything)
        self, model: Model, member: int, processes: Processes
    ) -> None:
        """Load the parts of a member's new model that are not trained: the autoencoder and the scale of its latents."""

    def judge(self, member: int) -> LookJudge | None:
        """What chooses among the states of a member in training; None where the last one is kept."""
        return None

    def look_steps(self, member: int, steps: int) -> list[int]:
        """Steps of a training after which a state is judged; the last one is among them."""
        return [steps]

    def after(self, member: int, processes: Processes) -> None:  # noqa: B027 (most members leave their weights only)
        """Do what follows the training of a member; every process calls it."""

    def finish(self, processes: Processes) -> None:  # noqa: B027 (most runs have nothing to add)
        """Write what a run holds besides its members, when all are trained; every process calls it."""

    def augmentation(self, settings: AugmentConfig) -> AugmentConfig:
        """How volumes are changed when a batch is made of them."""
        return settings

    @abstractmethod
    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter | None:
        """A function that draws the state of a model in training, for some of these rows; None where there is no picture."""

    @property
    def blank(self) -> Statistics:
        """Statistics of the right shape without a look at the volumes."""
        return Statistics(np.zeros(len(self.channels), np.float32), np.ones(len(self.channels), np.float32), self.mask)

    @property
    @abstractmethod
    def mask(self) -> NDArray[np.bool_]:
        """Voxels that count, [X, Y, Z]."""

    @abstractmethod
    def sentences(self) -> list[str]:
        """Lines about the material for the plan."""

    def calibration(self) -> list[str]:
        """How many controls will calibrate maps of the run, and what that allows; nothing where no maps come of it."""
        return []

    def describe(self, work: Work) -> None:
        """Write what belongs to the run besides weights."""
        write_people_and_plan(work.folder, self.plan, self.seen(), self.design)


def require_scans_alone(settings: TrainSettings, scans: str, learners: str) -> str:
    """The kind as users give it, once prepared scans are the one input of its training.

    Args:
        settings: of the training.
        scans: which scans it needs, in words.
        learners: of whom it learns, whatever the role.

    Raises:
        ValueError: no scans, or an input that only models of latents or generative models take.
    """
    kind = f"model.kind={settings.model.kind}"
    if settings.prepared is None:
        raise ValueError(f"{kind} needs prepared=FOLDER: {scans}")
    extra = [name for name in ("latents", "autoencoder") if getattr(settings, name) is not None]
    if extra:
        raise ValueError(f"{extra[0]}= goes with latent diffusion and latent flow, not with {kind}")
    if settings.patients:
        raise ValueError(f"patients= is for generative models; {kind} learns from {learners}")
    return kind


@dataclass(frozen=True)
class ScanMaterial(TrainingMaterial):
    """Prepared scans, and the run whose weights the members begin with, if any."""

    prepared: Prepared
    start: InitialRun | None = None

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        if settings.prepared is None:
            raise ValueError("prepared=FOLDER is needed: scans to train on")
        extra = [name for name in ("latents", "autoencoder") if getattr(settings, name) is not None]
        if extra:
            raise ValueError(f"{extra[0]}= goes with model.kind={' or '.join(learning_from('latents'))} only")

    @classmethod
    def open(cls, settings: TrainSettings) -> ScanMaterial:
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        prepared.require_channels(settings.channels)
        people = choose_people(prepared, settings.cross_fit, settings.seed, settings.patients)
        material = cls(prepared.plan, settings.channels, people, design_of(people), prepared)
        if settings.start is None:
            return material
        of_model = (settings.channels, settings.model, material.blank, material.covariates.shape[1])
        start = InitialRun.open(settings.start, prepared, *of_model, people.seen())
        return replace(material, start=start)

    @property
    def inputs(self) -> Inputs:
        named: dict[str, Path | Sequence[Path]] = {"prepared": list(self.prepared.folders)}
        return named if self.start is None else named | {"start": self.start.run.folder}

    def seen(self) -> SeenBy:
        own = super().seen()
        return own if self.start is None else self.start.joined(own)

    def set_initial_weights(self, model: Model, member: int) -> None:
        if self.start is not None:
            self.start.fill(model, member)

    @property
    def source(self) -> PreparedSource:
        frame = self.people.frame
        keys = tuple(str(key) for key in frame["key"])
        return PreparedSource(self.prepared, keys, tuple(str(subject) for subject in frame["subject"]), self.channels)

    def fingerprint(self) -> str:
        mine = self.prepared.fingerprint()
        return mine if self.start is None else digest([mine, self.start.run.artefact.key])

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        keys = [str(key) for key in self.people.frame["key"].iloc[rows]]
        return statistics(self.prepared, self.channels, keys, processes)

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter:
        """Draws what the model expects of the first people."""
        shown, source = rows[:NUM_PICTURED], self.source

        def paint(module: nn.Module, path: Path) -> None:
            assert isinstance(module, Model)
            volumes = source.load(shown)
            device = module.channel_mean.device
            covariates = torch.from_numpy(self.covariates[shown]).to(device) if module.uses_covariates else None
            expected = module.expect(torch.from_numpy(volumes).to(device), covariates).mean.cpu().numpy()
            draw_reconstructions(path, volumes, expected, source.channels, f"{kind}: {path.stem}")

        return paint

    def calibration(self) -> list[str]:
        if self.people.num_patients:
            return []
        return calibration_outlook(self.prepared.manifest, len(self.people.members)).sentences()

    def sentences(self) -> list[str]:
        volumes = f"volumes: {len(self.channels)} channels ({', '.join(self.channels)}) on {self.plan.describe()}"
        return [volumes] if self.start is None else [volumes, f"begins with the weights of {self.start.run.folder}"]


def _covariate_columns(people: RunPeople) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    frame = people.frame
    return frame["age_years"].to_numpy(), frame["sex"].to_numpy(), frame["site"].to_numpy()


def design_of(people: RunPeople) -> Design:
    """Age, sex and site of the people, as covariates."""
    return Design.fit(*_covariate_columns(people))
