"""Visits: the material of forecasters, people who came more than once, with the changes between their scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.coding import Coding
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.forecast_errors import write_errors
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.core.progress import say
from gen3d.core.words import listed
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.maths.slopes import Slopes, slopes
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.forecast.base import Forecaster
from gen3d.models.forecast.covariates import indicators
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons
from gen3d.models.forecast.loading import floors_beside
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.run_folder import weights_path
from gen3d.models.weights import fill, read_weights, statistics_in
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import BatchSource
from gen3d.train.engine.processes import Processes
from gen3d.train.forecast_parts import PART, Examination, fit_floors, on_device, save_floors
from gen3d.train.learners import statistics
from gen3d.train.log import Painter
from gen3d.train.material import TrainingMaterial, design_of, require_scans_alone
from gen3d.train.settings import TrainSettings
from gen3d.train.visit_people import MAIN, VisitPeople, choose_visit_people
from gen3d.train.visit_rates import MeasuredVisits

CHANGES = Path("checkpoint") / "changes"


@dataclass(frozen=True)
class PairSource:
    """Scans with the rate of change towards another visit as a further, last channel; a row per ordered pair.

    Attributes:
        prepared: the scans.
        keys, subjects: of the scan that is given, per row.
        scan_channels: its channels.
        maps: [n, X, Y, Z] log volumes of all scans on the template's voxels.
        ends: [rows, 2] rows in `maps` of the scan that is given and of the other.
        years: [rows] from the first to the second, negative for a change back in time.
        coded: [rows, p] indicators of the conditions, NaN where unknown.
        importance: [rows] weight of every row in the loss.
    """

    prepared: Prepared
    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    scan_channels: tuple[str, ...]
    maps: NDArray[np.float32]
    ends: NDArray[np.int64]
    years: NDArray[np.float64]
    coded: NDArray[np.float32]
    importance: NDArray[np.float32]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return (*self.scan_channels, "rate")

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scans = self.prepared.load([self.keys[row] for row in rows], self.scan_channels)
        given, other = self.ends[rows].T
        years = self.years[rows].astype(np.float32)[:, None, None, None]
        return np.concatenate([scans, ((self.maps[other] - self.maps[given]) / years)[:, None]], axis=1)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.coded[rows]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.importance[rows]


@dataclass(frozen=True)
class VisitMaterial(TrainingMaterial):
    """Prepared scans of people with two visits or more, and the share of each member."""

    prepared: Prepared
    visits: VisitPeople
    coding: Coding
    notes: tuple[str, ...]
    settings: TrainSettings

    unused: ClassVar[frozenset[str]] = frozenset({"picture_every"})
    counted: ClassVar[str] = "people with visits"

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = require_scans_alone(settings, "scans of people with two visits or more", "everybody with two visits")
        if "t1w" not in settings.channels:
            raise ValueError(f"{kind} moves the channel t1w forward; name it in channels")
        for name in settings.augment.of_scans:
            raise ValueError(
                f"augment.{name} would change the scan that a rate was measured on; leave it out for {kind}"
            )
        if settings.augment.flip:
            raise ValueError(
                f"augment.flip would put a rate into the other hemisphere's regions; leave it out for {kind}"
            )

    @classmethod
    def open(cls, settings: TrainSettings) -> VisitMaterial:
        """Open the scans and share out their people.

        Raises:
            UserError: see `choose_visit_people`; no such channel; a condition that is no column.
        """
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        prepared.require_channels(settings.channels)
        config = cast(ForecastConfig, settings.model)
        visits = choose_visit_people(prepared, config, settings.cross_fit, settings.seed)
        coding, notes = visits.known_conditions(config.conditions)
        people = visits.people
        return cls(
            prepared.plan,
            settings.channels,
            people,
            design_of(people),
            prepared,
            visits,
            coding,
            (*visits.notes, *notes),
            settings,
        )

    @property
    def config(self) -> ForecastConfig:
        """The forecaster's settings, complete."""
        return self.completed(self.settings.model)

    def completed(self, model: BaseModelConfig) -> ForecastConfig:
        fewest = min(self.visits.count(share.training) for share in self.visits.shares)
        update = {"coding": self.coding.to_dict(), "longest_years": self.visits.longest_years}
        return cast(ForecastConfig, model).fitting(fewest).model_copy(update=update)

    @property
    def inputs(self) -> Inputs:
        named: dict[str, Path | Sequence[Path]] = {"prepared": list(self.prepared.folders)}
        return named

    def fingerprint(self) -> str:
        return self.prepared.fingerprint()

    def seen(self) -> SeenBy:
        """Everybody that a member learned from, by all scans of the person that are there."""
        table, members = self.prepared.manifest, []
        for share in self.visits.shares:
            learners = set(self.visits.subjects[share.training].tolist())
            chosen = table[table["subject"].astype(str).isin(learners)]
            members.append(recorded(chosen, chosen["role"].tolist()))
        return SeenBy(tuple(members))

    @cached_property
    def measured(self) -> MeasuredVisits:
        """Changes between visits."""
        return MeasuredVisits(self.prepared, self.visits, self.settings.out / CHANGES)

    def prepare(self, processes: Processes) -> None:
        """Measure the changes between visits, unless all that needs them is there; the first process does it and all wait."""
        for note in self.notes:
            say(f"  {note}.")
        processes.on_first(self._measure)

    def _measure(self) -> None:
        needed = [weights_path(self.settings.out, member) for member in range(self.num_members)]
        if not all(path.is_file() and path.with_name(PART).is_file() for path in needed):
            self.measured.measure(self.settings.workers)

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        keys = [str(key) for key in self.people.frame["key"].iloc[self.scans_of(rows)]]
        return statistics(self.prepared, self.channels, list(dict.fromkeys(keys)), processes)

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.prepared.mask

    @cached_property
    def _directed(self) -> pd.DataFrame:
        """Ordered pairs to learn from: `given` and `other`, rows of scans, and years from the one to the other."""
        pairs = self.visits.pairs
        forward = pd.DataFrame({"given": pairs["row_1"], "other": pairs["row_2"], "sign": 1.0})
        if not self.config.backward:
            return forward
        back = pd.DataFrame({"given": pairs["row_2"], "other": pairs["row_1"], "sign": -1.0})
        return pd.concat([forward, back], ignore_index=True)

    def rows_of(self, member: int) -> NDArray[np.int64]:
        """Ordered pairs of the member's people."""
        inside = self._directed["given"].isin(self.visits.shares[member].training)
        return np.flatnonzero(inside)

    def scans_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the scans that these pairs start from."""
        scans: NDArray[np.int64] = self._directed["given"].to_numpy()[rows]
        return scans

    @property
    def source(self) -> BatchSource:
        return self.source_of(0)

    def source_of(self, member: int) -> BatchSource:
        pairs, frame = self._directed, self.people.frame
        believed = self.visits.shares[member].years
        ends = pairs[["given", "other"]].to_numpy()
        years = believed[ends[:, 1]] - believed[ends[:, 0]]
        learned = self.rows_of(member)
        importance = np.square(years) / np.square(years[learned]).mean()
        given = frame.iloc[ends[:, 0]]
        return PairSource(
            self.prepared,
            tuple(given["key"].astype(str)),
            tuple(given["subject"].astype(str)),
            self.channels,
            self.measured.arrays[0],
            ends,
            years,
            indicators(self.coding, given).astype(np.float32),
            importance.astype(np.float32),
        )

    def lessons(self, member: int) -> Lessons:
        """What closed-form models of a member learn from."""
        share, frame = self.visits.shares[member], self.people.frame
        maps, regions = self.measured.arrays
        subjects = self.visits.subjects[share.training]
        names = list(dict.fromkeys(subjects.tolist()))
        stretches = [self.visits.stretches(name, self.config.across_scanners) for name in names]
        scans = np.unique(self.scans_of(self.rows_of(member)))
        place = {name: number for number, name in enumerate(names)}
        keys = frame["key"].astype(str).to_numpy()[scans]
        return Lessons(
            frame.iloc[scans].reset_index(drop=True),
            np.array([place[name] for name in self.visits.subjects[scans]], dtype=np.int64),
            _of_maps(maps, self.mask, share.years, stretches),
            slopes(np.asarray(regions), share.years, stretches),
            lambda rows: self.prepared.load(list(keys[rows]), self.channels),
        )

    def fit(self, model: Model, member: int) -> int:
        """Learn a closed-form model."""
        lessons = self.lessons(member)
        cast(LearnedForecaster, model).learn(lessons)
        return lessons.num_people

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """The ridge regression that a network adds to."""
        if not self.config.closed_form:
            cast(LearnedForecaster, model).learn(self.lessons(member))

    def after(self, member: int, processes: Processes) -> None:
        """Fit the floors, and forecast the changes of the people that the member never saw; every process takes a share of them."""
        out, config = self.settings.out, self.config
        path = weights_path(out, member).with_name(PART)
        if processes.from_first(path.is_file()):
            return
        own, given = self._trained(member, processes)
        floors = fit_floors(config, self.lessons(member), self.prepared, self.channels, given)
        processes.on_first(lambda: save_floors(out, member, floors, self.plan.key))
        found = self._examination(member).forecasts(
            {config.kind: own, **floors}, config.error_draws, processes, f"forecasts of member {member + 1}"
        )
        processes.on_first(lambda: save_array(path, found))

    def _trained(self, member: int, processes: Processes) -> tuple[Forecaster, Statistics]:
        """The member's model with its weights, and the statistics that it was built from."""
        weights, config = weights_path(self.settings.out, member), self.config
        tensors = read_weights(weights, self.plan.key, config.kind)
        given = statistics_in(weights, tensors)
        model = cast(Forecaster, config.build(self.plan, self.channels, given, len(self.design.columns)))
        fill(weights, model, tensors)
        return on_device(model, self.settings.engine.chosen_device(processes.local_rank)), given

    def _examination(self, member: int) -> Examination:
        blind = self.visits.shares[member].blind
        return Examination(self.prepared, self.visits, self.channels, blind, self.config.across_scanners)

    def finish(self, processes: Processes) -> None:
        """Write forecast_errors.tsv; then let go of what was only needed until here."""
        if not processes.first:
            return
        out, names = self.settings.out, (self.config.kind, *floors_beside(self.config.kind))
        parts = [weights_path(out, member).with_name(PART) for member in range(self.num_members)]
        self.measured.measure(self.settings.workers)
        tables = [
            table
            for member, path in enumerate(parts)
            for table in self._examination(member).table(
                names, member, np.load(path, allow_pickle=False), np.asarray(self.measured.arrays[1])
            )
        ]
        write_errors(out, pd.concat(tables, ignore_index=True))
        for path in parts:
            path.unlink()
        self.measured.discard()

    def augmentation(self, settings: AugmentConfig) -> AugmentConfig:
        """None: see `refuse`."""
        return AugmentConfig()

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter | None:
        """None: forecasts are drawn by `gen3d forecast`."""
        return None

    def sentences(self) -> list[str]:
        visits, first = self.visits, self.visits.shares[0]
        num_pairs, years = len(visits.pairs), visits.pairs["years"]
        known = ", ".join(covariate.describe() for covariate in self.coding.covariates) or "nothing"
        sentences = [
            f"volumes: {len(self.channels)} channel(s) ({', '.join(self.channels)}) on {self.plan.describe()}",
            f"visits: {num_pairs} pairs of {visits.num_people} people, {years.min():.2f} to {years.max():.2f} years apart "
            f"(median {years.median():.2f})",
            f"conditions: {known}",
            f"first member: {visits.count(first.training)} people are learned from, {visits.count(first.blind)} are kept out "
            "and show its errors",
            f"floors beside it: {listed(list(floors_beside(self.config.kind)))}",
            *self.notes,
        ]
        permuted = sum(share.variant != MAIN for share in visits.shares)
        if permuted:
            sentences.append(f"of the members, {permuted} learn from permuted times: they must forecast nothing")
        return sentences


def _of_maps(
    maps: NDArray[np.float32], mask: NDArray[np.bool_], years: NDArray[np.float64], stretches: Sequence[Any]
) -> Slopes:
    """Slopes in the voxels of the mask, person by person, so that no more than one person's maps are in memory besides."""
    parts = []
    for person in stretches:
        rows = np.concatenate(person)
        places = np.cumsum([0, *(len(stretch) for stretch in person)])
        own = [[np.arange(start, end) for start, end in pairwise(places)]]
        parts.append(slopes(maps[rows][:, mask], years[rows], own))
    return Slopes(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.information for part in parts]),
        np.sum([part.scatter for part in parts], axis=0),
        sum(part.freedom for part in parts),
    )
