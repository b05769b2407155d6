"""configs/debug: every verb once, in the order of the data, on a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from gen3d.cli import main

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
ORDER = (
    "simulate",
    "import-weights",
    "train_restorer",
    "train_vae",
    "train_pca",
    "train_voxelwise",
    "train_vae_spatial",
    "train_ldm",
    "sample",
    "quality",
    "encode",
    "reconstruct",
    "anomaly",
    "harmonise",
    "classify",
    "stratify",
    "predict",
    "change",
    "export",
    "evaluate",
    "sweep",
    "report",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_debug_config_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DEBUG, tmp_path / "configs" / "debug")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debug").mkdir()
    torch.save(AutoencoderKL(3, norm_num_groups=8).state_dict(), tmp_path / "debug" / "weights.pt")
    for name in ORDER:
        assert main([name.split("_")[0], f"configs/debug/{name}.yaml"]) == 0, name
    assert (tmp_path / "debug" / "report" / "index.html").stat().st_size > 100_000
    assert {path.stem for path in DEBUG.glob("*.yaml")} - set(ORDER) == {"prepare"}
