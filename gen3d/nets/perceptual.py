"""A perceptual distance from a pretrained 3D ResNet whose weights lie on disk; nothing is ever downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from monai.networks.nets.resnet import ResNetFeatures
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.tensor_files import load_tensors, require_finite

ResNetName = Literal["resnet10", "resnet18", "resnet34", "resnet50"]


class PerceptualDistance(nn.Module):
    """Mean squared difference of unit-normalised ResNet features, averaged over five depths and over channels.

    The form of Zhang et al. 2018 (LPIPS) without its learned weights, with the features of MedicalNet
    (Chen et al. 2019, "Med3D"), which were trained on single-channel volumes: each channel is compared on its own.
    """

    def __init__(self, name: ResNetName, weights: Path) -> None:
        super().__init__()
        self.network = ResNetFeatures(name, pretrained=False, spatial_dims=3, in_channels=1)
        _load(self.network, name, weights)
        self.network.requires_grad_(False)
        self.network.eval()

    def train(self, mode: bool = True) -> PerceptualDistance:
        """The features stay in evaluation mode: their batch statistics are those they were trained with."""
        super().train(False)
        return self

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Two tensors [B, C, X, Y, Z] -> scalar distance."""
        first = self.network(reconstruction.flatten(0, 1).unsqueeze(1))
        second = self.network(target.flatten(0, 1).unsqueeze(1))
        distances = [(_unit(a) - _unit(b)).square().sum(1).mean() for a, b in zip(first, second, strict=True)]
        return torch.stack(distances).mean()


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features.float(), dim=1, eps=1e-6)


def check_weights(weights: Path) -> None:
    """Raise a UserError when there is no file of perceptual weights."""
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file of perceptual weights; download MedicalNet's resnet_10_23dataset.pth yourself "
            "and give its path, or set model.perceptual_weight=0."
        )


def _load(network: nn.Module, name: str, weights: Path) -> None:
    check_weights(weights)
    try:
        tensors = load_tensors(weights)
        tensors = tensors.get("state_dict", tensors)
        # MedicalNet was saved from a DataParallel wrapper; its segmentation head is not part of the features.
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
        tensors = {key: value for key, value in tensors.items() if not key.startswith(("conv_seg", "fc"))}
        network.load_state_dict(tensors, strict=False)
        missing = [key for key in network.state_dict() if key not in tensors and not key.startswith("fc")]
    except (RuntimeError, pickle.UnpicklingError, AttributeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{weights}: cannot be read as weights of {name} ({reason}).") from None
    require_finite(network.state_dict(), weights, "download them again")
    if missing:
        raise UserError(f"{weights}: not the weights of {name} ({len(missing)} tensors missing, such as {missing[0]}).")
