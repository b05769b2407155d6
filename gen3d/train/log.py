"""Records of a training while it runs: log.jsonl, pictures, trackers, and one live line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.live import Live
from torch import Tensor, nn

from gen3d.core.artefact import write_atomic
from gen3d.core.plain_files import load_lines
from gen3d.core.progress import PLAIN_LINE_EVERY_S, SPEAKS, console, duration, say
from gen3d.models.run_folder import LOG
from gen3d.models.task import Losses
from gen3d.train.engine.interface import Engine
from gen3d.train.tracking.sinks import Tracking

Painter = Callable[[nn.Module, Path], None]


class StepLog:
    """The events that the training loop reports; this class ignores them, for small trainings in memory."""

    def start(self, step: int) -> None:
        """The training begins at a step."""

    def collect(self, seen: Iterable[tuple[str, tuple[str, ...], Losses]]) -> None:
        """The losses of a step's parts and players; empty for a skipped step."""

    def after(self, step: int, engine: Engine) -> None:
        """`step` updates are finished; every process calls it."""


class TrainLog(StepLog):
    """One member's log. Terms are averaged over the steps since the last entry.

    `paint(model, path)` draws sample reconstructions; it gets the model with its averaged weights.
    """

    def __init__(
        self,
        folder: Path,
        member: int,
        num_members: int,
        steps: int,
        batch_size: int,
        every: int,
        picture_every: int,
        rate_at: Callable[[int], float],
        paint: Painter | None,
        tracking: Tracking,
    ) -> None:
        self.folder, self.member, self.num_members, self.steps = folder, member, num_members, steps
        self.batch_size, self.every, self.picture_every = batch_size, every, picture_every
        self.rate_at, self.paint = rate_at, paint
        self.tracking = tracking
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._skipped = 0
        self._live: Live | None = None
        self._first_step = 0
        self._last_step = 0

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, step: int) -> None:
        """Begin at a step; entries of later steps, left by an interrupted run, are taken out of the log."""
        self._first_step = self._last_step = step
        self._began = self._last_time = self._last_line = time.monotonic()
        if not SPEAKS:
            return
        self.tracking.begin_member(self.member, step)
        keep_until(self.folder / LOG, self.member, step)
        if step:
            say(f"{self._name()}: going on from the checkpoint of step {step}.")
        if console.is_terminal:
            self._live = Live(console=console, refresh_per_second=2, transient=False)
            self._live.start()

    def collect(self, seen: Iterable[tuple[str, tuple[str, ...], Losses]]) -> None:
        """Take in the losses of a step's parts and players, left on their device; empty for a skipped step.

        Terms of players other than the model carry the player's name.
        """
        skipped = True
        for player, _, losses in seen:
            skipped = False
            for name, value in losses.items():
                full = name if player == "model" else f"{player}_{name}"
                self._sums[full] = self._sums[full] + value if full in self._sums else value.clone()
                self._counts[full] = self._counts.get(full, 0) + 1
        self._skipped += skipped

    def after(self, step: int, engine: Engine) -> None:
        """Write what is due after `step` finished updates. Every process calls it: terms are means over all of them."""
        if step % self.every == 0 or step == self.steps:
            terms = engine.mean({name: self._sums[name] / self._counts[name] for name in self._sums})
            if engine.primary:
                self._write(step, terms)
            self._sums.clear()
            self._counts.clear()
            self._skipped = 0
        if self.paint is not None and (step % self.picture_every == 0 or step == self.steps):
            path = self.folder / "pictures" / f"member_{self.member}_step_{step:06d}.png"
            with engine.averaged() as model:
                if model is not None:
                    self.paint(model, path)
            self.tracking.picture(self.member, step, path)

    def _write(self, step: int, terms: Mapping[str, float]) -> None:
        now = time.monotonic()
        rate = (step - self._last_step) * self.batch_size / max(now - self._last_time, 1e-9)
        entry = {
            "member": self.member,
            "step": step,
            **{name: round(value, 6) for name, value in terms.items()},
            **({"skipped": self._skipped} if self._skipped else {}),
            "learning_rate": self.rate_at(step - 1),
            "volumes_per_s": round(rate, 3),
            "memory_gib": round(memory_gib(), 3),
            "seconds": round(now - self._began, 2),
        }
        append(self.folder / LOG, entry)
        self.tracking.losses(self.member, step, figures_of(entry))
        self._last_time, self._last_step = now, step
        self._show(step, terms, rate, now)

    def _show(self, step: int, terms: Mapping[str, float], rate: float, now: float) -> None:
        per_step = (now - self._began) / max(1, step - self._first_step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in terms.items() if name != "clipped")
        line = (
            f"{self._name()}: step {step} of {self.steps}  {shown}  {rate:.1f} volumes/s  "
            f"{memory_gib():.1f} GiB  {duration(per_step * (self.steps - step))} left"
        )
        if self._live is not None:
            self._live.update(line)
        elif now - self._last_line >= PLAIN_LINE_EVERY_S or step == self.steps:
            say(line)
            sys.stdout.flush()
            self._last_line = now

    def _name(self) -> str:
        return "train" if self.num_members == 1 else f"train member {self.member + 1} of {self.num_members}"


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line of JSON."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def figures_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an entry, without its place."""
    return {name: float(value) for name, value in entry.items() if name not in ("member", "step")}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; a last line cut off by a crash is left out."""
    return load_lines(path) if path.is_file() else []


def keep_until(path: Path, member: int, step: int) -> None:
    """Drop a member's entries after `step`, and what a crash left of an entry."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["member"] != member or entry["step"] <= step]
        write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def memory_gib() -> float:
    """Memory in use, GiB: the GPU's peak allocation, or this process's resident size."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 2**20
    import resource  # systems without /proc report only the peak, in bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
