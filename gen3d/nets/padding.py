"""Fit any planned grid to a network that halves its sides several times: pad once before it, crop once after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class Padding(nn.Module):
    """Zero padding of [B, C, X, Y, Z] to the next multiples of `divisor`, and its exact inverse.

    The padding is split evenly over both ends of a side; an odd voxel goes to the upper end.
    """

    def __init__(self, shape: Sequence[int], divisor: int) -> None:
        super().__init__()
        self.shape = tuple(int(side) for side in shape)
        self.padded_shape = tuple(-(-side // divisor) * divisor for side in self.shape)
        missing = [padded - side for side, padded in zip(self.shape, self.padded_shape, strict=True)]
        self._before = [count // 2 for count in missing]
        self._after = [count - count // 2 for count in missing]

    def pad(self, volumes: Tensor) -> Tensor:
        """[B, C, *shape] -> [B, C, *padded_shape]."""
        if self.padded_shape == self.shape:
            return volumes
        amounts = [amount for ends in zip(self._before, self._after, strict=True) for amount in ends]
        # torch lists the amounts from the last axis to the first, each as (before, after).
        pairs = [amounts[index : index + 2] for index in range(0, len(amounts), 2)]
        return functional.pad(volumes, [amount for pair in reversed(pairs) for amount in pair])

    def crop(self, volumes: Tensor) -> Tensor:
        """[B, C, *padded_shape] -> [B, C, *shape]."""
        if self.padded_shape == self.shape:
            return volumes
        for axis, (start, side) in enumerate(zip(self._before, self.shape, strict=True), start=2):
            volumes = torch.narrow(volumes, axis, start, side)
        return volumes
