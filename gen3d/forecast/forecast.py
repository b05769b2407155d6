"""`gen3d forecast`: how a scan will look after some years, how sure that is, and what such forecasts were worth before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.seen import named
from gen3d.core import words as spell
from gen3d.core.disk import remove_folder, size_in_words
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.progress import duration, say, track, warn
from gen3d.core.result_folder import write_picture
from gen3d.core.work import Inputs
from gen3d.figures.brain import DisplaySpace
from gen3d.forecast import sentences
from gen3d.forecast.folder import COVERAGE, NORMATIVE, SKILL, curves_name, normative_name, write_forecasts
from gen3d.forecast.normative import NormativeCurves
from gen3d.forecast.one_scan import ROWS, ReadyToForecast, columns_of, forecast_scans, opened
from gen3d.forecast.people import Start, starts
from gen3d.forecast.picture import HorizonVolumes, draw_curves, draw_person
from gen3d.forecast.settings import ForecastingVerb
from gen3d.forecast.skill import coverage_rows, skill_rows
from gen3d.models import registry
from gen3d.synthesis.folder import REGISTRATION_S_PER_MEGAVOXEL

VOLUME_KINDS = 4
FUTURE_S_PER_MEGAVOXEL = 3.0
"""Of one core: 36 people at 4 mm took 8.3 s each, for two horizons with 16 draws; a network may take longer."""

Ready = tuple[ReadyToForecast, list[Start], list[str]]


class Forecast(ForecastingVerb):
    """Forecast the scans of people whom a member of the run never saw, with intervals that were checked on others.

    Per person and horizon: the scan as it will be, its difference from today's, the SD of that, and log volume change by voxel
    and region. Intervals at 50, 80 and 90 % are split-conformal by horizon over people: they come from the errors that the
    run made for people whom it did not see, without those of the person. The floors of the run (copying the scan forward, the
    population's rate, a mixed model per region) stand beside the model in every table.
    """

    def plan(self) -> list[str]:
        """Whose future would be forecast, how long it would take and how much it would write."""
        ready, tasks, left_out = self.open_inputs()
        megavoxels = float(np.prod(ready.prepared.plan.shape)) / 1e6
        with_volumes = sum(ready.writes_volumes(name) for name in ready.names)
        calls = sum(1 + self.samples * self._draws(ready, name) for name in ready.names) * len(self.years)
        seconds = megavoxels * (REGISTRATION_S_PER_MEGAVOXEL + FUTURE_S_PER_MEGAVOXEL * calls)
        room = VOLUME_KINDS * 2e6 * megavoxels * len(tasks) * len(self.years) * with_volumes
        workers = num_workers(self.workers, len(tasks))
        num_people = len({task.subject for task in tasks})
        return [
            f"{sentences.who(num_people, len(tasks), self.years, registry.title(ready.forecasters.name))}",
            *self._remarks(ready, left_out),
            f"takes about {duration(seconds * len(tasks) / workers)} with {spell.count(workers, 'process', 'processes')}",
            f"writes {size_in_words(int(room))} of volumes to {self.out}",
        ]

    def reads(self) -> Inputs:
        """The forecaster, the scans, and their maps where given."""
        given: dict[str, Any] = {"run": self.run_folder, "prepared": self.prepared}
        return given | ({"maps": self.maps} if self.maps is not None else {})

    def open_inputs(self) -> Ready:
        """The folders, the scans to start from, and who is left out.

        Raises:
            UserError: another kind of run, scans of another plan, horizons or conditions outside what was learned, or nobody left.
        """
        ready = opened(self)
        self._check_horizons(ready)
        coding = ready.forecasters.coding
        for name, value in self.condition.items():
            coding.check(name, value, self.extrapolate)
        tasks, left_out = starts(
            ready.prepared.manifest,
            ready.forecasters.judges,
            ready.calibration.num_members,
            self.sessions,
            self.subjects,
            self.run_folder,
        )
        for task in tasks:
            row = {str(name): value for name, value in ready.prepared.row(task.key).items()}
            columns = columns_of(row, coding.names, self.condition)
            for name in coding.names:
                try:
                    coding.check(name, columns[name], True)
                except UserError as error:
                    raise UserError(f"{task.key}: {error}") from None
        if self.maps is not None:
            NormativeCurves.of(self.maps).require([task.key for task in tasks], self.maps)
        shown = list(dict.fromkeys(task.subject for task in tasks))[: self.pictures]
        return ready, [_pictured(task, task.subject in shown) for task in tasks], left_out

    def write(self, work: Work, ready_tasks: Ready) -> dict[str, Any]:
        """Write volumes, tables and pictures."""
        ready, tasks, left_out = ready_tasks
        for remark in self._remarks(ready, left_out):
            warn(remark)
        kept = KeptRows(self.out / ROWS)
        made = kept_or_made(
            tasks,
            lambda task: kept.get(task.key),
            forecast_scans,
            self._job(),
            lambda num: num_workers(self.workers, num),
        )
        by_key = {str(row["scans"][0]["key"]): row for row in track(made, "forecasting", len(tasks))}
        rows = [by_key[task.key] for task in tasks]
        scans, regions = (pd.DataFrame([entry for row in rows for entry in row[name]]) for name in ("scans", "regions"))
        skill = pd.DataFrame(skill_rows(ready.calibration), columns=list(SKILL.columns))
        coverage = pd.DataFrame(coverage_rows(ready.calibration), columns=list(COVERAGE.columns))
        titles = [(name, registry.title(name)) for name in ready.names]
        num_people = int(scans["subject"].nunique())
        summary = sentences.summary(
            sentences.who(num_people, len(tasks), self.years, titles[0][1]),
            skill,
            coverage,
            [(name, registry.title(name)) for name in ready.forecasters.names],
            self._remarks(ready, left_out),
        )
        self._draw(ready, tasks, regions)
        if self.maps is not None:
            summary.append(self._place_among_healthy(NormativeCurves.of(self.maps), ready, tasks, regions))
        SKILL.write(self.out, skill)
        COVERAGE.write(self.out, coverage)
        models = pd.DataFrame(
            [(name, title, name in ready.forecasters.floors) for name, title in titles],
            columns=["model", "title", "floor"],
        )
        metrics = {
            "summary": summary,
            "condition": dict(self.condition),
            "years": list(self.years),
            "shown": [task.key for task in tasks if task.pictured],
            "num_people": num_people,
            "left_out": len(left_out),
        }
        write_forecasts(self.out, scans, regions, models, metrics)
        remove_folder(self.out / ROWS)
        return {"summary": summary[0], "num_scans": len(tasks)}

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say what the forecasts are worth."""
        say(f"{self.out}: {summary['summary']}")

    def _job(self) -> ForecastingVerb:
        return self

    def _draws(self, ready: ReadyToForecast, name: str) -> bool:
        return bool(ready.forecasters.forecaster(ready.forecasters.main_members[0], name).draws_samples)

    def _check_horizons(self, ready: ReadyToForecast) -> None:
        longest = max(ready.forecasters.longest_years, ready.calibration.longest)
        far = [year for year in self.years if year > longest + 1e-9]
        if far and not self.extrapolate:
            raise UserError(
                f"years: {sentences.years_in_words(far)} ahead lie beyond the {longest:.1f} years that {self.run_folder} learned "
                "from; ask for fewer years, or set extrapolate=true and read the result as a guess."
            )

    def _remarks(self, ready: ReadyToForecast, left_out: Sequence[str]) -> list[str]:
        """Sentences on who is left out and which horizons have no interval."""
        bins, longest = ready.calibration.bins, max(ready.forecasters.longest_years, ready.calibration.longest)
        seen = ""
        if left_out:
            seen = f"{spell.people(len(left_out))} ({named(left_out)}) were seen by every member, and are left out."
        found = [
            seen,
            sentences.extrapolated(self.years, longest),
            sentences.beyond(self.years, bins[0].low, ready.calibration.longest),
        ]
        return [text for text in found if text]

    def _draw(self, ready: ReadyToForecast, tasks: Sequence[Start], regions: pd.DataFrame) -> None:
        """Pictures of the people shown: brains at every horizon, and curves of regions."""
        space = DisplaySpace(ready.prepared.plan.matrix, ready.prepared.mask)
        titles = {name: registry.title(name) for name in ready.names}
        by_key = dict(tuple(regions.groupby("key", sort=False)))
        for task in track([task for task in tasks if task.pictured], "drawing"):
            volumes = HorizonVolumes.read(self.out, task.key, ready.forecasters.name, self.years)
            write_picture(self.out, task.key, draw_person(ready.prepared.volume(task.key, "t1w"), volumes, space))
            chart = draw_curves(by_key[task.key], titles)
            write_picture(self.out, curves_name(task.key), chart[0])

    def _place_among_healthy(
        self, curves: NormativeCurves, ready: ReadyToForecast, tasks: Sequence[Start], regions: pd.DataFrame
    ) -> str:
        """Write where the model's forecasts lie among healthy people, draw the people shown, and say how many have a place."""
        own = dict(tuple(regions[regions["model"] == ready.forecasters.name].groupby("key", sort=False)))
        made = []
        for task in tasks:
            sex = str(ready.prepared.row(task.key).get("sex", ""))
            courses = curves.courses(own[task.key], task.age_years, sex)
            made.append(courses)
            if task.pictured and len(courses):
                write_picture(self.out, normative_name(task.key), curves.draw(courses, sex)[0])
        placed = [courses for courses in made if len(courses)]
        NORMATIVE.write(self.out, pd.concat(placed) if placed else pd.DataFrame(columns=list(NORMATIVE.columns)))
        return sentences.among_healthy(len(placed), len(tasks) - len(placed))


def _pictured(task: Start, pictured: bool) -> Start:
    return Start(**{**task.__dict__, "pictured": pictured})
