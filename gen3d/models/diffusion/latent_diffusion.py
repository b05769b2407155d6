"""`kind: latent_diffusion`: a diffusion model or rectified flow in the latent space of a trained autoencoder.

Ho et al. 2020 (denoising diffusion), Salimans and Ho 2022 (v), Liu et al. 2023 and Esser et al. 2024 (rectified flow with
logit-normal times), Rombach et al. 2022 (in a latent space), Ho and Salimans 2022 (guidance without a classifier).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.cohort.coding import Categorical
from gen3d.cohort.manifest import CONTROL_NAMES
from gen3d.core.errors import UserError
from gen3d.core.words import listed
from gen3d.imaging.plan import GridPlan
from gen3d.maths.design import Design
from gen3d.models.base import Expectation, Model, Statistics
from gen3d.models.diffusion.in_latents import WRITTEN_BY_TRAIN, InLatents, InLatentsConfig, num_codes
from gen3d.models.diffusion.noising import PREDICTIONS, Noising, Prediction, clean
from gen3d.models.diffusion.samplers import SAMPLERS, SPACING
from gen3d.nets.denoiser import Denoiser
from gen3d.nets.imported.denoiser import ImportedDenoiser
from gen3d.nets.imported.monai_networks import UNetArguments

SamplerName = Literal["ddpm", "ddim", "dpm_solver", "euler", "heun"]


class LatentDiffusionConfig(InLatentsConfig):
    """Latent diffusion: learns how the latents of an autoencoder are distributed, given conditions."""

    material: ClassVar[Literal["scans", "latents"]] = "latents"
    written_by_train: ClassVar[tuple[str, ...]] = (*WRITTEN_BY_TRAIN, "network")

    kind: Literal["latent_diffusion"] = Field("latent_diffusion", description="diffusion in an autoencoder's latents")
    conditions: tuple[str, ...] = Field(
        ("age_years", "sex"),
        description="columns of the cohort table to condition on: numbers, categories, structure volumes (hippocampus_ml)",
    )
    noising: Literal["flow", "cosine", "linear", "scaled_linear"] = Field(
        "flow", description="from data to noise: straight (rectified flow), or a variance-preserving schedule"
    )
    betas: tuple[float, float] | None = Field(
        None, description="first and last beta of noising=linear or scaled_linear; default: the usual ones"
    )
    prediction: Prediction | None = Field(
        None, description="what the network predicts: epsilon or v; flow with noising=flow. Default: v, or flow"
    )
    times: Literal["logit_normal", "uniform", "shifted"] = Field(
        "logit_normal", description="how training times are drawn; shifted: more of them noisy"
    )
    time_shift: float = Field(1.0, ge=1, description="with times=shifted: how much more noisy (Esser et al. 2024)")
    snr_gamma: float = Field(
        5.0, gt=0, description="least-SNR weighting of epsilon and v (Hang et al. 2023); inf: none"
    )
    expectation_level: float = Field(
        0.5,
        gt=0,
        le=1,
        description="anomaly maps: how much of a scan's latent is noised before it is denoised as healthy",
    )
    expectation_steps: int = Field(8, gt=0, description="anomaly maps: denoising steps")
    network: UNetArguments | None = Field(
        None, description="the network of imported weights; written by import-weights, never given"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LatentDiffusionConfig:
        if self.betas is not None and self.noising not in ("linear", "scaled_linear"):
            raise ValueError(f"betas belong to noising=linear or scaled_linear, not to {self.noising}")
        if self.predicted not in PREDICTIONS[self.noising]:
            raise ValueError(
                f"prediction={self.prediction} does not go with noising={self.noising}; use "
                f"{' or '.join(sorted(PREDICTIONS[self.noising]))}"
            )
        self.check_network(self.conditions)
        return self

    @property
    def predicted(self) -> Prediction:
        """What the network predicts."""
        return self.prediction or ("flow" if self.noising == "flow" else "v")

    @property
    def form(self) -> str:
        sides = " x ".join(map(str, self.latent_shape or ()))
        conditions = listed([name.replace("_", " ") for name in self.conditions] or ["nothing"])
        return f"{self.noising} in {sides} latents, conditioned on {conditions}"

    @property
    def asks_for_healthy(self) -> bool:
        return True

    @property
    def uses_covariates(self) -> bool:
        return True

    def covariates_for(self, design: Design, age_years: Any, sex: Any, site: Any) -> NDArray[np.float64]:
        """Coded conditions of healthy people of these ages and sexes, [n, p]; what else the model knows is left open."""
        rows = np.full((len(age_years), len(self.coded.covariates)), np.nan)
        for place, covariate in enumerate(self.coded.covariates):
            if covariate.name in ("age_years", "sex"):
                values = age_years if covariate.name == "age_years" else sex
                rows[:, place] = [covariate.code(value) for value in values]
            elif covariate.name == "diagnosis" and isinstance(covariate, Categorical):
                healthy = [code for code in covariate.codes if code.lower() in CONTROL_NAMES]
                rows[:, place] = covariate.code(healthy[0]) if healthy else np.nan
        return rows

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> LatentDiffusion:
        """The untrained model, around an autoencoder without its weights."""
        autoencoder = self.built_autoencoder(plan, channels, statistics, num_covariates)
        return LatentDiffusion(self, autoencoder, statistics)


class LatentDiffusion(InLatents):
    """A frozen autoencoder and a denoiser of its latents, complete in one set of weights."""

    def __init__(self, config: LatentDiffusionConfig, autoencoder: Model, statistics: Statistics) -> None:
        super().__init__(config, autoencoder, statistics)
        self.config = config
        self.noising = Noising(config.noising, *(config.betas or ()))
        self.denoiser = self._denoiser()

    def _denoiser(self) -> Denoiser | ImportedDenoiser:
        config = self.config
        if config.network is not None:
            return ImportedDenoiser(self.latent_shape[1:], config.network, len(self.coding.covariates))
        return config.built_denoiser(num_codes(self.coding))

    @torch.no_grad()
    def generate(
        self,
        conditions: Tensor,
        first: Tensor,
        fresh: Callable[[int], Tensor],
        sampler: str = "dpm_solver",
        num_steps: int = 25,
        guidance: float = 1.0,
        start: float = 1.0,
    ) -> Tensor:
        """Draw latents.

        Args:
            conditions: [B, p] coded; NaN: unknown.
            first: [B, *latent_shape]: standard normals, or with start < 1 standardised latents noised to that time.
            fresh: step -> standard normals like `first`, for samplers that add noise.
            sampler: a name of gen3d.models.diffusion.samplers.SAMPLERS.
            num_steps: denoising steps from `start` to clean data.
            guidance: 1 follows the conditions as they were learned, more exaggerates them, 0 ignores them.
            start: time of `first`, in (0, 1].

        Returns:
            latents [B, *latent_shape] in the autoencoder's units.

        Raises:
            UserError: there is no such sampler.
        """
        if sampler not in SAMPLERS:
            raise UserError(f"sampler={sampler} is none of {', '.join(SAMPLERS)}.")
        was_training = self.training
        self.eval()
        try:
            times = self.noising.times(num_steps, start, spacing=SPACING[sampler])
            x0 = SAMPLERS[sampler](self._denoise(conditions.float(), guidance), first, self.noising, times, fresh)
        finally:
            self.train(was_training)
        return self.unstandardise(x0)

    def _denoise(self, conditions: Tensor, guidance: float) -> Callable[[Tensor, float], Tensor]:
        """x_t, t -> the estimate of x_0; with guidance w, unconditional + w (conditional - unconditional)."""
        noising, predicted = self.noising, self.config.predicted
        guided = guidance != 1.0 and conditions.shape[1] > 0

        def denoise(x: Tensor, time: float) -> Tensor:
            t = torch.full((len(x),), time, device=x.device)
            alpha, sigma = (value.to(x).view(-1, 1, 1, 1, 1) for value in (noising.alpha(t), noising.sigma(t)))
            position = noising.position(t).float()
            if not guided:
                return clean(predicted, self.denoiser(x, position, conditions), x, alpha, sigma)
            both = torch.cat([torch.full_like(conditions, torch.nan), conditions])
            without, output = self.denoiser(torch.cat([x, x]), position.repeat(2), both).chunk(2)
            return clean(predicted, without + guidance * (output - without), x, alpha, sigma)

        return denoise

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        """Noise the latent part of the way and denoise it as a healthy person of that age and sex (Wyatt et al. 2022 in
        the latent space of Pinaya et al. 2022), averaged over draws of the noise."""
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        latents, level = self.standardise(self.autoencoder.encode(volumes)), self.config.expectation_level
        num_draws, num_volumes = max(1, samples), len(latents)
        # The draws are computed together: one small volume at a time leaves a processor idle.
        conditions = cast(Tensor, covariates).float().repeat(num_draws, 1)
        noise = torch.randn((num_draws * num_volumes, *self.latent_shape), generator=generator).to(latents)
        times = torch.full((len(noise),), level, device=latents.device)
        noised = self.noising.add(latents.repeat(num_draws, 1, 1, 1, 1), noise, times)
        sampled = self.generate(conditions, noised, no_noise, "ddim", self.config.expectation_steps, start=level)
        drawn = self.decode(sampled).unflatten(0, (num_draws, num_volumes))
        return Expectation(drawn.mean(0), drawn.std(0) if num_draws > 1 else None)


def no_noise(step: int) -> Tensor:
    """For samplers that add none."""
    raise AssertionError(f"a deterministic sampler asked for noise in step {step}")
