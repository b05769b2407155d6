"""Files that are whole or not there, what a killed process leaves, and what is said of a disk that fails."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gen3d.core.disk import (
    PARTIAL,
    cannot_be_written,
    disk_error,
    remove_folder,
    remove_partial,
    whole_file,
    write_whole,
    writing,
)
from gen3d.core.errors import UserError
from gen3d.core.work_arrays import save_array

FULL = Path("/dev/full")
HEADER_BYTES = 128
"""Of a small .npy file."""
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.nii.gz"
    write_whole(path, b"old")

    def break_off() -> None:
        with whole_file(path) as partial:
            assert partial.name.startswith(PARTIAL)
            assert partial.name.endswith(".nii.gz")
            partial.write_bytes(b"ha")
            assert path.read_bytes() == b"old"
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        break_off()
    assert _names(tmp_path) == {"below", "below/a.nii.gz"}
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("k" * 251 + ".tsv"), b"whole")
    with pytest.raises(UserError, match="the name is too long"), writing(tmp_path):
        write_whole(tmp_path / ("k" * 252 + ".tsv"), b"whole")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_goes_but_not_what_another_one_writes(tmp_path: Path) -> None:
    for name in ("kept.tsv", f"{PARTIAL}1", f"volumes/{PARTIAL}2.nii", f"checkpoint/{PARTIAL}step/state.pt"):
        write_whole(tmp_path / name, b"x")
    for trial, mark in (("0", ".lock"), ("1", "artefact.json")):
        write_whole(tmp_path / "trials" / trial / mark, b"{}")
        write_whole(tmp_path / "trials" / trial / f"{PARTIAL}3", b"x")
    elsewhere = tmp_path / "elsewhere"
    out = tmp_path / "out"
    write_whole(elsewhere / f"{PARTIAL}4", b"x")
    out.mkdir()
    (out / "linked").symlink_to(elsewhere)
    remove_partial(out)
    assert (elsewhere / f"{PARTIAL}4").is_file()
    before = _names(tmp_path)
    remove_partial(tmp_path)
    gone = {f"{PARTIAL}1", f"volumes/{PARTIAL}2.nii", f"checkpoint/{PARTIAL}step", f"checkpoint/{PARTIAL}step/state.pt"}
    assert before - _names(tmp_path) == gone | {f"elsewhere/{PARTIAL}4"}


def test_a_folder_is_removed_at_once_or_found_as_something_in_the_making(tmp_path: Path) -> None:
    write_whole(tmp_path / "parts" / "0.tsv", b"x")
    remove_folder(tmp_path / "parts")
    remove_folder(tmp_path / "parts")
    assert not list(tmp_path.iterdir())


@needs_full
def test_a_full_disk_is_recognised_behind_every_library_that_writes() -> None:
    def through_numpy() -> None:
        np.zeros(10_000).tofile(FULL)

    def through_a_handler() -> None:
        with FULL.open("wb", buffering=0) as stream:
            try:
                stream.write(b"x")
            except OSError as error:
                raise ValueError("the stream broke") from error

    for write in (through_numpy, through_a_handler):
        with (
            pytest.raises(UserError, match=r"^maps: the disk is full \([\d.]+ .?B are free\); free some"),
            writing(Path("maps")),
        ):
            write()


def test_an_error_of_the_disk_in_another_language_is_recognised(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"^maps: the file is larger than"), writing(Path("maps")):
            save_file({"a": np.zeros(1000)}, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num", [1, 600, 5000])
def test_no_byte_of_an_array_is_lost_in_silence(num: int, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES + num * 8 - 1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_array(tmp_path / "a.npy", np.ones(num))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    save_array(tmp_path / "a.npy", np.ones(num))
    assert np.load(tmp_path / "a.npy").sum() == num


def test_an_error_that_is_not_of_the_disk_stays_itself() -> None:
    with pytest.raises(ValueError, match="a mistake of ours"), writing(Path("maps")):
        raise ValueError("a mistake of ours")
    hidden = ValueError("while another was handled")
    hidden.__context__ = FileNotFoundError(errno.ENOENT, "no such file")
    assert disk_error(hidden) is None


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, r"maps: the disk is full \(3 GB are needed, .* are free\); free some space there\."),
        (errno.EDQUOT, "maps: the disk quota is used up"),
        (errno.EROFS, "maps: the file system is read-only; choose another out="),
        (errno.EACCES, "maps: permission denied; choose another folder"),
        (errno.EMFILE, "maps: this process has too many files open .*`ulimit -n 4096`"),
        (errno.EFBIG, "maps: the file is larger than .*`ulimit -f` allows"),
        (errno.ENAMETOOLONG, "maps: the name is too long"),
        (errno.EIO, "maps: the disk reports a fault"),
        (errno.ENOENT, "maps: No such file or directory"),
    ],
    ids=errno.errorcode.get,
)
def test_each_kind_of_failure_says_how_to_mend_it(number: int, sentence: str) -> None:
    told = cannot_be_written(OSError(number, os.strerror(number)), Path("maps"), 3 * 10**9)
    assert told.exit_code == 2
    with pytest.raises(UserError, match=f"^{sentence}.*the same command goes on"):
        raise told


def test_an_error_that_names_its_file_is_told_of_that_file() -> None:
    error = OSError(errno.EACCES, "no", "volumes/a.nii")
    assert str(cannot_be_written(error, Path("maps"))).startswith("volumes/a.nii: permission denied")
    in_the_making = OSError(errno.EACCES, "no", f"volumes/{PARTIAL}a1b2.nii")
    assert str(cannot_be_written(in_the_making, Path("maps"))).startswith("volumes: permission denied")
