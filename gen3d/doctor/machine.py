"""What the machine has: processor, memory, disks, limits, and what earlier launches left in the environment."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from gen3d.core.disk import size_in_words
from gen3d.core.errors import UserError
from gen3d.core.launcher import has_launcher
from gen3d.core.memory import allowed_memory
from gen3d.doctor.finding import Finding, good, harmful, missing

LEAST_MEMORY = 4 << 30
"""The demonstration takes about 2 GiB, a cohort at 2 mm more."""
LEAST_SHARED = 1 << 30
"""Of /dev/shm: processes of one training exchange gradients there, and containers start with 64 MiB."""
LEAST_FREE = 5 << 30
LEAST_FILES = 1024

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

SHARED_MEMORY, CGROUP_CPU = Path("/dev/shm"), Path("/sys/fs/cgroup/cpu.max")


def machine_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything about the machine, in the order in which it is printed."""
    yield processor()
    yield memory()
    yield shared_memory()
    yield from folders(environment)
    yield open_files()
    yield from variables(environment, num_cores())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> Finding:
    """Cores, and whether a control group allows less than they could do."""
    cores, quota = num_cores(), _cpu_quota()
    flags = _cpu_flags()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    text = f"{cores} core(s){', ' + ', '.join(known) if known else ''}"
    if quota is not None and quota < cores - 0.5:
        return harmful(
            "processor",
            f"{text}, but the container or job may use {quota:g} of them, so that threads wait for each other",
            f"export OMP_NUM_THREADS={max(1, int(quota))}",
        )
    if sys.platform == "linux" and flags and "avx2" not in flags:
        return harmful(
            "processor",
            f"{text}; without AVX2 convolutions are several times slower",
            "use a newer machine for training",
        )
    return good("processor", text)


def memory() -> Finding:
    """Memory that can be had now, of the machine or of the job."""
    try:
        free = allowed_memory()
    except UserError as error:
        return harmful("memory", str(error).rstrip("."), "unset GEN3D_MEMORY_GIB")
    if free is None:
        return good("memory", "the system does not say how much is free")
    text = f"{size_in_words(free)} free"
    if free < LEAST_MEMORY:
        return harmful(
            "memory",
            f"{text}; preparing one scan at a time and training at 3 mm still fit",
            "end other programs, or ask the scheduler for more (--mem=16G)",
        )
    return good("memory", text)


def shared_memory() -> Finding:
    """/dev/shm, through which processes of one machine exchange what they compute."""
    if not SHARED_MEMORY.is_dir():
        return good("shared memory", "this system has no /dev/shm")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < LEAST_SHARED:
        return harmful(
            "shared memory",
            f"/dev/shm has {size_in_words(free)} free; trainings with several processes may die of a bus error",
            "docker run --shm-size=8g ... (apptainer: --bind a folder to /dev/shm)",
        )
    return good("shared memory", f"/dev/shm has {size_in_words(free)} free")


def folders(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The folders that are written to without being named: here, temporary files, and what numba and matplotlib keep."""
    home = Path(environment.get("HOME") or "~").expanduser()
    places = {"current folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "home folder": home}
    remedies = {
        "current folder": "cd to a folder of yours, or give out=FOLDER elsewhere",
        "temporary files": "export TMPDIR=FOLDER",
        "home folder": "export HOME=FOLDER, or NUMBA_CACHE_DIR=FOLDER and MPLCONFIGDIR=FOLDER",
    }
    for what, place in places.items():
        if not _writable(place):
            yield harmful(what, f"{place} cannot be written to", remedies[what])
            continue
        free = shutil.disk_usage(place).free
        if what != "home folder" and free < LEAST_FREE:
            yield harmful(what, f"{place} has {size_in_words(free)} free", remedies[what])
        else:
            yield good(what, f"{place}, {size_in_words(free)} free")


def open_files() -> Finding:
    """How many files one process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return harmful("open files", f"{soft} at a time; cohorts keep their volumes mapped", f"ulimit -n {most}")
    return good("open files", "as many as are needed" if soft == resource.RLIM_INFINITY else f"{soft} at a time")


def variables(environment: Mapping[str, str], cores: int) -> Iterator[Finding]:
    """Variables of the environment that a launcher left over, or that set more threads than there are cores."""
    left = [name for name in LAUNCHED if name in environment]
    if left and not has_launcher():
        num = environment.get("WORLD_SIZE", "1").strip()
        text = f"{', '.join(left)} set, though no launcher started this shell"
        if num not in ("", "1"):
            text += f"; gen3d would wait for {num} processes"
        yield harmful("launcher variables", text, f"unset {' '.join(left)}")
    else:
        yield good("launcher variables", "none left over")
    for name in THREADS:
        value = environment.get(name, "").strip()
        if value and not (value.isdecimal() and int(value) > 0):
            yield harmful("threads", f"{name}={value!r} is no number of threads", f"unset {name}")
        elif value and int(value) > cores:
            yield harmful("threads", f"{name}={value}, but there are {cores} cores", f"export {name}={cores}")
    if not environment.get("LC_ALL", environment.get("LANG", "")).lower().replace("-", "").endswith("utf8"):
        encoding = sys.getfilesystemencoding()
        if encoding.lower().replace("-", "") != "utf8":
            yield harmful("language", f"file names are read as {encoding}", "export LANG=C.UTF-8")


def programs() -> Iterator[Finding]:
    """Programs that some capability can use."""
    for name, use, remedy in (
        ("g++", "compiling networks (engine.compile, export-model) and the C++ programs", "apt install g++"),
        ("cmake", "the C++ programs (launch/build_cpp.sh)", "apt install cmake"),
        ("sbatch", "submitting jobs (launch/*.sbatch, sweep)", "log in to a machine of the cluster"),
        ("nvidia-smi", "GPUs of NVIDIA", "install the driver if there is such a GPU"),
        ("bids-validator-deno", "checking BIDS folders before they are shared", "pip install bids-validator-deno"),
    ):
        where = shutil.which(name)
        yield good(name, where) if where else missing(name, f"not found; only for {use}", remedy)


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def _cpu_quota() -> float | None:
    """Cores that a control group allows; None without a limit."""
    try:
        quota, period = CGROUP_CPU.read_text(encoding="ascii").split()
        return int(quota) / int(period) if quota.isdecimal() else None
    except (OSError, ValueError):
        return None


def _writable(place: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
