"""Fit a norm: compare controls with the model, calibrate channel by channel, and keep what judging needs."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.compare import ChannelValues
from gen3d.anomaly.control_scores import FEWEST_TOGETHER
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.fitting import FittedChannel, FittedRegions, Fitting
from gen3d.anomaly.norm.curves import CurveModel, curve_model, write_best_curves
from gen3d.anomaly.norm.folder import (
    DECADE,
    REGIONS,
    RUNS,
    VOXELS,
    LatentReference,
    NormRecord,
    centiles,
    channel_files,
    write_norm,
)
from gen3d.anomaly.settings import CalibratingVerb
from gen3d.cohort.channels import LOG_JACOBIAN, MODULATED, Channel
from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import read
from gen3d.core.disk import writing
from gen3d.core.seal import RECORD as RECORD_FILE
from gen3d.core.seal import seal
from gen3d.imaging.plan import write_plan
from gen3d.maths.covariate_sums import CovariateSums, Group
from gen3d.maths.design import covariate_sums
from gen3d.maths.deviation import fit_deviation, held_out_deviation
from gen3d.models.run import Run

PLAN = "plan.json"
OF_THE_NORM = (
    "channels", "samples", "smoothing_mm", "variance_smoothing_mm", "variance_floor", "covariates", "site_variance", "age_variance",
    "min_site_controls", "few_site_controls", "empirical_null", "cluster_z", "seed",
)  # fmt: skip
"""Settings that comparing and calibrating depend on."""
OF_PREPARE = ("brain_mask", "bias_correction")
"""Settings of `gen3d prepare` that decide what a scan looks like, and are not those of the grid."""
CONTROL = "norm (calibration)"


@dataclass(frozen=True)
class NormFit:
    """Fits the norm of a panel and writes it into a folder.

    Attributes:
        settings: the verb; `folder` is where it writes.
        prepared: the cohort of the controls.
        run: the model.
        panel: the controls, and further controls on whom nothing is fitted (role test).
        channels: with maps.
        anonymous: keep no score of a single person, and no sums of a few.
    """

    settings: CalibratingVerb
    prepared: Prepared
    run: Run | Ensemble
    panel: Panel
    channels: list[Channel]
    anonymous: bool

    def write(self, values: ChannelValues) -> dict[str, Any]:
        """Write the folder but for its card and pictures; returns the record of held-out controls by channel."""
        folder, panel = self.settings.out, self.panel
        fitting = Fitting(self.settings, self.prepared, self.run, panel, values, self.channels)
        channels: dict[str, dict[str, Any]] = {}
        calibration: dict[str, Any] = {}
        ranges: list[pd.DataFrame] = []
        with_curves: dict[str, CurveModel] = {}
        for channel in self.channels:
            fitted = fitting.channel(channel)
            channels[channel] = self._write_channel(fitted)
            calibration[channel] = without_names(fitted.regions.record)
            ranges.append(_ranges(fitted.regions))
        for measured in fitting.measured():
            channels[measured.channel] = self._write_regions(measured)
            calibration[measured.channel] = without_names(measured.record)
            ranges.append(_ranges(measured))
            names = tuple(str(name) for name in measured.names["name"])
            model = curve_model(measured.channel, names, measured.calibrated.norm, measured.panel.design)
            with_curves[measured.channel] = model
        write_best_curves(folder, with_curves)
        record = NormRecord(
            {name: value for name, value in self.settings.settings().items() if name in OF_THE_NORM},
            prepare_settings(self.prepared),
            panel.controls,
            fitting.with_covariates.controls,
            without_groups(_covariates(panel)) if self._hides_few else _covariates(panel),
            channels,
            int(self.prepared.mask.sum()),
            together(who(panel.table.iloc[panel.calibration]))
            if self.anonymous
            else who(panel.table.iloc[panel.calibration]),
            self.anonymous,
            tuple(read(source).key for source in self.run.folders),
        )
        write_plan(folder / PLAN, self.prepared.plan)
        everyone = self.prepared.manifest
        people = panel.table.iloc[panel.calibration]["subject"]
        seen = SeenBy.rows(everyone[everyone["subject"].isin(people)], CONTROL)  # known by any of their scans
        write_norm(folder, record, seen, pd.concat(ranges, ignore_index=True), calibration, self._latents(values))
        return calibration

    def copy_runs(self) -> None:
        """Copy the models into the folder, sealed as they are."""
        for number, source in enumerate(self.run.folders):
            copy_folder(source, self.settings.out / RUNS / str(number))

    def _write_channel(self, fitted: FittedChannel) -> dict[str, Any]:
        files = channel_files(self.settings.out, fitted.regions.channel, VOXELS)
        return {VOXELS: self._kept(files.write(fitted.voxels.norm), files.statistics)} | self._write_regions(
            fitted.regions
        )

    def _write_regions(self, fitted: FittedRegions) -> dict[str, Any]:
        files = channel_files(self.settings.out, fitted.channel, REGIONS)
        scores = fitted.scores.coarse() if self.anonymous else fitted.scores.anonymous()
        record = self._kept(files.write(fitted.calibrated.norm, scores), files.statistics)
        return {REGIONS: record, "names": [str(name) for name in fitted.names["name"]]}

    def _kept(self, record: dict[str, Any], statistics: Path) -> dict[str, Any]:
        """Sums of a group of a few people are nearly those people's maps: an anonymous norm has none of them."""
        if self._hides_few:
            statistics.unlink()
            record.pop("groups")
            of_many = {site: of for site, of in record["squares"].items() if of[0] >= FEWEST_TOGETHER}
            by_age = record["age_variance"]["sites"]
            record["squares"] = of_many
            record["age_variance"]["sites"] = {site: of for site, of in by_age.items() if of[0] >= FEWEST_TOGETHER}
        return record

    @property
    def _hides_few(self) -> bool:
        """Whether the norm is anonymous and has groups of fewer people than a kept number may stand for."""
        return self.anonymous and int(min(_covariates(self.panel).num)) < FEWEST_TOGETHER

    def _latents(self, values: ChannelValues) -> LatentReference | None:
        if values.latents is None:
            return None
        of_controls = values.latents[self.panel.calibration]
        return LatentReference(fit_deviation(of_controls), np.sort(held_out_deviation(of_controls)))


def copy_folder(source: Path, target: Path) -> None:
    """Copy a finished folder with its record, so that it is as sealed as it was; what is there already is made anew.

    Raises:
        UserError: the folder is not finished, or is changed.
    """
    read(source)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with writing(target):
        for name in seal(source):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
        shutil.copy2(source / RECORD_FILE, target / RECORD_FILE)


def _covariates(panel: Panel) -> CovariateSums:
    people = panel.table.iloc[panel.calibration]
    return covariate_sums(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())


def _ranges(fitted: FittedRegions) -> pd.DataFrame:
    rows = fitted.panel.calibration
    effects = fitted.calibrated.norm.effect(fitted.values[rows], fitted.panel.coded(rows))
    return centiles(fitted.channel, [str(name) for name in fitted.names["name"]], effects)


def prepare_settings(prepared: Prepared) -> dict[str, Any]:
    """The settings of `gen3d prepare` with which further scans become comparable."""
    plan, artefact = prepared.plan, read(prepared.folders[0])
    settings: dict[str, Any] = {
        "spacing_mm": plan.spacing_mm,
        "degrees_of_freedom": plan.degrees_of_freedom,
        "divisible_by": plan.divisible_by,
        "deformation_channel": LOG_JACOBIAN in plan.channels,
    }
    settings |= {"density_channel": True} if MODULATED in plan.channels else {}
    settings |= {"deformation": plan.deformation} if plan.deformation else {}
    given = artefact.config if artefact.verb == "prepare" else {}
    return settings | {name: given[name] for name in OF_PREPARE if name in given}


def who(people: pd.DataFrame) -> list[dict[str, Any]]:
    """Numbers of people by site, decade of age and sex; "" where unknown."""
    ages = pd.to_numeric(people["age_years"], errors="coerce")
    decade = (ages // DECADE * DECADE).map(lambda age: f"{age:.0f}s" if np.isfinite(age) else "")
    frame = pd.DataFrame({"site": people["site"].fillna(""), "age": decade, "sex": people["sex"].fillna("")})
    counts = Counter(zip(frame["site"].astype(str), frame["age"].astype(str), frame["sex"].astype(str), strict=True))
    return [{"site": site, "age": age, "sex": sex, "num": num} for (site, age, sex), num in sorted(counts.items())]


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same numbers in cells of at least `FEWEST_TOGETHER`: smaller ones lose the age, then the sex, then the site."""
    for hidden in (("age",), ("age", "sex"), ("age", "sex", "site")):
        counts: Counter[tuple[str, str, str]] = Counter()
        for row in rows:
            few = dict.fromkeys(hidden, "") if row["num"] < FEWEST_TOGETHER else {}
            cell = row | few
            counts[(cell["site"], cell["age"], cell["sex"])] += int(cell["num"])
        rows = [{"site": site, "age": age, "sex": sex, "num": num} for (site, age, sex), num in sorted(counts.items())]
    return rows


def without_groups(sums: CovariateSums) -> CovariateSums:
    """How many people there are and of which ages, and nothing of their groups; such sums cannot be merged."""
    width = sums.gram.shape[1]
    return CovariateSums(
        (Group("", True, True),), np.array([sums.num_people]), np.zeros((1, width, width)), sums.age_range_years
    )


PER_PERSON = ("per_person", "per_person_fdr_positive")


def without_names(record: dict[str, Any]) -> dict[str, Any]:
    """A calibration record in which nobody is named, and no figure is of one person but the scores of outlying controls."""
    kept = dict(record)
    for part in ("calibration_held_out", "test"):
        kept[part] = {name: value for name, value in record[part].items() if name not in PER_PERSON}
    kept["references"] = {
        name: reference | {"outlying": [{"score": person["score"]} for person in reference["outlying"]]}
        for name, reference in record["references"].items()
    }
    return kept


def size_mb(folder: Path) -> float:
    """Size of a folder in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
