"""The forward process of a diffusion model, x_t = alpha(t) x_0 + sigma(t) noise, and what its network predicts.

Time runs from 0 (clean data) to 1 (the noisiest). The kinds `linear`, `scaled_linear` and `cosine` preserve the variance
(alpha^2 + sigma^2 = 1) and come from a table of 1000 levels, as networks of that kind were and are trained: level k of
the table is the time (k + 1) / 1000. `flow` is the straight path between data and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from gen3d.core.errors import UserError

Kind = Literal["linear", "scaled_linear", "cosine", "flow"]
Prediction = Literal["epsilon", "v", "flow"]
TimeSampling = Literal["uniform", "logit_normal", "shifted"]
Spacing = Literal["time", "straight"]
Level = Tensor | float
"""alpha or sigma: one number for all of a batch, or one per item [B]."""

NUM_LEVELS: Final = 1000
LARGEST_BETA: Final = 0.999
DEFAULT_BETAS: Final[dict[Kind, tuple[float, float]]] = {"linear": (1e-4, 0.02), "scaled_linear": (0.0015, 0.0195)}
"""First and last beta: Ho et al. 2020, section 4; Pinaya et al. 2022 and MONAI's 3D latent diffusion tutorial."""

PREDICTIONS: Final[dict[Kind, frozenset[Prediction]]] = {
    "linear": frozenset({"epsilon", "v"}),
    "scaled_linear": frozenset({"epsilon", "v"}),
    "cosine": frozenset({"v"}),
    "flow": frozenset({"flow"}),
}
"""What a network may predict under each kind. Not epsilon under cosine: alpha(1) is 5e-5 there, and the first of 25
DDIM steps would multiply the error of the predicted noise by more than a thousand (Salimans and Ho 2022, section 4)."""


@dataclass(frozen=True)
class Noising:
    """How much data and how much noise there is at each time.

    `linear`: beta_k evenly spaced (Ho et al. 2020, "Denoising diffusion probabilistic models"); `scaled_linear`: their
    square roots evenly spaced (Rombach et al. 2022); `cosine`: Nichol and Dhariwal 2021, equation 17, betas at most
    0.999; `flow`: alpha = 1 - t, sigma = t (Liu et al. 2023, "Flow straight and fast"). Between levels of the table the
    log signal-to-noise ratio is interpolated linearly; before the first level sigma^2 grows linearly from 0.

    Raises UserError for an unknown kind and for betas that make no sense. No betas: those of DEFAULT_BETAS.
    """

    kind: Kind
    beta_start: float | None = None
    beta_end: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"noising '{self.kind}' is unknown: take one of {', '.join(get_args(Kind))}.")
        if self.kind not in DEFAULT_BETAS:
            if (self.beta_start, self.beta_end) != (None, None):
                raise UserError(f"noising '{self.kind}' has no betas: remove beta_start and beta_end, or take linear.")
            return
        first, last = self.betas
        if not 0 < first <= last < 1:
            raise UserError(f"betas go from {first} to {last}: take 0 < beta_start <= beta_end < 1.")

    @property
    def betas(self) -> tuple[float, float]:
        """The first and the last beta of `linear` and `scaled_linear`."""
        first, last = DEFAULT_BETAS[self.kind]
        return (
            first if self.beta_start is None else self.beta_start,
            last if self.beta_end is None else self.beta_end,
        )

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data at times t in [0, 1], float32, of the shape of t."""
        return self._levels(t)[0].float()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at times t in [0, 1], float32, of the shape of t."""
        return self._levels(t)[1].float()

    def at(self, t: float) -> tuple[float, float]:
        """(alpha, sigma) of one time in double precision: samplers need the small differences between levels."""
        return _at(self, t)

    def position(self, t: Tensor) -> Tensor:
        """What the network is given as its timestep, float32: the level k = 1000 t - 1 of the table, 1000 t for flow."""
        positions = NUM_LEVELS * t.double()
        return (positions if self.kind == "flow" else (positions - 1).clamp(min=0)).float()

    def add(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Data x0 [B, ...] noised to times t [B]: alpha x0 + sigma noise (Ho et al. 2020, equation 4)."""
        return _over(self.alpha(t), x0) * x0 + _over(self.sigma(t), x0) * noise

    def times(self, num_steps: int, start: float = 1.0, shift: float = 1.0, spacing: Spacing = "time") -> Tensor:
        """The times of a sampler, float64 [num_steps + 1] on the CPU, falling from `start` to 0 (clean data).

        `time`: evenly spaced, "trailing" of Lin et al. 2024, table 2: 1000 steps from 1 visit every level of the table.
        `straight`: sigma / (alpha + sigma) evenly spaced, as time is under flow, but no time between clean data and the
        first level of the table. The two differ for the other kinds, whose time spends its steps on noise without data;
        a solver of second order is then held back by its last step. `shift` above 1, for flow only, spends more steps
        at high noise: t = s u / (1 + (s - 1) u) of evenly spaced u (Esser et al. 2024, equation 23).

        Raises UserError for a number of steps, a start or a shift that make no sense.
        """
        if num_steps < 1 or not 0 < start <= 1:
            raise UserError(
                f"{num_steps} steps from time {start}: take at least 1 step, and a time above 0, at most 1."
            )
        if not shift > 0 or (shift != 1 and self.kind != "flow"):
            raise UserError(f"shift={shift} with noising '{self.kind}': take a shift above 0 with flow, 1 otherwise.")
        falling = torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps
        if spacing == "straight" and self.kind != "flow":
            times = self._time_of_place(self._places(falling, start))
        else:
            times = _shifted(falling * start / (shift - (shift - 1) * start), shift)
        times[0] = start
        return times

    def _places(self, falling: Tensor, start: float) -> Tensor:
        """Evenly spaced sigma / (alpha + sigma) from that of time `start` to 0, none below the table's first level."""
        (alpha, sigma), (first_alpha, first_sigma) = self.at(start), self.at(1 / NUM_LEVELS)
        highest, first_level = sigma / (alpha + sigma), first_sigma / (first_alpha + first_sigma)
        places = falling * highest
        if len(places) > 2 and places[-2] < first_level < highest:
            places[:-1] = torch.linspace(highest, first_level, len(places) - 1, dtype=torch.float64)
        return places

    def _time_of_place(self, places: Tensor) -> Tensor:
        """The times at which sigma / (alpha + sigma) has these values, for the kinds with a table."""
        log_snr, table = 2 * torch.log(1 / places - 1), _log_snr(self, places.device)
        above = torch.searchsorted(-table, -log_snr).clamp(1, NUM_LEVELS - 1)
        between = (log_snr - table[above - 1]) / (table[above] - table[above - 1])
        before_the_table = torch.sigmoid(-log_snr) / torch.sigmoid(-table[0])
        return torch.where(log_snr > table[0], before_the_table, above + between) / NUM_LEVELS

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) in float64."""
        t = t.double()
        if self.kind == "flow":
            return 1 - t, t
        table = _log_snr(self, t.device)
        places = (NUM_LEVELS * t - 1).clamp(0, NUM_LEVELS - 1)
        below = places.floor().long().clamp(max=NUM_LEVELS - 2)
        log_snr = torch.lerp(table[below], table[below + 1], places - below)
        share = (NUM_LEVELS * t).clamp(0, 1)
        data, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        return (data + (1 - share) * noise).sqrt(), (share * noise).sqrt()


@lru_cache(maxsize=4 * NUM_LEVELS)
def _at(noising: Noising, t: float) -> tuple[float, float]:
    """`Noising.at`, kept because a sampler and its network ask for the same times."""
    alpha, sigma = noising._levels(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


@lru_cache(maxsize=16)
def _log_snr(noising: Noising, device: torch.device) -> Tensor:
    """Logarithm of alpha^2 / sigma^2 at the levels of the table, float64 [1000]."""
    if noising.kind == "cosine":
        steps = torch.arange(NUM_LEVELS + 1, dtype=torch.float64) / NUM_LEVELS
        remaining = torch.cos((steps + 0.008) / 1.008 * math.pi / 2).square()
        betas = (1 - remaining[1:] / remaining[:-1]).clamp(max=LARGEST_BETA)
    else:
        power = 1 if noising.kind == "linear" else 2
        first, last = (beta ** (1 / power) for beta in noising.betas)
        betas = torch.linspace(first, last, NUM_LEVELS, dtype=torch.float64) ** power
    log_alpha_squared = torch.log1p(-betas).cumsum(0)
    return (log_alpha_squared - torch.log(-torch.expm1(log_alpha_squared))).to(device)


def target(prediction: Prediction, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """What the network is to give for data x0 and noise [B, ...].

    epsilon: the noise (Ho et al. 2020, equation 14); v: alpha noise - sigma x0 (Salimans and Ho 2022, appendix D);
    flow: the velocity noise - x0 (Liu et al. 2023, equation 1, with time running towards the noise).
    """
    if prediction == "epsilon":
        return noise
    if prediction == "flow":
        return noise - x0
    return _over(alpha, x0) * noise - _over(sigma, x0) * x0


def clean(prediction: Prediction, output: Tensor, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """The data x0 [B, ...] that a network's output means for noisy x: solves x = alpha x0 + sigma noise and `target`.

    Only epsilon divides, by alpha, which is above 0.006 under the kinds that allow it (see PREDICTIONS).
    """
    alpha, sigma = _over(alpha, x), _over(sigma, x)
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "flow":
        return x - sigma * output
    return alpha * x - sigma * output


def noise_of(x: Tensor, x0: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """The noise in x [B, ...] when x0 is its clean data; sigma is not 0."""
    return (x - _over(alpha, x) * x0) / _over(sigma, x)


def draw_times(
    sampling: TimeSampling, noise: Tensor, shift: float = 1.0, location: float = 0.0, scale: float = 1.0
) -> Tensor:
    """Times of training t [B] in (0, 1], float32, made from standard normals [B], so that a batch's own noise serves.

    uniform: their distribution function; logit_normal: sigmoid(location + scale noise) (Esser et al. 2024, equation
    19); shifted: uniform, then t = s u / (1 + (s - 1) u) with `shift` s (equation 23), more often noisy when s > 1.
    """
    if sampling == "logit_normal":
        return torch.sigmoid(location + scale * noise.double()).float()
    uniform = 0.5 * torch.erfc(-noise.double() / math.sqrt(2))
    return (_shifted(uniform, shift) if sampling == "shifted" else uniform).float()


def snr_weight(prediction: Prediction, alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weight of the squared error of a prediction, of the shape of alpha (Hang et al. 2023, section 3.4).

    min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v, with SNR = alpha^2 / sigma^2; the error of
    x0 is then weighted by min(SNR, gamma) in both. 1 for flow.
    """
    if prediction == "flow":
        return torch.ones_like(alpha)
    if prediction == "epsilon":
        return (gamma * sigma.square() / alpha.square()).clamp(max=1.0)
    return torch.minimum(alpha.square(), gamma * sigma.square())


def _shifted(times: Tensor, shift: float) -> Tensor:
    return shift * times / (1 + (shift - 1) * times)


def _over(level: Level, x: Tensor) -> Level:
    """A level per item [B] made to broadcast over x [B, ...]."""
    return level.view(-1, *(1,) * (x.dim() - 1)) if isinstance(level, Tensor) and level.dim() == 1 else level
