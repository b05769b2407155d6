"""Stop on a signal at the next step, with everything saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from gen3d.core.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopSignal:
    """Within this context SIGINT, SIGTERM, SIGUSR1 and SIGHUP are noted instead of obeyed; a second SIGINT stops at once.

    SLURM sends SIGTERM when it preempts a job, and SIGUSR1 a while before the time limit when it is asked to; a terminal
    sends SIGHUP when it is closed. A signal that is ignored stays so (nohup). With `listening` false, signals do what they
    did before: there is nothing to save.
    """

    def __init__(self, listening: bool = True) -> None:
        self.listening = listening
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if self.listening and threading.current_thread() is threading.main_thread():
            for number in STOPS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number


def stopped_by(number: int, step: int, steps: int) -> Interrupted:
    """The exception to leave with: exit code 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1, 129 for SIGHUP."""
    stopped = Interrupted(
        f"stopped by {signal.Signals(number).name} after step {step} of {steps}, the checkpoint is saved; "
        "run the same command again, it goes on from there."
    )
    stopped.exit_code = 128 + number
    return stopped
