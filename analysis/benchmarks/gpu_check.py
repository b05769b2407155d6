"""Does gen3d work on this GPU, how fast is it, and is the planned memory right? One table, in at most six minutes.

    python analysis/benchmarks/gpu_check.py [--out gpu_check] [--seconds 360] [--sections device tests training ...]
    python analysis/benchmarks/gpu_check.py --device cpu --tiny      the same code at sizes for a CPU

Inputs: none (random volumes, untrained networks). `make gpu-check` runs it. Sections, in this order:

  device       name, driver, versions, clocks; product of two 8,192 x 8,192 matrices in bfloat16 (the ceiling) and float32
  tests        every test marked `gpu`
  training     weight update of configs/train/vae_adversarial.yaml and vae_normative.yaml on the grid of 1 mm
  diffusion    weight update of configs/train/ldm_full.yaml
  sampling     25 steps of DPM-Solver and decoding to 1 mm
  expectation  what a network does for anomaly maps and latents, one scan of 1 mm, and how far the CPU's result is
  memory       the rows of memory.py: planned against allocated
  compiled     the VAE's weight update with torch.compile

Each section is a process group of its own with a limit of its own, so that an error, a hang or too little memory costs
its row and no other; what is over the whole time is not begun. Columns: peak and planned are MiB of torch's allocator, planned
without the plan's allowance; utilisation is the arithmetic of the step (recomputation included) per second over the ceiling.

Writes table.md and table.json after every section, and each section's output, into --out. Exit codes: 0; 1 where a test or a
row failed or was not reached; 2 without a GPU. A row that has too little memory is a result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen3d.cli import run_script
from gen3d.core import words
from gen3d.core.errors import UserError

ROOT = Path(__file__).parents[2]
ROWS = Path(__file__).with_name("gpu_check_rows.py")
LIMITS_S = {
    "device": 40,
    "tests": 110,
    "training": 80,
    "diffusion": 60,
    "sampling": 50,
    "expectation": 50,
    "memory": 75,
    "compiled": 70,
}
"""Seconds of each section, start of Python included. Their sum is over the whole time: few take all of theirs."""

PATIENCE_TINY = 5
"""Times the limits with --tiny: a CPU that others use is slow, and nothing is measured there."""

TESTS, CEILING = "tests", "matrix product, bf16"
FOR_WRITING_S = 5.0
LEAST_S = 5.0
"""A section is not begun with less."""

OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)

Row = dict[str, Any]


@dataclass
class Outcome:
    """What a section came to: its rows, and why some are missing."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    ended: str = ""
    """Empty where the section came to its end."""


def run_limited(command: list[str], out: Path, limit_s: float) -> str:
    """Run a command as a process group of its own; its output goes to out.jsonl and out.log.

    Returns:
        "" if it came to its end, else how it ended.
    """
    places = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *_python_path()))}}
    with out.with_suffix(".jsonl").open("wb") as output, out.with_suffix(".log").open("wb") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True, **places)
        try:
            code = process.wait(limit_s)
            ended = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit_s:.0f} s"
        finally:
            _end_group(process)
    return ended


def _python_path() -> list[str]:
    return [path for path in (os.environ.get("PYTHONPATH", "")).split(os.pathsep) if path]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):  # all are gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rows_of(lines: str, ended: str) -> list[Row]:
    """Rows from a section's output; those that it announced and did not finish say how the section ended."""
    announced: list[str] = []
    begun, done = "", {}
    for line in lines.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut by the end of the process, or not ours
            continue
        if not isinstance(entry, dict):
            continue
        announced = entry.get("rows", announced)
        begun = entry.get("begins", begun)
        if "row" in entry:
            done[entry["row"]] = entry
    reason = ended or "no result"
    missing = {
        name: {"row": name, "failed": reason if name == begun else f"not reached: {reason}"} for name in announced
    }
    return [done.get(name, missing[name]) for name in announced]


def run_rows(section: str, out: Path, limit_s: float, device: str, tiny: bool) -> Outcome:
    """A section of gpu_check_rows.py."""
    command = [sys.executable, "-W", "ignore", str(ROWS), section, "--device", device, *(["--tiny"] if tiny else [])]
    ended = run_limited(command, out / section, limit_s)
    rows = rows_of((out / section).with_suffix(".jsonl").read_text(errors="replace"), ended)
    return Outcome(
        rows or [{"row": section, "failed": f"{ended or 'no rows'}: {_last_line(out / section)}"}], ended=ended
    )


def run_tests(out: Path, limit_s: float, files: list[Path]) -> Outcome:
    """The tests marked `gpu`; only files that hold the mark are collected."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-n0", "--color=no", *map(str, files)]
    ended = run_limited(command, out / TESTS, limit_s)
    text = (out / TESTS).with_suffix(".jsonl").read_text(errors="replace")
    (out / TESTS).with_suffix(".jsonl").rename(out / "tests.txt")
    return Outcome([tests_row(text, ended)], ended="" if ended in ("", "exit code 1") else ended)


def tests_row(text: str, ended: str) -> Row:
    """Counts of outcomes from what `pytest -v` printed, also where it was stopped."""
    outcomes = dict(OUTCOME.findall(text))
    counts = {word: sum(outcome in names for outcome in outcomes.values()) for word, names in WORDS.items()}
    bad = [name for name, outcome in outcomes.items() if outcome in WORDS["failed"]]
    row: Row = {"row": "tests marked gpu", "note": ", ".join(f"{num} {word}" for word, num in counts.items()), **counts}
    if bad:
        row["failed_tests"] = bad
        row["failure"] = f"{words.count(len(bad), 'test')} failed: {', '.join(bad)}"
    elif ended or not outcomes:
        row["failure"] = ended or "no test was found"
    if "failure" in row:
        row["failed_count"], row["failed"] = counts["failed"], row.pop("failure")
    return row


WORDS = {"passed": ("PASSED", "XFAIL"), "failed": ("FAILED", "ERROR", "XPASS"), "skipped": ("SKIPPED",)}


def _last_line(path: Path) -> str:
    lines = path.with_suffix(".log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def marked_files() -> list[Path]:
    """Files of tests that hold the mark `gpu`."""
    mark = "mark" + ".gpu"
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark in path.read_text(encoding="utf-8")]


def with_utilisation(sections: dict[str, Outcome]) -> None:
    """Add to every row that counts arithmetic its share of the ceiling, and to those with a plan the plan's share of the peak."""
    rows = [row for outcome in sections.values() for row in outcome.rows]
    ceiling = next((row.get("tflop_per_second") for row in rows if row["row"] == CEILING), None)
    for row in rows:
        if ceiling and row.get("tflop_per_second"):
            row["utilisation"] = row["tflop_per_second"] / ceiling
        if row.get("peak_mib") and row.get("planned_mib"):
            row["planned_over_peak"] = row["planned_mib"] / row["peak_mib"]


def table(sections: dict[str, Outcome], tiny: bool, seconds: float) -> str:
    """The page: what the device is, and one table."""
    rows = [(name, row) for name, outcome in sections.items() for row in outcome.rows]
    described = next((row["device"] for _, row in rows if "device" in row), {})
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in described.items()]
    lines = [
        "# GPU check",
        "",
        f"{'; '.join(facts) or 'The device was not described'}. {seconds:.0f} s in all."
        + (" Tiny sizes: the figures mean nothing." if tiny else ""),
        "",
        "| section | row | precision | seconds | per second | TFLOP/s | utilisation | peak MiB | planned | planned/peak | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for section, row in rows:
        if "device" in row:
            continue
        rate = f"{words.figure(row['per_second'])} {row['unit']}" if row.get("per_second") else ""
        note = row.get("failed") or row.get("too_large") or "; ".join(filter(None, (row.get("of"), row.get("note"))))
        mark = "FAILED: " if row.get("failed") else "too little memory: " if row.get("too_large") else ""
        cells = [
            section,
            row["row"],
            row.get("precision", ""),
            f"{row['seconds']:.3g}" if row.get("seconds") else "",
            rate,
            f"{row['tflop_per_second']:.3g}" if row.get("tflop_per_second") else "",
            words.percent(row["utilisation"]) if row.get("utilisation") else "",
            f"{row['peak_mib']:,.0f}" if row.get("peak_mib") else "",
            f"{row['planned_mib']:,.0f}" if row.get("planned_mib") else "",
            words.number(row.get("planned_over_peak")) if row.get("planned_over_peak") else "",
            (mark + note).replace("|", "/").replace("\n", " "),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_results(out: Path, sections: dict[str, Outcome], device: str, tiny: bool, seconds: float) -> None:
    """table.md and table.json, each whole or as before."""
    with_utilisation(sections)
    content = {
        "device": device,
        "tiny": tiny,
        "seconds": round(seconds, 1),
        "sections": {
            name: {"seconds": round(outcome.seconds, 1), "ended": outcome.ended, "rows": outcome.rows}
            for name, outcome in sections.items()
        },
    }
    texts = {"table.md": table(sections, tiny, seconds), "table.json": json.dumps(content, indent=1) + "\n"}
    for name, text in texts.items():
        partial = out / f".partial-{name}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(out / name)


def require_device(device: str) -> None:
    """Refuse to begin where there is no GPU.

    Raises:
        UserError: --device cuda, and torch sees no GPU.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "gpu_check: torch sees no GPU here; run it on a GPU machine after `make setup TORCH=torch`, or try the script "
            "itself with --device cpu --tiny."
        )


def check(given: argparse.Namespace, began: float) -> int:
    """Run the sections, writing the table after each; `began` is the clock's time from which the seconds count.

    Returns:
        The exit code.
    """
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Outcome] = {}
    for section in given.sections:
        left = given.seconds - FOR_WRITING_S - (time.monotonic() - began)
        started, limit = time.monotonic(), min(LIMITS_S[section] * (PATIENCE_TINY if given.tiny else 1), left)
        if left < LEAST_S:
            outcome = Outcome([{"row": section, "failed": "not begun: the time was over"}], ended="not begun")
        elif section == TESTS:
            outcome = run_tests(out, limit, marked_files())
        else:
            outcome = run_rows(section, out, limit, given.device, given.tiny)
        outcome.seconds = time.monotonic() - started
        sections[section] = outcome
        write_results(out, sections, given.device, given.tiny, time.monotonic() - began)
        print(f"{section}: {outcome.seconds:.0f} s {outcome.ended}", flush=True)
    print((out / "table.md").read_text(encoding="utf-8"))
    failed = [row["row"] for outcome in sections.values() for row in outcome.rows if row.get("failed")]
    if failed:
        print(f"gpu_check: {words.count(len(failed), 'row')} failed: {', '.join(failed)}; see {out}.", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the section at hand ends too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the table; replaced")
    parser.add_argument("--seconds", type=float, default=360.0, help="of everything together")
    parser.add_argument("--sections", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="sizes that take seconds on a CPU; the figures mean nothing"
    )
    given = parser.parse_args()
    require_device(given.device)
    sys.exit(check(given, began))


if __name__ == "__main__":
    run_script(main)
