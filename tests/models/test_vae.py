"""The VAE as a model: any grid, stored units, posterior samples, its losses, and its two players."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.normative.vae import VAE, VAEConfig
from gen3d.models.normative.vae_task import VAETask
from gen3d.models.task import Batch

SMALL = {"base_channels": 8, "max_channels": 8, "levels": 2, "latent_size": 6, "latent_channels": 2}


def plan_of(shape: tuple[int, int, int]) -> GridPlan:
    rows = tuple(tuple(map(float, row)) for row in np.diag([4, 4, 4, 1]))
    return GridPlan(spacing_mm=4.0, shape=shape, affine=rows)


def build(shape: tuple[int, int, int] = (12, 12, 12), channels: tuple[str, ...] = ("t1w",), **settings: object) -> VAE:
    torch.manual_seed(0)
    mask = np.zeros(shape, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    count = len(channels)
    statistics = Statistics(np.full(count, 0.5, np.float32), np.full(count, 0.2, np.float32), mask)
    config = VAEConfig(**{**SMALL, **settings})
    model = config.build(plan_of(shape), channels, statistics, 1)
    for parameter in model.network.blocks()[-1].parameters():  # as after some training: it starts at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("latent", ["dense", "spatial"])
def test_an_untrained_model_expects_the_mean_volume(latent: str) -> None:
    mean = np.random.default_rng(0).random((2, 12, 12, 12)).astype(np.float32)
    mask = np.ones((12, 12, 12), bool)
    mask[0] = False
    statistics = Statistics(np.array([0.5, 0.1], np.float32), np.array([0.2, 0.3], np.float32), mask, mean)
    model = VAEConfig(**SMALL, latent=latent).build(plan_of((12, 12, 12)), ("t1w", "log_jacobian"), statistics, 1)
    expected = model.expect(torch.rand(1, 2, 12, 12, 12)).mean[0].numpy()
    assert np.allclose(expected, mean * mask, atol=1e-6)


@pytest.mark.parametrize("latent", ["dense", "spatial"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 16, 11), (9, 10, 15)])
def test_output_shape_equals_input_shape(latent: str, shape: tuple[int, int, int]) -> None:
    model = build(shape, ("t1w", "log_jacobian"), latent=latent)
    volumes = torch.rand(2, 2, *shape)
    expectation = model.expect(volumes)
    assert expectation.mean.shape == volumes.shape
    assert expectation.std is None
    assert (expectation.mean[:, :, ~model.brain_mask] == 0).all()
    assert model.encode(volumes).shape[0] == 2


def test_normalise_and_denormalise_are_inverse_inside_the_mask() -> None:
    model = build()
    volumes = torch.rand(1, 1, 12, 12, 12)
    back = model.denormalise(model.normalise(volumes))
    assert torch.allclose(back, volumes * model.brain_mask, atol=1e-6)


def test_posterior_samples_are_seeded_and_average_out() -> None:
    model = build()
    volumes = torch.rand(1, 1, 12, 12, 12)

    def draw(samples: int, seed: int) -> torch.Tensor:
        return model.expect(volumes, samples=samples, generator=torch.Generator().manual_seed(seed)).mean

    assert torch.equal(draw(3, 1), draw(3, 1))
    assert not torch.equal(draw(3, 1), draw(3, 2))
    few, many = (float((draw(n, 1) - draw(n, 2)).square().mean()) for n in (1, 40))
    assert many < few / 10
    std = model.expect(volumes, samples=40, generator=torch.Generator().manual_seed(1)).std
    assert std is not None
    assert float((draw(1, 1) - draw(1, 2)).square().mean()) == pytest.approx(2 * float(std.square().mean()), rel=0.5)


def test_expect_leaves_training_mode_as_it_was() -> None:
    model = build()
    model.train()
    model.expect(torch.rand(1, 1, 12, 12, 12))
    assert model.training


def test_widths_double_up_to_the_maximum() -> None:
    assert VAEConfig(base_channels=16, max_channels=64, levels=4).widths == (16, 32, 64, 64)


def test_a_grid_too_small_for_the_levels_is_refused() -> None:
    with pytest.raises(UserError, match="shrinks every side 16 times"):
        VAEConfig(levels=4).check(plan_of((32, 48, 48)), 10)
    with pytest.raises(UserError, match="critic_layers=3 is too many"):
        VAEConfig(adversarial_weight=0.1, critic_layers=3).check(plan_of((32, 48, 48)), 10)
    VAEConfig(levels=3, adversarial_weight=0.1, critic_layers=2).check(plan_of((20, 24, 24)), 10)


def test_illegal_settings() -> None:
    with pytest.raises(ValidationError, match="needs perceptual_weights=FILE"):
        VAEConfig(perceptual_weight=0.1)
    with pytest.raises(ValidationError, match="multiple of 8"):
        VAEConfig(base_channels=12)
    config = VAEConfig(perceptual_weight=0.1, perceptual_weights=Path("nowhere.pth"))
    with pytest.raises(UserError, match="no such file of perceptual weights"):
        config.check(plan_of((32, 32, 32)), 10)


def batch_of(num_volumes: int, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(num_volumes, 1, 12, 12, 12, generator=generator)
    return Batch(volumes, ("a",) * num_volumes, step, tuple(range(num_volumes)))


def test_loss_is_reconstruction_plus_beta_kl_per_value() -> None:
    model = build()
    task = VAETask(model, VAEConfig(**SMALL, beta=2.0, beta_warmup=0.5), 100)
    losses = {step: task(batch_of(3, step), "model") for step in (0, 25, 80)}
    num_values = int(model.brain_mask.sum())
    for step, beta in ((0, 0.0), (25, 1.0), (80, 2.0)):
        terms = losses[step]
        expected = float(terms["reconstruction"].detach()) + beta * float(terms["kl"]) / num_values
        assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(losses[80]["kl"]) > 0


def test_noise_does_not_depend_on_how_a_batch_is_split() -> None:
    whole = batch_of(4).noise((2, 3), stream=1)
    parts = [Batch(torch.zeros(2, 1), ("a", "a"), 0, seeds).noise((2, 3), 1) for seeds in ((0, 1), (2, 3))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, batch_of(4).noise((2, 3), stream=2))


def test_losses_of_a_split_batch_average_to_those_of_the_whole() -> None:
    task = VAETask(build(), VAEConfig(**SMALL), 10)
    whole = batch_of(4)
    parts = [Batch(whole.volumes[i : i + 2], ("a", "a"), 0, whole.seeds[i : i + 2]) for i in (0, 2)]
    losses = [float(task(part, "model")["loss"].detach()) for part in parts]
    assert float(task(whole, "model")["loss"].detach()) == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_each_player_changes_its_own_weights_only() -> None:
    task = VAETask(build(), VAEConfig(**SMALL, adversarial_weight=0.5, adversarial_start=0.0, critic_channels=4), 10)
    batch = batch_of(2)
    task(batch, "model")["loss"].backward()
    assert all(p.grad is None for p in task.weights("critic").parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.weights("model").parameters())
    task.zero_grad()
    task(batch, "critic")["loss"].backward()
    assert all(p.grad is None for p in task.weights("model").parameters())
    assert all(p.requires_grad for p in task.weights("critic").parameters())


def test_the_critic_joins_at_its_share_of_the_steps() -> None:
    task = VAETask(build(), VAEConfig(**SMALL, adversarial_weight=0.5, adversarial_start=0.3, critic_channels=4), 10)
    assert task.playing(2) == ("model",)
    assert task.playing(3) == ("model", "critic")
    assert "adversarial" not in task(batch_of(1, 2), "model")
    assert "adversarial" in task(batch_of(1, 3), "model")


def test_the_critic_scores_the_same_with_and_without_the_shared_reconstruction() -> None:
    task = VAETask(build(), VAEConfig(**SMALL, adversarial_weight=0.5, adversarial_start=0.0, critic_channels=4), 10)
    shared = batch_of(2)
    task(shared, "model")
    assert torch.allclose(task(shared, "critic")["loss"], task(batch_of(2), "critic")["loss"], atol=1e-6)
