"""Weights & Biases: a run per member, written to files that `wandb sync` can send.

It has no runs within runs. The members of a training are one group, and so are all members of all trials of a sweep.
Without WANDB_MODE nothing is sent: the files lie in `wandb/` beside the run folder, or beside the folder of the sweep.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from gen3d.train.tracking.sinks import Ending, NotInstalled, TrackedTraining
from gen3d.train.tracking.wandb_files import entries_of, files_of

PROJECT, STEP = "gen3d", "step"


class WandbSink:
    """Writes settings, figures, pictures and hashes.

    A member that goes on writes another file under the same run's id, in which the steps follow those of the files before. What
    a killed process had not yet handed to the disk is in none of them, unless it is made a second time.
    """

    name: ClassVar = "Weights & Biases"

    def __init__(self) -> None:
        self._module: Any = None
        self._training: TrackedTraining | None = None
        self._ids: dict[str, str] = {}
        self._run: Any = None
        self._last = -1

    def begin(self, training: TrackedTraining, known: Mapping[str, str]) -> Mapping[str, str]:
        """Choose the ids of the members' runs; a run is opened when its member begins."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ImportError:
            raise NotInstalled(self.name, "wandb") from None
        self._module, self._training = wandb, training
        names = [f"member {member}" for member in range(training.num_members)]
        self._ids = {name: known.get(name) or uuid4().hex[:12] for name in names}
        return self._ids

    def begin_member(self, member: int, step: int) -> None:
        """Open the member's run; steps after the last checkpoint are made a second time, and its files tell which they are."""
        training, num, run = self._training, len(self._ids), self._ids[f"member {member}"]
        assert training is not None
        self._last = max((_last_step(path) for path in files_of(training.home, run)), default=-1)
        self._run = self._module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run,
            name=training.name if num == 1 else f"{training.name} member {member + 1} of {num}",
            group=training.name if training.within is None else training.within.name,
            config={**training.settings, **training.tags, "member": member},
            dir=str(training.home),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",
            settings=self._module.Settings(
                console="off",
                save_code=False,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
                init_timeout=20,
            ),
        )
        self._run.define_metric("*", step_metric=STEP)

    def losses(self, member: int, step: int, values: Mapping[str, float]) -> None:
        """Figures over the updates."""
        if step > self._last:
            self._write(step, values)

    def picture(self, member: int, step: int, path: Path) -> None:
        """A copy of the picture."""
        if step > self._last:
            self._write(step, {"picture": self._module.Image(str(path))})

    def end_member(self, member: int, hashes: Mapping[str, str]) -> None:
        """Write the hashes of its files and close its run."""
        if self._run is not None:
            self._run.summary.update({f"sha256/{name}": digest for name, digest in hashes.items()})
            self._close(0)

    def end(self, ending: Ending, hashes: Mapping[str, str]) -> None:
        """Close the run of a member that was not finished; the family has no run of its own."""
        self._close(1)

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        # W&B's own count begins at 0 in every file; with the training's, the files of one run follow each other.
        self._run.log({**values, STEP: step}, step=step)

    def _close(self, exit_code: int) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=exit_code)


def _last_step(path: Path) -> int:
    """The last step of which a file has figures or a picture; -1 if there is none."""
    from wandb.proto import wandb_internal_pb2

    records: Any = wandb_internal_pb2  # its classes are made when it is loaded
    last = -1
    for entry in entries_of(path):
        for item in records.Record.FromString(entry).history.item:
            if (item.key or "/".join(item.nested_key)) == STEP:
                last = max(last, json.loads(item.value_json))
    return last
