"""Gradient methods on any network: SmoothGrad and integrated gradients, a few volumes at a time.

All work on what the network sees, [C, x, y, z]: rules of intensity that look at the whole volume (its smallest and largest value)
would otherwise send a gradient to the voxel that happens to be the brightest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Answer = Callable[[Tensor], Tensor]
"""Views [B, C, x, y, z] -> one number each [B]."""


def gradients(answer: Answer, views: Tensor) -> Tensor:
    """The gradient of every answer with respect to its own view, [B, C, x, y, z]."""
    inputs = views.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(answer(inputs).sum(), inputs)
    return gradient.detach()


def smoothgrad(
    answer: Answer, view: Tensor, noise_sd: Tensor, where: Tensor, draws: int, generator: torch.Generator, batch: int
) -> Tensor:
    """Mean gradient over noisy copies of a view (Smilkov et al. 2017), [C, x, y, z].

    Args:
        answer: the network's answer.
        view: [C, x, y, z].
        noise_sd: SD of the noise of each channel [C], in its units.
        where: 1 where noise is added (the brain), else 0, [x, y, z]: outside there is nothing that could be noisy.
        draws: noisy copies.
        generator: a CPU generator; the noise does not depend on `batch`.
        batch: copies at a time.
    """
    total = torch.zeros_like(view)
    for start in range(0, draws, batch):
        num = min(batch, draws - start)
        noise = [torch.randn(view.shape, generator=generator) for _ in range(num)]
        noisy = view + torch.stack(noise).to(view.device) * noise_sd.view(-1, 1, 1, 1) * where
        total += gradients(answer, noisy).sum(0)
    return total / draws


def integrated_gradients(
    answer: Answer, view: Tensor, baseline: Tensor, steps: int, batch: int
) -> tuple[Tensor, float]:
    """(x - b) times the mean gradient between b and x (Sundararajan et al. 2017), [C, x, y, z], and what it misses.

    The mean is that of the midpoints of `steps` equal parts. The sum over voxels is the answer for the view less that for
    the baseline; the second number is the difference of both as a share of the latter.
    """
    total = torch.zeros_like(view)
    for start in range(0, steps, batch):
        shares = (torch.arange(start, min(start + batch, steps), device=view.device) + 0.5) / steps
        between = baseline + shares.view(-1, 1, 1, 1, 1).to(view.dtype) * (view - baseline)
        total += gradients(answer, between).sum(0)
    parts = (view - baseline) * total / steps
    with torch.no_grad():
        ends = torch.cat([answer(view[None]), answer(baseline[None])])
    change = float(ends[0] - ends[1])
    missed = abs(float(parts.double().sum()) - change)
    return parts, missed / abs(change) if change else float("nan")
