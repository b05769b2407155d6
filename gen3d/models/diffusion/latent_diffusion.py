"""`kind: latent_diffusion`: a diffusion model or rectified flow in the latent space of a trained autoencoder.

Ho et al. 2020 (denoising diffusion), Salimans and Ho 2022 (v), Liu et al. 2023 and Esser et al. 2024 (rectified flow with
logit-normal times), Rombach et al. 2022 (in a latent space), Ho and Salimans 2022 (guidance without a classifier).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from gen3d.cohort.coding import Categorical, Coding
from gen3d.cohort.manifest import CONTROL_NAMES
from gen3d.core.errors import UserError
from gen3d.core.words import listed
from gen3d.imaging.plan import GridPlan
from gen3d.maths.design import Design
from gen3d.models.base import BaseModelConfig, Expectation, Model, Statistics
from gen3d.models.diffusion.noising import PREDICTIONS, Noising, Prediction, clean
from gen3d.models.diffusion.samplers import SAMPLERS, SPACING
from gen3d.models.registry import read_config
from gen3d.nets.denoiser import Denoiser
from gen3d.nets.imported.denoiser import ImportedDenoiser
from gen3d.nets.imported.monai_networks import UNetArguments

NUM_GROUPS = 8
SMALLEST_SIDE = 3
"""Of the coarsest level: see gen3d.models.normative.vae on narrow grids and bfloat16."""

SamplerName = Literal["ddpm", "ddim", "dpm_solver", "euler", "heun"]
AutoencoderConfig = Annotated[SerializeAsAny[BaseModelConfig], BeforeValidator(read_config)]
"""Settings of any kind of model: which of them has latents to diffuse in is for its run to say."""


class LatentDiffusionConfig(BaseModelConfig):
    """Latent diffusion: learns how the latents of an autoencoder are distributed, given conditions."""

    material: ClassVar[Literal["scans", "latents"]] = "latents"
    written_by_train: ClassVar[tuple[str, ...]] = ("autoencoder", "coding", "latent_shape", "network")

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
    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="share of training volumes that forget all conditions, and of single conditions"
    )
    around_mean: bool = Field(
        True,
        description="learn deviations from the mean latent, so that the network need not learn where in the brain it is",
    )
    base_channels: int = Field(64, gt=0, multiple_of=NUM_GROUPS, description="width of the first level")
    max_channels: int = Field(128, gt=0, multiple_of=NUM_GROUPS, description="widths double per level up to this")
    levels: int = Field(2, ge=1, le=5, description="resolutions of the U-Net; each is half the one before")
    res_blocks: int = Field(1, ge=1, le=64, description="residual blocks per level")
    attention_levels: int = Field(1, ge=0, description="coarsest levels with attention")
    head_channels: int = Field(32, gt=0, description="channels per attention head")
    cross_attention: bool = Field(False, description="let attention look at the conditions too")
    gradient_checkpointing: Literal[False] = Field(False, description="not offered: latents are small")
    expectation_level: float = Field(
        0.5,
        gt=0,
        le=1,
        description="anomaly maps: how much of a scan's latent is noised before it is denoised as healthy",
    )
    expectation_steps: int = Field(8, gt=0, description="anomaly maps: denoising steps")
    autoencoder: AutoencoderConfig | None = Field(
        None, description="the autoencoder's settings; written by train, never given"
    )
    coding: dict[str, Any] | None = Field(None, description="the conditions' coding; written by train, never given")
    latent_shape: tuple[int, int, int, int] | None = Field(
        None, description="channels and sides of a latent; written by train, never given"
    )

    network: UNetArguments | None = Field(
        None, description="the network of imported weights; written by import-weights, never given"
    )

    @model_validator(mode="after")
    def _consistent(self) -> LatentDiffusionConfig:
        if self.betas is not None and self.noising not in ("linear", "scaled_linear"):
            raise ValueError(f"betas belong to noising=linear or scaled_linear, not to {self.noising}")
        if self.max_channels < self.base_channels:
            raise ValueError("max_channels must be at least base_channels")
        if self.predicted not in PREDICTIONS[self.noising]:
            raise ValueError(
                f"prediction={self.prediction} does not go with noising={self.noising}; use "
                f"{' or '.join(sorted(PREDICTIONS[self.noising]))}"
            )
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"a condition is named twice in {list(self.conditions)}")
        for width in self.widths:
            if self.attention_levels and width % self.head_channels:
                raise ValueError(f"head_channels={self.head_channels} does not divide a width of {width}")
        return self

    @property
    def predicted(self) -> Prediction:
        """What the network predicts."""
        return self.prediction or ("flow" if self.noising == "flow" else "v")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(min(self.base_channels * 2**level, self.max_channels) for level in range(self.levels))

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

    @property
    def coded(self) -> Coding:
        """The conditions' coding, once train has fitted it."""
        return Coding.from_dict(self.coding or {})

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

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse latents that the network would shrink too far."""
        smallest = min(cast(tuple[int, ...], self.latent_shape)[1:])
        if -(-smallest // 2 ** (self.levels - 1)) < SMALLEST_SIDE:
            raise UserError(
                f"model.levels={self.levels} is too many for latents of {self.latent_shape}; lower it, or train the "
                "autoencoder with fewer levels."
            )

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> LatentDiffusion:
        """The untrained model, around an autoencoder without its weights."""
        autoencoder = cast(BaseModelConfig, self.autoencoder).build(plan, channels, statistics, num_covariates)
        return LatentDiffusion(self, autoencoder, statistics)


class LatentDiffusion(Model):
    """A frozen autoencoder and a denoiser of its latents, complete in one set of weights.

    The latents' mean and standard deviation per channel over all training scans are buffers, `latent_mean` and `latent_std`,
    and with `around_mean` also what the mean latent adds to that in every place, `mean_latent`.
    """

    uses_covariates = True
    latent_mean: Tensor
    latent_std: Tensor
    mean_latent: Tensor

    def __init__(self, config: LatentDiffusionConfig, autoencoder: Model, statistics: Statistics) -> None:
        super().__init__(statistics)
        self.config, self.coding = config, config.coded
        self.latent_shape = cast(tuple[int, int, int, int], config.latent_shape)
        self.noising = Noising(config.noising, *(config.betas or ()))
        self.autoencoder = autoencoder.requires_grad_(False)
        self.denoiser = self._denoiser()
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape[0]))
        self.register_buffer("latent_std", torch.ones(self.latent_shape[0]))
        self.register_buffer("mean_latent", torch.zeros(self.latent_shape))

    def _denoiser(self) -> Denoiser | ImportedDenoiser:
        config, (num_channels, *shape) = self.config, self.latent_shape
        if config.network is not None:
            return ImportedDenoiser(shape, config.network, len(self.coding.covariates))
        return Denoiser(
            shape,
            num_channels,
            [len(c.codes) if isinstance(c, Categorical) else 0 for c in self.coding.covariates],
            config.widths,
            [config.levels - level <= config.attention_levels for level in range(config.levels)],
            config.res_blocks,
            config.head_channels,
            NUM_GROUPS,
            config.cross_attention,
        )

    def standardise(self, latents: Tensor) -> Tensor:
        """Latents [B, C, ...] -> zero mean and unit variance per channel over the training scans."""
        return (latents - self._centre) / self.latent_std.view(-1, 1, 1, 1)

    def unstandardise(self, latents: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return latents * self.latent_std.view(-1, 1, 1, 1) + self._centre

    @property
    def _centre(self) -> Tensor:
        return self.latent_mean.view(-1, 1, 1, 1) + self.mean_latent

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent_shape] -> volumes [B, C, X, Y, Z] in stored units, zero outside the mask."""
        decoded: Tensor = self.autoencoder.denormalise(cast(Any, self.autoencoder).decode(latents))
        return decoded

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

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        return self.autoencoder.encode(volumes)

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
