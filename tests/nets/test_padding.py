"""Padding is undone exactly, for every grid."""

from __future__ import annotations

import pytest
import torch

from gen3d.nets.padding import Padding


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 17, 9), (1, 8, 23), (31, 5, 12)])
@pytest.mark.parametrize("divisor", [1, 4, 8])
def test_crop_undoes_pad(shape: tuple[int, int, int], divisor: int) -> None:
    padding = Padding(shape, divisor)
    volumes = torch.randn(2, 3, *shape)
    padded = padding.pad(volumes)
    assert padded.shape[2:] == padding.padded_shape
    assert all(side % divisor == 0 for side in padded.shape[2:])
    assert all(padded_side - side < divisor for padded_side, side in zip(padding.padded_shape, shape, strict=True))
    assert torch.equal(padding.crop(padded), volumes)
    assert padded.sum() == pytest.approx(float(volumes.sum()), abs=1e-3)


def test_each_axis_gets_its_own_padding() -> None:
    padding = Padding((6, 8, 7), 8)
    padded = padding.pad(torch.ones(1, 1, 6, 8, 7))
    assert padded[0, 0, 0].sum() == 0
    assert padded[0, 0, 7].sum() == 0
    assert padded[0, 0, 1:7, :, :7].min() == 1
    assert padded[0, 0, :, :, 7].sum() == 0
