"""Weights are read back bit by bit, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.models.weights import fill, read_weights, save_weights


def test_round_trip(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    path = tmp_path / "members" / "0" / "model.safetensors"
    save_weights(path, layer.state_dict(), "plan-a", "vae")
    tensors = read_weights(path, "plan-a", "vae")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in layer.state_dict().items()
    }
    assert [item.name for item in path.parent.iterdir()] == ["model.safetensors"]


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="weights are missing"):
        read_weights(path, "plan-a", "vae")
    save_weights(path, {"x": torch.zeros(2)}, "plan-a", "vae")
    with pytest.raises(UserError, match=r"weights of another plan: they were trained on plan plan-a, but .* plan-b"):
        read_weights(path, "plan-b", "vae")
    with pytest.raises(UserError, match=r"weights of a vae model, but config\.yaml describes pca"):
        read_weights(path, "plan-a", "pca")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged weights"):
        read_weights(path, "plan-a", "vae")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("bias"), "1 tensors are missing, such as bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected, such as extra"),
        (lambda tensors: tensors.update(bias=torch.zeros(5)), "of another shape, such as bias"),
    ],
)
def test_partial_weights_are_refused(change: object, words: str) -> None:
    layer = torch.nn.Linear(3, 2)
    tensors = dict(layer.state_dict())
    change(tensors)  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        fill(Path("model.safetensors"), layer, tensors)  # type: ignore[arg-type]
