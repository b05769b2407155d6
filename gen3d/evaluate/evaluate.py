"""`gen3d evaluate`: anomaly maps against a simulated cohort's planted truth, or forecasts against what came later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from gen3d.cohort.manifest import NULL
from gen3d.core import words as spell
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.output_folder import Work
from gen3d.core.progress import console, say, warn
from gen3d.core.result_folder import METRICS
from gen3d.core.tables import Row, rows_of
from gen3d.core.work import FolderVerb, Inputs
from gen3d.evaluate.folder import BY_SCAN, SHARE_P_CONFORMAL, write_evaluation
from gen3d.evaluate.forecasts.judging import (
    ForecastSettings,
    OpenedForecasts,
    judge,
    open_forecasts_and_truth,
)
from gen3d.evaluate.regions import BOTH, region_difference_rows, region_rows
from gen3d.evaluate.truth import MIN_CONTROLS, CohortTruth, EvaluatedMaps, open_maps, open_truth
from gen3d.evaluate.voxels_and_people import (
    ALL,
    Settings,
    detection_limit,
    detection_rows,
    difference_rows,
    null_rows,
    profile_rows,
    voxel_rows,
    voxel_scores,
)

SMALLEST_SHARE = 0.1
"""Share of the largest planted change below which a region is no headline: its change only makes room for another's."""

PLAIN_WIDTH = 180
"""Characters per line of a table that goes to a file; rich would assume 80 there and break every cell."""


class Evaluate(FolderVerb):
    """Measure maps where the truth is known: voxels, regions, people, and false alarms where nothing is planted.

    Several maps folders (for example a network and its baselines) are compared on the same people. Every figure comes
    with the number of people and an interval over them. Thresholds come from held-out controls.

    With forecasts= instead of maps=, forecasts are measured against the later visits of the same people: change of regions and
    of the image, always against copying the scan forward and against the rate of the population.
    """

    maps: Folders | None = Field(
        None, description="maps folders (anomaly) of one simulated cohort; differences are against the first"
    )
    forecasts: Folders | None = Field(
        None, description="folders of forecasts (forecast), instead of maps; differences are against the first"
    )
    truth: Folder = Field(
        description="the simulated cohort (simulate) that the maps were made from; of forecasts the folder (simulate, prepare) "
        "that holds the forecast scans and the later ones of the same people"
    )
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate at which voxels count as found")
    changed_log_jacobian: float = Field(
        0.1,
        gt=0,
        description="size of the true log-Jacobian from which a voxel counts as changed (0.1: about 10 % of volume)",
    )
    tolerance_years: float = Field(
        0.1, ge=0, description="images are compared with a visit that is at most so many years from a forecast year"
    )
    least_change: float = Field(
        0.01,
        gt=0,
        description="forecasts: log volume change that is not told from none (0.01: about 1 %); the spread of the controls' "
        "change, where it is larger",
    )
    measured: bool = Field(
        False,
        description="forecasts: compare with the change measured between a simulated person's scans, as in real people, instead of "
        "the exact one; intervals are made of measured changes, and promise to hold these",
    )
    workers: int = execution(0, "processes that measure what came true; 0: one per core", ge=0)
    bootstrap: int = Field(2000, ge=100, description="resamples of people behind each interval")
    seed: int = Field(0, description="seed of the resampling")

    @model_validator(mode="after")
    def _measures_one_kind(self) -> Evaluate:
        if (self.maps is None) == (self.forecasts is None):
            raise ValueError("give either maps= (of anomaly) or forecasts= (of forecast), not both.")
        if self.measured and self.forecasts is None:
            raise ValueError("measured= is about later visits, and there are none with maps=; leave it out.")
        return self

    def plan(self) -> list[str]:
        """What would be measured, and on whom."""
        opened = self.open_inputs()
        if isinstance(opened, OpenedForecasts):
            return [*opened.plan(), f"writes {self.out}"]
        truth, every_maps = opened
        lines = [
            f"measures {maps.name} ({', '.join(maps.channels)}) in {len(maps.subjects)} scans, "
            f"thresholds from {len(maps.held_out)} held-out controls"
            for maps in every_maps
        ]
        return [*lines, f"conditions: {', '.join(truth.conditions) or 'none'}", f"writes {self.out}"]

    def reads(self) -> Inputs:
        """The maps or the forecasts, and the truth."""
        what = "maps" if self.forecasts is None else "forecasts"
        return {what: list(self.maps or self.forecasts or ()), "truth": self.truth}

    def open_inputs(self) -> OpenedForecasts | tuple[CohortTruth, list[EvaluatedMaps]]:
        """The forecasts with the later visits; or the truth, and the maps that were made from it."""
        if self.forecasts is not None:
            return open_forecasts_and_truth(self.forecasts, self.truth, self.tolerance_years, self.measured)
        truth = open_truth(self.truth)
        return truth, open_maps(self.maps or (), truth)

    def write(self, work: Work, opened: OpenedForecasts | tuple[CohortTruth, list[EvaluatedMaps]]) -> dict[str, Any]:
        """Write metrics.json and the tables."""
        if isinstance(opened, OpenedForecasts):
            settings = ForecastSettings(
                self.tolerance_years, self.least_change, self.bootstrap, self.seed, self.workers
            )
            return judge(opened, settings, self.out)
        truth, every_maps = opened
        _warn_of_few_controls(every_maps)
        tables = measure(every_maps, truth, Settings(self.q, self.bootstrap, self.seed, self.changed_log_jacobian))
        headline = headlines(tables)
        described = {maps.name: _describe(maps) for maps in every_maps}
        write_evaluation(self.out, self.truth, described, _counts(truth), headline, tables)
        _print(tables, headline)
        say(f"{self.out / METRICS}")
        return {"headline": headline, "maps": [maps.name for maps in every_maps]}

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say how well forecasts came true."""
        for sentence in summary.get("summary", ()):
            say(str(sentence))


def _warn_of_few_controls(opened: list[EvaluatedMaps]) -> None:
    for maps in opened:
        if len(maps.held_out) < MIN_CONTROLS:
            warn(
                f"{maps.name}: {len(maps.held_out)} held-out controls; with fewer than {MIN_CONTROLS} no person can be "
                "detected at 5 % false positives, so sensitivities are left empty."
            )


def measure(opened: list[EvaluatedMaps], truth: CohortTruth, settings: Settings) -> dict[str, pd.DataFrame]:
    """All tables, by name: calibration, voxels, voxels_by_scan, differences, detection, regions, region_differences, profiles."""
    rows: dict[str, list[Row]] = {name: [] for name in ("calibration", "detection", "regions", "profiles")}
    by_scan: list[Row] = []
    for maps in opened:
        for channel in maps.channels:
            null, threshold = null_rows(maps, channel, settings)
            rows["calibration"] += null
            by_scan += voxel_scores(maps, truth, channel, threshold, settings)
        rows["detection"] += detection_rows(maps, truth)
        rows["regions"] += region_rows(maps, truth, settings)
        rows["profiles"] += profile_rows(maps, truth, settings)
    scans = pd.DataFrame(by_scan)
    tables = {name: pd.DataFrame(table_rows) for name, table_rows in rows.items()}
    tables["voxels"] = pd.DataFrame(voxel_rows(scans, settings))
    tables[BY_SCAN] = scans
    tables["region_differences"] = pd.DataFrame(region_difference_rows(opened, truth, settings))
    tables["differences"] = pd.DataFrame(difference_rows(scans, [maps.name for maps in opened], settings))
    return tables


def headlines(tables: dict[str, pd.DataFrame]) -> list[Row]:
    """The most important figures, one row each: maps, channel, condition, measure, value, low, high, num.

    Per maps folder: the most shrunken and the most enlarged region of each condition (deformation) and its two sides
    together, voxel AUROC per channel and condition, the detection limit, and false alarms in test controls and null twins.
    """
    headline_rows: list[Row] = []
    voxels, regions, null = tables["voxels"], tables["regions"], tables["calibration"]
    for row in rows_of(voxels[voxels["severity"] == ALL]) if len(voxels) else ():
        headline_rows += [_headline(row, "voxel " + name.upper(), name) for name in ("auroc", "auprc")]
        headline_rows.append(_headline(row, "Dice at the control threshold", "dice_at_threshold"))
    changed = regions[regions["changed"] & (regions["channel"] == "deformation")] if len(regions) else regions
    for _, group in changed.groupby(["maps", "condition"], sort=False) if len(changed) else ():
        ordered = rows_of(group.sort_values("true_percent"))
        # Both the most shrunken and the most enlarged region: one alone would hide that the other goes undetected.
        single = [row for row in ordered if not row["region"].endswith(BOTH)]
        least = SMALLEST_SHARE * max(abs(row["true_percent"]) for row in single)
        extremes = [row for row, sign in ((single[0], -1), (single[-1], 1)) if sign * row["true_percent"] > least]
        for top in extremes:
            name = f"{top['region']} ({top['true_percent']:+.1f} % planted)"
            headline_rows.append(_headline(top, f"AUC of {name}", "auc"))
            headline_rows.append(_headline(top, f"share with conformal p <= 5 % in {name}", SHARE_P_CONFORMAL))
            both = top["region"].removeprefix("left ").removeprefix("right ") + BOTH
            for row in (row for row in ordered if row["region"] in (top["region"], both)):
                what = f"{row['region']} ({row['true_percent']:+.1f} % planted)"
                headline_rows.append(_headline(row, f"detected at 5 % false positives by {what}", "sensitivity"))
    for row in rows_of(null[null["num"] > 0]):
        labelled = row | {"condition": row["group"]}
        headline_rows.append(_headline(labelled, "share of |z| > 1.96", "share_beyond_1_96"))
        headline_rows.append(_headline(labelled, "people with any FDR-positive voxel", "share_people_fdr_positive"))
    return headline_rows + _limits(tables["detection"])


def _limits(detection: pd.DataFrame) -> list[Row]:
    rows: list[Row] = []
    graded = detection[detection["condition"] != NULL] if len(detection) else detection
    for (maps, score, condition), group in (
        graded.groupby(["maps", "score", "condition"], sort=False) if len(graded) else ()
    ):
        limit = detection_limit(group)
        if limit is not None:
            label = {"maps": maps, "channel": score, "condition": condition, "measure": "detected from severity"}
            rows.append(label | {"value": limit, "low": None, "high": None, "num": int(group["num"].max())})
    return rows


def _headline(row: Row, measure_name: str, column: str) -> Row:
    label = {name: row[name] for name in ("maps", "channel", "condition")}
    values = {"value": row[column], "low": row[f"{column}_low"], "high": row[f"{column}_high"]}
    return label | {"measure": measure_name} | {k: _finite(v) for k, v in values.items()} | {"num": int(row["num"])}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _describe(maps: EvaluatedMaps) -> Row:
    return {
        "folder": str(maps.folder.folder),
        "key": maps.folder.artefact.key,
        "channels": list(maps.channels),
        "num_scans": len(maps.subjects),
        "num_test_controls": len(maps.test_controls),
        "num_held_out_controls": len(maps.held_out),
    }


def _counts(truth: CohortTruth) -> dict[str, int]:
    return {str(name): int(count) for name, count in truth.table["condition"].value_counts().items()}


def _print(tables: dict[str, pd.DataFrame], headline: list[Row]) -> None:
    """Print the compact tables of the terminal: values with their 95 % interval over people."""
    voxels, null = tables["voxels"], tables["calibration"]
    where = [
        (
            *_labels(row, "channel", "condition", "num"),
            *(
                _with_interval(row, name)
                for name in ("auroc", "auprc", "dice_at_threshold", "dice_oracle", "correlation")
            ),
            spell.probability(float(row["prevalence"])),
        )
        for row in (rows_of(voxels[voxels["severity"] == ALL]) if len(voxels) else ())
    ]
    _table(
        "Voxels of planted changes", "channel condition n AUROC AUPRC Dice oracle_Dice correlation prevalence", where
    )
    people = [
        (*_labels(row, "channel", "condition", "num", "measure"), _with_interval(row, "value"))
        for row in headline
        if not row["measure"].startswith(("voxel", "Dice", "share of |z|", "people with any"))
    ]
    _table("Regions and people", "channel condition n measure value", people)
    nothing = [
        (
            *_labels(row, "channel", "group", "num"),
            *(_with_interval(row, name) for name in ("sd_z", "share_beyond_1_96", "share_people_fdr_positive")),
        )
        for row in rows_of(null[null["num"] > 0])
    ]
    _table("Where nothing is planted", "channel people n SD_of_z |z|>1.96 any_FDR-positive_voxel", nothing)


def _table(title: str, names: str, rows: list[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name in ("maps", *names.split()):
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*row)
    output = console if console.is_terminal else Console(width=PLAIN_WIDTH, highlight=False)
    output.print(table)


def _labels(row: Row, *names: str) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("maps", *names))


def _with_interval(row: Row, name: str) -> str:
    prefix = "" if name == "value" else f"{name}_"
    return spell.interval(row[name], row[f"{prefix}low"], row[f"{prefix}high"], 3)
