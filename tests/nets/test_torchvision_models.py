"""Torchvision beside a torch that it was not built for."""

from __future__ import annotations

import subprocess
import sys

from gen3d.nets import torchvision_models


def test_networks_can_be_imported_first_thing_in_a_process() -> None:
    script = (
        "from gen3d.nets.torchvision_models import resnet18\n"
        "import torchvision\n"
        "print(sum(weights.numel() for weights in resnet18().parameters()))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["11689512"]


def test_nothing_is_defined_twice() -> None:
    assert torchvision_models.define_missing_operators() is None
