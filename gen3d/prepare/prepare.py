"""`gen3d prepare`: T1w scans of any source to one grid, each with a verdict; an interrupted run goes on where it stopped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from gen3d.cohort.channels import LOG_JACOBIAN, MODULATED, T1W
from gen3d.cohort.folder import UNMATCHED, VERDICTS, write_cohort
from gen3d.cohort.manifest import SCAN_HASH, Split, assign_roles
from gen3d.cohort.regions import region_table, regions_on
from gen3d.cohort.scan_hash import refuse_one_scan_twice
from gen3d.cohort.screening import judge
from gen3d.core import words
from gen3d.core.artefact import digest
from gen3d.core.config import NamedFolders, execution
from gen3d.core.errors import Unfinished
from gen3d.core.files import shown
from gen3d.core.output_folder import Work
from gen3d.core.pool import num_workers
from gen3d.core.progress import duration, say, track
from gen3d.core.work import FolderVerb, Identity, Inputs
from gen3d.imaging.brainmask import MaskMethod, check_tool
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.registration import DeformationSettings
from gen3d.imaging.speed import slowness
from gen3d.imaging.template import template_on
from gen3d.prepare.columns import Columns
from gen3d.prepare.dicom.settings import DicomSettings
from gen3d.prepare.dicom.source import Paths, as_bids, unused_series
from gen3d.prepare.one_scan import CACHE, ScanTask, make_tasks, prepare_all
from gen3d.prepare.roles import Controls, control_rows, role_lines
from gen3d.prepare.sources import ScanSource, read_sources

SECONDS_PER_SCAN, SECONDS_PER_MEGAVOXEL = 2.5, 2.2  # of one core: alignment and bias; resampling and deformation
FASTEST, SLOWEST = 0.7, 1.5
"""Scans differ, by their voxels and by how far they are from the template: shares of that time that they take."""
PICTURE_MB = 0.2
IMAGES = "images"
OF_THE_TABLE = ("split", "controls", "columns", "shared_ids", "dicom")
"""Settings that change the cohort table and no volume of a given scan."""
MOST_NOTES = 20
FIRST_COLUMNS = ("key", "source", "verdict", "reason")


class Prepare(FolderVerb):
    """T1w scans (BIDS, BIDS derivatives, CAPS, a table of paths, DICOM) to volumes on one grid, each with a quality verdict.

    Every scan is brain-masked, bias-corrected, aligned to MNI152 from many starts, resampled once and brought to one
    intensity scale; the template is deformed to it diffeomorphically. verdicts.tsv says which scans to keep and why;
    figures/ has a picture of each.
    """

    source: NamedFolders = Field(
        description="BIDS folder, CAPS folder, table with the paths of the scans, folder or zip of DICOM files; for several "
        "a list, or {siteA: FOLDER, siteB: FOLDER}: the name of a source then stands in front of all its ids, in every call"
    )
    spacing_mm: float = Field(2.0, ge=1, le=4, description="edge of a cubic voxel of the grid, mm (1 to 4)")
    degrees_of_freedom: Literal[6, 9, 12] = Field(
        12, description="degrees of freedom of the linear alignment: 6 rigid, 9 with scales, 12 with shears"
    )
    brain_mask: MaskMethod = Field(
        "auto",
        description="auto: stripped if the scan has no skull, else template; given: a mask file next to each scan or "
        "named in a column `mask`; deepbet: its networks (extra `masks`), and auto where their mask cannot be right; "
        "synthstrip, hd-bet: these programs, if they are on the PATH",
    )
    bias_correction: bool = Field(True, description="N4 correction of the smooth intensity drift of the coils")
    orientation: OrientationRule = Field(
        default_factory=OrientationRule,
        description="where a scan's left is, if its header does not say or says it twice and differently",
    )
    deformation_channel: bool = Field(
        True, description="store local volume: the log-Jacobian of the deformation template -> scan"
    )
    deformation: DeformationSettings = Field(
        default_factory=DeformationSettings, description="settings of that deformation"
    )
    density_channel: bool = Field(
        False,
        description="store modulated_density too: grey matter on the template's voxels times local volume, for "
        "networks (channels=[modulated_density])",
    )
    divisible_by: int = Field(
        8,
        ge=1,
        le=64,
        description="every side of the grid, in voxels, is a multiple of this; networks halve it several times",
    )
    columns: Columns = Field(
        default_factory=Columns, description="column names and codes of the table that differ from the usual"
    )
    shared_ids: bool = Field(
        False, description="true: the same id in two sources is the same person; false: such ids are refused"
    )
    controls: Controls = Field(
        None,
        description="diagnoses that count as healthy controls; [all]: everybody; none: the usual names (control, CN, ...); by "
        "source or site: {siteA: [all], siteB: [CN]}",
    )
    dicom: DicomSettings = Field(
        default_factory=DicomSettings,
        description="where a source of DICOM files is converted to, and what is kept of people",
    )
    split: Split = Field(
        default_factory=Split, description="shares of the control subjects for training, calibration and test"
    )
    workers: int = execution(0, "scans processed at a time; 0: one per core", ge=0)

    @model_validator(mode="after")
    def _density_needs_deformation(self) -> Prepare:
        if self.density_channel and not self.deformation_channel:
            raise ValueError(
                "density_channel multiplies grey matter by local volume: it needs deformation_channel=true"
            )
        return self

    def settings(self) -> dict[str, Any]:
        """As of every verb; the channel that is not asked for is not named, as before there was one."""
        return {name: value for name, value in super().settings().items() if name != "density_channel" or value}

    def reads(self) -> Inputs:
        """The folders and tables of scans."""
        return {"source": list(self.paths)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the sources lie."""
        return tuple(self.source.values()) if isinstance(self.source, dict) else self.source

    def open_inputs(self) -> tuple[ScanSource, list[ScanTask]]:
        """The cohort table, and every scan with all that determines its result."""
        return self._opened(keep=True)

    def open_to_plan(self) -> tuple[ScanSource, list[ScanTask]]:
        """The same; what is converted to look into it is not kept."""
        return self._opened(keep=False)

    def _opened(self, keep: bool) -> tuple[ScanSource, list[ScanTask]]:
        check_tool(self.brain_mask)
        with as_bids(self.source, self.dicom, self.columns, self.out, keep) as sources:
            source = self._read(sources)
            return source, make_tasks(
                source.frame, self.paths, self.out, self.grid(), self.brain_mask, self.bias_correction, self.orientation
            )

    def identity(self, opened: Callable[[], tuple[ScanSource, list[ScanTask]]]) -> Identity:
        """Also every scan's content, and the cohort table; the former alone decides what must be prepared."""
        source, tasks = opened()
        images = digest([[task.key, task.identity] for task in tasks])
        return Identity(self.reads(), {IMAGES: images, "table": digest(source.frame.drop(columns="source").to_csv())})

    def renews(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """The same scans with other roles or columns: nothing is prepared again, the tables are."""

        def of_images(identity: Mapping[str, Any]) -> list[Any]:
            settings = {name: value for name, value in identity["settings"].items() if name not in OF_THE_TABLE}
            return [identity["verb"], identity["version"], settings, identity["extra"].get(IMAGES, "none")]

        return of_images(before) == of_images(now)

    def write(self, work: Work, opened: tuple[ScanSource, list[ScanTask]]) -> dict[str, Any]:
        """Prepare every scan, judge them together, and write the cohort folder."""
        source, tasks = opened
        for sentence in self._about(source):
            say(sentence)
        if work.resumed:
            say(f"{self.out}: scans that were prepared before are kept")
        done = track(prepare_all(tasks, self.workers), "preparing scans", total=len(tasks))
        rows = pd.DataFrame(list(done)).sort_values("key", ignore_index=True)
        return self._write_cohort(source, rows, self.grid())

    def plan(self) -> list[str]:
        """What `run()` would do, how long it would take, and how much it would write."""
        check_tool(self.brain_mask)
        with as_bids(self.source, self.dicom, self.columns, self.out, keep=False) as sources:
            source, grid = self._read(sources), self.grid()
        num_scans, megavoxels = len(source.frame), math.prod(grid.shape) / 1e6
        workers = num_workers(self.workers, num_scans)
        kept = sum((self.out / CACHE / f"{key}.json").is_file() for key in source.frame["key"])
        per_scan = SECONDS_PER_SCAN + SECONDS_PER_MEGAVOXEL * megavoxels
        seconds = (num_scans - kept) * per_scan / workers * slowness()
        megabytes = num_scans * (megavoxels * 2 * len(grid.channels) + PICTURE_MB)
        sites = ", ".join(f"{site} {count}" for site, count in Counter(source.frame["site"]).items())
        return [
            f"reads {num_scans} scans of {source.frame['subject'].nunique()} people ({sites})",
            *self._about(source),
            f"the grid is {grid.describe()}",
            *([f"{kept} of the {num_scans} scans were prepared there before"] if kept else []),
            *([self._time(seconds, workers)] if kept < num_scans else []),
            f"writes about {megabytes:.0f} MB to {self.out}",
        ]

    def _time(self, seconds: float, workers: int) -> str:
        shortest, longest = duration(FASTEST * seconds), duration(SLOWEST * seconds)
        return (
            f"takes about {shortest} to {longest} with {words.count(workers, 'worker')}, as fast as this machine is now; while it "
            "runs, the time left is measured"
        )

    def grid(self) -> GridPlan:
        """The plan that these settings make."""
        channels: tuple[str, ...] = (T1W, LOG_JACOBIAN) if self.deformation_channel else (T1W,)
        channels += (MODULATED,) if self.density_channel else ()
        settings = self.deformation.model_dump(mode="json") if self.deformation_channel else {}
        return plan_grid(
            self.spacing_mm,
            self.divisible_by,
            degrees_of_freedom=self.degrees_of_freedom,
            channels=channels,
            deformation=settings,
        )

    def _read(self, sources: Paths) -> ScanSource:
        source = read_sources(sources, self.columns, self.shared_ids)
        folders = list(sources.values()) if isinstance(sources, dict) else list(sources)
        for entry, remark, folder in unused_series(folders):
            source.unmatched.append((entry, remark))
            source.found_in.append(str(folder))
        # What is wrong with controls= is said before anything is done.
        control_rows(source.frame, self.controls, source.origin)
        return source

    def _about(self, source: ScanSource) -> list[str]:
        """How the tables were read, what of them matches nothing, and who is a control."""
        shown = [*source.notes[:MOST_NOTES]]
        if len(source.notes) > MOST_NOTES:
            shown.append(f"and {len(source.notes) - MOST_NOTES} further notes of that kind")
        if source.unmatched:
            num = len(source.unmatched)
            shown.append(
                f"{words.count(num, 'entry', 'entries')} {'does' if num == 1 else 'do'} not match up: {source.unmatched_counts()}"
            )
        controls = control_rows(source.frame, self.controls, source.origin)
        return [*shown, *role_lines(source.frame, controls, source.origin, self.split)]

    def _write_cohort(self, source: ScanSource, rows: pd.DataFrame, plan: GridPlan) -> dict[str, Any]:
        """Write what belongs to the cohort as a whole, and return the summary of the artefact."""
        hashes = rows.get(SCAN_HASH, pd.Series(np.nan, index=rows.index))
        rows = rows.drop(columns=SCAN_HASH, errors="ignore")
        site_of = dict(zip(source.frame["key"], source.frame["site"].astype(str), strict=True))
        verdicts = rows.join(judge(rows, [site_of[key] for key in rows["key"]]))
        excluded = verdicts.loc[verdicts["verdict"] == "exclude", "key"].tolist()
        controls = control_rows(source.frame, self.controls, source.origin)
        manifest = assign_roles(source.frame, self.split, controls, excluded)
        manifest[SCAN_HASH] = manifest["key"].map(dict(zip(rows["key"], hashes, strict=True)))
        refuse_one_scan_twice(manifest, manifest["source"].tolist())
        # A table of text cannot hold every path; what the disk calls a file is in the row of its scan.
        manifest["source"] = [path if path.isprintable() else shown(Path(path)) for path in manifest["source"]]
        write_cohort(self.out, plan, template_on(plan).mask, regions_on(plan), region_table(), manifest)
        ordered = [*FIRST_COLUMNS, *(c for c in verdicts.columns if c not in (*FIRST_COLUMNS, "failure"))]
        VERDICTS.write(self.out, verdicts[ordered])
        unmatched = pd.DataFrame(source.unmatched, columns=list(UNMATCHED.columns))
        unmatched.insert(0, "source", source.found_in)
        UNMATCHED.write(self.out, unmatched)
        usable = rows[rows["failure"] == ""]
        return {
            "num_scans": len(rows),
            "verdicts": {name: int((verdicts["verdict"] == name).sum()) for name in ("keep", "warn", "exclude")},
            "roles": {str(role): int(count) for role, count in manifest["role"].value_counts().items()},
            "seconds_per_scan": round(float((usable if len(usable) else rows)["seconds"].median()), 2),
            "num_unmatched": len(source.unmatched),
            "unmatched": source.unmatched_counts(),
            "unusable": [str(text) for text in rows["failure"] if text],
        }

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Print the number of scans by verdict.

        Raises:
            Unfinished: everything else is done, but some scans could not be used; a script notices by the exit code.
        """
        counts = summary["verdicts"]
        say(
            f"{self.out}: {summary['num_scans']} scans: keep {counts['keep']}, warn {counts['warn']}, exclude {counts['exclude']}; "
            f"{summary['seconds_per_scan']} s per scan; see verdicts.tsv and figures/"
        )
        if summary["num_unmatched"]:
            kinds = f" ({summary['unmatched']})" if summary.get("unmatched") else ""
            say(
                f"{words.count(summary['num_unmatched'], 'entry', 'entries')} of the tables and folders without a match{kinds}; "
                "see unmatched.tsv"
            )
        say(f"roles: {', '.join(f'{role} {count}' for role, count in summary['roles'].items())} (scans)")
        unusable = summary["unusable"]
        if unusable:
            shown = "\n".join(unusable[:10]) + (f"\nand {len(unusable) - 10} more" if len(unusable) > 10 else "")
            raise Unfinished(
                f"{len(unusable)} of {summary['num_scans']} scans could not be used, the others are done:\n{shown}"
            )
