"""A run that is not what its training left: noticed by its seal, and behind the seal by its readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig
from gen3d.models.normative.pca import PCAConfig
from gen3d.models.normative.voxelwise import VoxelwiseConfig
from gen3d.models.run import load_run
from gen3d.models.run_folder import weights_path
from gen3d.models.weights import save_weights
from tests.models.test_run import VAE, plan_of, volume_of, write_run
from tests.sealing import reseal

Change = Callable[[Path], None]


def _flip(folder: Path) -> None:
    path = weights_path(folder, 1)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def _exchange(folder: Path) -> None:
    first, second = weights_path(folder, 0), weights_path(folder, 1)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _settings(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(tree | changes))

    return change


def _nobody_seen(folder: Path) -> None:
    seen = json.loads((folder / "subjects.json").read_text())
    (folder / "subjects.json").write_text(json.dumps({member: {} for member in seen}))


@pytest.mark.parametrize("change", [_flip, _exchange, _settings(channels=["log_jacobian", "t1w"]), _nobody_seen])
def test_weights_settings_and_people_are_bound_to_their_run(change: Change, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", PCAConfig(num_components=3))
    load_run(folder)
    change(folder)
    with pytest.raises(UserError, match="was changed after `gen3d train` finished"):
        load_run(folder)


def _one_member_listed(folder: Path) -> None:
    seen = json.loads((folder / "subjects.json").read_text())
    (folder / "subjects.json").write_text(json.dumps({"0": seen["0"]}))


def _huge(**model: Any) -> Change:
    def change(folder: Path) -> None:
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(tree | {"model": tree["model"] | model}))

    return change


@pytest.mark.parametrize(
    ("config", "change", "sentence"),
    [
        (VAE, _one_member_listed, "names 1 members, and 3 are there"),
        (VAE, _settings(channels="t1w"), "channels are a list of different names"),
        (VAE, _settings(channels=["t1w", "t1w"]), "channels are a list of different names"),
        (VAE, _settings(channels=["t1w", "flair"]), "channel flair is not one of t1w, log_jacobian"),
        (VAE, _settings(channels=["t1w"]), "do not fit"),
        (VAE, _huge(latent_size=2_000_000_000), r"the weights do not fit the model in config\.yaml"),
        (PCAConfig(num_components=3), _huge(num_components=10**9), r"the weights do not fit the model in config\.yaml"),
    ],
)
def test_what_is_wrong_behind_the_seal_is_a_sentence(
    config: BaseModelConfig, change: Change, sentence: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", config)
    change(folder)
    reseal(folder)
    with pytest.raises(UserError, match=sentence):
        load_run(folder).member(0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "config", [VAE, PCAConfig(num_components=3), VoxelwiseConfig()], ids=lambda config: config.kind
)
def test_one_weight_that_is_not_finite_ends_in_a_sentence(config: BaseModelConfig, bad: float, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", config)
    path = weights_path(folder, 0)
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel() * tensors[name].is_floating_point())
    tensors[name].view(-1)[-1] = bad
    save_weights(path, tensors, plan_of().key, config.kind)
    reseal(folder)
    with pytest.raises(UserError, match=f"{name} holds NaN or infinite weights"):
        load_run(folder).member(0)


@pytest.mark.parametrize("config", [VAE, PCAConfig(num_components=3)], ids=lambda config: config.kind)
def test_what_a_model_makes_of_a_scan_is_finite_or_a_sentence(config: BaseModelConfig, tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", config))
    volume = volume_of()
    volume[0, 2, 2, 2] = np.nan
    with pytest.raises(UserError, match="its model makes NaN or infinite values of the scan of nobody"):
        run.expect(volume, "nobody")
    with pytest.raises(UserError, match="its model makes NaN or infinite values of the scan of nobody"):
        run.encode(volume, "nobody")
