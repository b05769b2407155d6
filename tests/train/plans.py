"""Tasks of small models, for tests of the plan of a training step."""

from __future__ import annotations

import numpy as np
import torch

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Statistics
from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
from gen3d.models.forecast.deformation_rate import DeformationRateConfig
from gen3d.models.forecast.latent_flow import LatentFlowConfig
from gen3d.models.normative.restorer import RestorerConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.supervised.classifier import ClassifierConfig
from gen3d.models.supervised.fusion import FusionConfig, NamedToken
from gen3d.models.supervised.label_config import Answers
from gen3d.models.supervised.networks import ResNet3dSettings
from gen3d.models.task import Task
from gen3d.models.transition.transition import TransitionConfig

NUM_STEPS = 10
CHANNELS = ("t1w",)


def task_of(config: BaseModelConfig, shape: tuple[int, int, int]) -> Task:
    """The task of a model on a grid, on whatever device is the default."""
    rows = tuple(tuple(map(float, row)) for row in np.eye(4))
    plan = GridPlan(spacing_mm=4.0, shape=shape, affine=rows)
    config.check(plan, 2)
    whole = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    return config.task_of(config.build(plan, CHANNELS, whole, 1), NUM_STEPS)


MODELS: dict[str, BaseModelConfig] = {
    "dense": VAEConfig(base_channels=16, stem=1, latent_size=8),
    "spatial": VAEConfig(base_channels=16, stem=1, latent="spatial"),
    "critic": VAEConfig(base_channels=16, stem=1, latent="spatial", adversarial_weight=0.1, ssim_weight=0.1),
    "restorer": RestorerConfig(base_channels=16, stem=1),
    "classifier": ClassifierConfig(
        network=ResNet3dSettings(layers=10), answers=Answers(name="diagnosis", task="categories", classes=("CN", "AD"))
    ),
    "fusion": FusionConfig(
        answers=Answers(name="diagnosis", task="categories", classes=("CN", "AD")),
        genetic_tokens=tuple(NamedToken(name=f"v{place}", columns=1) for place in range(40)),
        image_tokens=tuple(NamedToken(name=f"r{place}", columns=1) for place in range(60)),
    ),
    "forecast": DeformationRateConfig(predictor="network", components=2, modes=2, widths=(16, 32), stem=1),
    "diffusion": LatentDiffusionConfig(
        conditions=(),
        base_channels=16,
        attention_levels=0,
        autoencoder=VAEConfig(base_channels=16, levels=1, latent="spatial"),
        latent_shape=(3, 32, 48, 32),
    ),
    "transition": TransitionConfig(widths=(16, 32, 64), slices=2, positions=(20, 24)),
    "flow": LatentFlowConfig(
        conditions=(),
        base_channels=16,
        attention_levels=0,
        autoencoder=VAEConfig(base_channels=16, levels=1, latent="spatial"),
        latent_shape=(3, 32, 48, 32),
    ),
}
"""One of each kind of training, at full resolution, so that a small volume already has large feature maps."""


def allocated_peak(profiler: torch.profiler.profile) -> int:
    """Most bytes that torch's CPU allocator had given out at once, from a profile with `profile_memory=True`."""
    live = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest
