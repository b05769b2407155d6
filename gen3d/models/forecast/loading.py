"""Open the run of a forecaster: its members, the floors that were fitted on the same people, and who saw whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from gen3d.cohort.coding import Coding
from gen3d.cohort.seen import PersonHashes, SeenBy
from gen3d.core.errors import UserError
from gen3d.models import registry
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Forecaster
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.run import Run, load_run
from gen3d.models.run_folder import weights_path
from gen3d.models.weights import fill, read_weights, require_fit, statistics_in

FLOORS = ("copy_forward", "population_rate", "region_rate")
"""Kinds that are fitted beside every forecaster, on the people of each member, from the simplest on."""

MATERIALS = ("visits", "latent_visits")
"""What forecasters are trained on."""


@dataclass(frozen=True)
class ForecasterRun:
    """A finished run of a forecaster. Models are loaded when first needed."""

    run: Run
    _floors: dict[tuple[int, str], Forecaster] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> ForecastConfig:
        """Settings of the run's own model."""
        return cast(ForecastConfig, self.run.model_config)

    @property
    def name(self) -> str:
        """The run's own model, as tables call it: its kind."""
        return self.run.kind

    @property
    def floors(self) -> tuple[str, ...]:
        """The floors beside it; a run of a floor has itself among its models and only the others here."""
        return floors_beside(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """All models, the run's own first."""
        return (self.name, *self.floors)

    @property
    def coding(self) -> Coding:
        """The conditions of the models, checked against what the training people had."""
        return self.config.coded

    @property
    def longest_years(self) -> float:
        """The longest time between two visits learned from: no horizon beyond it was ever seen."""
        return self.config.longest_years

    @cached_property
    def main_members(self) -> tuple[int, ...]:
        """Members that learned from true times, without the controls with permuted ones."""
        return tuple(range(self.run.num_members - self.config.permuted))

    def judges(self, person: PersonHashes) -> list[int]:
        """Members with true times that forecast this person (`SeenBy.judges`); none where every one saw the person."""
        return SeenBy(tuple(self.run.seen.members[member] for member in self.main_members)).judges(person)

    def forecaster(self, member: int, name: str | None = None) -> Forecaster:
        """A member's own model, or one of the floors that were fitted on the same people.

        Raises:
            UserError: weights that are missing or damaged.
        """
        if name is None or name == self.name:
            return cast(Forecaster, self.run.member(member))
        if (member, name) not in self._floors:
            self._floors[member, name] = load_floor(self.run, member, name)
        return self._floors[member, name]

    def forecasters(self, member: int) -> dict[str, Forecaster]:
        """The models of a member by name, the run's own first."""
        return {name: self.forecaster(member, name) for name in self.names}


def open_forecasters(folder: Path, device: str = "cpu") -> ForecasterRun:
    """Open a finished run of a forecaster.

    Raises:
        UserError: as `load_run`, or a run of another kind of model.
    """
    run = load_run(folder, device)
    if run.model_config.material not in MATERIALS:
        kinds = " or ".join(kind for material in MATERIALS for kind in registry.learning_from(material))
        raise UserError(
            f"{folder}: a {run.kind} does not forecast; give a run of `gen3d train` with model.kind={kinds}."
        )
    return ForecasterRun(run)


def floors_beside(kind: str) -> tuple[str, ...]:
    """The floors that are fitted beside a model of this kind: all but itself."""
    return tuple(name for name in FLOORS if name != kind)


def floor_path(folder: Path, member: int, name: str) -> Path:
    """Where the weights of a floor of a member lie."""
    return weights_path(folder, member).with_name(f"{name}.safetensors")


def floor_config(name: str, config: ForecastConfig) -> ForecastConfig:
    """Settings of a floor beside a model of these settings."""
    shared: Mapping[str, Any] = {"kind": name, **config.learned}
    return cast(ForecastConfig, registry.read_config(dict(shared)))


def load_floor(run: Run, member: int, name: str) -> Forecaster:
    """A floor of a member of a run.

    Raises:
        UserError: weights that are missing, damaged or of another plan.
    """
    path = floor_path(run.folder, member, name)
    tensors = read_weights(path, run.plan.key, name)
    config = floor_config(name, cast(ForecastConfig, run.model_config))
    return cast(Forecaster, _filled(run, path, config, statistics_in(path, tensors), tensors))


def _filled(
    run: Run, path: Path, config: ForecastConfig, statistics: Statistics, tensors: dict[str, torch.Tensor]
) -> Any:
    with torch.device("meta"):
        require_fit(path, config.build(run.plan, run.channels, statistics, len(run.design.columns)), tensors)
    model = config.build(run.plan, run.channels, statistics, len(run.design.columns))
    fill(path, model, tensors)
    return model.to(run.device).eval()
