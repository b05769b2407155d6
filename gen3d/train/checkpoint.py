"""Checkpoints to resume from: written next to the old ones, flushed to disk, then renamed: never incomplete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gen3d.core.artefact import file_digest
from gen3d.core.plain_files import load_object
from gen3d.core.progress import warn

KEPT = 2
RECORD = "checkpoint.json"


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Write one checkpoint with `write(folder)` and keep the last two.

    The folder gets its final name only when all its bytes are on disk, with a record of every file's hash. What a full
    disk or a killed process left half written is removed, now or by the next checkpoint, and the last two stay.
    """
    for left in root.glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = root / f".partial-{step:08d}"
    partial.mkdir(parents=True)
    try:
        write(partial)
        files = sorted(path for path in partial.iterdir() if path.is_file())
        record = {"step": step, "files": {path.name: file_digest(path) for path in files}}
        (partial / RECORD).write_text(json.dumps(record), encoding="utf-8")
        for path in (*files, partial / RECORD, partial):
            _flush(path)
        final = root / f"step_{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(root)
    for old in _folders(root)[:-KEPT]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(root: Path) -> tuple[int, Path] | None:
    """Step and folder of the newest complete checkpoint; a damaged one is reported and skipped."""
    for folder in reversed(_folders(root)):
        reason = _damage(folder)
        if reason is None:
            return int(folder.name.removeprefix("step_")), folder
        warn(f"{folder}: not used, {reason}.")
    return None


def _damage(folder: Path) -> str | None:
    try:
        record = load_object(folder / RECORD)
        for name, digest in record["files"].items():
            if file_digest(folder / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, AttributeError):
        return "its record is missing or damaged"
    return None


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("step_*"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
