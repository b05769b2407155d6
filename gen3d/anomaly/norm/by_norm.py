"""`gen3d anomaly norm=...`: whom a norm can judge, and the maps folder of those."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.anomaly.folder import CLUSTERS, CONTROL_RANGES, PREPARED, write_maps_tables
from gen3d.anomaly.map_writer import MapSettings
from gen3d.anomaly.norm.folder import NormFolder, open_norm
from gen3d.anomaly.norm.judging import CACHE, JudgeTask, judge_all
from gen3d.anomaly.tables import subject_table
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import Guard, identities
from gen3d.core import words as spell
from gen3d.core.disk import remove_folder, writing
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.files import open_regular
from gen3d.core.progress import say, track, warn
from gen3d.imaging.streams import DICOM, DICOM_AT, ZIP
from gen3d.models.run import Run
from gen3d.verbs import verb_class

OF_MAPS = ("smoothing_mm", "cluster_z")
"""Settings of a norm that its maps are read with."""


@dataclass(frozen=True)
class RawScan:
    """One T1w scan as a scanner's file, and what is known of the person; "" and None where nothing is."""

    path: Path
    subject: str
    age_years: float | None
    sex: str
    site: str


@dataclass(frozen=True)
class ByNorm:
    """A norm with its models, and the scans that it is to judge: a prepared cohort, or one raw scan."""

    norm: NormFolder
    run: Run | Ensemble
    prepared: Prepared | None
    scan: RawScan | None


def open_by_norm(folder: Path, prepared: Iterable[Path] | None, scan: RawScan | None) -> ByNorm:
    """Open a norm and what it is to judge.

    Raises:
        UserError: a norm that is damaged, scans of another grid, nobody whom the norm can judge, or no scan.
    """
    norm = open_norm(folder)
    norm.require_whole()
    run = load_runs(norm.run_folders)
    opened = ByNorm(norm, run, None if prepared is None else open_prepared(tuple(prepared)), scan)
    if scan is not None:
        _require_image(scan.path, norm)
        norm.plan.require_registration(str(norm.folder))
        require_site(norm, scan.site)
    if opened.prepared is not None:
        require_fit(norm, run, opened.prepared)
        judged_rows(norm, run, opened.prepared)
    return opened


def require_fit(norm: NormFolder, run: Run | Ensemble, prepared: Prepared) -> None:
    """Refuse scans of another plan than the norm's.

    Raises:
        UserError: naming both plans.
    """
    if prepared.plan.key != norm.plan.key:
        raise UserError(
            f"{norm.folder}: a norm of {norm.plan.describe()} [{norm.plan.key}], but {prepared.folders[0]} holds "
            f"{prepared.plan.describe()} [{prepared.plan.key}] ({norm.plan.difference(prepared.plan)}); prepare the scans with "
            "the norm's settings, or give one raw scan as scan=FILE, which is prepared with them."
        )
    run.require(prepared)


def require_site(norm: NormFolder, site: str) -> None:
    """Refuse a site that the norm cannot judge.

    Raises:
        UserError: naming the sites that it can.
    """
    group = norm.record.controls
    if not group.is_open(site):
        named = f"site {site!r}" if site else "no site"
        known = spell.listed([name or "(no name)" for name in _open_sites(norm)])
        raise UserError(
            f"{norm.folder}: cannot judge scans of {named}, it has controls of {known}; give site= of one of these if the scanner "
            f"is that one, or add the site from its own controls: gen3d norm adapt={norm.folder} prepared=CONTROLS_OF_THE_SITE "
            "out=NEW_NORM."
        )


def _open_sites(norm: NormFolder) -> list[str]:
    group = norm.record.controls
    return sorted({site for site in group.gate.num_controls if group.is_open(site)} | set(group.adapted))


def judged_rows(norm: NormFolder, run: Run | Ensemble, prepared: Prepared) -> pd.DataFrame:
    """The scans that a norm can judge: of people whom neither it nor its models saw, at least one of them of a known site.

    Raises:
        UserError: nobody is left, or no scan is of a site that the norm knows.
    """
    used = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
    if not len(used):
        raise UserError(f"{prepared.folders[0]}: every scan is excluded (see verdicts.tsv), so there is none to judge.")
    by_norm = norm.seen.seen_by(used)
    by_run = [any(not one.can_judge(person) for one in _runs(run)) for person in identities(used)]
    seen = [what or ("its model" if of_run else "") for what, of_run in zip(by_norm, by_run, strict=True)]
    guard = Guard(
        f"the norm {norm.folder}", "their z would be too small", "give people whom the norm has not seen", where=""
    )
    cleared = guard.clear(used, seen, "leave_out")
    for note in cleared.notes:
        warn(f"{note}.")
    table = used[cleared.testable].reset_index(drop=True)
    table["site"] = table["site"].where(table["site"].notna(), "").astype(str)
    if not any(norm.record.controls.is_open(site) for site in table["site"]):
        require_site(norm, str(table["site"].iloc[0]))
    return table


def _runs(run: Run | Ensemble) -> tuple[Run, ...]:
    return run.runs if isinstance(run, Ensemble) else (run,)


def prepare_scan(opened: ByNorm, out: Path) -> Path:
    """Prepare the raw scan with the norm's settings into `out`/prepared.

    Raises:
        UserError: the scan cannot be used.
    """
    scan, folder = opened.scan, out / PREPARED
    assert scan is not None, "there is a raw scan"
    table = out / "scan.csv"
    row = {
        "participant_id": scan.subject,
        "path": str(scan.path.resolve()),
        "age": scan.age_years,
        "sex": scan.sex or None,
        "site": scan.site or None,
    }
    with writing(table):
        pd.DataFrame([row]).to_csv(table, index=False, na_rep="n/a")
    settings = opened.norm.record.prepare | {"source": table, "out": folder, "workers": 1}
    try:
        verb_class("prepare").model_validate(settings).run()
    except Unfinished as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).splitlines()[-1]
        raise UserError(f"{reason} It is the only scan, so there is nothing to judge.") from None
    return folder


def write_by_norm(opened: ByNorm, out: Path, maps: MapSettings, workers: int) -> dict[str, Any]:
    """Judge the scans and write the maps folder; returns its summary."""
    norm = opened.norm
    prepared = opened.prepared
    if prepared is None:
        prepared = open_prepared(prepare_scan(opened, out))
        require_fit(norm, opened.run, prepared)
    table = judged_rows(norm, opened.run, prepared)
    _announce(norm, table)
    maps = replace(maps, cluster_z=float(norm.record.settings["cluster_z"]))  # that of the controls' heaviest clusters
    task = JudgeTask(norm.folder, prepared.folders, out, maps)
    rows = {row["subject"]["key"]: row for row in track(judge_all(task, table, workers), "judging", total=len(table))}
    ordered = [rows[key] for key in table["key"]]
    group = norm.record.controls
    columns = pd.DataFrame([row["subject"] for row in ordered]).drop(columns="key").astype(float)
    subjects = subject_table(table, group.flags(table), [columns], None)
    regions = pd.DataFrame([row for of_scan in ordered for row in of_scan["regions"]])
    order = {channel: place for place, channel in enumerate(norm.region_channels)}
    regions = regions.sort_values("channel", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    clusters = pd.DataFrame([row for of_scan in ordered for row in of_scan["clusters"]], columns=list(CLUSTERS.columns))
    CONTROL_RANGES.write(out, norm.ranges)
    of_norm = {name: norm.record.settings[name] for name in OF_MAPS}
    calibration = {channel: record | of_norm for channel, record in norm.calibration.items()}
    write_maps_tables(out, subjects, regions, clusters, calibration)
    remove_folder(out / CACHE)
    return {
        "num_scans": len(table),
        "num_calibration": norm.record.covariates.num_people,
        "num_flagged": int((subjects["flags"] != "").sum()),
    }


def plan_by_norm(opened: ByNorm, out: Path) -> list[str]:
    """What would be judged by which norm."""
    norm = opened.norm
    if opened.prepared is not None:
        num = len(judged_rows(norm, opened.run, opened.prepared))
        what = spell.count(num, "scan")
    else:
        assert opened.scan is not None, "there is a raw scan"
        what = f"{opened.scan.path}, prepared with the norm's settings,"
    return [
        f"judges {what} by {norm.record.covariates.num_people} controls of {norm.folder} in {', '.join(norm.map_channels)}",
        f"grid {norm.plan.describe()}",
        f"writes {out}",
    ]


def _announce(norm: NormFolder, table: pd.DataFrame) -> None:
    design = norm.record.controls.design
    low, high = design.age_range_years
    ages = f", aged {low:.0f} to {high:.0f}" if np.isfinite(low) else ""
    say(
        f"{spell.count(len(table), 'scan')}; judged by {norm.record.covariates.num_people} controls of {norm.folder}{ages}"
    )
    flags = norm.record.controls.flags(table)
    for flag in dict.fromkeys(filter(None, flags)):
        num = flags.count(flag)
        warn(f"{spell.count(num, 'scan')}: {flag}.")


def _require_image(path: Path, norm: NormFolder) -> None:
    """Refuse what is no image by itself, and say what makes one of it.

    Raises:
        UserError: no such file, a folder, a zip, or one slice of a DICOM series.
    """
    if path.is_file():
        with open_regular(path) as stream:
            start = stream.read(DICOM_AT + len(DICOM))
        if not start.startswith(ZIP) and start[DICOM_AT:] != DICOM:
            return
        held = "a zip" if start.startswith(ZIP) else "a DICOM file, one of a series"
    elif path.is_dir():
        held = "a folder"
    else:
        raise UserError(f"{path}: no such file; scan= is one T1w image (.nii or .nii.gz).")
    source = path.parent if held.startswith("a DICOM") else path
    settings = norm.record.prepare.items()
    keys = " ".join(
        f"{key}={str(value).lower()}" for key, value in settings if not isinstance(value, (dict, list, tuple))
    )
    raise UserError(
        f"{path}: is {held}, and scan= is one T1w image (.nii or .nii.gz); prepare DICOM files as the norm's controls were, gen3d "
        f"prepare source={source} {keys} out=prepared, and give prepared=prepared in place of scan=."
    )


def subject_of(path: Path) -> str:
    """An id from a file's name: letters and digits of what is in front of the suffix, without BIDS's prefix and suffix."""
    stem = path.name.split(".")[0].removeprefix("sub-")
    return re.sub(r"[^A-Za-z0-9]", "", re.sub(r"_?T1w$", "", stem)) or "scan"
