"""The registry of models: a new one is a file, a word in the union, and its task if it is trained in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from gen3d.models.base import BaseModelConfig, Model
from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
from gen3d.models.diffusion.task import LatentDiffusionTask
from gen3d.models.normative.monai_autoencoder import AutoencoderKLConfig
from gen3d.models.normative.pca import PCAConfig
from gen3d.models.normative.restorer import RestorerConfig, RestorerTask
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.normative.vae_task import VAETask
from gen3d.models.normative.voxelwise import VoxelwiseConfig
from gen3d.models.task import Task

ModelConfig = Annotated[
    VAEConfig | RestorerConfig | PCAConfig | VoxelwiseConfig | LatentDiffusionConfig | AutoencoderKLConfig,
    Field(discriminator="kind"),
]
"""Any model's settings, told apart by `kind`."""

TASKS: dict[type[BaseModelConfig], Callable[[Any, Any, int], Task]] = {
    VAEConfig: VAETask,
    RestorerConfig: lambda model, config, num_steps: RestorerTask(model, config),
    LatentDiffusionConfig: lambda model, config, num_steps: LatentDiffusionTask(model, config),
}
"""What is optimised, by the settings of models that are trained in steps: (model, settings, number of steps) -> task.

Here and not in the settings, so that a task imports its model and never the other way.
"""


def task_of(config: BaseModelConfig, model: Model, num_steps: int) -> Task:
    """What is optimised when a model is trained in `num_steps` steps."""
    assert type(config) in TASKS, f"{type(config).__name__} is not trained in steps"
    return TASKS[type(config)](model, config, num_steps)
