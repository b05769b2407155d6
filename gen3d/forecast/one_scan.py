"""The future of one scan: point forecasts of the members that never saw the person, and the spread of their draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.forecast_errors import read_errors
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows
from gen3d.core.tables import Row, plain_row
from gen3d.forecast.conformal import LEVELS, ConformalIntervals
from gen3d.forecast.folder import stem_of, volume_path
from gen3d.forecast.people import Start
from gen3d.forecast.settings import ForecastingVerb
from gen3d.imaging.person_space import person_space
from gen3d.imaging.volume import store
from gen3d.models.forecast.base import Floats, Forecaster, Future, KnownVisits
from gen3d.models.forecast.loading import ForecasterRun, open_forecasters
from gen3d.models.run import require_finite_output
from gen3d.nets.device import device_of

ROWS = ".rows"
"""Working folder: the rows of every scan that is done."""


@dataclass(frozen=True)
class ReadyToForecast:
    """The folders and what follows from them alone."""

    verb: ForecastingVerb
    prepared: Prepared
    forecasters: ForecasterRun
    calibration: ConformalIntervals

    @property
    def names(self) -> tuple[str, ...]:
        """The models asked for, the run's own first."""
        return self.forecasters.names if self.verb.floors else self.forecasters.names[:1]

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions in the order of `Future.regions`."""
        return tuple(self.prepared.region_table["name"].astype(str))

    def writes_volumes(self, name: str) -> bool:
        """Whether volumes of a model are written."""
        return name == self.forecasters.name or self.verb.floors_volumes


_OPENED: dict[str, ReadyToForecast] = {}
"""The folders of one command, in each process."""


def opened(verb: ForecastingVerb) -> ReadyToForecast:
    """The folders, opened once in each process.

    Raises:
        UserError: not a run of a forecaster, scans that do not fit it, or a run without errors of people it never saw.
    """
    key = verb.model_dump_json()
    if key not in _OPENED:
        _OPENED.clear()
        _OPENED[key] = _open(verb)
    return _OPENED[key]


def _open(verb: ForecastingVerb) -> ReadyToForecast:
    prepared = open_prepared(verb.prepared)
    forecasters = open_forecasters(verb.run_folder, str(device_of(verb.device, 0, "device")))
    forecasters.run.require(prepared)
    prepared.require_channels((T1W,))
    errors = read_errors(verb.run_folder)
    errors = errors[errors["member"].isin(list(forecasters.main_members))]
    calibration = ConformalIntervals.of(errors, prepared.region_table["name"].astype(str).tolist())
    if forecasters.name not in calibration.models:
        raise UserError(
            f"{verb.run_folder}: holds no errors of people whom its members never saw, so no interval can be made; train with "
            "cross_fit=5, or with model.calibration above 0."
        )
    return ReadyToForecast(verb, prepared, forecasters, calibration)


def forecast_scans(job: ForecastingVerb, tasks: list[Start]) -> list[dict[str, Any]]:
    """The rows of scans by table; each is kept when its volumes are on the disk."""
    kept, rows = KeptRows(job.out / ROWS), []
    for task in tasks:
        tables = _ScanFuture(job, task, opened(job)).all()
        row = {name: [plain_row(entry) for entry in table] for name, table in tables.items()}
        kept.keep(task.key, row)
        rows.append(row)
    return rows


class RunningSpread:
    """Variance of values that come one by one, without keeping them (Welford 1962, Technometrics 4)."""

    def __init__(self) -> None:
        self.num = 0
        self._mean: Any = 0.0
        self._sum: Any = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """One more draw."""
        self.num += 1
        values = np.asarray(values, dtype=np.float64)
        difference = values - self._mean
        self._mean = self._mean + difference / self.num
        self._sum = self._sum + difference * (values - self._mean)

    @property
    def variance(self) -> Any:
        """Sample variance; 0 of fewer than two draws."""
        return self._sum / (self.num - 1) if self.num > 1 else 0.0


@dataclass(frozen=True)
class ExpectedFuture:
    """What a model expects at one horizon.

    Attributes:
        regions: [R] mean over members of their point forecasts of log volume change.
        spread: [R] SD over draws and members of the same; 0 where nothing was drawn.
        t1w, log_change: [X, Y, Z] means over members of their point forecasts; None where no volumes are wanted.
        sd: [X, Y, Z] SD over draws and members of T1w; None where nothing was drawn either.
    """

    regions: NDArray[np.float64]
    spread: NDArray[np.float64]
    t1w: Floats | None = None
    log_change: Floats | None = None
    sd: Floats | None = None


@dataclass(frozen=True)
class _Told:
    """What a member says at one horizon: its point forecast, and variances over its draws (None of a model that draws nothing)."""

    regions: NDArray[np.float64]
    future: Future | None
    variance: NDArray[np.float64] | None = None
    image_variance: NDArray[np.float64] | None = None


def expected_futures(
    models: Sequence[Forecaster], known: KnownVisits, years: Sequence[float], samples: int, volumes: bool
) -> list[ExpectedFuture]:
    """The future at every horizon, by several members.

    The forecast is the mean of the members' point forecasts, which is what the run's errors are errors of. Its variance is the
    mean over members of the variance of their draws, and the variance between members (law of total variance).

    Args:
        models: the same model of each member.
        known: visits of the person.
        years: horizons.
        samples: draws per member.
        volumes: whether volumes are wanted.
    """
    told = [_told(model, known, years, samples, volumes) for model in models]
    return [_joined([of_member[place] for of_member in told]) for place in range(len(years))]


def _joined(told: Sequence[_Told]) -> ExpectedFuture:
    regions = np.array([part.regions for part in told])
    spread = np.sqrt(_total([part.variance for part in told if part.variance is not None], regions))
    futures = [part.future for part in told if part.future is not None]
    if not futures:
        return ExpectedFuture(np.asarray(regions.mean(axis=0)), spread)
    images = np.array([future.t1w for future in futures])
    changes = np.array([future.log_change for future in futures], dtype=np.float64)
    drawn = [part.image_variance for part in told if part.image_variance is not None]
    sd = np.sqrt(_total(drawn, images)).astype(np.float32) if drawn or len(futures) > 1 else None
    mean = images.mean(axis=0, dtype=np.float64).astype(np.float32)
    return ExpectedFuture(np.asarray(regions.mean(axis=0)), spread, mean, changes.mean(axis=0).astype(np.float32), sd)


def _total(within: Sequence[NDArray[Any]], means: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of the variances within members, and variance between their means [members, ...]."""
    between = np.var(means, axis=0, dtype=np.float64)
    return np.asarray(between + np.mean(within, axis=0) if len(within) else between)


def _told(model: Forecaster, known: KnownVisits, years: Sequence[float], samples: int, volumes: bool) -> list[_Told]:
    """The point forecast and the variances over draws of one member, at every horizon."""
    person, drawn = model.of(known), model.draws_samples and samples >= 2
    if volumes:
        points: list[tuple[NDArray[np.float64], Future | None]] = [
            (each.regions, each) for each in person.futures(years)
        ]
    else:
        points = [(regions, None) for regions in person.region_changes(years)]
    if not drawn:
        return [_Told(regions, future) for regions, future in points]
    if not volumes:
        variances = person.drawn_region_changes(years, samples).var(axis=0, ddof=1)
        return [_Told(regions, None, variance) for (regions, _), variance in zip(points, variances, strict=True)]
    spreads = [(RunningSpread(), RunningSpread()) for _ in years]
    for futures in person.drawn_futures(years, samples):
        for (of_regions, of_image), future in zip(spreads, futures, strict=True):
            of_regions.add(future.regions)
            of_image.add(future.t1w)
    return [
        _Told(regions, future, np.asarray(of_regions.variance), np.asarray(of_image.variance))
        for (regions, future), (of_regions, of_image) in zip(points, spreads, strict=True)
    ]


def columns_of(row: Mapping[str, Any], conditions: Sequence[str], condition: Mapping[str, Any]) -> dict[str, Any]:
    """A person's typed columns, those of `condition` with the values asked for, conditions the table lacks as None."""
    return {**dict.fromkeys(conditions), **{str(name): value for name, value in row.items()}, **condition}


@dataclass(frozen=True)
class _ScanFuture:
    """Makes the volumes and rows of one scan."""

    verb: ForecastingVerb
    task: Start
    opened: ReadyToForecast

    @cached_property
    def known(self) -> KnownVisits:
        prepared, channels = self.opened.prepared, self.opened.forecasters.run.channels
        names = channels if T1W in channels else (T1W, *channels)
        space = person_space(prepared.volume(self.task.key, T1W), prepared.plan)
        row = {str(name): value for name, value in prepared.row(self.task.key).items()}
        columns = columns_of(row, self.opened.forecasters.coding.names, self.verb.condition)
        volumes = prepared.load(self.task.keys, names)
        return KnownVisits(
            volumes, names, self.task.years, columns, space.labels(prepared.regions), self.task.key, space
        )

    def all(self) -> dict[str, list[Row]]:
        tables: dict[str, list[Row]] = {"scans": [], "regions": []}
        for name in self.opened.names:
            models = [self.opened.forecasters.forecaster(member, name) for member in self.task.members]
            volumes = self.opened.writes_volumes(name)
            futures = expected_futures(models, self.known, self.verb.years, self.verb.samples, volumes)
            for years, expected in zip(self.verb.years, futures, strict=True):
                tables["scans"].append(self._write(name, years, expected))
                tables["regions"] += self._regions(name, years, expected)
        return tables

    def _write(self, name: str, years: float, expected: ExpectedFuture) -> Row:
        """The volumes of a forecast, and its row."""
        factor = self.opened.calibration.sd_factor(name, years, self.task.subject)
        row = {
            "key": self.task.key,
            "subject": self.task.subject,
            "session": self.task.session,
            "age_years": self.task.age_years,
            "model": name,
            "years": years,
            "stem": "",
            "sd_factor": factor,
            "num_visits": len(self.task.keys),
            "members": ",".join(map(str, self.task.members)),
        }
        if expected.t1w is None or expected.log_change is None:
            return row
        stem, scan = stem_of(self.task.key, name, years), self.known.volume(T1W)
        written = {"t1w": expected.t1w, "difference": expected.t1w - scan, "log_change": expected.log_change}
        if expected.sd is not None and np.isfinite(factor):
            written["sd"] = expected.sd * np.float32(factor)
        for what, volume in written.items():
            require_finite_output(volume, self.verb.run_folder, self.task.key)
            path = volume_path(self.verb.out, stem, what)
            path.parent.mkdir(parents=True, exist_ok=True)
            store(path, volume, self.opened.prepared.plan.matrix)
        return row | {"stem": stem}

    def _regions(self, name: str, years: float, expected: ExpectedFuture) -> list[Row]:
        calibration, change = self.opened.calibration, expected.regions
        half = calibration.half_widths(name, years, expected.spread, self.task.subject)
        spread = calibration.spread_of(name, expected.spread, self.task.subject)
        rows = []
        for place, region in enumerate(self.opened.regions):
            row: Row = {"key": self.task.key, "model": name, "years": years, "region": region}
            row |= {"log_change": float(change[place]), "spread": float(spread[place])}
            for number, level in enumerate(LEVELS):
                row[f"low_{round(100 * level)}"] = float(change[place] - half[number, place])
                row[f"high_{round(100 * level)}"] = float(change[place] + half[number, place])
            rows.append(row)
        return rows
