"""torchrun, except that a stop signal counts once and ends it without a traceback.

A batch system may send one signal several times (to this process, and to the script that passes it on). torchrun raises
at each, also while it waits for its workers to save their checkpoint, and would leave them behind.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException, api

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def _once(signum: int, frame: FrameType | None) -> None:
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise SignalException(f"stopped by {signal.Signals(signum).name}", sigval=signal.Signals(signum))


if __name__ == "__main__":
    api._terminate_process_handler = _once  # what torchrun installs whenever it starts workers
    for stop in STOPS:
        signal.signal(stop, _once)
    try:
        run.main(["--signals-to-handle", ",".join(stop.name for stop in STOPS), *sys.argv[1:]])
    except SignalException:
        sys.exit(1)  # node.sh knows the workers' own code
