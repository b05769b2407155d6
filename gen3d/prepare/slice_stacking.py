"""Many scans stacked from their slices, in several processes, each stored as soon as it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.manifest import SCAN_HASH
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.tables import Row
from gen3d.core.user_table import read_parquet
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.volume import open_stored, store
from gen3d.prepare.slice_images import IMAGE, Grey, image_bytes, is_volume, pixels, stacked, volume_of

CACHE = ".scans"
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
BRIGHT = 99.5
"""Percentile of a scan's values above 0 that becomes 1."""
COMMON = 0.2
"""Share of scans that are above 0 in a voxel, from which it counts as brain."""


@dataclass(frozen=True)
class StackTask:
    """One scan: its images in order; `rows` number them in the Parquet file `packed`. `identity` is a hash of all of them."""

    key: str
    images: tuple[str, ...]
    rows: tuple[int, ...]
    packed: Path | None
    plane: str
    identity: str


def stack_all(tasks: Sequence[StackTask], plan: GridPlan, out: Path, workers: int) -> Iterator[Row]:
    """Yield a row per scan as it is stored; those of an interrupted run come first and cost nothing."""
    kept = KeptRows(out / CACHE)
    # A Parquet file is read once by whoever stacks its scans.
    group = None if tasks[0].packed is None else (lambda task: str(int(task.identity[:2], 16) % 16))
    return kept_or_made(
        tasks,
        lambda task: kept.get(task.key, task.identity),
        _stack_group,
        (plan, out),
        lambda count: num_workers(workers, count),
        group,
    )


def _stack_group(shared: tuple[GridPlan, Path], tasks: list[StackTask]) -> list[Row]:
    plan, out = shared
    packed = read_images(tasks)
    return [_stack(task, packed, plan, out) for task in tasks]


def _stack(task: StackTask, packed: Sequence[Any], plan: GridPlan, out: Path) -> Row:
    """Store one scan; one that cannot be used becomes a row with its `failure`, and the others go on."""
    row: Row = {"key": task.key, "source": task.images[0], "failure": "", SCAN_HASH: "", "num_slices": len(task.images)}
    fitted = np.zeros(plan.shape, np.float32)
    try:
        volume = read_scan(task, packed)
        row |= {SCAN_HASH: voxel_hash(volume), "num_slices": volume.shape[AXIS[task.plane]]}
        fitted = scaled(on_grid(volume, plan.shape, task.plane))
    except UserError as error:
        row["failure"] = str(error)
    store(out / "volumes" / f"{task.key}_t1w.nii", fitted, plan.matrix)
    KeptRows(out / CACHE).keep(task.key, row, task.identity)
    return row


def read_images(tasks: Sequence[StackTask]) -> Sequence[Any]:
    """The cells with images of the tasks' Parquet file; none where images are files."""
    return read_parquet(tasks[0].packed)[IMAGE].to_list() if tasks and tasks[0].packed is not None else ()


def read_scan(task: StackTask, packed: Sequence[Any]) -> Grey:
    """The slices of a scan, unscaled, [X, Y, Z].

    Raises:
        UserError: an image that cannot be read, or sizes that differ.
    """
    source = Path(task.images[0])
    if packed:
        slices = [pixels(source, image_bytes(packed[row], source, row)) for row in task.rows]
    elif is_volume(task.images[0]):
        return volume_of(source)
    else:
        slices = [pixels(Path(path)) for path in task.images]
    sizes = {image.shape for image in slices}
    if len(sizes) > 1:
        raise UserError(f"{task.images[0]}: the slices of {task.key} have several sizes ({sorted(sizes)}).")
    return stacked(slices, task.plane)


def on_grid(volume: Grey, shape: tuple[int, int, int], plane: str) -> Grey:
    """A volume with the grid's number of slices, evenly chosen, cropped or padded with 0 around the centre within the plane.

    Raises:
        UserError: fewer slices than the grid has.
    """
    axis = AXIS[plane]
    count, wanted = volume.shape[axis], shape[axis]
    if count < wanted:
        raise UserError(f"has {words.count(count, 'slice')}, and {wanted} are needed (num_slices=)")
    places = np.linspace(0, count - 1, wanted).round().astype(int)
    volume = np.take(volume, places, axis=axis)
    for side in range(3):
        missing = shape[side] - volume.shape[side]
        if missing > 0:
            before = missing // 2
            volume = np.pad(volume, [(before, missing - before) if side == k else (0, 0) for k in range(3)])
        elif missing < 0:
            volume = np.take(volume, np.arange(-missing // 2, -missing // 2 + shape[side]), axis=side)
    return volume


def scaled(volume: Grey) -> Grey:
    """Values divided by the bright end of the scan, so that scans compare.

    Raises:
        UserError: nothing is above 0, or values are not finite.
    """
    if not np.isfinite(volume).all() or not (volume > 0).any():
        raise UserError("holds nothing above 0, or values that are NaN or infinite")
    return (volume / np.percentile(volume[volume > 0], BRIGHT)).astype(np.float32)


def common_mask(out: Path, keys: Sequence[str], plan: GridPlan) -> NDArray[np.bool_]:
    """Voxels that are above 0 in enough scans [X, Y, Z].

    Raises:
        UserError: there is no scan, or no such voxel.
    """
    count = np.zeros(plan.shape, np.int32)
    for key in keys:
        count += open_stored(out / "volumes" / f"{key}_t1w.nii") > 0
    mask = count >= max(1, COMMON * len(keys))
    if not keys or not mask.any():
        raise UserError(f"{out}: no scan can be used; see the remarks above, or num_slices= and size=.")
    return np.asarray(mask)
