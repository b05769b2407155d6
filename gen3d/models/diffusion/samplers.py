"""From noise to data: samplers of diffusion models, one function each, all with the same signature.

    sampler(denoise, x, noising, times, fresh) -> x at the last of `times` (the clean data when that is 0)

`denoise(x, t)` is the network's estimate of the clean data; `x` [B, ...] is at the first of `times`: standard normal
noise when that is 1, data noised to that time otherwise. `times` falls (see `Noising.times`). `fresh(step)` gives
standard normals like x for step 0, 1, ...; only `ddpm` asks for them, and not for a step that ends at clean data.
The others are deterministic solvers of the probability flow ODE (Song et al. 2021, equation 13). The coefficients are
computed in double precision, and none divides by alpha, which may be 0 at time 1, or by the sigma of time 0: every
sampler is right for every kind of noising.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

from torch import Tensor

from gen3d.models.diffusion.noising import Noising, Spacing, noise_of

Denoise = Callable[[Tensor, float], Tensor]
Fresh = Callable[[int], Tensor]
Sampler = Callable[[Denoise, Tensor, Noising, Tensor, Fresh], Tensor]


def ddpm(denoise: Denoise, x: Tensor, noising: Noising, times: Tensor, fresh: Fresh) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, equations 6 and 7) between any two times (Kingma et al. 2021, equation 25).

    The variance is that of q(x_s | x_t, x_0), the smaller one of Ho et al., section 3.2. With few steps the samples
    vary too little; 1000 are usual.
    """
    for step, (t, s) in enumerate(_pairs(times)):
        (alpha, sigma), (next_alpha, next_sigma) = noising.at(t), noising.at(s)
        kept = alpha / next_alpha
        added_variance = sigma**2 - (kept * next_sigma) ** 2
        data = denoise(x, t)
        x = (kept * (next_sigma / sigma) ** 2) * x + (next_alpha * added_variance / sigma**2) * data
        if next_sigma > 0:
            x = x + (math.sqrt(added_variance) * next_sigma / sigma) * fresh(step)
    return x


def ddim(denoise: Denoise, x: Tensor, noising: Noising, times: Tensor, fresh: Fresh) -> Tensor:
    """Song et al. 2021, "Denoising diffusion implicit models", equation 12 with sigma_t = 0. First order."""
    for t, s in _pairs(times):
        (alpha, sigma), (next_alpha, next_sigma) = noising.at(t), noising.at(s)
        data = denoise(x, t)
        x = next_alpha * data + next_sigma * noise_of(x, data, alpha, sigma)
    return x


def dpm_solver(denoise: Denoise, x: Tensor, noising: Noising, times: Tensor, fresh: Fresh) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2). Second order, one evaluation per step.

    First order in the step that follows a time without data (alpha = 0) and in the last step to clean data, where
    the log signal-to-noise ratio is infinite (`lower_order_final` of the authors' code).
    """
    last_data, last_width = None, math.inf
    for t, s in _pairs(times):
        (alpha, sigma), (next_alpha, next_sigma) = noising.at(t), noising.at(s)
        width = _half_log_snr(next_alpha, next_sigma) - _half_log_snr(alpha, sigma)
        data = denoise(x, t)
        towards = data
        if last_data is not None and next_sigma > 0:
            towards = data + (0.5 * width / last_width) * (data - last_data)
        x = (next_sigma / sigma) * x - (next_alpha * math.expm1(-width)) * towards
        last_data, last_width = data, width
    return x


def euler(denoise: Denoise, x: Tensor, noising: Noising, times: Tensor, fresh: Fresh) -> Tensor:
    """Euler's method along the straight path (see `_straight`): the sampler of rectified flow (Liu et al. 2023).

    First order, and up to rounding the same samples as `ddim`, which is its form for processes that are not straight.
    """
    for t, s in _pairs(times):
        place, scale = _straight(*noising.at(t))
        next_place, next_scale = _straight(*noising.at(s))
        velocity = _velocity(denoise, x, noising, t)
        x = next_scale * (x / scale + (next_place - place) * velocity)
    return x


def heun(denoise: Denoise, x: Tensor, noising: Noising, times: Tensor, fresh: Fresh) -> Tensor:
    """Heun's method along the straight path; Euler's in a step to clean data (Karras et al. 2022, algorithm 1).

    Second order, two evaluations per step. Karras et al. step in sigma / alpha, which is infinite at time 1 of flow;
    the place on the straight path is sigma / (alpha + sigma) instead.
    """
    for t, s in _pairs(times):
        place, scale = _straight(*noising.at(t))
        next_place, next_scale = _straight(*noising.at(s))
        velocity = _velocity(denoise, x, noising, t)
        ahead = next_scale * (x / scale + (next_place - place) * velocity)
        if next_place > 0:
            velocity = 0.5 * (velocity + _velocity(denoise, ahead, noising, s))
            ahead = next_scale * (x / scale + (next_place - place) * velocity)
        x = ahead
    return x


SAMPLERS: Final[dict[str, Sampler]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm_solver": dpm_solver,
    "euler": euler,
    "heun": heun,
}

SPACING: Final[dict[str, Spacing]] = {name: "time" if name == "ddpm" else "straight" for name in SAMPLERS}
"""How the times of each sampler are best spaced (see `Noising.times`): ancestral sampling visits the levels of the
table; the solvers of the ODE need fewer steps for the same error when they follow the straight path."""


def _pairs(times: Tensor) -> list[tuple[float, float]]:
    values = times.tolist()
    assert all(t > s for t, s in itertools.pairwise(values)), "the times of a sampler fall"
    return list(itertools.pairwise(values))


def _half_log_snr(alpha: float, sigma: float) -> float:
    """log(alpha / sigma), infinite where one of them is 0."""
    return (math.log(alpha) if alpha > 0 else -math.inf) - (math.log(sigma) if sigma > 0 else -math.inf)


def _straight(alpha: float, sigma: float) -> tuple[float, float]:
    """Place p and scale with x / scale = (1 - p) x0 + p noise: every process is a straight one, rescaled.

    Gao et al. 2024, "Diffusion models and Gaussian flow matching: two sides of the same coin".
    """
    return sigma / (alpha + sigma), alpha + sigma


def _velocity(denoise: Denoise, x: Tensor, noising: Noising, t: float) -> Tensor:
    """Derivative of x / scale by the place: noise - x0 (Liu et al. 2023, equation 1)."""
    data = denoise(x, t)
    return noise_of(x, data, *noising.at(t)) - data
