"""Stages of a network: statistics taken from scans."""

from __future__ import annotations

import torch
from torch import nn

from gen3d.nets.classifiers.base import StagedNetwork, recalibrate


def network() -> StagedNetwork:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 1), nn.BatchNorm3d(3))
    head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 2))
    return StagedNetwork({"body": body, "head": head})


def test_recalibrated_features_are_normalised_on_those_scans() -> None:
    staged = network()
    scans = 5 + 3 * torch.randn(6, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    staged.freeze("body")
    staged.train()
    recalibrate(staged, [scans[:3], scans[3:]])
    maps = staged.features(scans, "body")
    torch.testing.assert_close(maps.mean((0, 2, 3, 4)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(maps.std((0, 2, 3, 4)), torch.ones(3), atol=0.05, rtol=0)
    first = staged.stages["body"][1]  # type: ignore[index]
    assert (first.momentum, first.training, staged.training) == (0.1, False, True)
    assert all(parameter.grad is None for parameter in staged.parameters())


def test_recalibration_does_not_depend_on_what_was_there() -> None:
    staged = network()
    scans = torch.randn(4, 1, 8, 8, 8)
    recalibrate(staged, [scans])
    once = {name: value.clone() for name, value in staged.state_dict().items()}
    staged(100 * torch.randn(4, 1, 8, 8, 8))
    recalibrate(staged, [scans])
    assert all(torch.equal(value, once[name]) for name, value in staged.state_dict().items())
