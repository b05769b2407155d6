"""Train residual networks on spatial latents for classes, ordered grades or numbers, one per inner fold.

Every network learns from the people outside its fold and predicts those inside. These held-out predictions settle when to
stop, once for all networks; calibration and threshold rest on them too, and never on what was fitted. A new person gets
the mean prediction of all networks. The networks are trained by the platform's own loop, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3d.classify.heads.settings import ResidualSettings
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.models.supervised.losses import label_loss, label_weights, num_scores
from gen3d.models.supervised.task import SupervisedTask
from gen3d.nets.classifiers.residual import GradedHead, ResidualHead
from gen3d.train.batches import MemoryBatches
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.log import StepLog
from gen3d.train.loop import NotFinite, run_loop
from gen3d.train.optim import OptimConfig

Values = NDArray[np.float64]
Shape = tuple[int, ...]

NUM_LOOKS = 10
"""Times within a training at which it could be stopped."""
PATIENCE = 3
"""Looks without a lower held-out loss after which training ends."""
WARM_UP_SHARE = 0.05
LAST_LEARNING_RATE = 0.1
"""Share of the learning rate that is left at the last step; it falls along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm beyond which gradients are shortened: a class of two people weighs heavily in the few batches it is in."""
GRADIENT_MEMORY = 0.999
"""AdamW's beta2: its usual value, as a training of some hundred steps sees every class only now and then."""
PREDICTED_AT_ONCE = 64


@dataclass(frozen=True)
class TrainedHead:
    """Networks of one shape, and their predictions of held-out people.

    held_out: scores [n, num_scores] of every training scan from the network that never saw its person: logits of the classes,
    logits of being above each grade but the last, or the number. steps: those after which training was stopped.
    losses: held-out loss at each look [looks]. offsets: mean held-out score of each network [networks, num_scores], which is taken
    off its scores: networks differ more in the position of their zero than in the order of people, and all share one
    calibration; 0 for a number. centre, spread: of the numbers that are predicted.
    """

    networks: tuple[nn.Module, ...]
    target: Target
    shape: Shape
    held_out: Values
    steps: int
    losses: Values
    offsets: Values
    centre: float = 0.0
    spread: float = 1.0

    def scores(self, latents: NDArray[np.floating]) -> Values:
        """Mean over the networks of their scores for latents [n, C, X, Y, Z], [n, num_scores]."""
        volumes = _tensor(latents, self.shape)
        each = [
            _predicted(network, volumes) - offset for network, offset in zip(self.networks, self.offsets, strict=True)
        ]
        return np.asarray(np.mean(each, axis=0) * self.spread + self.centre)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All weights by name: `0.stem.weight` is of the first network."""
        return {
            f"{number}.{name}": value.detach().cpu().contiguous().numpy()
            for number, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
        }


def train_heads(
    latents: NDArray[np.floating],
    codes: NDArray[np.floating],
    folds: NDArray[np.int64],
    target: Target,
    settings: ResidualSettings,
    seed: int,
    device: str = "cpu",
) -> TrainedHead:
    """Train one network per inner fold and stop all at the step where held-out people are predicted best.

    AdamW, class-weighted focal loss (smooth L1 of the standardised value for a number), the mean of the classes' held-out
    losses to stop by. The same seed gives the same weights on the same machine with the same number of threads.

    Args:
        latents: [n, C, X, Y, Z], standardised.
        codes: class numbers, or values, [n].
        folds: inner fold of each scan [n]; all scans of a person in one.
        target: what the codes mean.
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
    centre, spread = (float(values.mean()), float(values.std()) or 1.0) if target.task == "number" else (0.0, 1.0)
    labels = torch.as_tensor((values - centre) / spread, dtype=torch.float32, device=device)
    shape = tuple(latents.shape[1:])
    volumes = _tensor(latents, shape).to(device)
    looks, trainings, held_out, courses, losses = _looks(settings.steps), [], [], [], []
    with torch.random.fork_rng(devices=[volumes.device] if volumes.is_cuda else []):
        torch.manual_seed(seed)
        for begin, end in pairwise((0, *looks)):
            scores = np.zeros((len(values), num_scores(target)))
            for place, fold in enumerate(numbers):
                if begin == 0:  # here and not before: its initial weights are the next random numbers
                    trainings.append(_FoldTraining(volumes[folds != fold], labels[folds != fold], target, settings))
                scores[folds == fold] = trainings[place].predicted_after(begin, end, volumes[folds == fold])
            held_out.append(scores)
            courses.append([training.weights() for training in trainings])
            losses.append(_held_out_loss(scores, labels, target))
            if len(losses) - int(np.argmin(losses)) > PATIENCE:
                break
    if not np.isfinite(losses).all():
        raise _not_finite(settings)
    best = int(np.argmin(losses))
    networks = tuple(_network(shape, target, settings, weights).cpu().eval() for weights in courses[best])
    offsets = np.stack([_offset(held_out[best][folds == fold], target) for fold in numbers])
    scores = (held_out[best] - offsets[np.searchsorted(numbers, folds)]) * spread + centre
    return TrainedHead(networks, target, shape, scores, looks[best], np.array(losses), offsets, centre, spread)


def restore_head(
    weights: Mapping[str, NDArray[np.float32]],
    target: Target,
    settings: ResidualSettings,
    shape: Shape,
    steps: int,
    offsets: Values,
    centre: float,
    spread: float,
) -> TrainedHead:
    """The head of `TrainedHead.weights()` and its other numbers, without its held-out predictions.

    Raises:
        UserError: weights of another network.
    """
    networks = []
    for number in sorted({int(name.partition(".")[0]) for name in weights}):
        start = f"{number}."
        tensors = {
            name.removeprefix(start): torch.from_numpy(np.array(value))
            for name, value in weights.items()
            if name.startswith(start)
        }
        try:
            networks.append(_network(shape, target, settings, tensors).eval())
        except RuntimeError:
            raise UserError(
                "the weights of the residual head are not those of its settings; make the head again."
            ) from None
    empty = np.zeros((0, num_scores(target)))
    return TrainedHead(tuple(networks), target, shape, empty, steps, np.zeros(0), offsets, centre, spread)


class _FoldTraining:
    """The training of one network, which goes on from look to look."""

    def __init__(self, volumes: Tensor, labels: Tensor, target: Target, settings: ResidualSettings) -> None:
        self.settings = settings
        self.network = _network(tuple(volumes.shape[1:]), target, settings)
        task = SupervisedTask(self.network, target, labels, settings.focal_gamma)
        task.decays_vectors = True
        self.batches = MemoryBatches(volumes, labels, settings.batch_size)
        where = EngineConfig(kind="local", device=volumes.device.type, precision="fp32")
        self.engine = start_engine(where, task, _optim(settings, self.batches.batch_size))

    def predicted_after(self, begin: int, end: int, volumes: Tensor) -> Values:
        """Scores of volumes [n, C, X, Y, Z] after the updates from `begin` to `end`, [n, num_scores]."""
        try:
            run_loop(self.engine, self.batches, begin, end, self.engine.optim.skip_limit, StepLog())
        except NotFinite:
            raise _not_finite(self.settings) from None
        return _predicted(self.network, volumes)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the network's weights as they are."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def _optim(settings: ResidualSettings, batch_size: int) -> OptimConfig:
    # The rate shall be at its peak in the last of the steps in which it rises, for which the share must end just below it.
    rising = max(1, round(WARM_UP_SHARE * settings.steps))
    return OptimConfig(
        steps=settings.steps,
        batch_size=batch_size,
        learning_rate=settings.learning_rate,
        warmup=rising * (1 - 1e-9) / settings.steps,
        final_rate=LAST_LEARNING_RATE,
        weight_decay=settings.weight_decay,
        beta2=GRADIENT_MEMORY,
        clip=LARGEST_GRADIENT,
        ema_decay=0.0,
    )


def _not_finite(settings: ResidualSettings) -> UserError:
    return UserError(
        f"the residual head's loss is not finite with learning_rate={settings.learning_rate:g}; give a smaller one."
    )


def _looks(steps: int) -> list[int]:
    """Steps after which the held-out people are looked at, the last one included."""
    places = np.unique(np.linspace(0, steps, NUM_LOOKS + 1).round().astype(np.int64))
    return [int(place) for place in places if place > 0]


def _network(
    shape: Shape, target: Target, settings: ResidualSettings, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    size = (settings.channels, settings.blocks, settings.dropout)
    with torch.random.fork_rng(devices=[], enabled=weights is not None):  # known weights need no random ones
        if target.task == "ordered":
            network: nn.Module = GradedHead(ResidualHead(shape[0], shape[1:], 1, *size), num_scores(target))
        else:
            network = ResidualHead(shape[0], shape[1:], num_scores(target), *size)
    if weights is not None:
        network.load_state_dict(dict(weights))
    return network


def _tensor(latents: NDArray[np.floating], shape: Shape) -> Tensor:
    return torch.from_numpy(np.array(latents, dtype=np.float32).reshape(-1, *shape))


@torch.no_grad()
def _predicted(network: nn.Module, volumes: Tensor) -> Values:
    network = network.to(volumes.device).eval()
    scores = torch.cat([network(part) for part in volumes.split(PREDICTED_AT_ONCE)])
    return np.asarray(scores.cpu().numpy(), dtype=np.float64)


def _offset(scores: Values, target: Target) -> Values:
    """What is taken off a network's scores [num_scores], from its held-out scores; limits of grades keep their order."""
    if target.task == "number":
        return np.zeros(num_scores(target))
    mean = scores.mean(axis=0)
    return np.full_like(mean, mean.mean()) if target.task == "ordered" else np.asarray(mean)


def _held_out_loss(scores: Values, labels: Tensor, target: Target) -> float:
    """Plain log loss with every class weighing the same (a proper score, which focal loss is not), or smooth L1."""
    known = labels.cpu()
    return float(label_loss(torch.from_numpy(scores), known, target, label_weights(target, known), gamma=0.0))
