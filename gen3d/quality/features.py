"""Feature vectors of scans by every extractor, kept in the folder so that they are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from gen3d.core.artefact import file_digest
from gen3d.core.config import Config
from gen3d.core.disk import whole_file
from gen3d.core.progress import track
from gen3d.nets.extractors import BrainFeatures, Extractor, Med3D, RadImageNet, check_weights
from gen3d.quality.folder import STANDARD

Floats = NDArray[np.float32]


class RandomFeatures(Config):
    """Brain features whose weights stay as they were drawn: texture and shape without any training."""

    kind: Literal["random"] = Field("random", description="fixed random convolutions")
    seed: int = Field(0, ge=0, description="of the weights")


class Med3DFeatures(Config):
    """MedicalNet's 3D ResNet-50, the features of published FIDs of 3D brain MRI."""

    kind: Literal["med3d"] = Field("med3d", description="MedicalNet's 3D ResNet-50")
    weights: Path = Field(description="file of resnet_50_23dataset.pth, which you download yourself")


class RadImageNetFeatures(Config):
    """RadImageNet's 2D ResNet-50 on central slices of three planes."""

    kind: Literal["radimagenet"] = Field("radimagenet", description="RadImageNet's 2D ResNet-50, three planes")
    weights: Path = Field(description="file of RadImageNet's ResNet-50 for PyTorch, which you download yourself")
    central_share: float = Field(0.4, gt=0, le=1, description="share of the slices of each plane that is used")


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


ExtractorConfig = Annotated[
    Annotated[RandomFeatures | Med3DFeatures | RadImageNetFeatures, Field(discriminator="kind")],
    BeforeValidator(_by_name),
]
"""`random`, or {kind: med3d, weights: file}."""


def check_extractors(configs: Sequence[ExtractorConfig]) -> dict[str, str]:
    """Refuse weights that are not there; the hashes of those that are, by kind.

    Raises:
        UserError: naming the file.
    """
    digests: dict[str, str] = {}
    for config in configs:
        if isinstance(config, (Med3DFeatures, RadImageNetFeatures)):
            check_weights(config.weights, STANDARD[config.kind])
            digests[config.kind] = file_digest(config.weights)
    return digests


def metric_name(metric: str, kind: str, num: int, normalisation: str) -> str:
    """A distance's full name: `FID-random(n=24, z-scored brain)`, `KID(Med3D ResNet-50, n=24, z-scored brain)`."""
    known = STANDARD.get(kind)
    if known is None:
        return f"{metric.upper()}-{kind}(n={num}, {normalisation})"
    return f"{metric.upper()}({known}, n={num}, {normalisation})"


@dataclass(frozen=True)
class ScanSet:
    """A named set of scans.

    Attributes:
        name: of the set: real, synthetic, reconstructed, smoothed.
        keys: of the scans.
        read: key -> T1w [X, Y, Z] in stored units.
        derived_from_real: scan i of the set is real scan i, changed.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[str], Floats]
    derived_from_real: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, rows: NDArray[np.int64]) -> Tensor:
        """Several scans [B, X, Y, Z]."""
        return torch.from_numpy(np.stack([self.read(self.keys[int(row)]) for row in rows]))


@dataclass
class FeatureMaker:
    """Computes the features of one extractor, which is built when first needed, and keeps them under `folder`.

    `scaling` are the real scans that give random features their scale.
    """

    config: ExtractorConfig
    folder: Path
    scaling: ScanSet
    mask: NDArray[np.bool_]
    device: str = "cpu"
    _network: Extractor | None = field(default=None, repr=False)

    @property
    def normalisation(self) -> str:
        """What is done to intensities first."""
        kinds: dict[str, type[Extractor]] = {"med3d": Med3D, "radimagenet": RadImageNet}
        return kinds.get(self.config.kind, BrainFeatures).normalisation

    def features(self, scans: ScanSet) -> list[Floats]:
        """Features [n, k, d] of every plane."""
        path = self.folder / f"{self.config.kind}_{scans.name}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                return [kept[f"plane{i}"] for i in range(len(kept.files))]
        network, mask = self._built(), torch.from_numpy(self.mask).to(self.device)
        with torch.no_grad():
            rows = [
                network.features(scans.load(np.array([row])).to(self.device), mask)
                for row in track(range(len(scans)), f"{self.config.kind} features of {scans.name} scans")
            ]
        planes = [torch.cat([row[i] for row in rows]).cpu().numpy() for i in range(len(rows[0]))]
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **{f"plane{i}": plane for i, plane in enumerate(planes)})  # type: ignore[arg-type]
        return planes

    def _built(self) -> Extractor:
        if self._network is None:
            self._network = self._build().to(self.device)
        return self._network

    def _build(self) -> Extractor:
        if isinstance(self.config, Med3DFeatures):
            return Med3D(self.config.weights)
        if isinstance(self.config, RadImageNetFeatures):
            return RadImageNet(self.config.weights, self.config.central_share)
        path, network = self.folder / f"{self.config.kind}.safetensors", random_network(self.config.seed)
        if path.is_file():
            network.load_state_dict(load_file(path))
            return network
        scale_features(network, self.scaling, torch.from_numpy(self.mask))
        with whole_file(path) as partial:
            save_file(network.state_dict(), partial)
        return network


def random_network(seed: int) -> BrainFeatures:
    """The network with weights that depend on the seed alone; other random numbers are not disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BrainFeatures().requires_grad_(False).eval()


def scale_features(network: BrainFeatures, scans: ScanSet, mask: Tensor) -> None:
    """Let real scans set the scale of every feature."""
    rows = (np.array([row]) for row in range(len(scans)))
    with torch.no_grad():
        network.set_scale(torch.cat([network.raw(scans.load(row), mask) for row in rows]))
