"""What is wrong with a machine is called harmful, with the command that mends it; what is well is not."""

from __future__ import annotations

import os
import resource
from collections import namedtuple
from pathlib import Path

import pytest

from gen3d.doctor import machine
from gen3d.doctor.finding import Finding, State

WELL = {"HOME": "/tmp", "LANG": "C.UTF-8"}
Usage = namedtuple("Usage", "total used free")


def of(findings: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


def test_variables_that_a_launcher_left_over_are_named_with_the_command_that_removes_them() -> None:
    (finding,) = machine.variables(WELL | {"RANK": "1", "WORLD_SIZE": "4"}, cores=2)
    assert finding.state is State.HARMFUL
    assert "RANK, WORLD_SIZE set" in finding.text
    assert "would wait for 4 processes" in finding.text
    assert finding.remedy == "unset RANK WORLD_SIZE"


def test_variables_of_a_launcher_that_runs_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    (finding,) = machine.variables(WELL | {"RANK": "1", "WORLD_SIZE": "4"}, cores=2)
    assert finding.state is State.GOOD


@pytest.mark.parametrize(
    ("value", "text"), [("64", "OMP_NUM_THREADS=64, but there are 2 cores"), ("many", "is no number of threads")]
)
def test_more_threads_than_cores_are_harmful(value: str, text: str) -> None:
    (found,) = of(list(machine.variables(WELL | {"OMP_NUM_THREADS": value}, cores=2)), "threads")
    assert found.state is State.HARMFUL
    assert text in found.text


def test_as_many_threads_as_cores_are_not_worth_a_line() -> None:
    assert not of(list(machine.variables(WELL | {"OMP_NUM_THREADS": "2"}, cores=2)), "threads")


def test_a_folder_that_cannot_be_written_to_is_harmful(tmp_path: Path) -> None:
    missing = tmp_path / "not_there"
    (home,) = of(list(machine.folders({"HOME": str(missing)})), "home folder")
    assert home.state is State.HARMFUL
    assert f"{missing} cannot be written to" in home.text
    (home,) = of(list(machine.folders({"HOME": str(tmp_path)})), "home folder")
    assert home.state is State.GOOD


def test_little_shared_memory_and_little_disk_are_harmful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100, 0, 64 << 20))
    assert machine.shared_memory().state is State.HARMFUL
    assert "--shm-size" in machine.shared_memory().remedy
    states = {finding.what: finding.state for finding in machine.folders({"HOME": str(tmp_path)})}
    assert states == {
        "current folder": State.HARMFUL, "temporary files": State.HARMFUL, "home folder": State.GOOD,
    }  # fmt: skip
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100, 0, 64 << 30))
    assert machine.shared_memory().state is State.GOOD


def test_a_share_of_the_cores_is_harmful_because_threads_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "CGROUP_CPU", limits)
    monkeypatch.setattr(machine, "num_cores", lambda: 16)
    limits.write_text("400000 100000\n")
    assert machine.processor().state is State.HARMFUL
    assert machine.processor().remedy == "export OMP_NUM_THREADS=4"
    limits.write_text("max 100000\n")
    assert machine.processor().state is State.GOOD or "AVX2" in machine.processor().text


@pytest.mark.parametrize(("gib", "state"), [("1", State.HARMFUL), ("16", State.GOOD), ("much", State.HARMFUL)])
def test_memory_that_the_demonstration_would_not_fit_into(
    monkeypatch: pytest.MonkeyPatch, gib: str, state: State
) -> None:
    monkeypatch.setenv("GEN3D_MEMORY_GIB", gib)
    assert machine.memory().state is state


def test_few_open_files_are_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert machine.open_files().remedy == "ulimit -n 4096"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    assert machine.open_files().state is State.GOOD


def test_programs_are_missing_or_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "cmake"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    states = {finding.what: finding.state for finding in machine.programs()}
    assert states["cmake"] is State.GOOD
    assert states["g++"] is State.MISSING
    validator = next(finding for finding in machine.programs() if finding.what == "bids-validator-deno")
    assert validator.state is State.MISSING
    assert validator.remedy == "pip install bids-validator-deno"
