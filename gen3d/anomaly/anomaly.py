"""`gen3d anomaly`: calibrated z maps, region tables and one score per person and channel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.compare import compare
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.fitting import FittedChannel, FittedRegions, Fitting, announce
from gen3d.anomaly.folder import CLUSTERS, PAGE, PREPARED, write_maps_tables
from gen3d.anomaly.map_writer import WITHOUT_MAP, MapFacts, MapSettings, MapWriter, ScanMap
from gen3d.anomaly.norm.by_norm import (
    ByNorm,
    RawScan,
    open_by_norm,
    plan_by_norm,
    subject_of,
    write_by_norm,
)
from gen3d.anomaly.settings import CalibratingVerb, joined, warn_of_trained_on
from gen3d.anomaly.tables import RegionRows, SubjectColumns, latent_scores, region_table, subject_table
from gen3d.cohort.channels import Channel
from gen3d.cohort.folder import Prepared
from gen3d.core import words as spell
from gen3d.core.config import Folder, execution, key_of
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.work import Inputs
from gen3d.models.run import Run
from gen3d.verbs import verb_class

Cohort = tuple[Prepared, Run | Ensemble, Panel, list[Channel]]
Opened = Cohort | ByNorm

OF_A_SCAN = ("subject", "age_years", "sex", "site")
NOT_OF_A_NORM = {"prepared", "out", "q", "workers"}
"""Settings of the calibration that are free when a norm judges."""


class Anomaly(CalibratingVerb):
    """Compare every person with what the model expects of a healthy one, and calibrate the difference.

    Per voxel, region and person: z against calibration controls of the same age, sex and site (a linear model with
    leverage, moderated variance and a variance factor per site), p, BH-FDR, and clusters with a p family-wise over the
    brain; per region also a conformal p and one family-wise over regions. A person is never compared with a model that
    was trained on that person, nor calibrated on any scan of that person. Several runs are used together through the mean
    of their expectations, for people who are held out from each of them.

    With norm=FOLDER (`gen3d norm`) nobody else's scan is needed: the scans of prepared=, or one raw file scan=, are judged by
    what the norm kept of its controls.
    """

    norm: Folder | None = Field(
        None, description="norm folder (norm) to judge by, in place of run= and of own controls"
    )
    scan: Folder | None = Field(None, description="with norm=: one raw T1w file, in place of prepared=")
    subject: str = Field(
        "", description="with scan=: the person's id, letters and digits; default: from the file's name"
    )
    age_years: float | None = Field(None, ge=0, le=120, description="with scan=: age in years")
    sex: Literal["", "F", "M"] = Field("", description="with scan=: F or M; default: unknown")
    site: str = Field("", description="with scan=: site or scanner, as the norm calls it")
    page: bool = execution(True, "with scan=: also write a page of the person, page/index.html")
    min_cluster_ml: float = Field(0.1, ge=0, description="smallest cluster listed, ml")
    native: bool = Field(
        True,
        description="also write maps in each scan's own space (deformation: by `gen3d export`)",
    )

    @model_validator(mode="after")
    def _is_one_way(self) -> Anomaly:
        given = self.model_fields_set
        if self.norm is None:
            for name in ("scan", *OF_A_SCAN):
                if name in given and getattr(self, name) not in (None, ""):
                    raise ValueError(f"`{name}` needs a norm to judge by: give norm=FOLDER (gen3d norm).")
            for name, value in (("prepared", self.prepared), ("run", self.run_folders)):
                if value is None:
                    raise ValueError(f"`{name}` is missing: give {name}=FOLDER, or norm=FOLDER to judge by a norm.")
            return self
        fixed = [key_of(type(self), name) for name in CalibratingVerb.model_fields if name in given - NOT_OF_A_NORM]
        if fixed:
            raise ValueError(
                f"`{fixed[0]}` was fixed when the norm was fitted; leave it out, or fit another norm with it."
            )
        if (self.prepared is None) == (self.scan is None):
            raise ValueError("give the scans to judge as prepared=FOLDER, or one raw T1w file as scan=FILE.")
        if self.scan is None and (named := [name for name in OF_A_SCAN if getattr(self, name) not in (None, "")]):
            raise ValueError(f"`{named[0]}` is of a raw scan: give scan=FILE; prepared scans have it in their table.")
        return self

    def plan(self) -> list[str]:
        """The scans, models and channels that would be compared."""
        opened = self.open_inputs()
        if isinstance(opened, ByNorm):
            return plan_by_norm(opened, self.out)
        prepared, run, panel, channels = opened
        gated = (
            f"; {len(panel.gated)} scans of a site with too few calibration controls get no z"
            if len(panel.gated)
            else ""
        )
        return [
            f"compares {len(panel.table)} scans with the {run.kind} of {joined(run)} in {', '.join(channels)}{gated}",
            f"calibrates on {len(panel.calibration)} controls that the model has not seen ({', '.join(panel.design.columns)})",
            *filter(None, [panel.unknown_sentence()]),
            f"grid {prepared.plan.describe()}",
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The scans and the models."""
        read = {"prepared": self.prepared, "run": self.run_folders, "norm": self.norm, "scan": self.scan}
        return {name: paths for name, paths in read.items() if paths is not None}

    def open_inputs(self) -> Opened:
        """The scans, the models, the panel of calibration and scored people, and the available channels.

        Raises:
            UserError: a model trained on patients, or inputs that do not fit together.
        """
        if self.norm is not None:
            return open_by_norm(self.norm, self.prepared, self._raw_scan)
        prepared, run, channels = self.open_cohort()
        return prepared, run, self.panel_of(prepared, run), channels

    @property
    def _raw_scan(self) -> RawScan | None:
        if self.scan is None:
            return None
        return RawScan(self.scan, self.subject or subject_of(self.scan), self.age_years, self.sex, self.site)

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Write the maps folder: subjects.tsv, regions.tsv, clusters.tsv, calibration.json, maps/, native/."""
        if isinstance(opened, ByNorm):
            return write_by_norm(opened, self.out, self.map_settings, self.workers)
        prepared, run, panel, channels = opened
        announce(panel)
        warn_of_trained_on(prepared, run)
        values = compare(self.out, prepared, run, panel.table, self.comparison(channels), self.workers)
        fitting = Fitting(self, prepared, run, panel, values, channels)
        calibrations: dict[str, Any] = {}
        regions: list[pd.DataFrame] = []
        columns: list[pd.DataFrame] = []
        clusters: list[dict[str, Any]] = []
        for channel in channels:
            fitted = fitting.channel(channel)
            calibrations[channel] = fitted.regions.record
            facts = self._write_maps(prepared, panel, fitted)
            columns.append(_subject_columns(panel, fitted, facts))
            regions.append(_region_rows(fitted.regions))
            clusters += [row for of_scan in facts.values() for row in of_scan.clusters]
        for measured in fitting.measured():
            calibrations[measured.channel] = measured.record
            regions.append(_region_rows(measured))
        subjects = subject_table(panel.table, panel.flags(), columns, latent_scores(panel, values.latents))
        region_frame = pd.concat(regions, ignore_index=True)
        write_maps_tables(self.out, subjects, region_frame, _by_scan(clusters, panel), calibrations)
        values.discard()
        return _summary(panel, {channel: calibrations[channel] for channel in channels})

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Write the page of one raw scan's person, where it is wanted."""
        if self.scan is not None and self.page:
            keys = {"inputs": [self.out, self.out / PREPARED], "out": self.out / PAGE, "list_missing": False}
            verb_class("report").model_validate(keys | {"title": "One scan against healthy controls"}).run()

    @property
    def map_settings(self) -> MapSettings:
        """How maps are written."""
        return MapSettings(self.q, self.cluster_z, self.min_cluster_ml, self.native)

    def _write_maps(self, prepared: Prepared, panel: Panel, fitted: FittedChannel) -> dict[int, MapFacts]:
        """Write the maps of a channel; returns what tables say of each, by row of the panel."""
        writer = MapWriter(self.out, prepared, self.map_settings)
        wanted = np.setdiff1d(np.arange(len(panel.table)), panel.gated).tolist()
        channel, scores = fitted.regions.channel, fitted.regions.scores
        scans = (
            ScanMap(
                str(panel.table.at[row, "key"]),
                Path(str(panel.table.at[row, "folder"])),
                channel,
                fitted.voxels.z[row],
                scores.without(int(panel.calibration_position[row])).masses,
            )
            for row in wanted
        )
        done = track(writer.all(scans, self.workers), f"writing maps of {channel}", total=len(wanted))
        return dict(zip(wanted, done, strict=True))


def _region_rows(fitted: FittedRegions) -> pd.DataFrame:
    rows = RegionRows(fitted.channel, fitted.names)
    return region_table(fitted.panel, rows, fitted.values, fitted.calibrated, fitted.scores)


def _subject_columns(panel: Panel, fitted: FittedChannel, facts: dict[int, MapFacts]) -> pd.DataFrame:
    """The columns of subjects.tsv of a channel, a row per scan."""
    of_channel, rows = fitted.regions, []
    for row in range(len(panel.table)):
        map_of = facts.get(row, WITHOUT_MAP)
        others = of_channel.scores.without(int(panel.calibration_position[row]))
        columns = SubjectColumns(of_channel.channel, others)
        rows.append(columns.of(map_of.burden, map_of.voxels_fdr, of_channel.calibrated.z[row]))
    return pd.DataFrame(rows)


def _by_scan(clusters: list[dict[str, Any]], panel: Panel) -> pd.DataFrame:
    """The clusters of all channels, scan by scan in the order of the panel."""
    place = {str(key): row for row, key in enumerate(panel.table["key"])}
    ordered: list[dict[str, Any]] = sorted(clusters, key=lambda row: place[row["key"]])
    return pd.DataFrame(ordered, columns=list(CLUSTERS.columns))


def _summary(panel: Panel, calibrations: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {"num_scans": len(panel.table), "num_calibration": len(panel.calibration)}
    for channel, record in calibrations.items():
        test = record["test"]
        if test["num_people"]:
            summary[channel] = {name: test[name] for name in ("num_people", "mean", "sd", "share_beyond_1.96")}
            summary[channel]["share_people_fdr_positive"] = test["share_people_fdr_positive"]
            say(
                f"{channel}: in {test['num_people']} held-out controls z has mean {spell.number(test['mean'], signed=True)}, "
                f"SD {spell.number(test['sd'])}; |z| > 1.96 in {spell.percent(test['share_beyond_1.96'])} of voxels; "
                f"{spell.percent(test['share_people_fdr_positive'], 0)} have an FDR-positive voxel"
            )
    return summary
