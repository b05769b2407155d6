"""The settings of `gen3d train`, whatever the kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from gen3d.core.config import Folder, Folders, execution
from gen3d.models.base import BaseModelConfig
from gen3d.models.registry import any_config, named_kinds
from gen3d.train.augment import AugmentConfig
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.shared_work import SharedVerb
from gen3d.train.optim import OptimConfig
from gen3d.train.tracking.sinks import TrackerName

if TYPE_CHECKING:
    ModelConfig = BaseModelConfig
else:
    ModelConfig = any_config()


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Trackers = Annotated[tuple[TrackerName, ...], BeforeValidator(_one_or_many)]
"""Names of trackers, or a single one."""

DEFAULT_TRACKERS: tuple[TrackerName, ...] = ("tensorboard",)


class TrainSettings(SharedVerb):
    """Settings of a training; the model's `material` decides which of the inputs it is trained on."""

    prepared: Folders | None = Field(None, description="folder or folders of `gen3d prepare` or `gen3d simulate`")
    latents: Folder | None = Field(
        None,
        description="latent diffusion: folder of `gen3d encode`, instead of prepared; fusion: the image side, instead of volumes "
        "of regions",
    )
    genotypes: Folder | None = Field(
        None, description="fusion: folder of `gen3d genotypes` of the same people, joined by subject"
    )
    autoencoder: Folder | None = Field(
        None,
        alias="vae",
        description="latent diffusion and forecasts in latents: run of the autoencoder; needed with prepared, or if it was moved",
    )
    start: Folder | None = Field(
        None,
        description="run whose weights the training begins with (fine-tuning), of the same model, grid and channels; its people "
        "count as seen. For models that learn from scans in steps",
    )
    patients: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the patients (role evaluation) to train on too, 0 to 1: for generative models and, with "
        "cross_fit, for latents to classify. A run trained on patients cannot make anomaly maps",
    )
    model: ModelConfig = Field(description=f"which model; `kind` is one of {named_kinds()}")
    channels: tuple[str, ...] = Field(
        ("t1w", "log_jacobian"), min_length=1, description="volumes that the model is trained on together"
    )
    cross_fit: int = Field(
        1,
        ge=1,
        description="members; 1: one model of the train controls; K: K models, each without one fold of train + calibration "
        "(classifiers and fusion: of everybody with a label)",
    )
    folds: Folder | None = Field(
        None,
        description="classifiers and fusion: folder whose folds are taken, instead of cross_fit: another classifier, the model "
        "behind the latents that it is compared with, or heads of classify",
    )
    seed: int = Field(0, ge=0, description="seed of folds, initial weights, order of scans and noise")
    optim: OptimConfig = Field(
        default_factory=OptimConfig, description="optimiser, for models that are trained in steps"
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="where to compute and in which precision")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="random changes of training volumes")
    workers: int = execution(0, "forecasters: people whose visits are registered at a time; 0: one per core", ge=0)
    log_every: int = execution(10, "weight updates between entries of log.jsonl", gt=0)
    picture_every: int = execution(500, "weight updates between pictures of sample reconstructions", gt=0)
    track: Trackers = execution(
        DEFAULT_TRACKERS,
        "where to copy the log to, besides log.jsonl: tensorboard (files in the run folder), mlflow (mlflow.db beside it, or "
        "MLFLOW_TRACKING_URI), wandb (files beside it, sent only with WANDB_MODE=online); []: nowhere. A tracker that fails "
        "loses its record, never the training",
    )

    @field_validator("channels")
    @classmethod
    def _distinct(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(channels)) < len(channels):
            raise ValueError(f"a channel is named twice in {list(channels)}")
        return channels

    @field_validator("cross_fit")
    @classmethod
    def _enough_folds(cls, cross_fit: int) -> int:
        if cross_fit == 2:
            raise ValueError("2 members would be trained on half of the people each; use 1, or 3 and more")
        return cross_fit
