"""What closed-form forecasters learn from: measured rates of people who came more than once, and how one's own past counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.cohort.coding import Coding
from gen3d.cohort.regions import all_regions
from gen3d.cohort.visit_changes import measure_visits
from gen3d.imaging.plan import GridPlan
from gen3d.maths.grouped_ridge import RidgeFit, fit_ridge
from gen3d.maths.slopes import Slopes, noise_ratios, reliability, slopes
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Forecaster, Future, KnownVisits
from gen3d.models.forecast.covariates import centred, indicators, num_columns, of_person
from gen3d.models.forecast.realise import futures_of, space_of, unchanged, velocity_of_rates
from gen3d.models.forecast.settings import ForecastConfig

Floats = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Lessons:
    """Rates of n people, and the s scans that they are to be told from.

    Attributes:
        frame: [s] rows of the scans, with the columns of the cohort table.
        person: [s] place of the scan's person among the n.
        maps: slopes of log volume in the V voxels of the template's mask, per year.
        regions: slopes of the R regions; NaN for one without a voxel.
        load: the scans [k, C, X, Y, Z] of some of the s rows, in stored units.
    """

    frame: pd.DataFrame
    person: NDArray[np.int64]
    maps: Slopes
    regions: Slopes
    load: Callable[[NDArray[np.int64]], Floats]

    @property
    def num_people(self) -> int:
        """People whose rates were measured."""
        return len(self.maps.information)

    @property
    def known_regions(self) -> Slopes:
        """The slopes of the regions with 0 for those without a voxel."""
        values = self.regions.values
        scatter = np.nan_to_num(self.regions.scatter)
        return Slopes(np.nan_to_num(values), self.regions.information, scatter, self.regions.freedom)

    @property
    def rates(self) -> NDArray[np.floating]:
        """Slopes of voxels and regions together [n, V + R], 0 for a region without a voxel."""
        return np.concatenate([self.maps.values, self.known_regions.values], axis=1)

    def of_people(self, rows: Values) -> Values:
        """Mean over the scans of each person: [s, k] -> [n, k]."""
        total = np.zeros((self.num_people, rows.shape[1]))
        np.add.at(total, self.person, rows)
        return total / np.bincount(self.person, minlength=self.num_people)[:, None]

    def ridge(self, design: Values, blocks: NDArray[np.int64], ratio: float, rates: NDArray[np.floating]) -> RidgeFit:
        """The regression of rates [n, m] on the scans' predictors [s, p]; a person counts by how well rates were measured."""
        return fit_ridge(design, blocks, self.person, reliability(ratio, self.maps.information), rates)


@dataclass(frozen=True)
class Past:
    """Rates of one person between the visits that are known: [V], [R] (NaN without a voxel), and their information."""

    maps: Values
    regions: Values
    information: float


_pasts: WeakKeyDictionary[KnownVisits, Past] = WeakKeyDictionary()


def past_of(known: KnownVisits, plan: GridPlan, mask: NDArray[np.bool_]) -> Past | None:
    """The rates of a person with earlier visits; None for one visit. Measured once per person."""
    if len(known.years) < 2:
        return None
    if known not in _pasts:
        images = known.volumes[:, known.channels.index("t1w")]
        found, years = measure_visits(list(images), plan), np.asarray(known.years, dtype=np.float64)
        rows = [[np.arange(len(years))]]
        maps = slopes(found.maps[:, mask], years, rows)
        regions = slopes(found.regions, years, rows)
        _pasts[known] = Past(np.asarray(maps.values[0], np.float64), regions.values[0], float(maps.information[0]))
    return _pasts[known]


class LearnedForecaster(Forecaster):
    """A forecaster whose rates are computed from `Lessons`, given what is known of a person.

    Buffer `centre` [p]: mean of the training people's indicators.
    """

    centre: Tensor
    places: Tensor

    def __init__(
        self, config: ForecastConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(statistics)
        self.config, self.plan, self.channels = config, plan, channels
        self.coding: Coding = config.coded
        self.num_regions = len(all_regions())
        self.num_covariates = num_columns(self.coding)
        self.num_voxels = int(statistics.mask.sum())
        places = np.flatnonzero(statistics.mask)
        self.register_buffer("places", torch.as_tensor(places), persistent=False)
        self.register_buffer("centre", torch.zeros(self.num_covariates, dtype=torch.float64))

    @abstractmethod
    def learn(self, lessons: Lessons) -> None:
        """Compute the weights."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The template's brain mask [X, Y, Z]."""
        mask: NDArray[np.bool_] = self.brain_mask.cpu().numpy()
        return mask

    def _learn_centre(self, frame: pd.DataFrame) -> Values:
        """Design [s, 1 + p] of the training scans, about their mean, which is kept."""
        values = indicators(self.coding, frame)
        mean = np.nanmean(values, axis=0) if values.shape[1] else np.zeros(0)
        self.centre.copy_(torch.from_numpy(mean))
        return centred(values, mean)

    def _covariates(self, known: KnownVisits) -> Values:
        """A person's row of that design [1 + p]."""
        row: Values = centred(of_person(self.coding, known.columns), array(self.centre))[0]
        return row

    def _as_map(self, values: NDArray[np.floating]) -> Floats:
        """[V] in the mask -> [X, Y, Z]."""
        volume = np.zeros(self.mask.shape, np.float32)
        volume[self.mask] = values
        return volume

    def _velocity(self, known: KnownVisits, rates: Floats, regions: Values) -> Floats:
        """Velocity per year on the scan's voxels, from rates on the template's and wanted rates of regions (NaN: none)."""
        space = space_of(known, self.plan)
        inside = space.to_scan(self.mask.astype(np.float32)) > 0.5
        return velocity_of_rates(space.to_scan(rates), known.labels, regions, inside)

    def _futures(self, known: KnownVisits, velocity: Floats, years: Sequence[float]) -> list[Future]:
        return futures_of(known, velocity, years, self.num_regions, self.mask)

    def _unchanged(self, known: KnownVisits) -> Future:
        return unchanged(known, self.num_regions, self.mask)

    def _with_voxels(self, known: KnownVisits, regions: Values) -> Values:
        """NaN for regions that have no voxel in the person's labels."""
        counts = np.bincount(known.labels.ravel(), minlength=self.num_regions + 1)[1 : self.num_regions + 1]
        return np.where(counts > 0, regions, np.nan)


def array(tensor: Tensor) -> Any:
    """A buffer as numpy holds it."""
    return tensor.detach().cpu().numpy()


def covariate_blocks(num_covariates: int) -> NDArray[np.int64]:
    """Blocks of a design of an intercept and covariates: the intercept has no penalty."""
    return np.array([0] + [1] * num_covariates, dtype=np.int64)


def measured_ratio(lessons: Lessons, design: Values) -> tuple[float, Values]:
    """How noisy rates are (`noise_ratios`), by regions: of all, and of each."""
    return noise_ratios(lessons.of_people(design), lessons.known_regions)
