"""Learning classes, ordered grades or numbers from spatial latents with residual networks, one per inner fold.

Every network learns from the people outside its fold and answers for those inside. The answers to people whom a network never saw
settle when to stop, once for all networks; they are handed out, so that calibration and threshold never rest on what was
fitted. A new person gets the mean answer of all networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.classifiers.residual import GradedHead, ResidualHead

Task = Literal["categories", "ordered", "number"]
NUM_LOOKS = 10
"""Times within a training at which it could be stopped."""
PATIENCE = 3
"""Looks without a lower held-out loss after which training ends."""
WARM_UP_SHARE = 0.05
LAST_LEARNING_RATE = 0.1
"""Share of the learning rate that is left at the last step; it falls along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm beyond which gradients are shortened: a class of two people weighs heavily in the few batches it is in."""
ANSWER_BATCH = 64


class TrainingSettings(Protocol):
    """What a head's settings say of its networks and their training."""

    @property
    def channels(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def focal_gamma(self) -> float: ...
    @property
    def dropout(self) -> float: ...


@dataclass(frozen=True)
class Question:
    """What is asked: the task, and the number of classes (0 for a number)."""

    task: Task
    num_classes: int = 0

    @property
    def num_scores(self) -> int:
        """Numbers that a network gives per person: a logit per class, a score per step between grades, or one number."""
        return {"categories": self.num_classes, "ordered": self.num_classes - 1, "number": 1}[self.task]


@dataclass(frozen=True)
class TrainedHead:
    """Networks of one shape, and what they answered to people they never saw.

    held_out: scores [n, num_scores] of every training scan from the network that never saw its person: logits of the classes,
    logits of being above each grade but the last, or the number. steps: those after which training was stopped.
    losses: held-out loss at each look [looks]. offsets: mean held-out score of each network [networks, num_scores], which is taken
    off its scores: networks differ in where their zero lies more than in whom they find likelier, and calibration is common to
    all; 0 for a number. centre, spread: of the numbers that are predicted.
    """

    networks: tuple[nn.Module, ...]
    question: Question
    shape: tuple[int, ...]
    held_out: NDArray[np.float64]
    steps: int
    losses: NDArray[np.float64]
    offsets: NDArray[np.float64]
    centre: float = 0.0
    spread: float = 1.0

    def scores(self, latents: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean over the networks of their scores for latents [n, C, X, Y, Z], [n, num_scores]."""
        volumes = _tensor(latents, self.shape)
        each = [
            _answers(network, volumes) - offset for network, offset in zip(self.networks, self.offsets, strict=True)
        ]
        return np.asarray(np.mean(each, axis=0) * self.spread + self.centre)

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, on the CPU: `0.stem.weight` is of the first network."""
        return {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
        }


def class_weights(codes: NDArray[np.floating], num_classes: int) -> NDArray[np.float64]:
    """n / (classes x people of the class), so that every class weighs the same; 0 for a class with nobody, [classes]."""
    counts = np.bincount(np.asarray(codes, dtype=np.int64), minlength=num_classes).astype(np.float64)
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1.0)), 0.0)


def focal_loss(logits: Tensor, codes: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Mean over scans of w_y (1 - p_y)^gamma (-log p_y); class-weighted cross-entropy for gamma 0 (Lin et al. 2017, eq. 5).

    Args:
        logits: [n, classes].
        codes: class numbers [n], integer.
        weights: of the classes [classes].
        gamma: how much less a scan counts that is already told well.
    """
    log_p = functional.log_softmax(logits.float(), dim=1).gather(1, codes[:, None]).squeeze(1)
    return (weights[codes] * _focus(log_p, gamma) * -log_p).mean()


def ordered_focal_loss(logits: Tensor, codes: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """The same for the questions `above grade k?`, summed over k, of logits [n, classes - 1] (Cao et al. 2020)."""
    above = codes[:, None] > torch.arange(logits.shape[1], device=logits.device)
    log_p = functional.logsigmoid(torch.where(above, logits, -logits).float())
    return (weights[codes] * (_focus(log_p, gamma) * -log_p).sum(1)).mean()


def _focus(log_p: Tensor, gamma: float) -> Tensor | float:
    # A clamp away from 0 keeps the gradient of a power below 1 finite for scans that are told perfectly.
    return 1.0 if gamma == 0 else (-torch.expm1(log_p)).clamp(min=1e-6).pow(gamma)


def train_heads(
    latents: NDArray[np.floating],
    codes: NDArray[np.floating],
    folds: NDArray[np.int64],
    question: Question,
    settings: TrainingSettings,
    seed: int,
    device: str = "cpu",
) -> TrainedHead:
    """Train one network per inner fold and stop all at the step where people they never saw are told best.

    AdamW, class-weighted focal loss (smooth L1 of the standardised value for a number), the mean of the classes' held-out
    losses to stop by. The same seed gives the same weights on the same machine with the same number of threads.

    Args:
        latents: [n, C, X, Y, Z], standardised.
        codes: class numbers, or values, [n].
        folds: inner fold of each scan [n]; all scans of a person in one.
        question: the task.
        settings: of the networks and the training.
        seed: of initial weights, batches and dropout.
        device: `cpu` or `cuda`.

    Raises:
        UserError: fewer than two folds, or a loss that is not finite.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise UserError(
            f"the residual head needs people in at least two inner folds, found {len(numbers)}; add people."
        )
    values = np.asarray(codes, dtype=np.float64)
    centre, spread = (float(values.mean()), float(values.std()) or 1.0) if question.task == "number" else (0.0, 1.0)
    targets = torch.as_tensor((values - centre) / spread, dtype=torch.float32, device=device)
    shape = tuple(latents.shape[1:])
    volumes = _tensor(latents, shape).to(device)
    held_out, courses, losses = [], [], []
    with torch.random.fork_rng(devices=[volumes.device] if volumes.is_cuda else []):
        torch.manual_seed(seed)
        trainings = [_train(volumes[folds != fold], targets[folds != fold], question, settings) for fold in numbers]
        for weights in zip(*trainings, strict=True):
            scores = np.zeros((len(values), question.num_scores))
            for fold, found in zip(numbers, weights, strict=True):
                scores[folds == fold] = _answers(_network(shape, question, settings, found), volumes[folds == fold])
            held_out.append(scores)
            courses.append(weights)
            losses.append(_held_out_loss(scores, targets, question))
            if len(losses) - int(np.argmin(losses)) > PATIENCE:
                break
    if not np.isfinite(losses).all():
        raise UserError(
            f"the residual head's loss is not finite with learning_rate={settings.learning_rate:g}; give a smaller one."
        )
    best = int(np.argmin(losses))
    networks = tuple(_network(shape, question, settings, found).cpu().eval() for found in courses[best])
    steps = int(_looks(settings.steps)[best])
    offsets = np.stack([_offset(held_out[best][folds == fold], question) for fold in numbers])
    scores = (held_out[best] - offsets[np.searchsorted(numbers, folds)]) * spread + centre
    return TrainedHead(networks, question, shape, scores, steps, np.array(losses), offsets, centre, spread)


def restore_head(
    tensors: Mapping[str, Tensor],
    question: Question,
    settings: TrainingSettings,
    shape: tuple[int, ...],
    steps: int,
    offsets: NDArray[np.float64],
    centre: float,
    spread: float,
) -> TrainedHead:
    """The head of `TrainedHead.tensors()` and its other numbers, without what it answered in training.

    Raises:
        UserError: tensors of another network.
    """
    numbers = sorted({int(name.partition(".")[0]) for name in tensors})
    networks = []
    for number in numbers:
        start = f"{number}."
        weights = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        try:
            networks.append(_network(shape, question, settings, weights).eval())
        except RuntimeError:
            raise UserError(
                "the weights of the residual head are not those of its settings; make the head again."
            ) from None
    empty = np.zeros((0, question.num_scores))
    return TrainedHead(tuple(networks), question, shape, empty, steps, np.zeros(0), offsets, centre, spread)


def _looks(steps: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, steps, NUM_LOOKS + 1).round().astype(np.int64)[1:])


def _train(
    volumes: Tensor, targets: Tensor, question: Question, settings: TrainingSettings
) -> Iterator[dict[str, Tensor]]:
    """Train one network; its weights at every look."""
    network = _network(tuple(volumes.shape[1:]), question, settings).to(volumes.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_rate(step, settings.steps))
    weights, looks = _weights(targets, question), set(_looks(settings.steps).tolist())
    order = torch.empty(0, dtype=torch.int64)
    size = min(settings.batch_size, len(volumes))
    for step in range(1, settings.steps + 1):
        if len(order) < size:  # a new round through everybody begins where the old one ends
            order = torch.cat([order, torch.randperm(len(volumes))])
        chosen, order = order[:size].to(volumes.device), order[size:]
        optimiser.zero_grad(set_to_none=True)
        _loss(network.train()(volumes[chosen]), targets[chosen], question, weights, settings.focal_gamma).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        schedule.step()
        if step in looks:
            yield {name: value.detach().clone() for name, value in network.state_dict().items()}


def _share_of_rate(step: int, steps: int) -> float:
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return LAST_LEARNING_RATE + (1 - LAST_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _weights(targets: Tensor, question: Question) -> Tensor:
    if question.task == "number":
        return torch.ones(1, device=targets.device)
    weights = class_weights(targets.cpu().numpy(), question.num_classes)
    return torch.as_tensor(weights, dtype=torch.float32, device=targets.device)


def _loss(raw: Tensor, targets: Tensor, question: Question, weights: Tensor, gamma: float) -> Tensor:
    if question.task == "number":
        return functional.smooth_l1_loss(raw.squeeze(1), targets.to(raw.dtype))
    loss = ordered_focal_loss if question.task == "ordered" else focal_loss
    return loss(raw, targets.long(), weights, gamma)


def _network(
    shape: tuple[int, ...], question: Question, settings: TrainingSettings, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    size = (settings.channels, settings.blocks, settings.dropout)
    with torch.random.fork_rng(devices=[], enabled=weights is not None):  # known weights need no random ones
        if question.task == "ordered":
            network: nn.Module = GradedHead(ResidualHead(shape[0], shape[1:], 1, *size), question.num_scores)
        else:
            network = ResidualHead(shape[0], shape[1:], question.num_scores, *size)
    if weights is not None:
        network.load_state_dict(dict(weights))
    return network


def _tensor(latents: NDArray[np.floating], shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.array(latents, dtype=np.float32).reshape(-1, *shape))


@torch.no_grad()
def _answers(network: nn.Module, volumes: Tensor) -> NDArray[np.float64]:
    network = network.to(volumes.device).eval()
    answers = torch.cat([network(part) for part in volumes.split(ANSWER_BATCH)])
    return np.asarray(answers.cpu().numpy(), dtype=np.float64)


def _offset(scores: NDArray[np.float64], question: Question) -> NDArray[np.float64]:
    """What is taken off a network's scores [num_scores], from its held-out scores; limits of grades keep their order."""
    if question.task == "number":
        return np.zeros(question.num_scores)
    mean = scores.mean(axis=0)
    return np.full_like(mean, mean.mean()) if question.task == "ordered" else np.asarray(mean)


def _held_out_loss(scores: NDArray[np.float64], targets: Tensor, question: Question) -> float:
    """Plain log loss with every class weighing the same (a proper score, which focal loss is not), or smooth L1."""
    known = targets.cpu()
    return float(_loss(torch.from_numpy(scores), known, question, _weights(known, question), gamma=0.0))
