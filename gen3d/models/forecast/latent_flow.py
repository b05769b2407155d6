"""`kind: latent_flow`: a flow in the latents of an autoencoder from a scan to the same person's scan years later.

Lipman et al. 2023 (flow matching), with a Brownian bridge between the two latents instead of a straight path from noise (Liu et
al. 2023, "I2SB"; Albergo et al. 2023, "Stochastic interpolants"): the flow starts at the scan's own latent, so that a velocity of
zero is the scan unchanged (as in temporal flow matching, arXiv 2508.21580). Only the difference of two decoded latents is
added to the scan: what the autoencoder blurs is not forecast.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.coding import Coding
from gen3d.cohort.regions import all_regions, regions_on
from gen3d.core.words import listed
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.within_person import region_log_changes
from gen3d.models.base import Model, Statistics
from gen3d.models.diffusion.in_latents import WRITTEN_BY_TRAIN, InLatents, InLatentsConfig, num_codes
from gen3d.models.forecast.base import Floats, Forecaster, Future, KnownVisits, OfPerson
from gen3d.models.forecast.realise import space_of
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.run import scan_seed

T1W, LOG_JACOBIAN = "t1w", "log_jacobian"
LATENT_VOXELS_AT_ONCE = 20_000
"""Voxels of latents that are integrated together: more rows than these hold take as long one by one, and more memory together."""

POSITIONS = 1000.0
"""What the network is given as its timestep at the end of the path."""
NUMBER = 0
"""Of codes, for a condition that is a number (see `gen3d.nets.denoiser.ConditionTokens`)."""


class LatentFlowConfig(ForecastConfig, InLatentsConfig):
    """Residual latent flow: learns how the latent of a scan changes over years, given conditions and earlier visits."""

    material: ClassVar[Literal["scans", "latents", "labels", "visits", "latent_visits", "stages"]] = "latent_visits"
    written_by_train: ClassVar[tuple[str, ...]] = (
        *dict.fromkeys((*WRITTEN_BY_TRAIN, *ForecastConfig.written_by_train)),
    )

    kind: Literal["latent_flow"] = Field("latent_flow", description="flow in an autoencoder's latents to a later scan")
    past: int = Field(1, ge=0, le=8, description="earlier visits of a person that the network is shown, the last ones")
    bridge_noise: float = Field(
        1.0,
        ge=0,
        description="SD of the noise that the path of a person gathers over its whole length before it is tied to the later "
        "scan, in units of the usual change; 0: straight paths and no draws",
    )
    start_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of training pairs shown at the start of their path, where every forecast begins",
    )
    solver: Literal["euler", "heun"] = Field("euler", description="with bridge_noise=0: how the flow is integrated")
    steps: int = Field(8, gt=0, description="steps of a draw, or with bridge_noise=0 of the forecast")

    @model_validator(mode="after")
    def _consistent(self) -> LatentFlowConfig:
        self.check_network(self.conditions)
        return self

    @property
    def coded(self) -> Coding:
        return Coding.from_dict(self.coding or {})

    @property
    def form(self) -> str:
        sides = " x ".join(map(str, self.latent_shape or ()))
        conditions = listed(["years", *(name.replace("_", " ") for name in self.coded.names)])
        return f"flow in {sides} latents, conditioned on {conditions}"

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> LatentFlow:
        """The untrained model, which forecasts no change, around an autoencoder without its weights."""
        autoencoder = self.built_autoencoder(plan, channels, statistics, num_covariates)
        return LatentFlow(self, plan, channels, autoencoder, statistics)


class LatentFlow(InLatents, Forecaster):
    """A frozen autoencoder and a network of change, complete in one set of weights.

    With z0 the scan's latent, z1 that of the later one, and everything in units of the usual change (`change_std` [C], the root
    mean square of z1 - z0 over the training pairs, `typical_years` apart): offsets o = (z - z0) / change_std, the target
    d = o of z1, and at place s of the path o_s = s d + b sqrt(|years| / typical_years) sqrt(s (1 - s)) noise.
    The network's output u(o_s, s | z0, years, conditions, earlier visits) is a rate at the start of the path, and years /
    typical_years * u its estimate of d: whatever the weights, it is zero at 0 years, and linear in time where nothing else was
    learned. Further on, the offset itself tells part of d (`_shares`).
    The velocity of the flow is (d - o_s) / (1 - s), the bridge's drift.

    An autoencoder decodes less change of log_jacobian than there was. `volume_gain` is what its differences are multiplied by
    to be volumes: the slope of measured on decoded change over the training people's own visits.
    """

    has_latent = False
    change_std: Tensor
    typical_years: Tensor
    volume_gain: Tensor

    def __init__(
        self,
        config: LatentFlowConfig,
        plan: GridPlan,
        channels: tuple[str, ...],
        autoencoder: Model,
        statistics: Statistics,
    ) -> None:
        super().__init__(config, autoencoder, statistics)
        self.config, self.plan, self.channels = config, plan, channels
        num_channels, past = self.latent_shape[0], config.past
        # Beside the offset: the scan's latent; of every earlier visit its rate of change and whether there is one.
        further = num_channels + past * (num_channels + 1)
        self.denoiser = config.built_denoiser([NUMBER] * (1 + past) + num_codes(self.coding), further)
        self.register_buffer("change_std", torch.ones(num_channels))
        self.register_buffer("typical_years", torch.ones(()))
        self.register_buffer("volume_gain", torch.ones(()))

    @property
    def draws_samples(self) -> bool:  # type: ignore[override]  # a property of the settings here
        """Whether draws differ."""
        return self.config.bridge_noise > 0

    def offset(self, latents: Tensor, start: Tensor) -> Tensor:
        """Differences of latents [B, C, ...] in units of the usual change."""
        return (latents - start) / self.change_std.view(-1, 1, 1, 1)

    def noise_scale(self, years: Tensor) -> Tensor:
        """SD of the noise gathered over a whole path, [B, 1, 1, 1, 1]: variance grows with time, as of Brownian motion."""
        scale = self.config.bridge_noise * torch.sqrt(years.abs() / self.typical_years)
        return scale.view(-1, 1, 1, 1, 1)

    def change(
        self, offset: Tensor, place: Tensor, start: Tensor, past: Tensor, years: Tensor, conditions: Tensor
    ) -> Tensor:
        """The change over all the years that is expected at a place of the path, in units of the usual change.

        Args:
            offset: [B, C, ...] from the start to the place.
            place: [B] in [0, 1).
            start: [B, C, ...] latents of the scans.
            past: [B, past, C, ...] latents of earlier visits, the last one first; anything where `conditions` has no years.
            years: [B] to the target; negative: back in time.
            conditions: [B, past + p]: years from the scan to each earlier visit, NaN for none, and coded conditions.
        """
        relative = years / self.typical_years
        num_past = self.config.past
        known = torch.isfinite(conditions[:, :num_past])
        past_years = torch.where(known, conditions[:, :num_past], torch.ones_like(conditions[:, :num_past]))
        inputs = [offset, self.standardise(start)]
        for visit in range(num_past):
            mask = known[:, visit].view(-1, 1, 1, 1, 1)
            rate = self.offset(past[:, visit], start) * (self.typical_years / past_years[:, visit]).view(-1, 1, 1, 1, 1)
            inputs += [torch.where(mask, rate, torch.zeros_like(rate)), mask.expand(-1, 1, *rate.shape[2:]).to(rate)]
        times = torch.cat([relative[:, None], conditions[:, :num_past] / self.typical_years], dim=1)
        numbers = torch.cat([times, conditions[:, num_past:]], dim=1)
        rate = self.denoiser(torch.cat(inputs, dim=1), POSITIONS * place, numbers)
        kept, added = self._shares(place, relative)
        return kept * offset + added * rate.float()

    def _shares(self, place: Tensor, relative: Tensor) -> tuple[Tensor, Tensor]:
        """What the estimate takes of the offset, and of the network's output, [B, 1, 1, 1, 1] each.

        The mean and SD of the change given its noisy offset where changes are normal with SD `relative`, as preconditioning of
        Karras et al. 2022 (EDM, table 1): normalisation hides from a network how large its input is. At the start, where the
        offset is 0, the output alone counts, times `relative`; at 0 years both are 0.
        """
        prior, noise = relative.square(), self.config.bridge_noise**2 * relative.abs() * (1 - place)
        both = place * prior + noise
        begins = (place == 0) | (both == 0)
        both = torch.where(begins, torch.ones_like(both), both)
        kept = torch.where(begins, torch.zeros_like(both), prior / both)
        spread = torch.where(begins, relative, relative.sign() * (prior * noise / both).sqrt())
        return kept.view(-1, 1, 1, 1, 1), spread.view(-1, 1, 1, 1, 1)

    @torch.no_grad()
    def integrate(
        self,
        start: Tensor,
        past: Tensor,
        years: Tensor,
        conditions: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """The change of latents after so many years, [B, C, ...] in the autoencoder's units; arguments as of `change`.

        Args:
            generators: one per row, on the CPU, for draws: the bridge's stochastic equation, each step exact given its estimate of
                the end (Liu et al. 2023, algorithm 2). None: the point forecast, which is the estimate at the start where the
                bridge has noise, and the integral of the flow where it has none.
        """
        places = torch.linspace(0, 1, self.config.steps + 1, dtype=torch.float64).tolist()
        offset = torch.zeros_like(start)
        heun = self.config.solver == "heun" and generators is None

        def expected(offset: Tensor, place: float) -> Tensor:
            at = torch.full((len(start),), place, dtype=torch.float32, device=start.device)
            return self.change(offset, at, start, past, years, conditions)

        if generators is None and self.config.bridge_noise:
            # The mean over all courses: the estimate at the start, where nothing but the scan is known.
            return expected(offset, 0.0) * self.change_std.view(-1, 1, 1, 1)
        for place, following in itertools.pairwise(places):
            share = (following - place) / (1 - place)
            change = expected(offset, place)
            ahead = (1 - share) * offset + share * change
            if heun and following < 1:
                change = (change + expected(ahead, following)) / 2
                ahead = (1 - share) * offset + share * change
            if generators is not None and following < 1:
                rows = [torch.randn(start.shape[1:], generator=generator) for generator in generators]
                noise = torch.stack(rows).to(start)
                ahead = ahead + (share * (1 - following)) ** 0.5 * self.noise_scale(years) * noise
            offset = ahead
        return offset * self.change_std.view(-1, 1, 1, 1)

    def of(self, known: KnownVisits) -> OfPerson:
        return _FlowOfPerson(self, known)

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        return self.of(known).futures(years, draw)

    def region_changes(
        self, known: KnownVisits, years: Sequence[float], draw: int | None = None
    ) -> NDArray[np.float64]:
        return self.of(known).region_changes(years, draw)

    @torch.no_grad()
    def _begin(self, known: KnownVisits) -> _Begun:
        volumes = np.stack([known.volumes[:, known.channels.index(name)] for name in self.channels], axis=1)
        latents = self._latents(volumes)
        past, conditions = self._context(latents, known)
        return _Begun(latents[-1:], past, conditions, self.decode(latents[-1:]))

    def _differences(self, begun: _Begun, key: str, courses: Sequence[tuple[float, int | None]]) -> Iterator[Floats]:
        """Decoded changes [C, X, Y, Z] of the scan, in stored units, of every (horizon, draw); points or draws, not both.

        Several are integrated at once: a step on a small latent costs little more for many rows than for one. They are decoded
        one by one, as volumes are large.
        """
        at_once = max(1, LATENT_VOXELS_AT_ONCE // math.prod(self.latent_shape[1:]))
        for first in range(0, len(courses), at_once):
            for change in self._changes(begun, key, courses[first : first + at_once]):
                yield self._decoded(begun, change)

    @torch.no_grad()
    def _changes(self, begun: _Begun, key: str, courses: Sequence[tuple[float, int | None]]) -> Tensor:
        """Changes of the scan's latent [courses, C, ...]."""
        num = len(courses)
        # Every horizon has the same noise: a draw is one course of a person.
        seeds = [scan_seed(draw, key) for _, draw in courses if draw is not None]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [part.expand(num, *part.shape[1:]) for part in (begun.start, begun.past, begun.conditions)]
        ahead = torch.tensor([float(years) for years, _ in courses], device=begun.start.device)
        return self.integrate(rows[0], rows[1], ahead, rows[2], generators or None)

    @torch.no_grad()
    def _decoded(self, begun: _Begun, change: Tensor) -> Floats:
        decoded = self.decode(begun.start + change[None]) - begun.decoded
        difference: Floats = decoded[0].cpu().numpy().astype(np.float32)
        return difference

    def _latents(self, volumes: Floats) -> Tensor:
        """Posterior means of a person's visits, one after the other: [V, *latent_shape]."""
        device = self.brain_mask.device
        encoded = [self.autoencoder.encode(torch.from_numpy(np.ascontiguousarray(v[None])).to(device)) for v in volumes]
        return torch.cat(encoded)

    def _context(self, latents: Tensor, known: KnownVisits) -> tuple[Tensor, Tensor]:
        """Earlier visits [1, past, C, ...], the last one first, and the row of conditions [1, past + p]."""
        num_past = self.config.past
        past = latents.new_zeros((1, num_past, *self.latent_shape))
        times = np.full(num_past, np.nan)
        apart = self.config.min_years
        earlier = [visit for visit in reversed(range(len(latents) - 1)) if known.years[visit] <= -apart][:num_past]
        for place, visit in enumerate(earlier):
            past[0, place] = latents[visit]
            times[place] = known.years[visit]
        row = np.concatenate([times, coded_row(self.coding, known.columns)])
        return past, torch.tensor(row[None], dtype=torch.float32, device=latents.device)

    def _future(self, known: KnownVisits, difference: Floats) -> Future:
        """The person after the decoded latent changed by [C, X, Y, Z]."""
        t1w = (known.volume(T1W) + difference[self.channels.index(T1W)]) * self.brain_mask.cpu().numpy()
        grown = self._grown(difference)
        on_scan = space_of(known, self.plan).to_scan(grown) if grown.any() else np.zeros_like(grown)
        return Future(t1w.astype(np.float32), on_scan, self._of_regions(known, difference))

    def _grown(self, difference: Floats) -> Floats:
        """Log volume change [X, Y, Z] on the template's voxels, of a decoded change [C, X, Y, Z]."""
        return difference[self.channels.index(LOG_JACOBIAN)] * np.float32(float(self.volume_gain))

    def _of_regions(self, known: KnownVisits, difference: Floats) -> NDArray[np.float64]:
        return grown_regions(self.plan, known.volume(LOG_JACOBIAN), self._grown(difference))


class _Begun(NamedTuple):
    """What is computed of a person before any horizon: the scan's latent [1, C, ...], the past [1, past, C, ...], the row of
    conditions [1, past + p], and the latent decoded [1, C, X, Y, Z]."""

    start: Tensor
    past: Tensor
    conditions: Tensor
    decoded: Tensor


@dataclass(frozen=True, eq=False)
class _FlowOfPerson(OfPerson):
    """A scan is encoded, and its latent decoded, once for all draws."""

    model: LatentFlow

    @cached_property
    def _begun(self) -> _Begun:
        return self.model._begin(self.known)

    def _differences(self, years: Sequence[float], draws: Sequence[int | None]) -> Iterator[Floats]:
        """Draw by draw, each with all horizons."""
        return self.model._differences(self._begun, self.known.key, [(year, draw) for draw in draws for year in years])

    def futures(self, years: Sequence[float], draw: int | None = None) -> list[Future]:
        return [self.model._future(self.known, difference) for difference in self._one_by_one(years, draw)]

    def region_changes(self, years: Sequence[float], draw: int | None = None) -> NDArray[np.float64]:
        return np.stack([self._of_regions(difference) for difference in self._one_by_one(years, draw)])

    def _one_by_one(self, years: Sequence[float], draw: int | None) -> Iterator[Floats]:
        """Integrated alone, so that not even rounding depends on the other horizons."""
        return itertools.chain.from_iterable(self._differences([horizon], [draw]) for horizon in years)

    def drawn_futures(self, years: Sequence[float], draws: int) -> Iterator[list[Future]]:
        differences = self._differences(years, range(draws))
        for _ in range(draws):
            yield [self.model._future(self.known, next(differences)) for _ in years]

    def drawn_region_changes(self, years: Sequence[float], draws: int) -> NDArray[np.float64]:
        changes = np.stack([self._of_regions(difference) for difference in self._differences(years, range(draws))])
        return changes.reshape(draws, len(years), -1)

    def _of_regions(self, difference: Floats) -> NDArray[np.float64]:
        return self.model._of_regions(self.known, difference)


def grown_regions(plan: GridPlan, log_jacobian: Floats, grown: Floats) -> NDArray[np.float64]:
    """Log change of every region's volume [R] where the local volume exp(log_jacobian) grows; all on the template's voxels."""
    labels, num = regions_on(plan), len(all_regions())
    return region_log_changes(log_jacobian + grown, labels, num) - region_log_changes(log_jacobian, labels, num)


def coded_row(coding: Coding, columns: Mapping[str, Any]) -> NDArray[np.float64]:
    """Coded conditions [p] of one person, NaN for what is not known.

    Raises:
        UserError: a code that the model never saw.
    """
    return np.array([covariate.code(columns.get(covariate.name)) for covariate in coding.covariates], dtype=np.float64)
