"""A training that kills its own process, without warning, at a chosen place in the code."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from gen3d.train.batches import Batches
from gen3d.train.train import Train


def train_and_die(settings: dict[str, Any], after_calls: int, in_steps: bool, counted: str) -> None:
    """Train; SIGKILL this process at its `after_calls`-th function call (0: never), or write how many there were.

    With `in_steps` the calls are counted from the first batch on, otherwise from the start.
    """
    calls, counting = 0, not in_steps

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls, counting
        counting = counting or frame.f_code is Batches.at.__code__
        calls += counting and event in ("call", "c_call")
        if calls and calls == after_calls:
            os.kill(os.getpid(), signal.SIGKILL)

    verb = Train.model_validate(settings)
    sys.setprofile(count)
    verb.run()
    sys.setprofile(None)
    with open(counted, "w") as stream:
        stream.write(str(calls))
