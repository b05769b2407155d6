"""Started by torchrun: trains each case of a JSON file in turn, or notes the sentence it ended with.

    torchrun --nproc-per-node N -m tests.train.worker CASES.json RESULTS.json

CASES.json is a list of settings of the verb train. Beside them may stand, each as [rank, step]: `stop` sends SIGUSR1 to
that process at the start of that step, `kill` SIGKILL, `freeze` SIGSTOP (the last two not after a restart); and
`small`, for a small network in a classifier; and
`rank 1: {settings}`, which only that process gets. RESULTS.json gets, from the first process, one entry per case: "" or
the error's sentence. One start for many cases: starting Python and its libraries takes most of a small training's time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gen3d.core.errors import UserError
from gen3d.models.supervised import classifier
from gen3d.models.task import Batch
from gen3d.train.batches import Batches
from gen3d.train.train import Train
from tests.train.small_network import small_network

FAULTS = {"stop": signal.SIGUSR1, "kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


def meet_faults(faults: dict[signal.Signals, list[int]]) -> None:
    """Send this process its signals when it reads the first batch of their step."""
    original = Batches.at

    def at(self: Batches, step: int, part: int) -> Batch:
        for number, place in faults.items():
            if [self.rank, step] == place and part == 0:
                os.kill(os.getpid(), number)
        batch: Batch = original(self, step, part)
        return batch

    Batches.at = at  # type: ignore[method-assign]


def run(settings: dict[str, Any]) -> str:
    original = Batches.at
    settings |= settings.pop(f"rank {os.environ['RANK']}", {})
    settings = {name: value for name, value in settings.items() if not name.startswith("rank ")}
    if settings.pop("small", False):
        classifier.build_network = small_network
    faults = {number: settings.pop(name) for name, number in FAULTS.items() if name in settings}
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        meet_faults(faults)
    try:
        Train.model_validate(settings).run()
    except UserError as error:
        return str(error)
    finally:
        Batches.at = original  # type: ignore[method-assign]
    return ""


def main() -> None:
    cases, results = (Path(argument) for argument in sys.argv[1:3])
    sentences = [run(settings) for settings in json.loads(cases.read_text())]
    if os.environ["RANK"] == "0":
        results.write_text(json.dumps(sentences))
        print(*sentences, sep="\n")
    sys.stdout.flush()
    os._exit(0 if all("goes on from it" not in sentence for sentence in sentences) else 1)


if __name__ == "__main__":
    main()
