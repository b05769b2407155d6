"""Looks at people who only watch a training: which weights are kept, and when the learning rate falls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.artefact import write_json
from gen3d.core.plain_files import load_json
from gen3d.models.task import Losses
from gen3d.models.weights import read_weights, save_weights
from gen3d.train.engine.interface import Engine
from gen3d.train.log import StepLog

LOOKS = "looks.json"
"""In a member's folder: step and validation loss of every look."""

Look = tuple[int, float]


def look_steps(steps: int, num_looks: int) -> list[int]:
    """Steps after which the watching people are scored, the last one included."""
    places = np.unique(np.linspace(0, steps, num_looks + 1).round().astype(np.int64))
    return [int(place) for place in places if place > 0]


def read_looks(folder: Path) -> list[Look]:
    """The looks of a member, in their order; none where there were none."""
    path = folder / LOOKS
    return [(int(step), float(loss)) for step, loss in load_json(path)] if path.is_file() else []


def best_of(looks: Sequence[Look]) -> int | None:
    """Step of the lowest loss, the earliest of equal ones."""
    return min(looks, key=lambda look: (look[1], look[0]))[0] if looks else None


@dataclass(frozen=True)
class Keeping:
    """Where a member's looks and its best weights are kept, and what the weights belong to."""

    member_folder: Path
    checkpoint_folder: Path
    plan_key: str
    kind: str

    def best(self, step: int) -> Path:
        """The weights of a look, while the training goes on."""
        return self.checkpoint_folder / f"best_{step:08d}.safetensors"


class Looks(StepLog):
    """A log that also looks: the averaged weights with the lowest validation loss are kept.

    A look at a step comes before the checkpoint of that step, so that a resumed training knows all looks before it.
    """

    def __init__(
        self,
        log: StepLog,
        steps: Sequence[int],
        loss_of: Callable[[nn.Module], float],
        keeping: Keeping,
        engine: Engine,
    ) -> None:
        self.log, self.steps, self.loss_of, self.keeping = log, set(steps), loss_of, keeping
        self.engine, self.processes = engine, engine.processes
        self._looks: list[Look] = []

    def start(self, step: int) -> None:
        """Begin at a step, with the looks up to it."""
        before = self.processes.on_first(lambda: read_looks(self.keeping.member_folder))
        self._looks = [look for look in before if look[0] <= step]
        self._set_rate()
        self.log.start(step)

    def collect(self, seen: Iterable[tuple[str, tuple[str, ...], Losses]]) -> None:
        """As of the log."""
        self.log.collect(seen)

    def after(self, step: int, engine: Engine) -> None:
        """Look where it is due; every process calls it."""
        if step in self.steps:
            loss = self._look(step)
            self.log.collect([("model", (), {"validation": torch.tensor(loss)})])
        self.log.after(step, engine)

    def _look(self, step: int) -> float:
        with self.engine.averaged() as model:
            loss = self.processes.on_first(lambda: self.loss_of(cast(nn.Module, model)))
        tensors = self.engine.export()
        self._looks.append((step, loss))
        self.processes.on_first(lambda: self._keep(step, tensors))
        self._set_rate()
        return loss

    def _keep(self, step: int, tensors: dict[str, Tensor] | None) -> None:
        """Keep the weights if they are the best, then write the looks down, then let the former best go."""
        assert tensors is not None
        keeping = self.keeping
        best = best_of(self._looks)
        if best == step:
            save_weights(keeping.best(step), tensors, keeping.plan_key, keeping.kind)
        keeping.member_folder.mkdir(parents=True, exist_ok=True)
        write_json(keeping.member_folder / LOOKS, self._looks)
        for path in keeping.checkpoint_folder.glob("best_*.safetensors"):
            if best is not None and path != keeping.best(best):
                path.unlink()

    def _set_rate(self) -> None:
        self.engine.rate_share = self.engine.optim.plateau_share([loss for _, loss in self._looks])

    def best_weights(self) -> dict[str, Tensor] | None:
        """The state with the lowest validation loss, in the first process."""
        step = best_of(self._looks)
        assert step is not None, "the last step is always looked at"
        if not self.processes.first:
            return None
        return read_weights(self.keeping.best(step), self.keeping.plan_key, self.keeping.kind)
