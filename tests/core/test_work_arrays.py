"""Arrays in the making: what is done is not done again, and nothing counts as done whose values are gone."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.core.work_arrays import PREFIX, WorkingArrays


def _begin(folder: Path) -> tuple[WorkingArrays, np.ndarray]:
    arrays = WorkingArrays(folder, 3)
    return arrays, arrays.open("latents", (4,))


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    arrays, latents = _begin(tmp_path)
    latents[1] = 7
    arrays.mark(1)
    arrays, latents = _begin(tmp_path)
    assert arrays.missing() == [0, 2]
    assert latents[1].tolist() == [7, 7, 7, 7]
    assert not latents[[0, 2]].any()


@pytest.mark.parametrize("name", ["done", "latents"])
@pytest.mark.parametrize("left", [None, 0, 60, 128, 130], ids=lambda left: f"{left}-bytes")
def test_no_row_is_done_where_an_array_is_gone_or_cut(name: str, left: int | None, tmp_path: Path) -> None:
    arrays, latents = _begin(tmp_path)
    latents[:] = 7
    for row in range(3):
        arrays.mark(row)
    path = tmp_path / f"{PREFIX}{name}.npy"
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    arrays, latents = _begin(tmp_path)
    assert arrays.missing() == [0, 1, 2]
    latents[2] = 8
    assert latents.shape == (3, 4)


def test_marks_are_removed_before_the_values_that_they_speak_of(tmp_path: Path) -> None:
    arrays, _ = _begin(tmp_path)
    obstacle = tmp_path / f"{PREFIX}obstacle.npy"
    obstacle.mkdir()
    with pytest.raises(OSError, match="obstacle"):
        arrays.discard()
    assert not (tmp_path / f"{PREFIX}done.npy").exists()
    obstacle.rmdir()
    arrays.discard()
    assert not list(tmp_path.iterdir())


def test_room_is_reserved_before_anything_is_computed(tmp_path: Path) -> None:
    arrays = WorkingArrays(tmp_path, 50)
    path = tmp_path / f"{PREFIX}voxels.npy"
    arrays.open("voxels", (1000,))
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 200_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(UserError, match=r"the file is larger than the file system or `ulimit -f` allows"):
            arrays.open("more", (2000,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {item.name for item in tmp_path.iterdir()} == {f"{PREFIX}done.npy", f"{PREFIX}voxels.npy"}
    assert arrays.open("more", (2000,)).shape == (50, 2000)


def test_a_file_with_holes_of_an_earlier_run_gets_its_room(tmp_path: Path) -> None:
    path = tmp_path / f"{PREFIX}latents.npy"
    WorkingArrays(tmp_path, 300)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(300, 1000))[299] = 5
    assert path.stat().st_blocks * 512 < path.stat().st_size
    reopened = WorkingArrays(tmp_path, 300).open("latents", (1000,))
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert reopened[299, 0] == 5
