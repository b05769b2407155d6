"""Trials worked off on this machine, some at a time, and stopped without loss."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from gen3d.core.errors import Interrupted, UserError
from gen3d.core.progress import say
from gen3d.sweep.objective import read_lines
from gen3d.sweep.search import worse_than_median
from gen3d.sweep.settings import Prune
from gen3d.sweep.trial import DONE, Trial, Work, read_trials
from gen3d.train.stopping import StopSignal

POLL_S = 0.2
LOG = "log.jsonl"


def work_off(
    numbers: Iterable[int],
    begin: Callable[[int, int], Work],
    ended: Callable[[Trial], None],
    at_once: int,
    patience_s: float | None = None,
) -> None:
    """Work on the trials `numbers`, `at_once` at a time.

    Args:
        numbers: trials, in order.
        begin: (number, slot) -> the work on a trial; called when a slot is free, so that it knows what came before.
        ended: called with every trial that is over.
        at_once: how many work side by side.
        patience_s: how long a trial may be held by another process; None: as long as it takes.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the trials at work were asked to save, and did.
        UserError: from `begin` or `ended`, or patience ran out; the trials at work are stopped first.
    """
    waiting, at_work = deque(numbers), dict[int, Work]()
    began = time.monotonic()
    with StopSignal() as stop:
        try:
            while waiting or at_work:
                if stop.received is not None:
                    waiting.clear()
                    _stop(at_work)
                for slot in range(at_once):
                    if slot not in at_work and waiting:
                        at_work[slot] = begin(waiting.popleft(), slot)
                _poll(at_work, ended)
                if at_work:
                    _say_who_waits(at_work, time.monotonic() - began, patience_s)
                    time.sleep(POLL_S)
        except UserError:
            _stop(at_work)
            while at_work:
                _poll(at_work, lambda trial: None)
                time.sleep(POLL_S)
            raise
        except BaseException:
            for work in at_work.values():
                work.kill()
            raise
    if stop.received is not None:
        raise interrupted(stop.received)


def interrupted(number: int) -> Interrupted:
    """The exception to leave with on a signal: exit code 128 + its number."""
    error = Interrupted(
        f"stopped by {signal.Signals(number).name}; finished trials are kept, and those at work have saved what they "
        "did: the same command goes on."
    )
    error.exit_code = 128 + number
    return error


def _poll(at_work: dict[int, Work], ended: Callable[[Trial], None]) -> None:
    for slot, work in list(at_work.items()):
        if work.poll():
            del at_work[slot]
            ended(work.trial)


def _stop(at_work: dict[int, Work]) -> None:
    for work in at_work.values():
        work.stop()


def _say_who_waits(at_work: dict[int, Work], waited_s: float, patience_s: float | None) -> None:
    for work in at_work.values():
        if work.waits_for_lock and patience_s is not None and waited_s > patience_s:
            raise UserError(f"{work.trial.folder}: another process is working on this trial; nothing to do here.")
        if work.waits_for_lock and not work.said_it_waits:
            work.said_it_waits = True
            say(f"trial {work.trial.number}: processes of an earlier start are still at it; waiting for them.")


class MedianRule:
    """Whether a trial at work is hopeless: Optuna's median rule on a term of its training log."""

    def __init__(self, prune: Prune, trials: Path) -> None:
        self.prune, self.trials = prune, trials
        self._seen: dict[int, int] = {}

    def __call__(self, trial: Trial) -> bool:
        """Judge again when the trial's log has grown."""
        path = trial.folder / self.prune.step / LOG
        size = path.stat().st_size if path.is_file() else 0
        if size == self._seen.get(trial.number, 0):
            return False
        self._seen[trial.number] = size
        mine = self._curve(path)
        if not mine or max(mine) < self.prune.after_steps:
            return False
        others = [other for other in read_trials(self.trials).values() if other.status == DONE]
        return worse_than_median(self.prune, mine, [self._curve(o.folder / self.prune.step / LOG) for o in others])

    def _curve(self, path: Path) -> dict[int, float]:
        """{step: value} of the term, of the run's first member."""
        entries = [entry for entry in read_lines(path) if entry.get("member", 0) == 0]
        curve = {int(entry["step"]): float(entry[self.prune.term]) for entry in entries if self.prune.term in entry}
        if entries and not curve:
            raise UserError(
                f"prune.term: {path} has no `{self.prune.term}`; its entries have {', '.join(entries[-1])}."
            )
        return curve
