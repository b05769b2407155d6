"""What is explained: one number that a classifier gives for a scan, and the member that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.nets.classifiers.base import StagedNetwork

CONTRAST = "contrast"
"""The last class against the first, where a network gives one score per class."""


class View(Protocol):
    """Where the network's view lies in the plan's grid: first voxel (negative: padding in front) and voxels along x, y, z."""

    @property
    def start(self) -> tuple[int, int, int]: ...

    @property
    def size(self) -> tuple[int, int, int]: ...


class Seeing(Protocol):
    """A classifier as explanations need it, see `gen3d.models.supervised.classifier.Classifier`."""

    @property
    def network(self) -> StagedNetwork: ...

    @property
    def window(self) -> View: ...

    def view(self, volumes: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AskedScore:
    """A weighted sum of a network's raw scores, before any softmax, and what it is called."""

    weights: tuple[float, ...]
    words: str


def question_of(target: Target, answer: str) -> AskedScore:
    """The number that `answer` names.

    Args:
        target: of the classifier.
        answer: `contrast`: the logit of the last class less that of the first; of ordered grades the mean logit of being above a
            grade; of a number the number itself. Or a class of the target: its logit.

    Raises:
        UserError: no such class.
    """
    classes = target.classes
    if answer == CONTRAST:
        if target.task == "number":
            return AskedScore((1.0,), target.name)
        if target.task == "ordered":
            return AskedScore((1 / (len(classes) - 1),) * (len(classes) - 1), f"how far above {classes[0]}")
        weights = [0.0] * len(classes)
        weights[0], weights[-1] = -1.0, 1.0
        return AskedScore(tuple(weights), f"logit of {classes[-1]} less that of {classes[0]}")
    if target.task != "categories":
        raise UserError(f"answer={answer}: {target.name} is {_kind(target)}, which has one answer; leave out answer=.")
    if answer not in classes:
        raise UserError(f"answer={answer}: no such class; give contrast or one of {', '.join(classes)}.")
    return AskedScore(tuple(float(name == answer) for name in classes), f"logit of {answer}")


def _kind(target: Target) -> str:
    return "a number" if target.task == "number" else "a grade"


@dataclass(frozen=True)
class Answering:
    """One member of a run that answers a question about one person, whose age some networks are told."""

    model: Seeing
    question: AskedScore
    age_years: float

    def of_view(self, views: Tensor) -> Tensor:
        """The answers [B] to views [B, C, x, y, z] of the network."""
        network = self.model.network
        ages = views.new_full((len(views),), self.age_years) if network.takes_age else None
        return network(views, ages).float() @ views.new_tensor(self.question.weights).float()

    @torch.no_grad()
    def of_volumes(self, volumes: Tensor, batch: int) -> Tensor:
        """The answers [n] to volumes [n, C, X, Y, Z] in stored units, so many at a time."""
        return torch.cat([self.of_view(self.model.view(part)) for part in volumes.split(batch)])

    def on_grid(self, seen: Any, shape: tuple[int, ...]) -> Any:
        """What belongs to the voxels of the view, [..., x, y, z], on those of the plan's grid [..., X, Y, Z]; 0 elsewhere."""
        window = self.model.window
        placed = seen.new_zeros((*seen.shape[:-3], *shape))
        inside, taken = [], []
        for start, size, side in zip(window.start, window.size, shape, strict=True):
            low, high = max(start, 0), min(start + size, side)
            inside.append(slice(low, high))
            taken.append(slice(low - start, high - start))
        placed[(..., *inside)] = seen[(..., *taken)]
        return placed
