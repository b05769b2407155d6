"""The training loop, the same for one process and for many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.progress import warn
from gen3d.models.task import Losses
from gen3d.train.batches import StepBatches
from gen3d.train.checkpoint import latest_checkpoint, save_checkpoint
from gen3d.train.engine.interface import Engine
from gen3d.train.engine.processes import Processes
from gen3d.train.log import StepLog
from gen3d.train.stopping import StopSignal, stopped_by

STATE = "state.pt"


def run_loop(
    engine: Engine,
    batches: StepBatches,
    first_step: int,
    steps: int,
    skip_limit: int,
    log: StepLog,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Optimise a task from weight update `first_step` to `steps`, every process the same.

    Without checkpoints it is a training in memory: nothing is written, and signals are not waited for. A player whose loss
    or gradient is not finite in any process skips its update in all of them: its weights stay, the step counts, and the
    terms and subjects are named.

    Raises:
        NotFinite: more than `skip_limit` steps in a row were skipped.
        Interrupted: a signal came to any process; the state after the step at hand is saved.
    """
    step = first_step
    log.start(step)
    skipped = Skipped(engine.processes, skip_limit)
    with StopSignal(listening=checkpoints is not None) as stop:
        while step < steps:
            players = engine.task.playing(step)
            with fitting_memory(engine):
                losses, updated = take_step(engine, batches, players, step)
            skipped.note(all(updated), step, players, updated, losses)
            log.collect(losses if all(updated) else [])
            step += 1
            log.after(step, engine)
            signal_number = engine.processes.largest(stop.received or 0)
            if checkpoints is not None and (signal_number or (step % checkpoints.every == 0 and step < steps)):
                checkpoints.save(engine, step)
            if signal_number:
                stopped = stopped_by(signal_number, step, steps)
                stopped.shared = not engine.primary
                raise stopped


StepLosses = list[tuple[str, tuple[str, ...], Losses]]
"""This process's losses in one step, by part and player: player, subjects, terms left on their device."""


def take_step(
    engine: Engine, batches: StepBatches, players: tuple[str, ...], step: int
) -> tuple[StepLosses, list[bool]]:
    """Compute the parts of one step and update every player; false for a player whose gradient was not finite."""
    losses_of_parts: StepLosses = []
    for part in range(batches.parts):
        batch = batches.at(step, part)
        for player in players:
            losses = engine.forward(batch, player)
            engine.backward(losses, player, part, batches.parts)
            losses_of_parts.append((player, batch.subjects, {name: value.detach() for name, value in losses.items()}))
    return losses_of_parts, [engine.update(player, step) for player in players]


@contextmanager
def fitting_memory(engine: Engine) -> Iterator[None]:
    """Within this context, a GPU that is too small is a UserError with the settings that help."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"the memory of {engine.device} does not suffice; use engine.volumes_at_once=1 or "
            "model.gradient_checkpointing=true: the same command with --dry-run says what fits."
        ) from None


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its state, and every how many steps."""

    folder: Path
    every: int

    def save(self, engine: Engine, step: int) -> None:
        """Write one: every process gives its part, the first one writes."""
        state = engine.state()

        def write(folder: Path) -> None:
            with writing(self.folder), (folder / STATE).open("wb") as stream:
                torch.save(state, stream)

        engine.processes.on_first(lambda: str(save_checkpoint(self.folder, step, write)))

    def newest(self, processes: Processes) -> tuple[int, Mapping[str, Any] | None]:
        """Step and state of the newest complete one, or (0, None); the first process chooses it for all.

        Raises:
            UserError: a process cannot read it.
        """
        latest = processes.on_first(lambda: latest_checkpoint(self.folder))
        if latest is None:
            return 0, None
        step, folder = latest

        def read() -> Mapping[str, Any]:
            try:
                state: Mapping[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            except OSError as error:
                raise UserError(
                    f"{folder / STATE}: cannot be read ({error.strerror}); out= must be on a file system that all nodes "
                    "share."
                ) from None
            return state

        return step, processes.together(read)


class NotFinite(UserError):
    """A training ended because its losses or gradients were not finite."""


class Skipped:
    """Counts skipped steps in a row, names what was not finite, and ends the training when there are too many."""

    def __init__(self, processes: Processes, limit: int) -> None:
        self.processes, self.limit, self.in_a_row = processes, limit, 0

    def note(
        self,
        updated: bool,
        step: int,
        players: tuple[str, ...],
        finite: list[bool],
        losses: StepLosses,
    ) -> None:
        """Take in one step. `finite` says for each player whether its gradient was; `losses` holds this process's losses."""
        if updated:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        reports = self.processes.gather(_not_finite(losses))
        named = [report for report in reports if report]
        if not named:
            subjects = sorted(
                {subject for everybody in self.processes.gather(_subjects(losses)) for subject in everybody}
            )
            bad = " and ".join(
                f"the {player}'s gradient" for player, fine in zip(players, finite, strict=True) if not fine
            )
            named = [f"{bad} became NaN or infinite on the subjects {', '.join(subjects)}"]
        what = f"step {step}: {'; '.join(named)}"
        if self.in_a_row <= self.limit:
            warn(f"{what}; this update was skipped ({self.in_a_row} in a row, at most {self.limit}).")
            return
        error = NotFinite(
            f"{what}, after {self.limit} updates in a row that had to be skipped; look at these scans, or lower "
            "optim.learning_rate, or use engine.precision=fp32. The last checkpoint is kept."
        )
        error.shared = not self.processes.first
        raise error


def _subjects(losses: StepLosses) -> list[str]:
    return sorted({subject for _, subjects, _ in losses for subject in subjects})


def _not_finite(losses: StepLosses) -> str:
    """Terms of this process that were not finite, with the subjects; '' if all were finite."""
    bad_terms: dict[str, set[str]] = {}
    for player, who, terms in losses:
        bad = [name for name, value in terms.items() if not bool(torch.isfinite(value).all())]
        for name in [name for name in bad if name != "loss"] or bad:
            bad_terms.setdefault(f"the {player}'s {name}", set()).update(who)
    if not bad_terms:
        return ""
    subjects = sorted(set().union(*bad_terms.values()))
    return f"{' and '.join(bad_terms)} became NaN or infinite on the subjects {', '.join(subjects)}"
