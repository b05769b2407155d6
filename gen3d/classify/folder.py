"""What `gen3d classify` and `gen3d predict` write: predictions of every scan, tables behind every figure, and metrics.json.

The fitted head itself, which lies in the folder of `classify`, is `gen3d.classify.head_folder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.result_folder import METRICS, ResultFolder, write_result
from gen3d.core.tables import Row, TableFile, records
from gen3d.stratify.folder import PlacedFolder

HEAD = "head"
NEIGHBOURS = TableFile("neighbours.tsv", ("key", "rank", "neighbour_key", "distance"))
CHECKLIST = TableFile("checklist.tsv")
TWIN = "random twin"
"""Ends the name of a baseline: the network of a run, trained from random weights instead of learned ones."""

MODEL_COLUMNS = ("model", "kind", "split")
CLASS_COLUMNS = ("y_true", "y_pred")


def twin_of(model: str) -> str:
    """As tables call the random twin of a network."""
    return f"{model} {TWIN}"


def write_study(
    folder: Path,
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    checklist: pd.DataFrame,
) -> None:
    """Write everything but the head of `classify`."""
    PREDICTIONS.write(folder, predictions)
    CHECKLIST.write(folder, checklist)
    write_result(folder, metrics, tables)


def write_predictions(
    folder: Path,
    predictions: pd.DataFrame,
    neighbours: pd.DataFrame,
    metrics: Mapping[str, Any],
    reliability: list[Row],
) -> None:
    """Write what `predict` leaves; `reliability` are rows of the cross-validation: what its probabilities were worth."""
    PREDICTIONS.write(folder, predictions)
    NEIGHBOURS.write(folder, neighbours)
    tables = {"predictions": records(predictions), "neighbours": records(neighbours), "reliability": reliability}
    write_json(folder / METRICS, {**metrics, "tables": tables})


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a finished `gen3d classify`.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / METRICS
    try:
        metrics = load_object(path)
        metrics["tables"] = dict(metrics.get("tables") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); run `gen3d classify` again.") from None
    return metrics


@dataclass(frozen=True)
class HeadFolder(ResultFolder):
    """Heads on latents and their baselines: how well they predict the target of held-out people."""

    @property
    def target(self) -> dict[str, Any]:
        """name, task and classes."""
        target = self.metrics.get("target", {})
        return target if isinstance(target, dict) else {}

    @property
    def task(self) -> str:
        """categories, ordered or number."""
        return str(self.target.get("task", "categories"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the reference first."""
        return tuple(str(name) for name in self.target.get("classes") or ())

    @property
    def networks(self) -> list[dict[str, Any]]:
        """The trained networks among the models."""
        return [entry for entry in self.part("networks", list, []) if isinstance(entry, dict)]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per model, repeat and scan."""
        frame = PREDICTIONS.read_if_there(self.folder)
        for column in (*MODEL_COLUMNS, *CLASS_COLUMNS):
            if column in frame.columns:
                frame[column] = frame[column].astype(str)
        return frame

    @property
    def is_external(self) -> bool:
        """Whether saved heads were applied to people of other data."""
        if "split" in self.predictions.columns and len(self.predictions):
            return bool((self.predictions["split"] == "external").all())
        return bool(self.artefact.config.get("external"))


@dataclass(frozen=True)
class PredictedFolder(PlacedFolder):
    """A saved head applied to new scans."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """A row per scan."""
        return self.scans(PREDICTIONS)

    @cached_property
    def neighbours(self) -> pd.DataFrame:
        """Rows per scan; empty where there is none."""
        return NEIGHBOURS.read_if_there(self.folder)
