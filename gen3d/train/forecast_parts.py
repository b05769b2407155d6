"""What a member of a forecaster leaves besides its weights: floors fitted on the same people, and errors for those it never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.regions import all_regions, regions_on
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.imaging.person_space import person_space
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Forecaster, KnownVisits
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons
from gen3d.models.forecast.loading import floor_config, floor_path, floors_beside
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.weights import save_weights
from gen3d.train.engine.processes import Processes
from gen3d.train.visit_people import VisitPeople

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

PART = "forecast_errors.npy"
"""In a member's folder until the run is finished: forecasts and spreads for the people it never saw."""


def fit_floors(
    config: ForecastConfig, lessons: Lessons, prepared: Prepared, channels: tuple[str, ...], statistics: Statistics
) -> dict[str, LearnedForecaster]:
    """The floors beside a model, fitted on the same people.

    Args:
        config: of the run's own model.
        lessons: of the member.
        prepared: the scans.
        channels: of the scans.
        statistics: of the member's scans.
    """
    floors = {}
    for name in floors_beside(config.kind):
        built = floor_config(name, config).build(prepared.plan, channels, statistics, num_covariates=0)
        model = cast(LearnedForecaster, built)
        model.learn(lessons)
        floors[name] = model.eval()
    return floors


def save_floors(folder: Path, member: int, floors: Mapping[str, LearnedForecaster], plan_key: str) -> None:
    """Write their weights beside those of the member of a run."""
    for name, model in floors.items():
        save_weights(floor_path(folder, member, name), model.state_dict(), plan_key, name)


@dataclass(frozen=True)
class Examination:
    """The pairs of visits of people that a member never saw, and what is known when the change of each is forecast.

    Attributes:
        prepared: the scans.
        people: all people with visits.
        channels: of the scans.
        rows: the scans of these people.
        across_scanners: whether earlier visits at another site than the last count as this person's past.
    """

    prepared: Prepared
    people: VisitPeople
    channels: tuple[str, ...]
    rows: Rows
    across_scanners: bool

    @property
    def pairs(self) -> pd.DataFrame:
        """The pairs, see `VisitPeople.pairs`."""
        return self.people.pairs_within(self.rows)

    def known(self, row: int) -> KnownVisits:
        """What is known at a visit: the scan, earlier ones, and the columns of the cohort table."""
        frame = self.people.frame
        earlier = self.people.earlier(row, self.across_scanners)
        used = [*earlier, row]
        volumes = self.prepared.load([str(frame["key"].iloc[each]) for each in used], self.channels)
        years = tuple(float(frame["years"].iloc[each] - frame["years"].iloc[row]) for each in used)
        space = person_space(volumes[-1, self.channels.index("t1w")], self.prepared.plan)
        labels = space.labels(regions_on(self.prepared.plan))
        columns = {str(name): value for name, value in frame.iloc[row].items()}
        key = str(frame["key"].iloc[row])
        return KnownVisits(volumes, self.channels, years, columns, labels, key, space)

    def forecasts(self, models: Mapping[str, Forecaster], draws: int, processes: Processes, what: str) -> Values:
        """Log volume changes as every model forecasts them, and their spread: [models, 2, pairs, R]; processes share the scans."""
        pairs = self.pairs
        found = np.zeros((len(models), 2, len(pairs), len(all_regions())))
        starts = sorted(set(pairs["row_1"].tolist()))[processes.rank :: processes.num]
        for start in track(starts, what) if starts else ():
            known, chosen = self.known(int(start)), np.flatnonzero(pairs["row_1"] == start)
            years = [float(time) for time in pairs["years"].iloc[chosen]]
            for number, model in enumerate(models.values()):
                found[number, :, chosen] = _forecast(model, known, years, draws).swapaxes(0, 1)
        summed: Values = processes.sum_array(found)
        return summed

    def table(
        self, names: Sequence[str], member: int, forecasts: Values, regions: NDArray[np.float64]
    ) -> Iterator[pd.DataFrame]:
        """The member's rows of forecast_errors.tsv, model by model; `regions` [n, R] are log volumes as measured."""
        pairs = self.pairs
        observed = regions[pairs["row_2"]] - regions[pairs["row_1"]]
        region_names = [region.name for region in all_regions()]
        repeated = pairs[["subject", "key_1", "key_2", "years", "diagnosis"]]
        repeated = repeated.loc[repeated.index.repeat(len(region_names))].reset_index(drop=True)
        for number, name in enumerate(names):
            forecast, spread = forecasts[number]
            table = repeated.assign(
                model=name,
                member=member,
                region=region_names * len(pairs),
                forecast=forecast.ravel(),
                spread=spread.ravel(),
                observed=observed.ravel(),
            )
            yield table[np.isfinite(table["forecast"]) & np.isfinite(table["observed"])]


def _forecast(model: Forecaster, known: KnownVisits, years: Sequence[float], draws: int) -> Values:
    """Forecast and spread [2, years, R] of one person by one model."""
    person = model.of(known)
    expected = person.region_changes(years)
    if not np.isfinite(expected[:, ~np.isnan(expected).all(axis=0)]).all():
        raise UserError(
            f"the forecast of {known.key} is not finite; look at that scan, leave it out, or train with a lower "
            "optim.learning_rate."
        )
    if not model.draws_samples:
        return np.stack([expected, np.zeros_like(expected)])
    drawn = person.drawn_region_changes(years, draws)
    return np.stack([expected, drawn.std(axis=0, ddof=1)])


def on_device(model: Forecaster, device: torch.device) -> Forecaster:
    """The model ready to forecast there."""
    return model.to(device).eval()
