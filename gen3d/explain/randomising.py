"""A network whose weights are made random again, stage by stage from the last one down (Adebayo et al. 2018, cascading)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from gen3d.explain.judges import FULLY
from gen3d.nets.classifiers.base import StagedNetwork


def cascade(network: StagedNetwork, seed: int) -> Iterator[tuple[str, StagedNetwork]]:
    """Networks with random weights in the last stage, in the last two, ... in all; each by the name of the step.

    One copy is made and changed from step to step; the network itself stays as it is.
    """
    changed = copy.deepcopy(network).eval()
    names = list(reversed(changed.stage_names))
    with_weights = [name for name in names if any(True for _ in changed.stages[name].parameters())]
    for place, name in enumerate(with_weights):
        randomise(changed.stages[name], seed + place)
        yield FULLY if place == len(with_weights) - 1 else name, changed


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Random weights in place: as modules initialise themselves, statistics of normalisations too; others are permuted.

    A permuted weight keeps its distribution and loses its place. The global random numbers are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        renewed: set[int] = set()
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
                renewed |= {id(weights) for weights in part.parameters(recurse=False)}
        for weights in module.parameters():
            if id(weights) not in renewed:
                flat = weights.flatten()
                weights.copy_(flat[torch.randperm(len(flat)).to(flat.device)].view_as(weights))
