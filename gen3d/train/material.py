"""What a training learns from: scans, or the latents of scans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.artefact import Work, write_json
from gen3d.core.work import Inputs
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.maths.design import Design
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.train.batches import PreparedSource, Source
from gen3d.train.engine.processes import Processes
from gen3d.train.learners import People, choose_people, statistics


@dataclass(frozen=True)
class Material(ABC):
    """Volumes to learn from, whose they are, and what a model of them needs to be built."""

    plan: GridPlan
    channels: tuple[str, ...]
    people: People
    design: Design

    @property
    @abstractmethod
    def inputs(self) -> Inputs:
        """Fields of the verb that name what is read."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """The volumes, by row of `people.frame`."""

    @property
    def covariates(self) -> NDArray[np.float64]:
        """Rows of the fitted design, [n, p]."""
        return self.design.matrix(*_covariate_columns(self.people))

    @abstractmethod
    def fingerprint(self) -> str:
        """The same wherever the same data are readable."""

    def seen(self) -> dict[str, dict[str, str]]:
        """{member: {hash of subject: role}} of everybody each member learned from."""
        return self.people.seen()

    def completed(self, model: BaseModelConfig) -> BaseModelConfig:
        """The model's settings with what only the material knows."""
        return model

    def prepare(self, processes: Processes) -> None:  # noqa: B027 (most materials need nothing)
        """Make what is read in every step, once; every process calls it."""

    @abstractmethod
    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        """What a model is built from."""

    def endow(  # noqa: B027 (most models learn everything)
        self, model: Model, rows: NDArray[np.int64], processes: Processes
    ) -> None:
        """Give a model that was just built what it does not learn."""

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
        """What it is, in words."""

    def describe(self, work: Work) -> None:
        """Write what belongs to the run besides weights."""
        write_plan(work.folder / "plan.json", self.plan)
        write_json(work.folder / "subjects.json", self.seen())
        write_json(work.folder / "design.json", self.design.to_dict())


@dataclass(frozen=True)
class Scans(Material):
    """Prepared scans."""

    prepared: Prepared

    @classmethod
    def open(
        cls, folders: Sequence[Path], channels: tuple[str, ...], cross_fit: int, seed: int, patients: float = 0.0
    ) -> Scans:
        """The cohort, who is learned from, and the covariates of all of them."""
        prepared = open_prepared(folders)
        prepared.require_channels(channels)
        people = choose_people(prepared, cross_fit, seed, patients)
        return cls(prepared.plan, channels, people, design_of(people), prepared)

    @property
    def inputs(self) -> Inputs:
        return {"prepared": list(self.prepared.folders)}

    @property
    def source(self) -> PreparedSource:
        frame = self.people.frame
        keys = tuple(str(key) for key in frame["key"])
        return PreparedSource(self.prepared, keys, tuple(str(subject) for subject in frame["subject"]), self.channels)

    def fingerprint(self) -> str:
        return self.prepared.fingerprint()

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        keys = [str(key) for key in self.people.frame["key"].iloc[rows]]
        return statistics(self.prepared, self.channels, keys, processes)

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    def sentences(self) -> list[str]:
        return [f"volumes: {len(self.channels)} channels ({', '.join(self.channels)}) on {self.plan.describe()}"]


def _covariate_columns(people: People) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    frame = people.frame
    return frame["age_years"].to_numpy(), frame["sex"].to_numpy(), frame["site"].to_numpy()


def design_of(people: People) -> Design:
    """Age, sex and site of the people, as covariates."""
    return Design.fit(*_covariate_columns(people))
