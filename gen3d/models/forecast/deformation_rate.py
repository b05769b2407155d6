"""`kind: deformation_rate`: a person's own rate of deformation, predicted from the scan and the conditions, integrated in time.

The rate is log volume change per year in the template's coordinates. It is predicted by ridge regression on the conditions and on
principal components of the scan; a network may add to it what it sees beyond. Deviations of people from the prediction have
components too (random effects): a person's own past moves the forecast along them, as far as it was measured well, and
draws from what stays unknown of them show how sure the forecast is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.regions import regions_on
from gen3d.core.artefact import digest
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.maths.slopes import reliability
from gen3d.models.base import Statistics, VolumeSet
from gen3d.models.forecast.base import Future, KnownVisits, OfPerson
from gen3d.models.forecast.covariates import num_columns
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons, Past, array, measured_ratio, past_of
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.normative.pca import PCAModel
from gen3d.nets.padding import Padding
from gen3d.nets.unet import UNet

Values = NDArray[np.float64]
NUM_GROUPS = 8
SMALLEST_SIDE = 3
"""Of the network's coarsest level: see gen3d.models.normative.vae on narrow grids and bfloat16."""
PEOPLE_PER_COMPONENT = 3


class DeformationRateConfig(ForecastConfig):
    """Ridge regression of the rate of deformation, or a network on top of it."""

    kind: Literal["deformation_rate"] = Field("deformation_rate", description="a person's own rate of deformation")
    predictor: Literal["ridge", "network"] = Field(
        "ridge",
        description="ridge: on conditions and components of the scan; network: a U-Net adds to the ridge's prediction",
    )
    components: int = Field(
        16, ge=1, description="principal components of the scan that predict; at most one per 3 people"
    )
    modes: int = Field(
        8, ge=1, description="components of people's deviations from the prediction; at most one per 3 people"
    )
    widths: tuple[int, ...] = Field(
        (16, 32, 64), min_length=1, description="network: channels per level; a level halves every side"
    )
    stem: Literal[1, 2] = Field(2, description="network: 2 folds 2 x 2 x 2 voxels into channels first, which is faster")
    region_weight: float = Field(1.0, ge=0, description="network: weight of the error of regional rates in the loss")
    fluid_weight: float = Field(
        0.1, ge=0, description="network: weight of the prior that fluid takes up what tissue loses, in the loss"
    )

    @model_validator(mode="after")
    def _fits_groups(self) -> DeformationRateConfig:
        odd = [width for width in self.widths if width < 1 or width % NUM_GROUPS]
        if odd:
            raise ValueError(f"widths={list(self.widths)}: {odd[0]} is not a multiple of {NUM_GROUPS}")
        return self

    @property
    def closed_form(self) -> bool:
        return self.predictor == "ridge"

    @property
    def form(self) -> str:
        given = ", ".join(self.coded.names) if self.coding else ""
        return f"{self.predictor}{': ' if given else ''}{given}"

    def fitting(self, num_people: int) -> DeformationRateConfig:
        most = max(1, num_people // PEOPLE_PER_COMPONENT)
        return self.model_copy(update={"components": min(self.components, most), "modes": min(self.modes, most)})

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse a grid that the network would shrink too far."""
        reduction = self.stem * 2 ** (len(self.widths) - 1)
        if not self.closed_form and -(-min(plan.shape) // reduction) < SMALLEST_SIDE:
            raise UserError(
                f"model.widths={list(self.widths)} with stem={self.stem} shrinks every side {reduction} times, too much for a grid "
                f"of {plan.shape}; name fewer widths or prepare with a smaller spacing_mm."
            )

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> DeformationRate:
        """The untrained model."""
        return DeformationRate(self, plan, channels, statistics)


class DeformationRate(LearnedForecaster):
    """rate = predictors @ coefficients [+ network] + scores of deviations @ modes.

    Predictors are 1, conditions and component scores in units of their SD, [1 + p + k]. Rates are of voxels and of regions
    together, [V + R]: `coefficients` [1 + p + k, V + R], `modes` [m, V + R] with SD `mode_sd` [m] over people, and of regions
    also what modes do not explain, `rest_sd` [R]. `ratio` says how noisy a measured rate is, `weights` [2] how voxels and
    regions enter an inner product.
    """

    coefficients: Tensor
    modes: Tensor
    mode_sd: Tensor
    rest_sd: Tensor
    ratio: Tensor
    weights: Tensor
    rate_sd: Tensor
    draws_samples = True

    def __init__(
        self, config: DeformationRateConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(config, plan, channels, statistics)
        self.config: DeformationRateConfig = config
        self.scan = PCAModel(statistics, config.components, 0)
        num_outcomes = self.num_voxels + self.num_regions
        num_predictors = 1 + self.num_covariates + config.components
        self.register_buffer("coefficients", torch.zeros(num_predictors, num_outcomes))
        self.register_buffer("modes", torch.zeros(config.modes, num_outcomes))
        self.register_buffer("mode_sd", torch.zeros(config.modes))
        self.register_buffer("rest_sd", torch.zeros(self.num_regions))
        self.register_buffer("ratio", torch.ones(1))
        self.register_buffer("weights", torch.ones(2))
        self.register_buffer("rate_sd", torch.ones(1))
        self.network: UNet | None = None
        if config.predictor == "network":
            inputs = len(channels) + num_columns(self.coding) + 1
            self.network = UNet(inputs, 1, config.widths, NUM_GROUPS, config.stem)
            self.network.start_at_zero()
            self.padding = Padding(plan.shape, self.network.reduction)

    def learn(self, lessons: Lessons) -> None:
        """Components of the scans, then ridge with two penalties (conditions, components), then modes of what is left out."""
        self.scan.fit(VolumeSet(len(lessons.frame), lambda rows: torch.from_numpy(lessons.load(rows))))
        covariates = self._learn_centre(lessons.frame)
        scans = (torch.from_numpy(lessons.load(np.array([row]))) for row in range(len(lessons.frame)))
        scores = np.concatenate([array(self._scores(scan)).astype(np.float64) for scan in scans])
        design = np.concatenate([covariates, scores], axis=1)
        ratio, _ = measured_ratio(lessons, covariates)
        numbers = np.repeat([0, 1, 2], [1, self.num_covariates, self.config.components])
        fitted = lessons.ridge(design, numbers, ratio, lessons.rates)
        self.coefficients.copy_(torch.from_numpy(fitted.coefficients))
        self.ratio.fill_(ratio)
        squares = [float(np.square(part).sum()) for part in np.split(fitted.deviations, [self.num_voxels], axis=1)]
        weights = torch.tensor([1 / max(each, 1e-20) for each in squares], dtype=torch.float64)
        self.weights.copy_(weights / weights.sum())
        self.rate_sd.fill_(float(lessons.maps.values.std()) or 1.0)
        self._learn_modes(fitted.deviations, reliability(ratio, lessons.maps.information))

    def _learn_modes(self, deviations: Values, trust: Values) -> None:
        """Components [m, V + R] of people's deviations [n, V + R], each person as far as the rate was measured well."""
        weights = self._outcome_weights()
        weighted = np.sqrt(trust)[:, None] * deviations
        values, vectors = np.linalg.eigh((weighted * weights) @ weighted.T)
        kept = np.argsort(values)[::-1][: self.config.modes]
        scale = np.sqrt(np.maximum(values[kept], 1e-30))
        modes = (vectors[:, kept] / scale).T @ weighted
        modes *= np.sign(modes[np.arange(len(modes)), np.abs(modes).argmax(axis=1)])[:, None]
        num = len(deviations)
        self.modes.copy_(torch.from_numpy(modes))
        self.mode_sd.copy_(torch.from_numpy(scale / np.sqrt(max(1, num - 1))))
        rest = weighted - (weighted * weights) @ modes.T @ modes
        self.rest_sd.copy_(torch.from_numpy(np.sqrt(np.square(rest[:, self.num_voxels :]).sum(0) / max(1, num - 1))))

    def _outcome_weights(self) -> Values:
        """Weight of every voxel and region in an inner product [V + R]."""
        return np.repeat(array(self.weights).astype(np.float64), [self.num_voxels, self.num_regions])

    def _scores(self, volumes: Tensor) -> Tensor:
        """Component scores [B, k] of scans [B, C, X, Y, Z], SD 1 over training scans."""
        vectors = self.normalise(volumes).flatten(2).index_select(2, self.places).flatten(1)
        return (vectors - self.scan.coefficients) @ self.scan.components.T / self.scan.component_std.clamp(min=1e-12)

    def predicted(self, volumes: Tensor, covariates: Tensor) -> Tensor:
        """Ridge's rates [B, V + R] of scans [B, C, X, Y, Z] with centred conditions [B, 1 + p]."""
        return torch.cat([covariates.float(), self._scores(volumes)], dim=1) @ self.coefficients

    def added(self, volumes: Tensor, covariates: Tensor, ridge: Tensor) -> Tensor:
        """What the network adds to the ridge's rate map [B, X, Y, Z]; it sees the scan, that map and the conditions."""
        assert self.network is not None
        planes = covariates[:, 1:, None, None, None].float().expand(-1, -1, *volumes.shape[2:])
        seen = torch.cat([self.normalise(volumes), ridge[:, None] / self.rate_sd, planes], dim=1)
        added = self.padding.crop(self.network(self.padding.pad(seen)))[:, 0]
        return added.float() * self.rate_sd * self.brain_mask

    def map_of(self, values: Tensor) -> Tensor:
        """Values [B, V] in the mask as maps [B, X, Y, Z]."""
        sides = self.brain_mask.shape
        return values.new_zeros((len(values), sides.numel())).index_copy(1, self.places, values).unflatten(1, sides)

    def coded(self, indicators: Tensor) -> Tensor:
        """Indicators [B, p] with NaN where unknown -> rows [B, 1 + p] about the training people's mean."""
        about = torch.nan_to_num(indicators.float() - self.centre.float())
        return torch.cat([about.new_ones((len(about), 1)), about], dim=1)

    def of(self, known: KnownVisits) -> OfPerson:
        return _RateOfPerson(self, known)

    def rates(self, known: KnownVisits, draw: int | None = None) -> tuple[Values, Values]:
        """Rates per year of the V voxels and the R regions, as expected or in one draw."""
        return _RateOfPerson(self, known).rates(draw)

    @torch.no_grad()
    def _expected(self, known: KnownVisits) -> Values:
        """Rates per year [V + R] of somebody whose earlier visits are not known."""
        channels = [known.channels.index(name) for name in self.channels]
        scan = torch.from_numpy(np.ascontiguousarray(known.volumes[-1, channels])[None]).to(self.channel_mean.device)
        covariates = torch.from_numpy(self._covariates(known))[None].to(scan.device)
        expected = self.predicted(scan, covariates)
        if self.network is not None:
            ridge = self.map_of(expected[:, : self.num_voxels])
            expected = expected + self._with_regions(self.added(scan, covariates, ridge))
        return array(expected)[0].astype(np.float64)

    def _with_regions(self, added: Tensor) -> Tensor:
        """A map [B, X, Y, Z] as voxels of the mask and means over regions [B, V + R]."""
        labels = torch.from_numpy(np.array(regions_on(self.plan), dtype=np.int64)).to(added.device).flatten()
        sums = added.new_zeros((len(added), self.num_regions + 1)).index_add(1, labels, added.flatten(1))
        counts = torch.bincount(labels, minlength=self.num_regions + 1).clamp(min=1)
        return torch.cat([added.flatten(1).index_select(1, self.places), (sums / counts)[:, 1:]], dim=1)

    def _personal(self, key: str, rates: Values, past: Past | None, draw: int | None) -> tuple[Values, Values]:
        """The rates after what the person's past and a draw add to them."""
        modes, sd, rest_sd = (array(value).astype(np.float64) for value in (self.modes, self.mode_sd, self.rest_sd))
        trust, own_rest = 0.0, np.zeros(self.num_regions)
        scores = np.zeros(len(sd))
        if past is not None:
            trust = float(reliability(float(self.ratio), past.information))
            deviation = np.concatenate([past.maps, past.regions]) - rates
            deviation = np.nan_to_num(deviation)
            scores = trust * modes @ (self._outcome_weights() * deviation)
            own_rest = trust * deviation[self.num_voxels :] - (scores @ modes)[self.num_voxels :]
        if draw is not None:
            generator = np.random.default_rng(int(digest([key, draw])[:15], 16))
            unknown = np.sqrt(1 - trust)
            scores = scores + unknown * sd * generator.standard_normal(len(sd))
            own_rest = own_rest + unknown * rest_sd * generator.standard_normal(self.num_regions)
        rates = rates + scores @ modes
        return rates[: self.num_voxels], rates[self.num_voxels :] + own_rest

    def region_changes(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> Values:
        return self.of(known).region_changes(years, draw)

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        return self.of(known).futures(years, draw)


@dataclass(frozen=True, eq=False)
class _RateOfPerson(OfPerson):
    """Expected rates, and what earlier visits say, are computed once for all draws."""

    model: DeformationRate

    @cached_property
    def _expected(self) -> Values:
        return self.model._expected(self.known)

    @cached_property
    def _past(self) -> Past | None:
        return past_of(self.known, self.model.plan, self.model.mask)

    def rates(self, draw: int | None = None) -> tuple[Values, Values]:
        """See `DeformationRate.rates`."""
        return self.model._personal(self.known.key, self._expected, self._past, draw)

    def region_changes(self, years: Sequence[float], draw: int | None = None) -> Values:
        return np.outer(np.asarray(years, np.float64), self.model._with_voxels(self.known, self.rates(draw)[1]))

    def futures(self, years: Sequence[float], draw: int | None = None) -> list[Future]:
        voxels, regions = self.rates(draw)
        velocity = self.model._velocity(
            self.known, self.model._as_map(voxels), self.model._with_voxels(self.known, regions)
        )
        return self.model._futures(self.known, velocity, years)
