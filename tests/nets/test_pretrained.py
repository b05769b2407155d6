"""Weights from a file: what is accepted, and the sentence for everything else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.nets.classifiers.video import VideoNetwork
from gen3d.nets.pretrained import fill, lite0_file
from gen3d.nets.torchvision_models import mc3_18, r3d_18

Tensors = dict[str, Tensor]


def saved(folder: Path, tensors: object, name: str = "mc3_18") -> Path:
    """A file named as torchvision names its files: with the first digits of its SHA-256."""
    draft = folder / "draft.pth"
    torch.save(tensors, draft)
    return draft.rename(folder / f"{name}-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.pth")


@pytest.fixture(scope="module")
def published() -> Tensors:
    torch.manual_seed(3)
    return mc3_18().state_dict()


def test_weights_arrive_and_the_head_stays_new(tmp_path: Path, published: Tensors) -> None:
    weights = saved(tmp_path, published)
    network = VideoNetwork(1, 2, "mc3_18", "coronal", weights)
    twin = VideoNetwork(1, 2, "mc3_18", "coronal")
    assert torch.equal(network.state_dict()["stages.layer2.0.conv1.1.weight"], published["layer2.0.conv1.1.weight"])
    assert list(network.state_dict()) == list(twin.state_dict())
    volumes = torch.rand(1, 1, 17, 17, 17)
    assert not torch.allclose(network.eval().features(volumes, "layer1"), twin.eval().features(volumes, "layer1"))
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(volumes), network(volumes))


def test_a_file_may_wrap_its_tensors_and_have_another_head(tmp_path: Path, published: Tensors) -> None:
    wrapped = {f"module.{name}": value for name, value in published.items() if not name.startswith("fc.")}
    network = mc3_18()
    fill(network, saved(tmp_path, {"state_dict": wrapped}), "mc3_18")
    assert torch.equal(network.layer4[1].conv2[0].weight, published["layer4.1.conv2.0.weight"])


def test_another_name_or_hash_is_refused(tmp_path: Path, published: Tensors) -> None:
    weights = saved(tmp_path, published)
    with pytest.raises(UserError, match="not a name of weights for r3d_18"):
        fill(r3d_18(), weights, "r3d_18")
    renamed = weights.rename(tmp_path / "mc3_18-00000000.pth")
    with pytest.raises(UserError, match="its SHA-256 begins with"):
        fill(mc3_18(), renamed, "mc3_18")
    with pytest.raises(UserError, match="no such file"):
        fill(mc3_18(), tmp_path / "mc3_18-11111111.pth", "mc3_18")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop("layer4.0.conv1.0.weight"), "1 tensor, such as layer4.0.conv1.0.weight, missing"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "1 tensor, such as more, too many"),
        (
            lambda tensors: tensors.update({"stem.0.weight": torch.zeros(64, 1, 3, 7, 7)}),
            r"stem.0.weight is \(64, 1, 3, 7, 7\)",
        ),
        (lambda tensors: tensors["layer1.0.conv1.1.bias"].fill_(float("nan")), "NaN or infinite"),
    ],
)
def test_another_layout_is_refused(
    tmp_path: Path, published: Tensors, change: Callable[[Tensors], object], sentence: str
) -> None:
    tensors = {name: value.clone() for name, value in published.items()}
    change(tensors)
    with pytest.raises(UserError, match=sentence):
        fill(mc3_18(), saved(tmp_path, tensors), "mc3_18")


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    draft = tmp_path / "draft.pth"
    draft.write_bytes(b"no weights")
    digits = hashlib.sha256(b"no weights").hexdigest()[:8]
    with pytest.raises(UserError, match="cannot be read as weights of mc3_18"):
        fill(mc3_18(), draft.rename(tmp_path / f"mc3_18-{digits}.pth"), "mc3_18")


def test_the_package_has_the_file_of_its_name() -> None:
    weights = lite0_file()
    assert hashlib.sha256(weights.read_bytes()).hexdigest().startswith("57934424")


def test_a_package_that_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen3d.nets.pretrained.LITE0_PACKAGE", "gen3d-no-such-package")
    with pytest.raises(UserError, match="gen3d-no-such-package is not installed; pip install"):
        lite0_file()
