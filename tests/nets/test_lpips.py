"""LPIPS from files: in closed form against its definition, and never from files that are something else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.nets.lpips import ENDS, FEATURES, SCALE, SHIFT, AlexNetFeatures, Lpips


def write_files(folder: Path, weight: float = 1.0) -> tuple[Path, Path]:
    """A backbone with random weights, named as torchvision names it, and heads that are all `weight`."""
    torch.manual_seed(0)
    plain = folder / "backbone.pth"
    torch.save(AlexNetFeatures().state_dict() | {"classifier.1.weight": torch.zeros(2, 2)}, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    backbone, heads = folder / f"alexnet-owt-{digest}.pth", folder / "alex.pth"
    plain.rename(backbone)
    torch.save({f"lin{k}.model.1.weight": torch.full((1, n, 1, 1), weight) for k, n in enumerate(FEATURES)}, heads)
    return backbone, heads


def test_it_is_the_weighted_distance_of_unit_maps(tmp_path: Path) -> None:
    network = Lpips(*write_files(tmp_path, weight=0.5))
    first, second = torch.rand(2, 64, 72), torch.rand(2, 64, 72)
    expected = torch.zeros(2)
    maps = []
    for pictures in (first, second):
        colours = torch.stack([((2 * pictures - 1) - m) / s for m, s in zip(SHIFT, SCALE, strict=True)], dim=1)
        maps.append([network.network.features[: end + 1](colours) for end in ENDS])
    for a, b in zip(*maps, strict=True):
        a, b = (part / part.norm(dim=1, keepdim=True).clamp_min(1e-10) for part in (a, b))
        expected += 0.5 * ((a - b) ** 2).sum(1).mean((1, 2))
    assert torch.allclose(network.distances(first, second), expected, atol=1e-5)
    assert network.distances(first, first).abs().max() == 0
    assert network.distances(torch.rand(1, 20, 30), torch.rand(1, 20, 30)).shape == (1,)  # small ones are enlarged


def test_other_files_are_refused(tmp_path: Path) -> None:
    backbone, heads = write_files(tmp_path)
    renamed = tmp_path / "alexnet-owt-00000000.pth"
    renamed.write_bytes(backbone.read_bytes())
    with pytest.raises(UserError, match="its SHA-256 begins with"):
        Lpips(renamed, heads)
    with pytest.raises(UserError, match="no such file of LPIPS heads"):
        Lpips(backbone, tmp_path / "gone.pth")
    with pytest.raises(UserError, match=r"not the heads of LPIPS 0\.1"):
        Lpips(backbone, backbone)
