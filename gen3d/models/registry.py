"""The index of the models: every kind, where its settings and its task live, and its name in words.

It is the only place that lists kinds: a new model is a file and a line here. Nothing heavy is imported, so that a report
can name models without loading their networks, and opening a run loads the code of its own kind alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Union

from pydantic import Field


class Kind(NamedTuple):
    """One kind of model.

    `config` is its settings, a `BaseModelConfig`, and `task` what is optimised, a `Task`, each as module:class; a model
    without a task is computed in closed form, or comes from elsewhere. A network is measured against baselines.
    """

    config: str
    title: str
    task: str | None = None
    baseline: bool = False


NORMATIVE, DIFFUSION, SUPERVISED = "gen3d.models.normative", "gen3d.models.diffusion", "gen3d.models.supervised"
FORECAST = "gen3d.models.forecast"
TRANSITION = "gen3d.models.transition"

KINDS: dict[str, Kind] = {
    "vae": Kind(f"{NORMATIVE}.vae:VAEConfig", "VAE", f"{NORMATIVE}.vae_task:VAETask"),
    "restorer": Kind(f"{NORMATIVE}.restorer:RestorerConfig", "Restorer", f"{NORMATIVE}.restorer:RestorerTask"),
    "pca": Kind(f"{NORMATIVE}.pca:PCAConfig", "PCA", baseline=True),
    "voxelwise": Kind(f"{NORMATIVE}.voxelwise:VoxelwiseConfig", "Voxelwise regression", baseline=True),
    "latent_diffusion": Kind(
        f"{DIFFUSION}.latent_diffusion:LatentDiffusionConfig",
        "Latent diffusion",
        f"{DIFFUSION}.task:LatentDiffusionTask",
    ),
    "classifier": Kind(
        f"{SUPERVISED}.classifier:ClassifierConfig", "Classifier", f"{SUPERVISED}.classifier_task:ClassifierTask"
    ),
    "fusion": Kind(f"{SUPERVISED}.fusion:FusionConfig", "Fusion", f"{SUPERVISED}.fusion_task:FusionTask"),
    "copy_forward": Kind(f"{FORECAST}.copy_forward:CopyForwardConfig", "Copy forward", baseline=True),
    "population_rate": Kind(f"{FORECAST}.population_rate:PopulationRateConfig", "Population rate", baseline=True),
    "region_rate": Kind(f"{FORECAST}.region_rate:RegionRateConfig", "Region rate", baseline=True),
    "deformation_rate": Kind(
        f"{FORECAST}.deformation_rate:DeformationRateConfig",
        "Deformation rate",
        f"{FORECAST}.deformation_rate_task:DeformationRateTask",
    ),
    "latent_flow": Kind(
        f"{FORECAST}.latent_flow:LatentFlowConfig", "Latent flow", f"{FORECAST}.latent_flow_task:LatentFlowTask"
    ),
    "transition": Kind(
        f"{TRANSITION}.transition:TransitionConfig", "Stage transition", f"{TRANSITION}.task:TransitionTask"
    ),
    "autoencoder_kl": Kind(f"{NORMATIVE}.monai_autoencoder:AutoencoderKLConfig", "AutoencoderKL"),
}


def title(kind: str) -> str:
    """A kind of model in words; a kind that is not known here is its own name."""
    return KINDS[kind].title if kind in KINDS else kind[:1].upper() + kind[1:].replace("_", " ")


def named_kinds() -> str:
    """All kinds with their titles: `vae (VAE), restorer (Restorer), ...`."""
    return ", ".join(f"{kind} ({entry.title})" for kind, entry in KINDS.items())


def trained_in_steps(kind: str) -> bool:
    """Whether a model of this kind has a task to be trained on."""
    return kind in KINDS and KINDS[kind].task is not None


def forecasts(kind: str) -> bool:
    """Whether a model of this kind says how scans will look after some years."""
    return kind in KINDS and KINDS[kind].config.startswith(FORECAST)


def learning_from(material: str) -> list[str]:
    """Kinds whose settings name this material; all kinds are loaded."""
    return [kind for kind in KINDS if config_class(kind).material == material]


def config_class(kind: str) -> type[Any]:
    """The settings of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of model {kind!r}; the kinds are {', '.join(KINDS)}")
    return _loaded(KINDS[kind].config)


def task_class(kind: str) -> type[Any]:
    """The task of a kind that is trained in steps, made of (model, config, number of steps)."""
    place = KINDS[kind].task
    assert place is not None, f"{kind} is not trained in steps"
    return _loaded(place)


def read_config(tree: Any) -> Any:
    """Settings of any kind from a mapping that names its `kind`; settings are returned as they are.

    Raises:
        ValueError: no kind, an unknown one, or settings that do not fit it.
    """
    return config_class(str(tree.get("kind"))).model_validate(tree) if isinstance(tree, Mapping) else tree


def any_config() -> Any:
    """The type of any kind's settings, distinguished by `kind`, for a field of a verb; all kinds are loaded."""
    return Annotated[Union[tuple(map(config_class, KINDS))], Field(discriminator="kind")]  # noqa: UP007 (a tuple)


def _loaded(place: str) -> type[Any]:
    module, _, name = place.partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module), name)
    return loaded
