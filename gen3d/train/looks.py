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


@dataclass(frozen=True)
class LookJudge:
    """What is done at a look, by the first process.

    `settle` brings the model in order before it is judged and kept; `loss` is its validation loss, None where nobody watches:
    then the last weights are kept.
    """

    settle: Callable[[nn.Module], None]
    loss: Callable[[nn.Module], float] | None


class Looks(StepLog):
    """A log that also looks: the averaged weights with the lowest validation loss are kept.

    A look at a step comes before the checkpoint of that step, so that a resumed training knows all looks before it.
    """

    def __init__(self, log: StepLog, steps: Sequence[int], judge: LookJudge, keeping: Keeping, engine: Engine) -> None:
        self.log, self.steps, self.judge, self.keeping = log, set(steps), judge, keeping
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
            with self.engine.averaged() as model:
                loss = self.processes.on_first(lambda: self._look(step, cast(nn.Module, model)))
            if loss is not None:
                self._looks += [] if self.processes.first else [(step, loss)]
                self.log.collect([("model", (), {"validation": torch.tensor(loss)})])
            self._set_rate()
        self.log.after(step, engine)

    def _look(self, step: int, model: nn.Module) -> float | None:
        """LookJudge the model, and keep its weights if they are the best; it is left as it was."""
        before = {name: value.clone() for name, value in model.named_buffers()}
        self.judge.settle(model)
        if self.judge.loss is None:
            loss = None
            self._save(step, model)
        else:
            loss = self.judge.loss(model)
            self._looks.append((step, loss))
            if best_of(self._looks) == step:
                self._save(step, model)
            write_json(self.keeping.member_folder / LOOKS, self._looks)
        for path in self.keeping.checkpoint_folder.glob("best_*.safetensors"):
            if path != self.keeping.best(self._kept(step)):
                path.unlink()
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(before[name])
        return loss

    def _save(self, step: int, model: nn.Module) -> None:
        self.keeping.member_folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.keeping.best(step), model.state_dict(), self.keeping.plan_key, self.keeping.kind)

    def _kept(self, last: int) -> int:
        """The step whose weights are kept."""
        best = best_of(self._looks)
        return last if best is None else best

    def _set_rate(self) -> None:
        self.engine.rate_share = self.engine.optim.plateau_share([loss for _, loss in self._looks])

    def best_weights(self) -> dict[str, Tensor] | None:
        """The state with the lowest validation loss, in the first process."""
        if not self.processes.first:
            return None
        step = self._kept(max(self.steps))
        return read_weights(self.keeping.best(step), self.keeping.plan_key, self.keeping.kind)
