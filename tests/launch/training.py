"""A small training as a user starts it through launch/, and what the launch tests ask of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PROJECT = Path(__file__).parents[2]
LAUNCH = PROJECT / "launch"
STEPS = 24


def arguments(cohort: Path, out: Path) -> list[str]:
    """The words after `gen3d` of a training of STEPS steps with a checkpoint at every third."""
    keys = ["model.adversarial_weight=0", f"optim.steps={STEPS}", "engine.checkpoint_every=3", "engine.precision=fp32"]
    places = [f"prepared={cohort}", f"out={out}", "picture_every=1000", "engine.device=cpu", "engine.timeout_s=60"]
    return ["train", "configs/debug/train_vae.yaml", *places, *keys]


def environment(logs: Path, **given: str) -> dict[str, str]:
    """What launch/ reads, for this Python and for CPUs."""
    own = {"GEN3D_BIN": str(Path(sys.executable).parent), "GEN3D_LOGS": str(logs), "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"PROCESSES": "1", "CUDA_VISIBLE_DEVICES": ""} | given


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition; an AssertionError names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"in {seconds:g} s: {what}"
        time.sleep(0.2)


def has_checkpoint(out: Path) -> bool:
    """Whether a complete checkpoint lies in a run folder."""
    return bool(checkpoints(out))


def checkpoints(out: Path) -> set[Path]:
    """The complete checkpoints in a run folder."""
    return set((out / "checkpoint").glob("*/*/checkpoint.json"))


def processes(out: Path) -> list[int]:
    """Process ids of the training processes that write to a run folder, without those that started them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[1:4] == ["-u", "-m", "gen3d"] and f"out={out}" in words:
            found.append(int(entry.parent.name))
    return sorted(found)


def weights(out: Path) -> dict[str, np.ndarray]:
    """The trained weights of a finished run."""
    return load_file(out / "members" / "0" / "model.safetensors")


def distance(out: Path, reference: Path) -> float:
    """Difference of two runs' weights, relative to the reference's length; both hold the same names."""
    these, those = weights(out), weights(reference)
    assert set(these) == set(those)
    square = sum(float(np.sum((these[name].astype(float) - those[name].astype(float)) ** 2)) for name in those)
    return float(np.sqrt(square / sum(float(np.sum(array.astype(float) ** 2)) for array in those.values())))


def lacks(*programs: str) -> str:
    """Why a test that needs root and these programs cannot run here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [program for program in programs if shutil.which(program) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def shell(*command: str | Path, **given: object) -> str:
    """Run a command that must succeed; its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=500, **given)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)
