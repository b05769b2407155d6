"""What a classifier sees: the voxels of its window, padded with background, moved by whole voxels, and rescaled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen3d.imaging.plan import plan_grid
from gen3d.models.supervised.framing import ViewWindow, framed, rescaled, window_of

PLAN = plan_grid(4.0)


def numbered(shape: tuple[int, int, int] = (6, 7, 8)) -> torch.Tensor:
    return (1.0 + torch.arange(2 * np.prod(shape), dtype=torch.float64)).view(2, 1, *shape)


@pytest.mark.parametrize("start", [(0, 0, 0), (1, 2, 3), (-2, 1, -1), (4, -3, 7), (-9, 0, 0), (8, 0, 0)])
@pytest.mark.parametrize("size", [(3, 3, 3), (6, 7, 8), (9, 12, 10)])
def test_a_view_holds_the_grid_s_voxels_and_zeros_outside(
    start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    volumes = numbered()
    view = framed(volumes, ViewWindow(start=start, size=size))
    assert tuple(view.shape) == (2, 1, *size)
    padded = np.pad(volumes.numpy(), [(0, 0), (0, 0), (20, 20), (20, 20), (20, 20)])
    places = [slice(20 + first, 20 + first + length) for first, length in zip(start, size, strict=True)]
    np.testing.assert_array_equal(view.numpy(), padded[(..., *places)])


def test_offsets_move_each_view_by_itself() -> None:
    volumes, window = numbered(), ViewWindow(start=(1, 1, 1), size=(4, 4, 4))
    offsets = torch.tensor([[0, 0, 0], [2, -1, 3]])
    view = framed(volumes, window, offsets)
    assert torch.equal(view[:1], framed(volumes[:1], window))
    assert torch.equal(view[1:], framed(volumes[1:], ViewWindow(start=(3, 0, 4), size=(4, 4, 4))))


def test_the_window_is_centred_and_says_what_it_cuts_and_adds() -> None:
    window = window_of(PLAN, (32, 60, 40))
    assert (window.start, window.size) == ((4, -6, 0), (32, 60, 40))
    assert window.describe(PLAN.shape) == (
        "32 x 60 x 40 voxels (along x 8 voxels are cut off; along y 12 of padding are added)"
    )
    assert window_of(PLAN, None).describe(PLAN.shape) == "40 x 48 x 40 voxels (the whole grid)"


def test_a_window_around_voxels_holds_them_with_their_margin() -> None:
    around = np.zeros(PLAN.shape, dtype=bool)
    around[10:16, 20:23, 5:6] = True
    window = window_of(PLAN, None, around, margin_mm=6.0)
    assert (window.start, window.size) == ((8, 18, 3), (10, 7, 5))
    assert window_of(PLAN, (8, 8, 8), around).start == (9, 17, 1)


def test_intensity_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    view = torch.rand((3, 2, 5, 6, 7), generator=generator, dtype=torch.float64) * 2 + 1
    inside = torch.rand((1, 1, 5, 6, 7), generator=generator) > 0.4
    channels = ("log_jacobian", "t1w")
    for rule in ("minmax", "zscore", "stored"):
        assert torch.equal(rescaled(view, rule, channels, inside)[:, 0], view[:, 0])
    low_high = rescaled(view, "minmax", channels, inside)[:, 1].flatten(1)
    assert torch.allclose(low_high.amin(1), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(low_high.amax(1), torch.ones(3, dtype=torch.float64))
    standard = rescaled(view, "zscore", channels, inside)[:, 1][:, inside[0, 0]]
    np.testing.assert_allclose(standard.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(standard.std(1, correction=0), 1, atol=1e-12)
    assert torch.equal(rescaled(view, "stored", channels, inside), view)
    constant = rescaled(torch.ones_like(view), "minmax", channels, inside)
    assert torch.isfinite(constant).all()


def test_views_are_differentiable() -> None:
    window = ViewWindow(start=(-1, 2, 0), size=(5, 4, 8))
    inside = torch.ones((1, 1, *window.size))

    def seen(volumes: torch.Tensor) -> torch.Tensor:
        return rescaled(framed(volumes, window), "zscore", ("t1w",), inside)

    assert torch.autograd.gradcheck(seen, numbered().requires_grad_(), eps=1e-4, atol=1e-3, fast_mode=True)
