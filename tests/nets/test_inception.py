"""The network of the FID is torchvision's Inception with the poolings of 2015, from a file of its name and hash alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from gen3d.core.errors import UserError
from gen3d.nets.inception import NUM_CLASSES, FidInception
from gen3d.nets.torchvision_models import inception_v3


def test_poolings_are_those_of_2015_and_other_files_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = inception_v3(weights=None, num_classes=NUM_CLASSES, aux_logits=False, init_weights=False).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    digest = hashlib.sha256((tmp_path / "plain.pth").read_bytes()).hexdigest()[:8]
    weights = tmp_path / f"pt_inception-2015-12-05-{digest}.pth"
    (tmp_path / "plain.pth").rename(weights)
    network = FidInception(weights)
    maps = torch.rand(1, 192, 5, 5)
    with torch.no_grad():
        first = network.network.Mixed_5b(maps)
        expected = plain.Mixed_5b.branch_pool(avg_pool2d(maps, 3, 1, 1, count_include_pad=False))
        assert torch.allclose(first[:, -32:], expected, atol=1e-6)
        assert torch.allclose(first[:, :-32], plain.Mixed_5b(maps)[:, :-32], atol=1e-6)
        last = torch.rand(1, 2048, 3, 3)
        expected = plain.Mixed_7c.branch_pool(max_pool2d(last, 3, 1, 1))
        assert torch.allclose(network.network.Mixed_7c(last)[:, -192:], expected, atol=1e-6)
    assert network.features(torch.rand(1, 16, 24)).shape == (1, 2048)
    wrong = tmp_path / "pt_inception-2015-12-05-00000000.pth"
    weights.rename(wrong)
    with pytest.raises(UserError, match="its SHA-256 begins with"):
        FidInception(wrong)
