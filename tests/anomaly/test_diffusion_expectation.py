"""A latent diffusion model as one more expectation of `gen3d anomaly`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.models.run import load_run
from gen3d.train.train import Train

SHORT: dict[str, Any] = {"optim": {"steps": 8, "batch_size": 4}, "engine": {"precision": "fp32"}, "track": []}
SMALL = {"base_channels": 8, "max_channels": 8}


@pytest.fixture(scope="module")
def diffusion(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    vae = {"kind": "vae", "latent": "spatial", "levels": 2, "latent_channels": 2, **SMALL}
    Train.model_validate({"prepared": cohort, "out": runs / "vae", "model": vae, "channels": ["t1w"], **SHORT}).run()
    model = {"kind": "latent_diffusion", "head_channels": 8, "conditions": ["age_years", "diagnosis"]}
    model |= {"base_channels": 16, "max_channels": 16}
    tree = {"prepared": cohort, "vae": runs / "vae", "out": runs / "ldm", "model": model, "patients": 0.5, **SHORT}
    return Train.model_validate(tree).run()


def test_people_held_out_from_both_stages_get_calibrated_z(cohort: Path, diffusion: Path, tmp_path: Path) -> None:
    verb = {"prepared": cohort, "run": diffusion, "out": tmp_path / "maps", "samples": 2, "native": False}
    maps = Anomaly.model_validate(verb).run()
    subjects = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype={"subject": str})
    run = load_run(diffusion)
    assert not run.seen.by_any(subjects).any()
    assert subjects["role"].eq("evaluation").sum() == 3  # of six patients, it learned from three
    held_out = subjects[subjects["role"].eq("test")]
    assert held_out["score_residual"].notna().all()
    regions = pd.read_csv(maps / "regions.tsv", sep="\t")
    z = regions[(regions["channel"] == "residual") & regions["key"].isin(held_out["key"])]["z"]
    assert 0.5 < float(np.std(z)) < 2.0


def test_it_joins_an_ensemble(cohort: Path, diffusion: Path, tmp_path: Path) -> None:
    pca = {"kind": "pca", "num_components": 4}
    tree = {"prepared": cohort, "out": tmp_path / "pca", "model": pca, "channels": ["t1w"], "cross_fit": 3}
    run = Train.model_validate({**tree, "track": []}).run()
    verb = {"prepared": cohort, "run": [diffusion, run], "out": tmp_path / "maps", "samples": 1, "native": False}
    maps = Anomaly.model_validate({**verb, "channels": ["residual"]}).run()
    assert len(pd.read_csv(maps / "subjects.tsv", sep="\t")) > 10
