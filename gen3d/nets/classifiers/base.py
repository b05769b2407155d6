"""What every image classifier offers: named stages in order, so that it can be frozen, cached and explained anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

HEAD = "head"
HEAD_SD = 0.01
"""Of the initial weights of a new last layer."""

_BATCH_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class StagedNetwork(nn.Module):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores], stage by stage; the last stage is called `head`.

    A stage is a module of one input and one output. The output of every stage but the head is a map of features
    [B, F, ...] whose positions `gen3d.nets.classifiers.geometry` can place in the volume.
    """

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        super().__init__()
        names = list(stages)
        assert names[-1:] == [HEAD], names
        self.stages = nn.ModuleDict(dict(stages))
        self._frozen: tuple[str, ...] = ()

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(self.stages)

    def forward(self, volumes: Tensor, age_years: Tensor | None = None) -> Tensor:
        """Scores [B, num_scores] of volumes [B, C, X, Y, Z]; ages [B] for networks that take them."""
        return self.from_features(volumes, "", age_years)

    def features(self, volumes: Tensor, last: str) -> Tensor:
        """The output of the stage `last`; the volumes themselves for ""."""
        for name in self.upto(last):
            volumes = self.stages[name](volumes)
        return volumes

    def from_features(self, features: Tensor, last: str, age_years: Tensor | None = None) -> Tensor:
        """Scores [B, num_scores], given the output of the stage `last`; the volumes for ""."""
        for name in self.stage_names[len(self.upto(last)) :]:
            stage = self.stages[name]
            features = stage(features, age_years) if name == HEAD and self.takes_age else stage(features)
        return features

    @property
    def takes_age(self) -> bool:
        """Whether the head is given the person's age."""
        return False

    def upto(self, last: str) -> tuple[str, ...]:
        """Names of the stages up to and with `last`; none for ""."""
        return self.stage_names[: self.stage_names.index(last) + 1] if last else ()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the stages that are kept as they are."""
        return self._frozen

    def freeze(self, last: str) -> None:
        """Keep the stages up to `last` as they are: no gradients, and normalisations in evaluation mode for good."""
        self._frozen = self.upto(last)
        for name in self._frozen:
            self.stages[name].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> StagedNetwork:
        """As of every module, but that frozen stages stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for name in self._frozen:
            self.stages[name].eval()
        return self


def new_head(num_features: int, num_scores: int) -> nn.Linear:
    """A linear layer that starts small, so that the first steps do not throw learned features about."""
    linear = nn.Linear(num_features, num_scores)
    nn.init.normal_(linear.weight, std=HEAD_SD)
    nn.init.zeros_(linear.bias)
    return linear


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take the running statistics of every batch normalisation from these volumes, without labels.

    Statistics of the videos or pictures that weights were learned on are not those of scans; and those of a network of random
    weights are not statistics of anything, so that frozen it would let its features vanish.
    """
    found = [module for module in network.modules() if isinstance(module, _BATCH_NORMALISATIONS)]
    momenta = [module.momentum for module in found]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for module in found:
        module.reset_running_stats()
        module.momentum = None  # the mean over all batches
        module.training = True
    for batch in batches:
        network(batch)
    for module, momentum in zip(found, momenta, strict=True):
        module.momentum = momentum
    for part, training in modes:
        part.training = training


def num_weights(module: nn.Module, trained: bool = False) -> int:
    """Weights of a module; `trained` counts those that have gradients only."""
    return sum(weights.numel() for weights in module.parameters() if weights.requires_grad or not trained)
