"""The trackers by their names in settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gen3d.train.tracking.mlflow import MlflowSink
from gen3d.train.tracking.sinks import Sink, TrackerName, Tracking
from gen3d.train.tracking.tensorboard import TensorBoardSink
from gen3d.train.tracking.wandb import WandbSink

SINKS: dict[TrackerName, Callable[[], Sink]] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MlflowSink,
    "wandb": WandbSink,
}


def open_tracking(names: Sequence[TrackerName]) -> Tracking:
    """The trackers of these names, none of them begun; a tracker's library is loaded when it begins."""
    return Tracking({name: SINKS[name]() for name in dict.fromkeys(names)})
