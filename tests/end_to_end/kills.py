"""A verb that is killed at any durable operation goes on when the same command is given again, to the same result.

    python -m tests.end_to_end.kills FOLDER [--verbs classify encode] [--spread 12] [--table FILE]

FOLDER holds the debug configs and what they wrote (`golden make FOLDER`). A durable operation is a file opened for writing,
or something renamed, linked, made or deleted, below FOLDER. A verb is killed before each of them, and where a file is being
written, also with that file empty and with half of it written. Then the same command runs to its end, and the output must hold
the same files with the same figures as that of an undisturbed run.

Every run is a fork of one process that has imported what the verbs need, so that a run costs what its work costs. A file that
is written outside Python (safetensors, torch) is caught when it is renamed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.debug_configs import ORDER, command
from tests.end_to_end.golden import differences, figures

EVENTS = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FRESH = os.O_TRUNC | os.O_EXCL | os.O_APPEND
"""Flags of files whose written bytes are all of this process, so that they may be cut."""
LIMIT_S = 600
BLOCKED, OTHER, LEFT, ALIVE = "does not go on", "another result", "files left behind", "was not killed"
"""Kinds of faults, the worst that could be told of a kill first."""
IGNORED = (".lock", "events.out")
"""Parts of the names of files that another run need not write alike."""
SMALLER = {
    "simulate": ["subjects=4", "longitudinal=0", "conditions={lesion: {kind: lesion, count: 1}}"],
    "sweep": ["parallel=1"],
}
"""Settings that make a verb cheap enough to be run hundreds of times."""
ONE_PROCESS = ("prepare", "simulate", "sample", "export", "classify", "norm", "anomaly_norm")


@dataclass(frozen=True)
class Operation:
    """A durable operation: what is done, on which file, and the file that a kill just before it can leave incomplete."""

    event: str
    path: str
    incomplete: str = ""


@dataclass(frozen=True)
class Kill:
    """Death before operation `at` (from 1), `cut`: with the file at work `half` written or `empty`; "" as it is."""

    at: int
    cut: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one kill: the kind of fault, "" if the same command went on to the same result, and what was seen."""

    kill: Kill
    operation: Operation
    fault: str = ""
    seen: str = ""


class Watch:
    """Notes the durable operations of this process below `root`, and kills it at one of them."""

    def __init__(self, root: Path, kill: Kill | None = None) -> None:
        self.root, self.kill, self.operations = str(root.resolve()) + os.sep, kill, list[Operation]()
        self._at_work: tuple[str, int] | None = None
        self._busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy or not (event == "open" or event in EVENTS):
            return
        self._busy = True
        try:
            self._note(event, arguments)
        finally:
            self._busy = False

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = _place(event, arguments)
        if not path.startswith(self.root):
            return
        flags = int(arguments[2] or 0) if event == "open" else 0
        if event == "open" and not flags & WRITING:
            return
        at_work = (path, 0) if event == "os.rename" else self._at_work
        shown = at_work[0].removeprefix(self.root) if at_work and os.path.isfile(at_work[0]) else ""
        self.operations.append(Operation(event, path.removeprefix(self.root), shown))
        if self.kill is not None and len(self.operations) == self.kill.at:
            if at_work is not None and self.kill.cut:
                _cut(*at_work, self.kill.cut)
            os.kill(os.getpid(), signal.SIGKILL)
        begun = os.path.getsize(path) if flags & os.O_APPEND and os.path.isfile(path) else 0
        self._at_work = (path, begun) if flags & FRESH else None


def _place(event: str, arguments: tuple[Any, ...]) -> str:
    """The path that an operation concerns, "" for a file that is open already."""
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    text = os.fsdecode(path)
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(text):
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    parent, name = os.path.split(os.path.abspath(text))
    return os.path.join(os.path.realpath(parent), name)


def _cut(path: str, begun: int, how: str) -> None:
    if os.path.isfile(path):
        size = os.path.getsize(path)
        os.truncate(path, begun + (max(0, size - begun) // 2 if how == "half" else 0))


# ------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """How a process ended: its exit code, -9 if it was killed, and what it printed."""

    code: int
    said: str


def forked(words: Sequence[str], folder: Path, watch: Watch | None = None, noted: Path | None = None) -> Run:
    """Run a command in a fork of this process, in `folder`.

    Args:
        words: after `gen3d`.
        folder: where.
        watch: notes its operations, or kills it.
        noted: file for the operations and the modules that were imported, for a run that is not killed.
    """
    output = folder / "said.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _in_child(words, folder, output, watch, noted)
    end = time.monotonic() + LIMIT_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return Run(os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8", errors="replace"))
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Run(124, f"did not end within {LIMIT_S} s")
        time.sleep(0.005)


def _in_child(words: Sequence[str], folder: Path, output: Path, watch: Watch | None, noted: Path | None) -> None:
    code = 1
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        from gen3d.cli import main

        if watch is not None:
            sys.addaudithook(watch)
        code = main(list(words))
        if noted is not None and watch is not None:
            kept = [[each.event, each.path, each.incomplete] for each in watch.operations]
            os.chdir("/")
            watch.root = "/nowhere/"
            noted.write_text(json.dumps({"operations": kept, "modules": sorted(sys.modules)}), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def words_of(name: str) -> tuple[list[str], str]:
    """The command of a debug config in one process, and the folder that it writes."""
    import yaml

    words = command(name)
    file = Path("configs/debug") / f"{name}.yaml"
    out = next((word.removeprefix("out=") for word in words if word.startswith("out=")), "")
    out = out or str(yaml.safe_load(file.read_text(encoding="utf-8"))["out"])
    return [*words, *SMALLER.get(name, []), *(["workers=1"] if name in ONE_PROCESS else [])], out


@dataclass
class Victim:
    """A debug config that is killed: its command, its output, and what an undisturbed run does and writes."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        here = os.getcwd()
        os.chdir(self.folder)
        self.words, out = words_of(self.name)
        os.chdir(here)
        self.out = self.folder / out

    def undisturbed(self) -> None:
        """Run it; import in this process what it imported, run it again, and keep what it did and wrote."""
        self._clear()
        noted = self.folder / "noted.json"
        watch = Watch(self.folder)
        run = forked(self.words, self.folder, watch, noted)
        if run.code != 0:
            raise SystemExit(f"{self.name}: ends with {run.code}\n{run.said}")
        record = json.loads(noted.read_text(encoding="utf-8"))
        for module in record["modules"]:
            try:
                importlib.import_module(module)
            except Exception:  # what imports only in certain surroundings is imported by the fork again
                continue
        self._clear()
        began = time.monotonic()
        forked(self.words, self.folder, Watch(self.folder), noted)
        self.seconds = time.monotonic() - began
        record = json.loads(noted.read_text(encoding="utf-8"))
        self.operations = [Operation(*each) for each in record["operations"]]
        self.files, self.figures = self._files(), figures(self.out)

    def kills(self, spread: int = 0) -> list[Kill]:
        """Every kill; with `spread`, about so many of them, evenly over the run."""
        everything = [
            Kill(place, cut)
            for place, operation in enumerate(self.operations, start=1)
            for cut in ("", "half", "empty")
            if not cut or operation.incomplete
        ]
        if not spread or spread >= len(everything):
            return everything
        return [everything[round(place * (len(everything) - 1) / (spread - 1))] for place in range(spread)]

    def outcome(self, kill: Kill) -> Outcome:
        """Kill it, run it again, and compare."""
        self._clear()
        operation = self.operations[kill.at - 1]
        killed = forked(self.words, self.folder, Watch(self.folder, kill))
        if killed.code != -signal.SIGKILL:
            return Outcome(kill, operation, ALIVE, f"exit code {killed.code}: {_last(killed.said)}")
        again = forked(self.words, self.folder)
        if again.code != 0:
            return Outcome(kill, operation, BLOCKED, f"exit code {again.code}: {_last(again.said)}")
        left, lost = sorted(self._files() - self.files), sorted(self.files - self._files())
        for name in left:
            if (self.out / name).is_file():
                (self.out / name).unlink()
        if unequal := [*self._unequal(), *(f"{name}: not written" for name in lost)]:
            return Outcome(kill, operation, OTHER, unequal[0])
        return Outcome(kill, operation, LEFT, f"{left[:3]}") if left else Outcome(kill, operation)

    def _clear(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)

    def _files(self) -> set[str]:
        names = (str(path.relative_to(self.out)) for path in self.out.rglob("*"))
        return {name for name in names if not any(part in name for part in IGNORED)}

    def _unequal(self) -> list[str]:
        try:
            return differences(figures(self.out), self.figures)
        except Exception as error:  # whatever a reader says of a damaged file
            return [f"cannot be read: {error}"]


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "(nothing said)"


def outcomes(victim: Victim, spread: int = 0) -> Iterator[Outcome]:
    """Each kill of a verb, with what became of it."""
    victim.undisturbed()
    for kill in victim.kills(spread):
        yield victim.outcome(kill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `python -m tests.end_to_end.golden make FOLDER` wrote")
    parser.add_argument("--verbs", nargs="+", choices=ORDER, default=list(ORDER), help="debug configs")
    parser.add_argument("--spread", type=int, default=0, help="about so many kills of each, evenly; 0: every one")
    parser.add_argument("--table", type=Path, help="append rows of Markdown to this file")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    num_faults = 0
    for name in arguments.verbs:
        began, victim = time.monotonic(), Victim(name, arguments.folder.resolve())
        found = list(outcomes(victim, arguments.spread))
        faults = [each for each in found if each.fault]
        for each in faults:
            place = f"{each.operation.event} {each.operation.path}"
            print(f"{name}: killed at {each.kill.at} {each.kill.cut or 'before'} ({place}): {each.fault}: {each.seen}")
        num_faults += len(faults)
        kinds = [sum(each.fault == kind for each in faults) for kind in (BLOCKED, OTHER, LEFT, ALIVE)]
        figures_of_row = (len(victim.operations), len(found), len(found) - len(faults), *kinds)
        seconds = f"{time.monotonic() - began:.0f}"
        row = f"| {name} | {' | '.join(map(str, figures_of_row))} | {seconds} |"
        print(row, flush=True)
        if arguments.table is not None:
            with arguments.table.open("a", encoding="utf-8") as stream:
                stream.write(row + "\n")
    raise SystemExit(bool(num_faults))


if __name__ == "__main__":
    main()
