"""The script that checks a GPU, on a CPU: every row computes, and what fails costs its own row and the exit code."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "analysis" / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check_rows")


def script(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=560, env=environment)


@pytest.mark.parametrize("section", ["device", "training", "diffusion", "sampling", "expectation", "memory"])
def test_every_row_computes_on_a_cpu(rows: ModuleType, section: str) -> None:
    place = rows.Place("cpu", tiny=True)
    for name, measure in rows.SECTIONS[section](place).items():
        figures = rows.measured(measure)
        assert "failed" not in figures, (name, figures)
        assert "too_large" not in figures
        if section in ("training", "diffusion", "memory"):
            assert 0.3 < figures["planned_mib"] / figures["peak_mib"] < 2, name
        if section in ("training", "diffusion"):
            assert figures["tflop_per_second"] > 0
            assert figures["per_second"] == pytest.approx(2 / figures["seconds"])


def test_a_row_without_memory_is_a_result_and_a_row_with_an_error_a_failure(rows: ModuleType) -> None:
    def too_large() -> dict[str, object]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")

    assert rows.measured(too_large) == {"too_large": "CUDA out of memory"}
    assert rows.measured(lambda: 1 / 0) == {"failed": "ZeroDivisionError: division by zero"}


def test_the_script_writes_its_table(tmp_path: Path) -> None:
    done = script("--device", "cpu", "--tiny", "--sections", "device", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    product, *_, described = content["sections"]["device"]["rows"]
    assert product["utilisation"] == 1.0
    assert described["device"]["torch"] == torch.__version__
    assert "| device | matrix product, bf16 | bf16 |" in (tmp_path / "out" / "table.md").read_text()


def test_tests_are_run_and_counted(gpu_check: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\npytestmark = pytest.mark."
        "gpu\ndef test_right(): pass\ndef test_wrong(): assert 1 == 2\n"
        "@pytest.mark.skip\ndef test_not_here(): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    (tmp_path / "out").mkdir()
    (row,) = gpu_check.run_tests(tmp_path / "out", 60.0, [file]).rows
    assert row["note"] == "1 passed, 1 failed, 1 skipped"
    assert row["failed"].startswith("1 test failed: ")
    assert row["failed"].endswith("test_some.py::test_wrong")
    assert "assert 1 == 2" in (tmp_path / "out" / "tests.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_is_one_sentence(tmp_path: Path) -> None:
    done = script("--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "torch sees no GPU here" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_section_that_hangs_is_ended_with_all_it_started_and_keeps_its_rows(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    lines = [{"rows": ["a", "b", "c"]}, {"begins": "a"}, {"row": "a", "seconds": 1.0}, {"begins": "b"}]
    code = f"""
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
for line in {lines!r}: print(json.dumps(line), flush=True)
print('{{"row": "cut', flush=True)
time.sleep(600)
"""
    began = time.monotonic()
    ended = gpu_check.run_limited([sys.executable, "-c", code], tmp_path / "section", 3.0)
    assert ended == "stopped after 3 s"
    assert time.monotonic() - began < 20
    found = gpu_check.rows_of((tmp_path / "section.jsonl").read_text(), ended)
    assert found[0] == {"row": "a", "seconds": 1.0}
    assert [row["failed"] for row in found[1:]] == ["stopped after 3 s", "not reached: stopped after 3 s"]
    child, waited = Path(f"/proc/{(tmp_path / 'pid').read_text()}"), time.monotonic()
    while child.exists() and time.monotonic() - waited < 60:  # until whoever inherited it has noticed
        time.sleep(0.1)
    assert not child.exists()


def test_a_section_that_dies_names_its_last_line(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys\nsys.exit('no libcudnn')\n")
    monkeypatch.setattr(gpu_check, "ROWS", broken)
    outcome = gpu_check.run_rows("training", tmp_path, 30.0, "cpu", True)
    assert outcome.rows == [{"row": "training", "failed": "exit code 1: no libcudnn"}]


def given(out: Path, sections: list[str], seconds: float = 360.0) -> argparse.Namespace:
    return argparse.Namespace(out=out, sections=sections, seconds=seconds, device="cpu", tiny=True)


def test_a_failed_row_costs_no_other_row_but_the_exit_code(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "training": [{"row": "first", "failed": "ValueError: no | such"}, {"row": "second", "seconds": 2.0}],
        "memory": [{"row": "third", "too_large": "CUDA out of memory"}],
    }
    monkeypatch.setattr(gpu_check, "run_rows", lambda section, *_: gpu_check.Outcome(made[section]))
    assert gpu_check.check(given(tmp_path, ["training", "memory"]), time.monotonic()) == 1
    text = (tmp_path / "table.md").read_text()
    assert "FAILED: ValueError: no / such" in text
    assert "| training | second |  | 2 |" in text
    assert "too little memory: CUDA out of memory" in text
    assert "1 row failed: first" in capsys.readouterr().err
    assert gpu_check.check(given(tmp_path, ["memory"]), time.monotonic()) == 0


def test_what_is_over_the_time_is_not_begun(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def run(section: str, out: Path, limit_s: float, *_: object) -> object:
        limits.append(limit_s)
        return gpu_check.Outcome([{"row": section}])

    monkeypatch.setattr(gpu_check, "run_rows", run)
    assert gpu_check.check(given(tmp_path, ["device", "training", "memory"], 60.0), time.monotonic() - 20) == 0
    assert limits == [pytest.approx(35, abs=1.5)] * 3  # of 60 s, 20 are over and 5 are kept
    assert gpu_check.check(given(tmp_path, ["device"], 60.0), time.monotonic() - 52) == 1
    assert "not begun: the time was over" in (tmp_path / "table.md").read_text()


def test_outcomes_of_tests_are_counted_also_where_they_were_stopped(gpu_check: ModuleType) -> None:
    text = "tests/a.py::test_x[1 - 2] PASSED [ 10%]\ntests/a.py::test_y FAILED\ntests/a.py::test_z SKIPPED (no GPU)\n"
    row = gpu_check.tests_row(text, "exit code 1")
    assert row["note"] == "1 passed, 1 failed, 1 skipped"
    assert row["failed"] == "1 test failed: tests/a.py::test_y"
    assert gpu_check.tests_row(text.replace("FAILED", "PASSED"), "")["failed"] == 0
    assert gpu_check.tests_row(text.replace("FAILED", "PASSED"), "stopped after 9 s")["failed"] == "stopped after 9 s"
    assert gpu_check.tests_row("", "")["failed"] == "no test was found"


def test_every_file_with_the_mark_is_run(gpu_check: ModuleType) -> None:
    names = {path.name for path in gpu_check.marked_files()}
    assert {"test_gpu_training.py", "test_gpu_models.py"} <= names
    assert "test_gpu_check.py" not in names
