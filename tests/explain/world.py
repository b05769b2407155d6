"""A simulated cohort whose truth is exact, and a run of a classifier whose reasons are known: it reads the hippocampi.

The network is not one that settings can name; `known_networks` puts it in the place of those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from gen3d.cohort.folder import VERDICTS, open_prepared, write_cohort
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.regions import find, region_table, regions_on
from gen3d.cohort.scores_folder import MAIN, PERMUTED, TEST, ScoredMember, write_description, write_scores
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Target
from gen3d.core.artefact import write_json
from gen3d.explain.explain import Explain
from gen3d.explain.one_scan import opened
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.maths.design import Design
from gen3d.models.base import Statistics
from gen3d.models.run_folder import weights_path, write_people_and_plan, write_settings
from gen3d.models.supervised.classifier import ClassifierConfig
from gen3d.models.weights import save_weights
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.simulate.folder import write_truth, write_truth_volumes
from tests.sealing import reseal
from tests.world import write_record

PLAN = plan_grid(4.0)
FOLDS, PER_CLASS = 3, 4
CLASSES = ("CN", "AD")
LOSS = -0.4
TRANSFORM = {
    "scan": "scan.nii.gz",
    "scan_shape": [41, 48, 40],
    "scan_affine": (PLAN.matrix - [[0, 0, 0, 4.0], [0] * 4, [0] * 4, [0] * 4]).tolist(),
    "affine_template_to_scan": np.eye(4).tolist(),
}
"""Of a scan whose voxels are those of the grid, with one more on the left."""

HALF = (20, 24, 20)
"""Cells of the network's map."""


def named(*regions: str) -> NDArray[np.bool_]:
    """Voxels of regions, both sides."""
    labels = [label for name in regions for label in find(name)]
    return np.asarray(np.isin(regions_on(PLAN), labels) & template_on(PLAN).mask)


class _Reading(nn.Module):
    """Minus a weighted mean of the cells, as the logit of the second class; `reset_parameters` forgets where to look."""

    def __init__(self, cells: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(cells))

    def reset_parameters(self) -> None:
        """Weights without a place."""
        nn.init.normal_(self.kernel, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        read = (features[:, 0] * self.kernel).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(read), -read], dim=1)


def small_network() -> StagedNetwork:
    """A map of half the resolution, and a head that reads some of its cells."""
    stem = nn.Conv3d(1, 1, 3, stride=2, padding=1, bias=False)
    with torch.no_grad():
        stem.weight.fill_(1 / 27)
    return StagedNetwork({"stem": stem, "head": _Reading(HALF)})


def kernel_of(region: NDArray[np.bool_]) -> Tensor:
    """Weights of the cells that lie in a region, 10 in all."""
    inside = torch.from_numpy(region[::2, ::2, ::2].astype(np.float32))
    return 10 * inside / inside.sum()


def known_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every classifier that is opened has the small network."""
    monkeypatch.setattr("gen3d.models.supervised.classifier.build_network", lambda *given, **options: small_network())


def write_people(folder: Path, retested: int = 3, seed: int = 0) -> Path:
    """A finished folder of simulate: hippocampi of the AD group have lost volume; some people have two scans."""
    (folder / "transforms").mkdir(parents=True)
    generator, template, loss = np.random.default_rng(seed), template_on(PLAN), named("hippocampus")
    smooth = np.where(loss, LOSS, 0.0).astype(np.float32)
    rows, truth = [], []
    for number in range(2 * PER_CLASS):
        ill = number >= PER_CLASS
        own = gaussian_filter(generator.standard_normal(PLAN.shape), 1.5)
        own *= 0.12 / own.std()
        for session in ("1", "2")[: 1 + (number % PER_CLASS < retested)]:
            key = scan_key(f"p{number}", session)
            noise = own + 0.02 * gaussian_filter(generator.standard_normal(PLAN.shape), 1.0)
            volume = (noise + (smooth if ill else 0)) * template.mask
            store(folder / "volumes" / f"{key}_log_jacobian.nii", volume, PLAN.matrix)
            store(folder / "volumes" / f"{key}_t1w.nii", template.t1w, PLAN.matrix)
            write_json(folder / "transforms" / f"{key}.json", TRANSFORM)
            rows.append(
                (
                    f"p{number}",
                    session,
                    "a",
                    60.0 + number,
                    "FM"[number % 2],
                    CLASSES[ill],
                    "evaluation" if ill else "train",
                )
            )
            truth.append((f"p{number}", session, key, "AD" if ill else "none", float(ill)))
            if ill:
                write_truth_volumes(folder, key, smooth, loss.astype(np.uint8), PLAN.matrix)
    frame = pd.DataFrame(rows, columns=["subject", "session", "site", "age_years", "sex", "diagnosis", "role"])
    frame["cdr"], frame["mmse"] = np.nan, np.nan
    frame["key"] = [row[2] for row in truth]
    write_cohort(folder, PLAN, template.mask, regions_on(PLAN), region_table(), frame)
    VERDICTS.write(folder, pd.DataFrame({"key": frame["key"], "source": "", "verdict": "keep", "reason": ""}))
    changes = [
        (key, region, -33.0)
        for _, _, key, condition, _ in truth
        if condition == "AD"
        for region in ("left hippocampus", "right hippocampus")
    ]
    write_truth(
        folder,
        pd.DataFrame(truth, columns=["subject", "session", "key", "condition", "severity"]),
        pd.DataFrame(changes, columns=["key", "region", "percent_change"]),
        pd.DataFrame(changes, columns=["key", "region", "volume_ml"]),
    )
    write_record(folder, "simulate")
    return folder


def write_classifier(folder: Path, cohort: Path, cross_fit: bool = True) -> Path:
    """A run whose members read the hippocampi, and one with permuted labels that reads the occipital lobe."""
    table = open_prepared(cohort).manifest
    target = Target("diagnosis", "categories", CLASSES)
    config = ClassifierConfig.model_validate({"network": "mc3_18", "classes": CLASSES, "intensity": "stored"})
    config = config.completed(PLAN, target)
    fold_of = {subject: place % FOLDS for place, subject in enumerate(table["subject"].unique())}
    fold = table["subject"].map(fold_of)
    regions = [("hippocampus",)] * FOLDS + [("lateral occipital", "pericalcarine")]
    seen = [table[(fold != number) if cross_fit else fold >= 0] for number in range(FOLDS)]
    for member, region in enumerate(regions):
        with pytest.MonkeyPatch.context() as patch:
            known_networks(patch)
            model = config.build(PLAN, ("log_jacobian",), _statistics(), 1)
        with torch.no_grad():
            model.network.stages["head"].kernel.copy_(kernel_of(named(*region)))  # type: ignore[union-attr, operator]
        save_weights(weights_path(folder, member), model.state_dict(), PLAN.key, "classifier")
    write_settings(folder, {"model": config.model_dump(mode="json", by_alias=True), "channels": ["log_jacobian"]})
    people = [SeenBy.rows(rows, "train").members[0] for rows in [*seen, seen[0]]]
    write_people_and_plan(folder, PLAN, SeenBy(tuple(people)), Design.fit([60.0, 70.0], ["F", "M"], ["a", "a"], ()))
    members = [ScoredMember(number, MAIN, number) for number in range(FOLDS)] + [ScoredMember(FOLDS, PERMUTED, 0, 0)]
    write_description(folder, target, "mc3_18", "small", ("log_jacobian",), 0.0, FOLDS, members)
    scored = table[["key", "subject", "session"]].assign(member=fold, part=TEST, label=table["diagnosis"])
    write_scores(folder, scored.assign(score_0=0.0, score_1=0.5))
    write_record(folder, "train", {"prepared": [cohort]})
    return folder


QUICK: dict[str, Any] = {
    "draws": 2,
    "noise": 0.05,
    "steps": 3,
    "orders": 2,
    "rotations": 99,
    "judged": 3,
    "people": 3,
    "batch": 3,
    "regions": ["hippocampus", "pericalcarine"],
}
"""Settings of `gen3d explain` for seconds."""


def write_explained(root: Path) -> Path:
    """A finished folder of `gen3d explain` below `root`, of the known network and its people."""
    reseal(write_people(root / "cohort"))
    reseal(write_classifier(root / "run", root / "cohort"))
    with pytest.MonkeyPatch.context() as patch:
        known_networks(patch)
        opened.cache_clear()
        keys = {"run": root / "run", "prepared": root / "cohort", "out": root / "explained", "workers": 1, **QUICK}
        Explain.model_validate(keys).run()
    return root / "explained"


def _statistics() -> Statistics:
    return Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), template_on(PLAN).mask)
