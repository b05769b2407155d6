"""Torchvision's networks, also where its compiled operators do not load.

The wheel of a package registry is built for one kind of torch. Beside another one (such as a CPU build) its library of
operators does not load, and torchvision cannot even be imported, because it describes two operators that nobody has
defined. No network here uses them: where the library does not load, their names alone are defined, before the import.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

MISSING = ("nms", "qnms")
"""Operators that torchvision describes at import, and their arguments below."""

ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def define_missing_operators() -> torch.library.Library | None:
    """Define the names of the operators where the compiled library does not load; None where it does."""
    if "torchvision" in sys.modules:
        return None
    specification = importlib.util.find_spec("torchvision")
    assert specification is not None
    assert specification.origin is not None
    compiled = sorted(Path(specification.origin).parent.glob("_C*.so"))
    try:
        if compiled:
            torch.ops.load_library(str(compiled[0]))
            return None
    except OSError:
        pass
    names = torch.library.Library("torchvision", "DEF")
    for operator in MISSING:
        names.define(operator + ARGUMENTS)
    return names


_names = define_missing_operators()  # torch forgets the names when this object ends

from torchvision.models import EfficientNet, efficientnet_b4, inception_v3, resnet18  # noqa: E402
from torchvision.models.video import mc3_18, mvit_v2_s, r2plus1d_18, r3d_18  # noqa: E402
from torchvision.models.video.mvit import MViT  # noqa: E402
from torchvision.models.video.resnet import VideoResNet  # noqa: E402

__all__ = [
    "EfficientNet",
    "MViT",
    "VideoResNet",
    "efficientnet_b4",
    "inception_v3",
    "mc3_18",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "resnet18",
]
