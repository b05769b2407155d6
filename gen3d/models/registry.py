"""The registry of models: a new one is a file here and a word in this union."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
from gen3d.models.normative.monai_autoencoder import AutoencoderKLConfig
from gen3d.models.normative.pca import PCAConfig
from gen3d.models.normative.restorer import RestorerConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.normative.voxelwise import VoxelwiseConfig

ModelConfig = Annotated[
    VAEConfig | RestorerConfig | PCAConfig | VoxelwiseConfig | LatentDiffusionConfig | AutoencoderKLConfig,
    Field(discriminator="kind"),
]
"""Any model's settings, told apart by `kind`."""
