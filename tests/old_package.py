"""monai-generative, the package whose weights are imported: what it computes is the truth that imports are held against."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn


def old_networks() -> Any:
    """Its module of networks; tests that need it are skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses names of PyTorch that have become old
        return pytest.importorskip("generative.networks.nets", reason="monai-generative 0.2.3 is not installed")


def with_random_weights(network: nn.Module, seed: int = 0) -> Any:
    """The network in evaluation mode, every weight drawn anew: its own first weights are zero in places."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((one - other).abs().max() / one.abs().max())
