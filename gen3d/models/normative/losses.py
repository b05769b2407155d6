"""Loss terms of the autoencoders, computed in float32 whatever the precision of the network."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from gen3d.imaging.similarity import structural_similarity

SSIM_WINDOW = 7
SSIM_DATA_RANGE = 6.0
"""Range of a standardised channel for SSIM's constants: three standard deviations on either side."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, C, X, Y, Z] over batch, channels and the voxels of mask [X, Y, Z]."""
    return (values * mask).sum() / (mask.sum() * values.shape[0] * values.shape[1])


def reconstruction_loss(reconstruction: Tensor, target: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Negative log likelihood per value, up to a constant: Laplace (l1) or Gaussian (l2), both of unit scale."""
    difference = reconstruction.float() - target.float()
    values = difference.abs() if kind == "l1" else 0.5 * difference.square()
    return masked_mean(values, mask)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of every latent element, in nats (Kingma and Welling 2014, app. B)."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def kl_with_free_bits(kl: Tensor, free_nats: float) -> Tensor:
    """Sum of kl [B, D, ...] over the latent with a floor per channel, averaged over the batch (Kingma et al. 2016).

    A channel's KL, averaged over batch and positions, counts as at least `free_nats` per element, so that nothing is
    gained by pushing it lower and the channel stays in use. With 0 this is the plain KL.
    """
    per_channel = kl.transpose(0, 1).flatten(1).mean(1)
    num_positions = kl[0, 0].numel()
    return per_channel.clamp(min=free_nats).sum() * num_positions


def beta_at(step: int, num_steps: int, beta: float, warmup_share: float) -> float:
    """Weight of the KL term: rises linearly from 0 to beta over the first `warmup_share` of the steps."""
    warmup = warmup_share * num_steps
    return beta if step >= warmup else beta * step / warmup


def ssim_loss(reconstruction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - SSIM averaged inside the mask, for standardised channels."""
    edge = SSIM_WINDOW // 2
    inside = mask[edge:-edge, edge:-edge, edge:-edge]
    return masked_mean(1.0 - ssim_map(reconstruction.float(), target.float()), inside)


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of [B, C, X, Y, Z] in a 7-voxel uniform window, 3 voxels smaller at every face.

    The same values as MONAI's SSIM with a uniform kernel, but the window is averaged one axis after another, which takes
    less than half of the time.
    """
    num_channels = first.shape[1]
    moments = _window_mean(torch.cat([first, second, first * first, second * second, first * second], dim=1))
    mean_1, mean_2, square_1, square_2, product = moments.split(num_channels, dim=1)
    variance_1, variance_2 = square_1 - mean_1**2, square_2 - mean_2**2
    covariance, variances = product - mean_1 * mean_2, variance_1 + variance_2
    similarity: Tensor = structural_similarity(covariance, variances, SSIM_DATA_RANGE, (mean_1, mean_2))
    return similarity


def _window_mean(volumes: Tensor) -> Tensor:
    for window in ((SSIM_WINDOW, 1, 1), (1, SSIM_WINDOW, 1), (1, 1, SSIM_WINDOW)):
        volumes = functional.avg_pool3d(volumes, window, stride=1)
    return volumes


def critic_targets(scores: Tensor, real: bool) -> Tensor:
    """Least-squares adversarial loss of patch scores against 1 (real) or 0 (Mao et al. 2017)."""
    return (scores.float() - (1.0 if real else 0.0)).square().mean()


def share_clipped(log_variance: Tensor, low: float, high: float) -> Tensor:
    """Share of log variances outside the allowed range."""
    return ((log_variance <= low) | (log_variance >= high)).float().mean()
