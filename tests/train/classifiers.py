"""Small trainings of classifiers on people of two classes, in which a block of the brain differs, or nothing does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from gen3d.cohort.scores_folder import TEST, RunScores
from tests.cohorts import write_cohort

VIEW = (16, 16, 16)


def write_people(folder: Path, effect: float, seed: int = 0) -> Path:
    """30 people of two sites, 12 of them with AD; three controls have two sessions."""
    return write_cohort(folder, 18, 12, seed=seed, effect=effect, sites=("a", "b"), repeats=3)


def classifier(cohort: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A training of 12 steps, JSON-ready; nested groups are merged."""
    tree: dict[str, Any] = {
        "prepared": [str(cohort)],
        "out": str(out),
        "channels": ["t1w", "log_jacobian"],
        "cross_fit": 3,
        "model": {
            "kind": "classifier",
            "network": {"kind": "resnet3d", "layers": 10},
            "classes": ["control", "AD"],
            "grid": list(VIEW),
            "crop_around": ["hippocampus"],
            "looks": 4,
        },
        "optim": {"steps": 12, "batch_size": 6, "learning_rate": 3e-3},
        "engine": {"device": "cpu", "precision": "fp32", "checkpoint_every": 5, "timeout_s": 60},
        "log_every": 1,
        "track": [],
    }
    for group, values in changes.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, Mapping) else values
    return tree


def mean_auc(run: RunScores, variant: str = "main") -> float:
    """Mean over the members of a variant of the area under the curve of the people that they never saw."""
    areas = []
    for member in run.of(variant):
        rows = run.rows(member.index, TEST)
        scores = run.scores(rows)
        areas.append(roc_auc_score(rows["label"] == "AD", scores[:, 1] - scores[:, 0]))
    return float(np.mean(areas))
