"""An imported AutoencoderKL as a model of the family: any grid, stored units, and no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.normative.monai_autoencoder import AutoencoderKLConfig, MonaiAutoencoder
from tests.old_package import with_random_weights

SMALL: dict[str, Any] = {
    "channels": (8, 8),
    "num_res_blocks": (1, 1),
    "attention_levels": (False, False),
    "norm_num_groups": 4,
    "latent_channels": 2,
}


def plan_of(shape: tuple[int, int, int]) -> GridPlan:
    rows = tuple(tuple(map(float, row)) for row in np.diag([4, 4, 4, 1]))
    return GridPlan(spacing_mm=4.0, shape=shape, affine=rows)


def build(
    shape: tuple[int, int, int] = (8, 8, 8), mean: float = 0.0, std: float = 1.0, **settings: Any
) -> MonaiAutoencoder:
    statistics = Statistics(np.array([mean], np.float32), np.array([std], np.float32), np.ones(shape, bool))
    model = AutoencoderKLConfig(**{**SMALL, **settings}).build(plan_of(shape), ("t1w",), statistics, 1)
    return with_random_weights(model)


def volumes(shape: tuple[int, int, int] = (8, 8, 8)) -> torch.Tensor:
    return torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(5))


def test_latents_and_expectations_are_those_of_the_network() -> None:
    model, scans = build(), volumes()
    with torch.no_grad():
        mean, spread = model.network.encode(scans)
        decoded = model.network.decode(mean)
    assert torch.equal(model.encode(scans), mean)
    assert torch.equal(model.expect(scans).mean, decoded)
    with torch.no_grad():
        assert torch.allclose(torch.exp(model.posterior(scans)[1] / 2), spread)


def test_stored_units_are_the_networks_units_moved_and_stretched() -> None:
    plain, scaled, scans = build(), build(mean=0.1, std=2.0), volumes()
    assert torch.allclose(scaled.encode(scans * 2.0 + 0.1), plain.encode(scans), atol=1e-5)
    assert torch.allclose(scaled.expect(scans * 2.0 + 0.1).mean, plain.expect(scans).mean * 2.0 + 0.1, atol=1e-4)


def test_any_grid_is_padded_for_the_network_and_cropped_again() -> None:
    model, scans = build((7, 9, 10)), volumes((7, 9, 10))
    padded = torch.nn.functional.pad(scans, (0, 0, 0, 1, 0, 1))
    with torch.no_grad():
        mean = model.network.encode(padded)[0]
        expected = model.network.decode(mean)[:, :, :7, :9, :]
    assert model.latent_shape == (2, 4, 5, 5)
    assert torch.equal(model.encode(scans), mean)
    assert torch.equal(model.expect(scans).mean, expected)


def test_latents_are_padded_with_zeros_for_a_unet_that_needs_it() -> None:
    plain, padded, scans = build((10, 8, 8)), build((10, 8, 8), latent_divisible_by=4), volumes((10, 8, 8))
    latents = padded.encode(scans)
    assert padded.latent_shape == tuple(latents.shape[1:]) == (2, 8, 4, 4)
    assert torch.equal(latents[:, :, 1:6], plain.encode(scans))
    assert (latents[:, :, 0] == 0).all()
    assert (latents[:, :, 6:] == 0).all()
    assert torch.equal(padded.expect(scans).mean, plain.expect(scans).mean)


def test_posterior_draws_have_the_spread_that_was_encoded() -> None:
    model, scans = build(), volumes()
    expectation = model.expect(scans, samples=3, generator=torch.Generator().manual_seed(0))
    again = model.expect(scans, samples=3, generator=torch.Generator().manual_seed(0))
    assert expectation.std is not None
    assert torch.equal(expectation.mean, again.mean)
    assert (expectation.std > 0).any()


def test_it_is_not_trained() -> None:
    config = AutoencoderKLConfig(**SMALL)
    with pytest.raises(UserError, match="not trained by gen3d"):
        config.check(plan_of((8, 8, 8)), 10)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="describe 2, 1 and 2 levels"):
        AutoencoderKLConfig(**{**SMALL, "num_res_blocks": (1,)})
    with pytest.raises(ValidationError, match="norm_num_groups=3 does not divide a level of 8"):
        AutoencoderKLConfig(**{**SMALL, "norm_num_groups": 3})
