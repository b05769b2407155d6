"""What a training leaves behind in words and pictures."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3d.train.log import TrainLog, append, keep_until, memory_gib, read_log
from gen3d.train.pictures import draw_reconstructions
from gen3d.train.tracking.sinks import TrackedTraining
from gen3d.train.tracking.trackers import open_tracking


def test_entries_after_a_step_are_dropped_for_one_member_only(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for member, step in ((0, 10), (0, 20), (1, 10), (1, 20)):
        append(path, {"member": member, "step": step})
    keep_until(path, 1, 10)
    assert [(entry["member"], entry["step"]) for entry in read_log(path)] == [(0, 10), (0, 20), (1, 10)]
    keep_until(tmp_path / "none.jsonl", 0, 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"member": 0, "step": 1}) + '\n{"member": 0, "st')
    assert read_log(path) == [{"member": 0, "step": 1}]
    keep_until(path, 0, 1)
    append(path, {"member": 0, "step": 2})
    assert [entry["step"] for entry in read_log(path)] == [1, 2]


def test_without_tensorboard_the_log_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where it is not installed
    tracking = open_tracking(["tensorboard"])
    tracking.begin(TrackedTraining(tmp_path, {}, {}, 1), {})
    log = TrainLog(tmp_path, 0, 1, 4, 2, 2, 4, lambda step: 0.1, None, tracking)
    with log:
        log.start(0)
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()


def test_memory_is_that_of_this_process() -> None:
    """Pages mapped afresh and touched one by one: an array, or a string of bytes that is copied
    into them, could be given memory that the process keeps (it grew by a third more where an
    earlier training had asked the allocator to keep what is freed)."""
    with mmap.mmap(-1, 2**28) as held:
        before = memory_gib()
        for page in range(0, 2**28, mmap.PAGESIZE):
            held[page] = 1
        grown = memory_gib() - before
    assert grown == pytest.approx(0.25, abs=0.05)


def test_a_picture_shows_three_rows_per_channel(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).random((2, 2, 12, 14, 10)).astype(np.float32)
    path = tmp_path / "pictures" / "one.png"
    draw_reconstructions(path, volumes, volumes, ("t1w", "log_jacobian"), "title")
    with Image.open(path) as picture:
        width, height = picture.size
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert width > 600
    assert height > 600
    assert pixels.std() > 20
    assert [item.name for item in path.parent.iterdir()] == ["one.png"]
