"""Weights are made random from the last stage down, and the network itself stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gen3d.explain.judges import FULLY
from gen3d.explain.randomising import cascade
from gen3d.nets.classifiers.base import StagedNetwork


class _Own(nn.Module):
    """A weight of its own, and no way to begin again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0))

    def forward(self, features: Tensor) -> Tensor:
        return features


def network() -> StagedNetwork:
    stages = {
        "one": nn.Conv3d(1, 2, 3),
        "two": nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2), _Own()),
        "pool": nn.AdaptiveAvgPool3d(1),
        "head": nn.Sequential(nn.Flatten(), nn.Linear(2, 2)),
    }
    made = StagedNetwork(stages).eval()
    made.stages["two"][1].running_mean.fill_(7.0)  # type: ignore[index, union-attr]
    return made


def test_the_cascade_goes_down_and_leaves_the_network_and_the_random_numbers_alone() -> None:
    original = network()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    state = torch.random.get_rng_state()
    changed: dict[str, set[str]] = {}
    for step, other in cascade(original, 3):
        own = other.state_dict()
        changed[step] = {name for name, tensor in own.items() if not torch.equal(tensor, before[name])}
        last = {name: tensor.clone() for name, tensor in own.items()}
    assert list(changed) == ["head", "two", FULLY]
    assert {name.split(".")[1] for name in changed["head"]} == {"head"}
    assert {name.split(".")[1] for name in changed["two"]} == {"head", "two"}
    assert "stages.two.1.running_mean" in changed["two"]
    assert "stages.two.2.scale" in changed["two"]
    assert sorted(last["stages.two.2.scale"].tolist()) == list(range(50))
    assert {name.split(".")[1] for name in changed[FULLY]} == {"head", "two", "one"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    again = {name: tensor.clone() for _, other in cascade(original, 3) for name, tensor in other.state_dict().items()}
    assert all(torch.equal(tensor, last[name]) for name, tensor in again.items())
