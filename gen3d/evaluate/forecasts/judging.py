"""The work of `gen3d evaluate forecasts=`: everything measured, as tables, sentences and headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.core import words as spell
from gen3d.core.tables import Row, records, rows_of
from gen3d.evaluate.folder import write_forecast_evaluation
from gen3d.evaluate.forecasts import sentences, tables
from gen3d.evaluate.forecasts.changes import expected_changes, true_changes
from gen3d.evaluate.forecasts.images import image_rows
from gen3d.evaluate.forecasts.measures import PerPerson, Resampling
from gen3d.evaluate.forecasts.opening import Forecasts, LaterVisits, open_all, open_later_visits
from gen3d.evaluate.forecasts.tables import Judged

SHOWN = ("hippocampus", "entorhinal", "lateral ventricle")
"""Structures whose forecast and true changes are kept person by person, for the picture."""

HEADLINE = {
    "region_skill_copy": "skill on regional change over copying the scan",
    "region_skill_population": "skill on regional change over the population rate",
    "image_skill_copy": "skill on difference images over copying the scan",
    "slope": "slope of the true on the forecast change",
    "sign_accuracy": "direction of changes that is right",
}


@dataclass(frozen=True)
class ForecastSettings:
    """The settings of `Evaluate` that concern forecasts; see its keys."""

    tolerance_years: float
    least_change: float
    bootstrap: int
    seed: int
    workers: int


@dataclass(frozen=True)
class OpenedForecasts:
    """Folders of forecasts with the cohort of later visits."""

    truth: LaterVisits
    every: list[Forecasts]

    def plan(self) -> list[str]:
        """What would be measured."""
        lines = []
        for forecasts in self.every:
            pairs, models = forecasts.pairs, ", ".join(forecasts.models["model"].astype(str))
            people = spell.people(int(pairs["subject"].nunique()))
            first, last = (spell.figure(float(years)) for years in (pairs["years"].min(), pairs["years"].max()))
            visits = spell.count(len(pairs), "later visit")
            lines.append(f"measures {forecasts.name} ({models}) in {people} with {visits}, {first} to {last} years on")
        how = "known from the simulation" if self.truth.simulated else "measured by registration within people"
        return [*lines, f"true changes: {how}"]


def open_forecasts_and_truth(
    folders: Sequence[Path], truth: Path, tolerance_years: float, measured: bool = False
) -> OpenedForecasts:
    """Open and check everything.

    Raises:
        UserError: see `opening`.
    """
    later = open_later_visits(truth, measured)
    return OpenedForecasts(later, open_all(folders, later, tolerance_years))


def judge(opened: OpenedForecasts, settings: ForecastSettings, out: Path) -> dict[str, Any]:
    """Measure, and write the folder; returns the summary of its record."""
    every = [_judged(forecasts, opened.truth, settings) for forecasts in opened.every]
    made = measured(every)
    told = {judged.forecasts.name: _sentences(judged, opened.truth, made) for judged in every}
    several = len(every) > 1
    summary = [f"{name}: {text}" if several else text for name, texts in told.items() for text in texts]
    described = {judged.forecasts.name: _describe(judged.forecasts) for judged in every}
    headline = _headline(made["skill"])
    write_forecast_evaluation(out, opened.truth.folder, described, headline, summary, made)
    return {"headline": records(pd.DataFrame(headline)), "forecasts": list(described), "summary": summary}


def _judged(forecasts: Forecasts, truth: LaterVisits, settings: ForecastSettings) -> Judged:
    regions = truth.region_names
    return Judged(
        forecasts,
        regions,
        true_changes(truth, forecasts.pairs, settings.workers),
        expected_changes(forecasts, regions, settings.tolerance_years),
        image_rows(forecasts, truth, settings.tolerance_years),
        settings.least_change,
        Resampling(settings.bootstrap, settings.seed),
    )


def measured(every: Sequence[Judged]) -> dict[str, pd.DataFrame]:
    """All tables, by name: skill, skill_by_region, coverage, direction, skill_differences, people, images, changes."""
    rows: dict[str, list[Row]] = {name: [] for name in ("skill", "skill_by_region", "coverage", "direction", "people")}
    for judged in every:
        rows["skill"] += tables.skill_rows(judged)
        rows["skill_by_region"] += tables.region_rows(judged)
        rows["coverage"] += tables.coverage_rows(judged)
        rows["direction"] += tables.direction_rows(judged)
        rows["people"] += _people(judged)
    made = {name: pd.DataFrame(table_rows) for name, table_rows in rows.items()}
    made["skill_differences"] = pd.DataFrame(tables.difference_rows(every))
    made["images"] = pd.concat([judged.images.assign(forecasts=judged.forecasts.name) for judged in every])
    made["changes"] = pd.concat([tables.change_rows(judged) for judged in every], ignore_index=True)
    return made


def _people(judged: Judged) -> list[Row]:
    """Forecast and true percent of the structures SHOWN, both sides together, of each person's furthest visit."""
    names, sides = tables.with_both_sides(judged.regions, "")
    pairs, expected = judged.forecasts.pairs, judged.expected[judged.forecasts.forecaster].change
    rows = []
    for place in PerPerson(pairs["subject"].tolist()).longest(judged.years):
        pair = pairs.iloc[place]
        for name in (name for name in SHOWN if name in names):
            two = sides[names.index(name)]
            label = {"forecasts": judged.forecasts.name, "subject": pair["subject"], "diagnosis": pair["diagnosis"]}
            values = [float(100 * np.expm1(part[place, two].mean())) for part in (expected, judged.true)]
            rows.append(
                label
                | {"years": float(pair["years"]), "region": name}
                | {"forecast_percent": values[0], "true_percent": values[1]}
            )
    return rows


def _sentences(judged: Judged, truth: LaterVisits, made: dict[str, pd.DataFrame]) -> list[str]:
    name = judged.forecasts.name
    skill, coverage = (
        rows_of(table[table["forecasts"] == name]) if len(table) else [] for table in (made["skill"], made["coverage"])
    )
    return sentences.summary(skill, coverage, judged.forecasts.titles, truth.simulated, judged.forecasts.num_beyond)


def _headline(skill: pd.DataFrame) -> list[Row]:
    """The most important figures of every forecaster and group, as those of maps: one row per measure."""
    rows = []
    for row in rows_of(skill[~skill["floor"].astype(bool)]):
        group = row["group"] if row["by"] == tables.ALL else f"{row['by']}: {row['group']}"
        label = {"forecasts": row["forecasts"], "model": row["model"], "group": group}
        rows += [
            label
            | {"measure": told, "value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            | {"num": int(row["num"])}
            for name, told in HEADLINE.items()
            if name in row and np.isfinite(row[name])
        ]
    return rows


def _describe(forecasts: Forecasts) -> Mapping[str, Any]:
    return {
        "folder": str(forecasts.artefact.folder),
        "key": forecasts.artefact.key,
        "models": forecasts.titles,
        "forecaster": forecasts.forecaster,
        "num_people": int(forecasts.pairs["subject"].nunique()),
        "num_pairs": len(forecasts.pairs),
        "num_beyond": forecasts.num_beyond,
    }
