"""A folder of forecasts as a BIDS derivatives dataset: the scan as it will be, with the model, the horizon and what it is worth.

The entity `desc` holds the horizon: `desc-forecast3y_T1w` is the forecast, and maps of it have the suffix `statmap` with what they
are in `stat`, as other maps of gen3d have. Sessions are kept: a forecast belongs to the session that it starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d import __version__
from gen3d.cohort import bids_names as bids
from gen3d.cohort.methods import METHODS, methods_text
from gen3d.core.artefact import write_atomic, write_json
from gen3d.core.errors import UserError
from gen3d.core.progress import say, track
from gen3d.core.tables import records, write_table
from gen3d.exports import sidecars
from gen3d.exports.placing import place
from gen3d.forecast.folder import LEVELS, ForecastFolder, open_forecasts, volume_path, years_label
from gen3d.imaging.volume import read_map_and_affine

NAME = "Forecasts of T1w scans"
WHAT = {
    "t1w": ("T1w", "forecast of the T1w scan; white-matter median 1, background 0", "arbitrary"),
    "difference": ("stat-difference_statmap", "forecast less the scan, in units of the scan's white-matter median", "arbitrary"),
    "sd": ("stat-sd_statmap", "standard deviation of the difference over draws, calibrated on people never seen", "arbitrary"),
    "log_change": (
        "stat-logchange_statmap", "natural logarithm of local volume then over volume now, on the voxels of the scan", "none"
    ),
}  # fmt: skip
"""Volumes by their name in the folder: end of the file name, description, units."""

COLUMNS: dict[str, dict[str, Any]] = {
    "model": {"Description": "forecaster, or a floor that was fitted on the same people"},
    "years": {"Description": "years after the scan that the forecast starts from", "Units": "year"},
    "region": {"Description": "region of the template, carried to the scan"},
    "log_change": {"Description": "forecast natural logarithm of the region's volume then over its volume now"},
    "spread": {
        "Description": "standard deviation of log_change over draws, or one number per region for models without draws"
    },
} | {
    f"{side}_{level}": {
        "Description": f"{side} end of the {level} % interval of log_change (split-conformal over people)"
    }
    for level in LEVELS
    for side in ("low", "high")
}

README = """\
Forecasts of T1w scans, made by gen3d {version} with the model {model}.
For research; not for the diagnosis or care of a person. {verdict}

Layout
  sub-*/[ses-*/]anat/*_space-{space}_res-{res}_desc-forecast<years>_T1w.nii               the scan after so many years
  sub-*/[ses-*/]anat/*_desc-forecast<years>_stat-difference_statmap.nii                   its difference from today's scan
  sub-*/[ses-*/]anat/*_desc-forecast<years>_stat-sd_statmap.nii                           SD of the difference, where known
  sub-*/[ses-*/]anat/*_desc-forecast<years>_stat-logchange_statmap.nii                    log of local volume change
  sub-*/[ses-*/]anat/*_desc-forecast_stats.tsv                                            regions, models and horizons
  group_desc-skill_stats.tsv, group_desc-coverage_stats.tsv                               what forecasts were worth for others

Volumes lie in the affinely aligned scan. Every file has a JSON file with its model, horizon and the coverage of intervals at that
horizon.
"""
BIDS_IGNORE = "artefact.json\n.lock\nmethods.md\ngroup_*\n*_stats.*\n*_statmap.*\n"


@dataclass(frozen=True)
class ForecastMaterial:
    """What is exported: a folder of forecasts, and the rows with volumes."""

    folder: ForecastFolder
    rows: pd.DataFrame
    spacing_mm: float

    @property
    def title(self) -> str:
        """The model in words."""
        return self.folder.titles[self.folder.model]

    def plan(self) -> list[str]:
        """What would be exported."""
        years = ", ".join(f"{year:g}" for year in sorted(set(self.rows["years"])))
        return [f"exports forecasts of {self.rows['key'].nunique()} scans, {years} years ahead, by {self.title}"]


def open_material(folder: Path) -> ForecastMaterial:
    """Open a folder of forecasts for export.

    Raises:
        UserError: not a folder of `gen3d forecast`, damaged, without a volume, or ids that BIDS cannot tell apart.
    """
    opened = ForecastFolder(open_forecasts(folder), folder.name)
    rows = opened.forecasts[opened.forecasts["model"] == opened.model].reset_index(drop=True)
    example = opened.example_map
    if rows.empty or example is None:
        raise UserError(f"{folder}: holds no forecast volume; run `gen3d forecast` again.")
    scans = rows.drop_duplicates("key")
    bids.check_labels(list(zip(scans["subject"], scans["session"], strict=True)))
    affine = read_map_and_affine(example)[1]
    return ForecastMaterial(opened, rows, float(np.round(np.linalg.norm(affine[:3, 0]), 4)))


def sources_of(texts: Sequence[str]) -> list[dict[str, str]]:
    """SourceDatasets of DOIs and URLs."""
    return [{"DOI": text} if text.lower().startswith("doi:") else {"URL": text} for text in texts]


def write_dataset(out: Path, material: ForecastMaterial, name: str, sources: list[dict[str, str]]) -> dict[str, Any]:
    """Write the dataset; the summary of its folder."""
    folder, res = material.folder, bids.resolution(material.spacing_mm)
    num_volumes = 0
    for _, row in track(list(material.rows.iterrows()), "exporting"):
        num_volumes += _export_row(out, material, row, res)
    for key, rows in folder.regions.groupby("key", sort=False):
        scan = material.rows[material.rows["key"] == key].iloc[0]
        write_table(_below(out, scan) / f"{_stem(scan)}_desc-forecast_stats.tsv", rows.drop(columns="key"))
    write_json(out / "desc-forecast_stats.json", COLUMNS)
    for what, table in (("skill", folder.skill), ("coverage", folder.coverage)):
        write_table(out / f"group_desc-{what}_stats.tsv", table)
    people = material.rows.drop_duplicates("subject")
    write_table(out / "participants.tsv", pd.DataFrame({"participant_id": "sub-" + people["subject"].map(bids.label)}))
    described = sidecars.dataset_description(name or NAME, material.title, sources, "forecasts of a trained model")
    write_json(out / "dataset_description.json", described)
    fields = {"version": __version__, "model": material.title, "space": bids.TEMPLATE_SPACE, "res": res}
    verdict = next(iter(folder.summary), "")
    write_atomic(out / "README", README.format(**fields, verdict=verdict))
    write_atomic(out / METHODS, methods_text([folder.artefact]))
    write_atomic(out / ".bidsignore", BIDS_IGNORE)
    num_scans = int(material.rows["key"].nunique())
    say(f"{out}: forecasts of {num_scans} scans, {num_volumes} volumes.")
    return {"num_scans": num_scans, "num_volumes": num_volumes}


def _stem(row: pd.Series) -> str:
    return bids.stem(str(row["subject"]), str(row["session"]))


def _below(out: Path, row: pd.Series) -> Path:
    session = bids.label(str(row["session"]))
    return out / f"sub-{bids.label(str(row['subject']))}" / (f"ses-{session}" if session else "") / "anat"


def _export_row(out: Path, material: ForecastMaterial, row: pd.Series, res: str) -> int:
    """The volumes of one forecast with their sidecars; how many."""
    written = 0
    years = float(row["years"])
    start = f"{_stem(row)}_space-{bids.TEMPLATE_SPACE}_res-{res}_desc-forecast{years_label(years)}"
    for what, (ending, meaning, units) in WHAT.items():
        source = volume_path(material.folder.folder, str(row["stem"]), what)
        if not source.is_file():
            continue
        place(source, _below(out, row) / f"{start}_{ending}.nii")
        sidecar = {
            "Description": meaning,
            "Units": units,
            "SkullStripped": True,
            "Resolution": {res: f"cubic voxels of {material.spacing_mm:g} mm in the affinely aligned scan"},
            "Model": material.title,
            "YearsAhead": years,
            "Condition": material.folder.part("condition", dict, {}),
            "IntervalCoverage": _coverage_at(material.folder, years),
        }
        write_json(_below(out, row) / f"{start}_{ending}.json", sidecar)
        written += 1
    return written


def _coverage_at(folder: ForecastFolder, years: float) -> list[dict[str, Any]]:
    """What the model's intervals held at this horizon, of people never seen; [] where nobody was followed so long."""
    table = folder.coverage
    own = table[(table["model"] == folder.model) & (table["years_low"] <= years) & (years <= table["years_high"])]
    return records(own[["level", "coverage", "low", "high", "num_people", "width"]].drop_duplicates("level"))
