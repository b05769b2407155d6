"""The latent diffusion model: its scale, guidance, conditions of the healthy, and what it expects of a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gen3d.cohort.coding import Categorical, Coding, Numeric
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.maths.design import Design
from gen3d.models.base import Statistics
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, no_noise
from gen3d.models.normative.vae import VAEConfig

SHAPE = (12, 14, 10)
CODING = Coding(
    (
        Numeric("age_years", 70.0, 10.0, 50.0, 90.0),
        Categorical("sex", ("F", "M")),
        Categorical("diagnosis", ("AD", "CN")),
        Numeric("hippocampus_ml", 6.0, 0.5, 4.0, 8.0),
    )
)


def config_of(**changes: Any) -> LatentDiffusionConfig:
    autoencoder = VAEConfig(latent="spatial", base_channels=8, max_channels=8, levels=1, latent_channels=2)
    sizes = {"base_channels": 16, "max_channels": 16, "head_channels": 8, "levels": 1}
    fixed = {"autoencoder": autoencoder, "coding": CODING.to_dict(), "latent_shape": (2, 6, 7, 5)}
    return LatentDiffusionConfig.model_validate({"conditions": CODING.names, **sizes, **fixed, **changes})


def model_of(**changes: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    rows = tuple(tuple(float(value) for value in row) for row in np.diag([4.0, 4.0, 4.0, 1.0]))
    plan = GridPlan.model_validate({"spacing_mm": 4.0, "shape": SHAPE, "affine": rows})
    mask = np.ones(SHAPE, bool)
    statistics = Statistics(np.array([0.7], np.float32), np.array([0.2], np.float32), mask)
    model = config_of(**changes).build(plan, ("t1w",), statistics, 1)
    for parameter in model.parameters():  # last convolutions start at zero, which would hide most of what is tested
        if parameter.ndim == 5 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.latent_mean.copy_(torch.tensor([1.0, -2.0]))
    model.latent_std.copy_(torch.tensor([0.5, 3.0]))
    return model


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return model_of()


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return 0.7 + 0.2 * torch.randn((2, 1, *SHAPE), generator=torch.Generator().manual_seed(3))


def rows_of(**values: Any) -> Tensor:
    row = [c.code(values.get(c.name, "unknown")) for c in CODING.covariates]
    return torch.tensor([row, row])


def test_the_scale_goes_with_the_weights_and_inverts(model: LatentDiffusion) -> None:
    latents = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.unstandardise(model.standardise(latents)), latents)
    assert float(model.standardise(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1, 1)).abs().max()) == 0
    assert {"latent_mean", "latent_std"} <= set(model.state_dict())
    assert not any(parameter.requires_grad for parameter in model.autoencoder.parameters())


def test_encode_and_decode_are_the_autoencoders(model: LatentDiffusion, volumes: Tensor) -> None:
    latents = model.encode(volumes, rows_of())
    assert latents.shape == (2, *model.latent_shape)
    torch.testing.assert_close(model.decode(latents), model.autoencoder.expect(volumes).mean)


@pytest.mark.parametrize("changes", [{}, {"noising": "cosine"}, {"noising": "scaled_linear", "prediction": "epsilon"}])
def test_guidance_weighs_the_conditions(changes: dict[str, Any]) -> None:
    """0 is what a model of unknown conditions draws, 1 what it draws as asked, between and beyond lies on their line."""
    model = model_of(**changes)
    first = torch.randn((2, *model.latent_shape), generator=torch.Generator().manual_seed(1))
    asked = rows_of(age_years=80, sex="F")
    drawn = {w: model.generate(asked, first, no_noise, "ddim", 1, guidance=w) for w in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(drawn[0.0], model.generate(rows_of(), first, no_noise, "ddim", 1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(drawn[3.0], drawn[0.0] + 3 * (drawn[1.0] - drawn[0.0]), rtol=1e-3, atol=1e-2)
    assert not torch.allclose(drawn[0.0], drawn[1.0])


def test_every_condition_reaches_the_sample_alone_or_unknown(model: LatentDiffusion) -> None:
    first = torch.randn((2, *model.latent_shape), generator=torch.Generator().manual_seed(1))
    asked = ({}, {"age_years": 80}, {"sex": "F"}, {"sex": "M"}, {"diagnosis": "AD"}, {"hippocampus_ml": 5})
    drawn = [model.generate(rows_of(**values), first, no_noise, "euler", 2) for values in asked]
    for i, one in enumerate(drawn):
        assert torch.isfinite(one).all()
        assert all(not torch.equal(one, other) for other in drawn[:i])


def test_cross_attention_sees_the_conditions_too() -> None:
    model = model_of(cross_attention=True)
    first = torch.randn((2, *model.latent_shape), generator=torch.Generator().manual_seed(1))
    young, old = (model.generate(rows_of(age_years=age), first, no_noise, "euler", 1) for age in (55, 85))
    assert not torch.equal(young, old)


def test_a_little_noise_changes_the_expectation_a_little(volumes: Tensor) -> None:
    """Towards no noise the expectation is the autoencoder's own; with more noise it moves away; draws are averaged."""
    healthy, moved = rows_of(age_years=70, sex="F", diagnosis="CN"), []
    for level in (1e-3, 0.3, 0.9):
        model = model_of(expectation_level=level)
        found = model.expect(volumes, healthy, 2, torch.Generator().manual_seed(5))
        assert found.mean.shape == volumes.shape
        assert found.std is not None
        moved.append(float((found.mean - model.autoencoder.expect(volumes).mean).abs().mean()))
    assert moved[0] < 0.01 < moved[1] < moved[2]
    again = model.expect(volumes, healthy, 2, torch.Generator().manual_seed(5)).mean
    torch.testing.assert_close(again, found.mean, rtol=0, atol=0)


def test_people_are_expected_to_be_healthy() -> None:
    design = Design.fit([60.0, 70.0, 80.0], ["F", "M", "F"], ["a", "a", "a"])
    rows = config_of().covariates_for(design, [80.0, np.nan], ["M", ""], ["a", "b"])
    np.testing.assert_allclose(rows[:, :3], [[1.0, 1.0, 1.0], [np.nan, np.nan, 1.0]])
    assert np.isnan(rows[:, 3]).all()


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValidationError, match="prediction=epsilon does not go with noising=cosine"):
        config_of(noising="cosine", prediction="epsilon")
    with pytest.raises(ValidationError, match="betas belong to"):
        config_of(betas=(1e-4, 0.02))
    model = model_of()
    with pytest.raises(UserError, match="sampler=plms is none of ddpm"):
        model.generate(rows_of(), torch.zeros((2, *model.latent_shape)), no_noise, "plms", 3)
