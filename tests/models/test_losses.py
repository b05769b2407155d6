"""Loss terms against closed forms."""

from __future__ import annotations

import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs

from gen3d.models.normative import losses


def test_kl_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 5), torch.randn(3, 5)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(losses.kl_to_standard_normal(mean, log_variance), expected, atol=1e-6)
    assert float(losses.kl_to_standard_normal(torch.zeros(1), torch.zeros(1))) == 0


def test_kl_is_float32_for_bfloat16_inputs() -> None:
    mean = torch.full((1, 4), 3.01, dtype=torch.bfloat16)
    assert losses.kl_to_standard_normal(mean, torch.zeros_like(mean)).dtype == torch.float32


def test_free_bits_floor_each_channel() -> None:
    kl = torch.tensor([[0.1, 2.0, 0.0], [0.3, 4.0, 0.0]])
    assert float(losses.kl_with_free_bits(kl, 0.0)) == pytest.approx(0.2 + 3.0)
    assert float(losses.kl_with_free_bits(kl, 0.5)) == pytest.approx(0.5 + 3.0 + 0.5)
    spatial = kl[:, :, None, None, None].expand(2, 3, 2, 2, 2)
    assert float(losses.kl_with_free_bits(spatial, 0.5)) == pytest.approx(8 * 4.0)


def test_free_bits_stop_the_gradient_of_a_channel_below_the_floor() -> None:
    mean = torch.tensor([[0.1, 3.0]], requires_grad=True)
    losses.kl_with_free_bits(losses.kl_to_standard_normal(mean, torch.zeros(1, 2)), 0.5).backward()
    assert mean.grad is not None
    assert mean.grad[0, 0] == 0
    assert mean.grad[0, 1] == pytest.approx(3.0)


def test_beta_rises_linearly_then_stays() -> None:
    assert [losses.beta_at(step, 100, 2.0, 0.5) for step in (0, 25, 50, 99)] == [0.0, 1.0, 2.0, 2.0]
    assert losses.beta_at(0, 100, 2.0, 0.0) == 2.0


def test_reconstruction_counts_the_mask_only() -> None:
    mask = torch.zeros(4, 4, 4, dtype=torch.bool)
    mask[1:3, 1:3, 1:3] = True
    target = torch.randn(2, 3, 4, 4, 4)
    far_outside = target + 100.0 * ~mask
    assert float(losses.reconstruction_loss(far_outside, target, mask, "l1")) == 0
    shifted = far_outside + 0.5 * mask
    assert float(losses.reconstruction_loss(shifted, target, mask, "l1")) == pytest.approx(0.5)
    assert float(losses.reconstruction_loss(shifted, target, mask, "l2")) == pytest.approx(0.125)


def test_ssim_loss_is_zero_for_equal_volumes_and_grows_with_noise() -> None:
    torch.manual_seed(0)
    target = torch.randn(1, 1, 12, 12, 12)
    mask = torch.ones(12, 12, 12, dtype=torch.bool)
    noise = torch.randn_like(target)
    values = [float(losses.ssim_loss(target + scale * noise, target, mask)) for scale in (0.0, 0.3, 1.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2] <= 1.2


def test_ssim_equals_monai() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 9, 12, 10), torch.randn(2, 2, 9, 12, 10)
    settings = {"kernel_size": [7] * 3, "kernel_sigma": [1.5] * 3, "data_range": 6.0, "kernel_type": "uniform"}
    expected, _ = compute_ssim_and_cs(first, second, spatial_dims=3, **settings)
    assert torch.allclose(losses.ssim_map(first, second), expected, atol=1e-5)


def test_critic_targets() -> None:
    scores = torch.tensor([1.0, 0.0])
    assert float(losses.critic_targets(scores, real=True)) == 0.5
    assert float(losses.critic_targets(torch.zeros(3), real=False)) == 0
