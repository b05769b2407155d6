"""Open a run folder: its members, their training people, and expectations by the members not trained on a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator

from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import PersonHashes, SeenBy, identity_of
from gen3d.core.artefact import Artefact, digest, read
from gen3d.core.config import Folder
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan, read_plan
from gen3d.maths.design import Design
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.registry import read_config
from gen3d.models.run_folder import (
    AGAIN,
    MEMBERS,
    PLAN,
    RUN_VERBS,
    SETTINGS,
    SUBJECTS,
    read_design,
    read_seen,
    read_settings,
    weights_path,
)
from gen3d.models.weights import fill, read_weights, require_fit, statistics_in

Float = NDArray[np.float32]


def _single(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) > 1:
        raise ValueError(
            f"{len(value)} run folders are given, and only `gen3d anomaly` can use several runs together; give one."
        )
    return value[0] if isinstance(value, (list, tuple)) and value else value


OneRun = Annotated[Folder, BeforeValidator(_single)]
"""The folder of a run where several have no meaning: their latents and expectations are not those of one model."""


@dataclass(frozen=True)
class Run:
    """A finished run. Members are loaded when first needed.

    `channels` are those of the volumes the models take; `design` turns age, sex and site into `covariates`.
    """

    folder: Path
    artefact: Artefact
    plan: GridPlan
    channels: tuple[str, ...]
    model_config: BaseModelConfig
    design: Design
    seen: SeenBy
    device: torch.device
    _members: dict[int, Model] = field(default_factory=dict, repr=False)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run's folder."""
        return (self.folder,)

    @property
    def kind(self) -> str:
        """The kind of model: vae, pca, voxelwise."""
        return self.model_config.kind

    @property
    def num_members(self) -> int:
        """Members in the family."""
        return len(self.seen.members)

    @property
    def learned_patients(self) -> bool:
        """Whether some of its training people were not healthy controls."""
        return "evaluation" in self.seen.roles

    @property
    def variance_floor(self) -> float:
        """Least SD of a voxel that suits the model, as a share of the brain's root mean square."""
        return self.model_config.variance_floor

    @property
    def predicts_out_of_sample(self) -> bool:
        """Whether the model predicts people from their covariates, in members that were not trained on them."""
        return self.num_members > 1 and self.model_config.uses_covariates

    @property
    def members(self) -> list[Model]:
        """All members, loaded."""
        return [self.member(index) for index in range(self.num_members)]

    @property
    def has_latent(self) -> bool:
        """Whether `encode` has an answer."""
        return self.member(0).has_latent

    @property
    def comparable_latents(self) -> bool:
        """Whether all scans can be encoded into one space: one member, and a model with a latent."""
        return self.num_members == 1 and self.has_latent

    @cached_property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one scan's latent: (d,), or channels and sides."""
        model = self.member(0)
        rows = torch.zeros((1, self.num_covariates), device=self.device)
        return tuple(model.encode(torch.zeros((1, *model.volume_shape), device=self.device), rows).shape[1:])

    def member(self, index: int) -> Model:
        """One member, loaded once and kept."""
        if index not in self._members:
            self._members[index] = self._load(index)
        return self._members[index]

    def can_judge(self, person: str | PersonHashes) -> bool:
        """Whether a member never saw this person: an id, or an identity with the person's scans."""
        return bool(self.seen.blind_to(_identity(person)))

    def expect(
        self,
        volume: Float,
        person: str | PersonHashes,
        covariates: NDArray[np.float64] | None = None,
        samples: int = 0,
        seed: int = 0,
        allow_seen: bool = False,
    ) -> tuple[Float, Float | None] | None:
        """The healthy expectation of one person's volume: the mean over members that were not trained on the person.

        Args:
            volume: [C, X, Y, Z] in stored units, channels in the order of `channels`.
            person: whose it is: an id, or an identity with the person's scans.
            covariates: the person's row of `design.matrix`, [p].
            samples: posterior draws per member; 0 decodes the posterior mean.
            seed: of those draws; with the member's number it determines them.
            allow_seen: for a person that every member saw, use all members instead of none, to measure how well training people
                are reconstructed. Such an expectation must not be used to score the person.

        Returns:
            mean [C, X, Y, Z] and the standard deviation over draws and members (None for point expectations),
            or None if every member saw this person.

        Raises:
            UserError: the expectation is not finite.
        """
        blind = self.seen.judges(_identity(person)) or (list(range(self.num_members)) if allow_seen else [])
        if not blind:
            return None
        total = np.zeros(volume.shape, np.float64)
        squares = np.zeros(volume.shape, np.float64)
        variance: NDArray[np.float64] | None = None
        for index in blind:
            generator = torch.Generator().manual_seed(seed * 1009 + index)
            inputs = self._inputs(volume, covariates)
            expectation = self.member(index).expect(*inputs, samples=samples, generator=generator)
            mean = expectation.mean[0].cpu().numpy().astype(np.float64)
            require_finite_output(mean, self.folder, _called(person))
            total += mean
            squares += mean**2
            if expectation.std is not None:
                spread = expectation.std[0].cpu().numpy().astype(np.float64) ** 2
                variance = spread if variance is None else variance + spread
        average = total / len(blind)
        if variance is None:
            return average.astype(np.float32), None
        between = np.clip(squares / len(blind) - average**2, 0, None)
        return average.astype(np.float32), np.sqrt(variance / len(blind) + between).astype(np.float32)

    def encode(
        self,
        volume: Float,
        person: str | PersonHashes,
        covariates: NDArray[np.float64] | None = None,
        member: int | None = None,
    ) -> Float:
        """The latent mean of one person's volume, flattened to [d].

        Members have separate latent spaces, which cannot be averaged: `member` chooses one; None takes the first member that
        never saw the person, or the first of all if every one did.

        Raises:
            UserError: the model has no latent space, or makes no finite latent of the volume.
        """
        if not self.has_latent:
            raise UserError(f"{self.folder}: a {self.kind} model has no latent space; use a run of kind vae or pca.")
        chosen = member if member is not None else next(iter(self.seen.blind_to(_identity(person))), 0)
        latent = self.member(chosen).encode(*self._inputs(volume, covariates))
        flat: Float = latent[0].flatten().cpu().numpy().astype(np.float32)
        require_finite_output(flat, self.folder, _called(person))
        return flat

    def covariates_of(self, age_years: Any, sex: Any, site: Any) -> NDArray[np.float64]:
        """Covariates of healthy people of these ages, sexes and sites, as the model takes them, [n, p]."""
        return self.model_config.covariates_for(self.design, age_years, sex, site)

    @cached_property
    def num_covariates(self) -> int:
        """Columns of `covariates_of`."""
        return self.covariates_of([np.nan], [""], [""]).shape[1]

    def require_plan(self, plan: GridPlan, folder: Path) -> None:
        """Refuse scans that were prepared on another plan than the weights were trained on.

        Raises:
            UserError: naming both plans and what distinguishes them.
        """
        if plan.key != self.plan.key:
            raise UserError(
                f"{self.folder}: weights of another plan: trained on {self.plan.describe()} [{self.plan.key}], but "
                f"{folder} holds {plan.describe()} [{plan.key}] ({self.plan.difference(plan)}); "
                "prepare the scans with the settings of the training cohort."
            )

    def require(self, prepared: Prepared) -> None:
        """Refuse a prepared cohort that the run cannot be used on: another plan, or channels that are missing."""
        self.require_plan(prepared.plan, prepared.folders[0])
        prepared.require_channels(self.channels)

    def _inputs(
        self, volume: Float, covariates: NDArray[np.float64] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        volumes = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None].to(self.device)
        rows = None if covariates is None else torch.as_tensor(np.atleast_2d(covariates)).to(self.device)
        return volumes, rows

    def _load(self, index: int) -> Model:
        path = weights_path(self.folder, index)
        tensors = read_weights(path, self.plan.key, self.kind)
        statistics = statistics_in(path, tensors)
        if statistics.mask.shape != self.plan.shape or len(statistics.channel_mean) != len(self.channels):
            raise UserError(f"{path}: volumes of {statistics.mask.shape} do not fit the run's plan {self.plan.shape}.")
        with torch.device("meta"):  # settings that claim a larger model than the weights are get no memory for it
            require_fit(path, self._built(statistics), tensors)
        model = self._built(statistics)
        fill(path, model, tensors)
        return model.to(self.device).eval()

    def _built(self, statistics: Statistics) -> Model:
        try:
            return self.model_config.build(self.plan, self.channels, statistics, len(self.design.columns))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.folder / SETTINGS}: no model can be built from these settings ({reason}); {AGAIN}."
            ) from None


def load_run(folder: Path, device: str = "cpu") -> Run:
    """Open a finished run folder.

    Raises:
        UserError: not a finished run, a damaged or missing file, or (when a member is loaded) weights that do not fit.
    """
    artefact = read(folder, RUN_VERBS)
    config = _config(folder)
    plan = read_plan(folder / PLAN)
    seen, design = read_seen(folder), read_design(folder)
    model_config: BaseModelConfig = config[0]
    kept = sorted(path.name for path in (folder / MEMBERS).glob("[0-9]*"))
    if len(kept) > len(seen.members):
        raise UserError(f"{folder / SUBJECTS}: names {len(seen.members)} members, and {len(kept)} are there; {AGAIN}.")
    absent = [name for name in config[1] if name not in plan.channels]
    if absent:
        raise UserError(f"{folder / SETTINGS}: channel {absent[0]} is not one of {', '.join(plan.channels)}; {AGAIN}.")
    for index in range(len(seen.members)):
        path = weights_path(folder, index)
        if not path.is_file():
            raise UserError(f"{path}: the weights of member {index} are missing; copy the run folder again.")
    return Run(folder, artefact, plan, config[1], model_config, design, seen, torch.device(device))


def load_expecting(folder: Path, device: str = "cpu") -> Run:
    """Open a run whose model has an expectation, or latents, of scans.

    Raises:
        UserError: as `load_run`, or a classifier or a forecaster.
    """
    run = load_run(folder, device)
    if not run.model_config.has_expectation:
        raise UserError(
            f"{folder}: a {run.kind} has no expectation and no latent of a scan; use it with {run.model_config.used_with}, "
            "or give a run of another kind of model."
        )
    return run


def _config(folder: Path) -> tuple[BaseModelConfig, tuple[str, ...]]:
    tree = read_settings(folder)
    try:
        model: BaseModelConfig = read_config(dict(tree["model"]))
        channels = tree["channels"]
        if not isinstance(channels, list) or not channels or len(set(map(str, channels))) < len(channels):
            raise ValueError("channels are a list of different names")
        return model, tuple(str(name) for name in channels)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / SETTINGS}: missing or damaged ({reason}); {AGAIN}.") from None


def require_finite_output(values: NDArray[Any], folder: Path, whose: str) -> None:
    """Refuse what a model made of a scan where it is not finite.

    Args:
        values: expectation or latent.
        folder: of the run.
        whose: subject or key of the scan.

    Raises:
        UserError: naming the run and the scan.
    """
    if not np.isfinite(values).all():
        raise UserError(
            f"{folder}: its model makes NaN or infinite values of the scan of {whose}; look at that scan and its covariates, "
            "leave it out, or train the model again."
        )


def _identity(person: str | PersonHashes) -> PersonHashes:
    return identity_of(person) if isinstance(person, str) else person


def _called(person: str | PersonHashes) -> str:
    return person if isinstance(person, str) else f"the person with hash {person[0]}"


class Conditioned(Protocol):
    """A run, or several used as one, that codes age, sex and site for its models."""

    def covariates_of(self, age_years: Any, sex: Any, site: Any) -> NDArray[np.float64]:
        """Rows of the design, [n, p]."""
        ...


def covariates_of(run: Conditioned, row: pd.Series) -> NDArray[np.float64]:
    """A person's row of the run's design, [p]."""
    return run.covariates_of([row["age_years"]], [row["sex"]], [row["site"]])[0]


def scan_seed(seed: int, key: str) -> int:
    """A seed that depends on the scan, so that neither order nor interruption changes its posterior draws."""
    return int(digest([seed, key])[:8], 16)
