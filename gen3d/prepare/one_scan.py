"""Many scans through `conform`, in several processes, each result stored as soon as it is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import SimpleITK as sitk

from gen3d import __version__
from gen3d.cohort.manifest import SCAN_HASH
from gen3d.cohort.scan_hash import file_voxel_hash
from gen3d.cohort.screening_picture import draw
from gen3d.core.artefact import digest, file_digest, write_json
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.files import is_regular, shown
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.progress import track
from gen3d.core.tables import Row
from gen3d.imaging.brainmask import MaskMethod
from gen3d.imaging.conform import Conformed, conform
from gen3d.imaging.foreign import files_of
from gen3d.imaging.network_mask import NETWORK_MASKS, BrainNetwork
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store

CACHE = ".scans"
MISSING = "missing"
MASK_SUFFIXES = ("_desc-brain_mask", "_mask", "_brainmask")


@dataclass(frozen=True)
class ScanTask:
    """One scan to prepare into `out`. `identity` is a hash of all that determines the result, `content` that of the file."""

    key: str
    source: Path
    mask: Path | None
    out: Path
    plan: GridPlan
    brain_mask: MaskMethod
    bias_correction: bool
    orientation: OrientationRule
    identity: str
    content: str = ""

    @property
    def rows(self) -> KeptRows:
        """The rows of the scans that are done."""
        return KeptRows(self.out / CACHE)


def make_tasks(
    frame: pd.DataFrame,
    sources: Sequence[Path],
    out: Path,
    plan: GridPlan,
    brain_mask: MaskMethod,
    bias_correction: bool,
    orientation: OrientationRule,
) -> list[ScanTask]:
    """One task per row of the cohort table (columns key, source, and mask where there is one).

    Raises:
        UserError: two rows with one scan.
    """
    tasks: list[ScanTask] = []
    for row in track(frame.to_dict("records"), "reading files", total=len(frame)):
        scan = Path(row["source"])
        mask = find_mask(scan, str(row.get("mask") or ""), sources) if brain_mask == "given" else None
        content = _digest_or_missing(scan)
        identity = digest(
            {
                "scan": content,
                "mask": _digest_or_missing(mask) if mask else "",
                "plan": plan.model_dump(mode="json"),
                "brain_mask": brain_mask,
                "bias_correction": bias_correction,
                "orientation": orientation.model_dump(mode="json"),
                "version": __version__,
            }
        )
        tasks.append(
            ScanTask(row["key"], scan, mask, out, plan, brain_mask, bias_correction, orientation, identity, content)
        )
    _refuse_one_file_twice(tasks)
    return tasks


def _refuse_one_file_twice(tasks: Sequence[ScanTask]) -> None:
    """Two rows with one file, or with equal files, would be one scan of two people."""
    first: dict[str, ScanTask] = {}
    for task in tasks:
        earlier = first.setdefault(task.content, task)
        if task.content != MISSING and earlier is not task:
            files = (
                f"{earlier.source}"
                if earlier.source == task.source
                else f"{earlier.source} and {task.source}, byte by byte"
            )
            raise UserError(
                f"{earlier.key} and {task.key} are one scan ({files}); keep the row of the person whose scan it is, or correct "
                "the path of the other."
            )


def find_mask(scan: Path, named: str, sources: Sequence[Path]) -> Path | None:
    """The brain mask of a scan: the file that the table names, or one next to the scan (`*_desc-brain_mask`, `*_mask`)."""
    if named:
        places = [scan.parent, *(source if source.is_dir() else source.parent for source in sources), Path()]
        return next((place / named for place in places if is_regular(place / named)), places[0] / named)
    stem = scan.name.split(".")[0]
    stems = (stem, stem.rpartition("_")[0])
    neighbours = [
        scan.with_name(f"{s}{suffix}{end}") for s in stems for suffix in MASK_SUFFIXES for end in (".nii.gz", ".nii")
    ]
    return next((path for path in neighbours if is_regular(path)), None)


def prepare_all(tasks: Sequence[ScanTask], workers: int) -> Iterator[Row]:
    """Yield one row per task as it is done; rows kept by an earlier, interrupted run come first and cost nothing.

    Raises:
        UserError: the output cannot be written, or a worker process was killed.
    """
    return kept_or_made(tasks, _kept, _prepare_group, None, lambda num_tasks: num_workers(workers, num_tasks))


def _prepare_group(shared: None, tasks: list[ScanTask]) -> list[Row]:
    return [prepare_scan(task) for task in tasks]


def prepare_scan(task: ScanTask) -> Row:
    """Prepare one scan and store all that belongs to it; a scan that cannot be used becomes a row with its `failure`.

    Raises:
        UserError: the output cannot be written.
    """
    # Scans are the parallel dimension; one thread each, so that results do not depend on the machine.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    start = time.monotonic()
    named = shown(task.source)
    source = str(task.source) if str(task.source).isprintable() else named  # a table cannot hold every name
    row: Row = {"key": task.key, "source": source, "failure": ""}
    try:
        network = _network(task.brain_mask)
        done = conform(
            task.source, task.plan, task.brain_mask, task.bias_correction, task.mask, task.orientation, network
        )
    except UserError as error:
        sentence = str(error)
        row["failure"] = sentence if str(task.source) in sentence or named in sentence else f"{named}: {sentence}"
    except Exception as error:  # one scan must not stop the others
        row["failure"] = f"{named}: cannot be prepared ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
    else:
        row |= done.measures
        with writing(task.out):
            _store(task, done)
            row[SCAN_HASH] = file_voxel_hash(task.source, done.stored)
    row["seconds"] = round(time.monotonic() - start, 2)
    task.rows.keep(task.key, row, task.identity)
    return row


def _network(method: MaskMethod) -> BrainNetwork | None:
    """The network of a `brain_mask=`; workers load torch for it alone."""
    if method not in NETWORK_MASKS:
        return None
    from gen3d.nets.deepbet import brain_network

    return brain_network(method)


def _store(task: ScanTask, done: Conformed) -> None:
    volumes = task.out / "volumes"
    store(volumes / f"{task.key}_t1w.nii", done.t1w, task.plan.matrix)
    if done.log_jacobian is not None:
        store(volumes / f"{task.key}_log_jacobian.nii", done.log_jacobian, task.plan.matrix)
    if done.density is not None:
        store(volumes / f"{task.key}_modulated_density.nii", done.density, task.plan.matrix)
    transform = {
        "affine_template_to_scan": done.template_to_scan.tolist(),
        "scan": str(task.source),
        "scan_affine": done.scan_affine.tolist(),
        "scan_shape": [int(side) for side in done.stored.shape],
        "dof": task.plan.degrees_of_freedom,
    }
    if done.assumed:
        transform["scan_axes"] = f"assumed to be {task.orientation.assume}"
    write_json(task.out / "transforms" / f"{task.key}.json", transform)
    picture = task.out / "figures" / f"{task.key}.png"
    draw(picture, done.t1w, done.log_jacobian, template_on(task.plan).mask, task.plan)


def _kept(task: ScanTask) -> Row | None:
    """The row of an earlier run, if it was made from the same scan with the same settings; what failed is tried again."""
    row = task.rows.get(task.key, task.identity)
    usable = row is not None and not row["failure"]
    return row if usable and (task.out / "volumes" / f"{task.key}_t1w.nii").is_file() else None


def _digest_or_missing(path: Path) -> str:
    """The digest of an image's file, or of both files of a pair."""
    try:
        first, *others = (file_digest(file) for file in files_of(path))
    except OSError:
        return MISSING
    return digest([first, *others]) if others else first
