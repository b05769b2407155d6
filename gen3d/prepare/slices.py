"""`gen3d prepare-slices`: slice images of people, or slabs on one grid, as a cohort that every other verb reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from gen3d import __version__
from gen3d.cohort.folder import UNMATCHED, VERDICTS, write_cohort
from gen3d.cohort.manifest import SCAN_HASH, Split, assign_roles
from gen3d.cohort.scan_hash import refuse_one_scan_twice
from gen3d.core import words
from gen3d.core.artefact import digest, file_digest
from gen3d.core.config import execution
from gen3d.core.disk import remove_folder
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.user_table import read_user_table
from gen3d.core.work import FolderVerb, Identity, Inputs
from gen3d.imaging.plan import GridPlan
from gen3d.prepare.columns import Columns
from gen3d.prepare.identity import SourceRows, identified, joined
from gen3d.prepare.roles import Controls, control_rows, role_lines
from gen3d.prepare.slice_images import ROW, SLICE, Grey, SliceTable, is_volume, read_slice_table
from gen3d.prepare.slice_stacking import AXIS, BRIGHT, CACHE, StackTask, common_mask, read_images, read_scan, stack_all
from gen3d.prepare.sources import completed
from gen3d.prepare.standard import standardise

SPACE = "none: slices as they came"
INTENSITY = f"divided by the percentile {BRIGHT:g} of the scan's values above 0"


class PrepareSlices(FolderVerb):
    """Slice images of people (2D files, a table, Parquet), or slabs that lie on one grid, as a cohort.

    The slices of a scan are stacked in their order and scaled together; nothing is aligned, masked or corrected, because a
    few slices do not show how a head lies. Every image needs its person: slices without people are refused.
    """

    source: Path = Field(
        description="table with a row per image (CSV, TSV), Parquet file with the images or their paths, or a folder of images"
    )
    people: Path | None = Field(
        None, description="table with a row per person or visit (age, sex, diagnosis, ...), joined by subject"
    )
    pattern: str | None = Field(
        None,
        description="with a folder: regular expression found in each path below it, with the groups subject and slice, and "
        "perhaps session and diagnosis: '(?P<diagnosis>[^/]+)/(?P<subject>[^_/]+)_(?P<slice>[0-9]+)'",
    )
    slice_column: str = Field("slice", description="column with the number of a slice within its scan")
    plane: Literal["sagittal", "coronal", "axial"] = Field("axial", description="plane of the slices")
    num_slices: int | None = Field(
        None, gt=0, description="slices of every scan, evenly chosen where there are more; none: the most common number"
    )
    size: tuple[int, int] | None = Field(
        None,
        description="pixels along the two axes, cropped or padded around the centre; none: all images have one size",
    )
    spacing_mm: float = Field(1.0, gt=0, description="edge of a pixel, mm")
    slice_mm: float = Field(1.0, gt=0, description="distance between slices, mm")
    columns: Columns = Field(
        default_factory=Columns, description="column names and codes of the tables that differ from the usual"
    )
    controls: Controls = Field(
        None,
        description="diagnoses that count as healthy controls; [all]: everybody; none: the usual names (control, CN, ...)",
    )
    split: Split = Field(
        default_factory=Split, description="shares of the control subjects for training, calibration and test"
    )
    workers: int = execution(0, "scans stacked at a time; 0: one per core", ge=0)

    def reads(self) -> Inputs:
        """The images and the table of people."""
        return {"source": self.source, **({"people": self.people} if self.people is not None else {})}

    def open_inputs(self) -> Slices:
        """The scans, what each is stacked of, and the grid."""
        return open_slices(self)

    def identity(self, opened: Any) -> Identity:
        """Also the content of every image."""
        return Identity(self.reads(), {"images": digest([task.identity for task in opened().tasks])})

    def plan(self) -> list[str]:
        """What would be stacked."""
        slices = self.open_inputs()
        megavoxels = math.prod(slices.plan.shape) / 1e6
        return [
            *slices.sentences(self.controls, self.split),
            f"the grid is {slices.plan.describe()}",
            f"writes about {len(slices.tasks) * megavoxels * 2:.0f} MB to {self.out}",
        ]

    def write(self, work: Work, opened: Slices) -> dict[str, Any]:
        """Stack every scan and write the cohort folder."""
        for sentence in opened.sentences(self.controls, self.split):
            say(sentence)
        done = track(stack_all(opened.tasks, opened.plan, self.out, self.workers), "stacking", total=len(opened.tasks))
        rows = pd.DataFrame(list(done)).sort_values("key", ignore_index=True)
        summary = self._write_cohort(opened, rows)
        remove_folder(self.out / CACHE)
        return summary

    def _write_cohort(self, opened: Slices, rows: pd.DataFrame) -> dict[str, Any]:
        failed = np.array([bool(reason) for reason in rows["failure"]])
        frame = opened.frame
        controls = control_rows(frame, self.controls, opened.origin)
        manifest = assign_roles(frame, self.split, controls, rows.loc[failed, "key"].tolist())
        manifest[SCAN_HASH] = manifest["key"].map(dict(zip(rows["key"], rows[SCAN_HASH], strict=True)))
        refuse_one_scan_twice(manifest, manifest["source"].tolist())
        mask = common_mask(self.out, rows.loc[~failed, "key"].tolist(), opened.plan)
        nothing = pd.DataFrame({"label": pd.Series(dtype=int), "name": pd.Series(dtype=str)})
        write_cohort(self.out, opened.plan, mask, np.zeros(opened.plan.shape, np.int16), nothing, manifest)
        verdicts = rows[["key", "source"]].assign(
            verdict=np.where(failed, "exclude", "keep"), reason=rows["failure"], num_slices=rows["num_slices"]
        )
        VERDICTS.write(self.out, verdicts)
        UNMATCHED.write(self.out, pd.DataFrame(opened.unmatched, columns=list(UNMATCHED.columns)))
        return {
            "num_scans": len(rows),
            "num_people": int(frame["subject"].nunique()),
            "verdicts": {"keep": int((~failed).sum()), "exclude": int(failed.sum())},
            "roles": {str(role): int(count) for role, count in manifest["role"].value_counts().items()},
            "unusable": [f"{key}: {reason}" for key, reason in rows[["key", "failure"]].to_numpy() if reason],
        }

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Print the number of scans by verdict.

        Raises:
            Unfinished: everything else is done, but some scans could not be used; a script notices by the exit code.
        """
        counts = summary["verdicts"]
        say(
            f"{self.out}: {summary['num_scans']} scans of {words.people(summary['num_people'])}: keep {counts['keep']}, exclude "
            f"{counts['exclude']}"
        )
        if summary["unusable"]:
            shown = "\n".join(summary["unusable"][:10])
            raise Unfinished(
                f"{counts['exclude']} of {summary['num_scans']} scans could not be used, the others are done; all are in "
                f"verdicts.tsv:\n{shown}"
            )


@dataclass(frozen=True)
class Slices:
    """What there is to stack: the cohort table (a row per scan), a task for each, the grid, and what did not match."""

    frame: pd.DataFrame
    tasks: list[StackTask]
    plan: GridPlan
    origin: list[str]
    unmatched: list[tuple[str, str]]

    def sentences(self, controls: Controls, split: Split) -> list[str]:
        """How many scans of whom, and who counts as a control."""
        people = words.people(self.frame["subject"].nunique())
        images = words.count(sum(len(task.images) for task in self.tasks), "image")
        rows = control_rows(self.frame, controls, self.origin)
        return [
            f"stacks {words.count(len(self.tasks), 'scan')} of {people} from {images}",
            *role_lines(self.frame, rows, self.origin, split),
        ]


def open_slices(settings: PrepareSlices) -> Slices:
    """Read the tables, group the images by scan and settle the grid.

    Raises:
        UserError: images without people or numbers, people that cannot be joined, or no size that all images have.
    """
    people = None if settings.people is None else read_user_table(settings.people)
    table = read_slice_table(
        settings.source, settings.columns, settings.slice_column, settings.pattern, lenient=people is not None
    )
    images = _identified(settings, table)
    frame, unmatched = _with_people(settings, images.drop_duplicates("key").reset_index(drop=True), people)
    tasks = _tasks(settings, table, images)
    plan = _grid(settings, tasks)
    return Slices(
        frame.drop(columns=[SLICE, ROW], errors="ignore"), tasks, plan, [settings.source.stem] * len(frame), unmatched
    )


def _identified(settings: PrepareSlices, table: SliceTable) -> pd.DataFrame:
    """Every image with the key of its scan."""
    frame = completed(table.frame)
    scans = frame.drop_duplicates(["subject", "session"])
    rows = joined([identified(SourceRows(settings.source, None, scans), settings.columns.ids_within_site)], False)
    # The scans keep their order, so that the images of the k-th scan get the k-th row.
    place = frame.groupby(["subject", "session"], sort=False).ngroup()
    for name in ("subject", "site", "key"):
        frame[name] = rows[name].to_numpy()[place]
    return frame


def _with_people(
    settings: PrepareSlices, scans: pd.DataFrame, table: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The scans with the columns of the table of people, which count where both have them."""
    if table is None or settings.people is None:
        return scans, []
    path = settings.people
    people = standardise(table, settings.columns, path, lenient=True)
    on = ["subject", "session"] if "session" in people and (people["session"] != "").any() else ["subject"]
    people = people.drop(columns=["source", "source_subject"], errors="ignore")
    twice = people.loc[people.duplicated(on), "subject"]
    if len(twice):
        raise UserError(f"{path}: {twice.iloc[0]} has two rows; give one for each {' and '.join(on)}.")
    _refuse_absent(settings, scans, people)
    added = people.columns.difference(on)
    merged = scans.drop(columns=scans.columns.intersection(added)).merge(people, on=on, how="left", indicator=True)
    alone = merged["_merge"] != "both"
    if alone.all():
        raise UserError(
            f"{path}: none of its people has a slice (its ids are like {people['subject'].iloc[0]}, those of the slices like "
            f"{scans['subject'].iloc[0]}); name the columns with columns.subject=."
        )
    unmatched = [(str(key), f"scan without a row in {path.name}") for key in merged.loc[alone, "key"]]
    absent = sorted(set(people["subject"].astype(str)) - set(scans["subject"].astype(str)))
    unmatched += [(subject, f"row of {path.name} without a scan") for subject in absent]
    return completed(merged.drop(columns="_merge")), unmatched


def _refuse_absent(settings: PrepareSlices, scans: pd.DataFrame, people: pd.DataFrame) -> None:
    """Refuse a column that the user names and neither table has."""
    for name in ("session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse"):
        unknown = scans[name].isna().all() or (scans[name] == "").all()
        if getattr(settings.columns, name) is not None and name not in people and unknown:
            raise UserError(
                f"{settings.people}: no column `{getattr(settings.columns, name)}` for columns.{name}, neither there nor in "
                f"{settings.source}."
            )


def _tasks(settings: PrepareSlices, table: SliceTable, images: pd.DataFrame) -> list[StackTask]:
    tasks = []
    packed = None if table.packed is None else file_digest(table.packed)
    groups = images.sort_values(["key", SLICE], kind="stable").groupby("key", sort=True)
    for key, group in track(groups, "reading files", total=images["key"].nunique()):
        paths = tuple(str(path) for path in group["source"])
        rows = tuple(int(row) for row in group[ROW]) if ROW in group else ()
        content = [packed, rows] if packed else [_digest(path) for path in paths]
        what = [content, settings.plane, settings.size, settings.num_slices, __version__]
        tasks.append(StackTask(str(key), paths, rows, table.packed, settings.plane, digest(what)))
    return tasks


def _digest(path: str) -> str:
    try:
        return file_digest(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path in the table.") from None


def _grid(settings: PrepareSlices, tasks: Sequence[StackTask]) -> GridPlan:
    """The grid of all scans: the size of the first image, and the most common number of slices."""
    first = _first_readable(tasks)
    axis = AXIS[settings.plane]
    lengths = [len(task.images) if not is_volume(task.images[0]) else first.shape[axis] for task in tasks]
    count = settings.num_slices or int(pd.Series(lengths).mode().max())
    in_plane = list(settings.size or np.delete(first.shape, axis))
    shape = [int(side) for side in np.insert(np.array(in_plane), axis, count)]
    spacing = np.insert(np.full(2, settings.spacing_mm), axis, settings.slice_mm)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return GridPlan(
        spacing_mm=settings.spacing_mm,
        shape=(shape[0], shape[1], shape[2]),
        affine=tuple((float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in affine),
        divisible_by=1,
        template=SPACE,
        intensity=INTENSITY,
        degrees_of_freedom=0,
        channels=("t1w",),
    )


def _first_readable(tasks: Sequence[StackTask]) -> Grey:
    """The first scan that can be read: a damaged one shall not stop the others.

    Raises:
        UserError: what is wrong with the first one, where none can be read.
    """
    packed, reason = read_images(tasks), None
    for task in tasks:
        try:
            return read_scan(task, packed)
        except UserError as error:
            reason = reason or error
    raise reason or UserError("no image is named")
