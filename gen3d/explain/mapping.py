"""The map of one scan by each method, on the plan's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.explain.attribution import integrated_gradients, smoothgrad
from gen3d.explain.gradcam import grad_cam
from gen3d.explain.occlusion import Replacing, SoftRegions, painted
from gen3d.explain.question import Answering
from gen3d.explain.settings import ExplainingVerb
from gen3d.nets.classifiers.geometry import MapGeometry

CONTRIBUTIONS = ("integrated_gradients", "occlusion")
"""Methods whose signed values add up to the answer; those of the others say where it reacts."""

RANGE_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Layer:
    """The module whose map Grad-CAM weighs, and where its cells lie in the view."""

    name: str
    geometry: MapGeometry


@dataclass(frozen=True)
class Mapping:
    """One scan as one member sees it.

    Attributes:
        answering: the member's answer about the person.
        volume: [C, X, Y, Z] in stored units.
        controls: mean of the controls, the same; the person is not among them.
        regions: of the part of the brain that the network sees.
        layer: of Grad-CAM; None where it is not asked for.
        verb: the settings.
        seed: of this scan.
    """

    answering: Answering
    volume: Tensor
    controls: Tensor
    regions: SoftRegions
    layer: Layer | None
    verb: ExplainingVerb
    seed: int

    @cached_property
    def replacing(self) -> Replacing:
        """The scan with regions replaced by those of the controls."""
        return Replacing(self.answering, self.volume, self.controls, self.regions, self.verb.batch)

    @cached_property
    def _view(self) -> Tensor:
        with torch.no_grad():
            return self.answering.model.view(self.volume[None])[0]

    @cached_property
    def _inside(self) -> Tensor:
        """Voxels of the view that lie in the brain, 1 or 0, [x, y, z]."""
        mask = torch.from_numpy(self.regions.mask.astype(np.float32)).to(self.volume.device)
        whole = torch.zeros_like(self._view[0])
        window, taken, placed = self.answering.model.window, [], []
        for start, size, side in zip(window.start, window.size, mask.shape, strict=True):
            low, high = max(start, 0), min(start + size, side)
            taken.append(slice(low, high))
            placed.append(slice(low - start, high - start))
        whole[tuple(placed)] = mask[tuple(taken)]
        return whole

    def _scales(self) -> tuple[Tensor, Tensor]:
        """Range (0.5th to 99.5th percentile) and SD of each channel [C] inside the brain of the view."""
        values = self._view[:, self._inside > 0].double().cpu().numpy()
        low, high = np.percentile(values, RANGE_PERCENTILES, axis=1)
        kind = self._view
        return kind.new_tensor((high - low).tolist()), kind.new_tensor(values.std(axis=1).tolist())

    def by(self, method: str) -> NDArray[np.float32]:
        """The map [X, Y, Z] of a method, summed over channels.

        smoothgrad: change of the answer per SD of a channel (inside the brain). integrated_gradients: contribution to the answer.
        grad_cam: weighed map, 0 or more. occlusion: fall of the answer when the voxel's region is replaced, shared out over
        the region.
        """
        if method == "integrated_gradients":
            return self._integrated[0]
        if method == "occlusion":
            labels = self.regions.present
            return painted(self.replacing.drops(labels), labels, self.regions)
        if method == "grad_cam":
            return self._grad_cam()
        return self._smoothgrad()

    @property
    def incomplete(self) -> float:
        """What integrated gradients miss of the answer's change, as a share of it; 0 with enough steps."""
        return self._integrated[1]

    @cached_property
    def _integrated(self) -> tuple[NDArray[np.float32], float]:
        with torch.no_grad():
            baseline = self.answering.model.view(self.controls[None])[0]
        answer = self.answering.of_view
        parts, missed = integrated_gradients(answer, self._view, baseline, self.verb.steps, self.verb.batch)
        return self._on_grid(parts.sum(0)), missed

    def _grad_cam(self) -> NDArray[np.float32]:
        assert self.layer is not None, "it is chosen wherever grad_cam is asked for"
        network, layer = self.answering.model.network, self.layer
        cam = grad_cam(self.answering.of_view, network, layer.name, layer.geometry, self._view)
        return self._on_grid(torch.from_numpy(cam))

    def _smoothgrad(self) -> NDArray[np.float32]:
        span, spread = self._scales()
        noise, draws = self.verb.noise * span, self.verb.draws
        generator = torch.Generator().manual_seed(self.seed)
        answer = self.answering.of_view
        found = smoothgrad(answer, self._view, noise, self._inside, draws, generator, self.verb.batch)
        return self._on_grid((found * spread.view(-1, 1, 1, 1)).sum(0))

    def _on_grid(self, seen: Tensor) -> NDArray[np.float32]:
        shape = self.regions.mask.shape
        placed: NDArray[np.float32] = self.answering.on_grid(seen.float().cpu(), shape).numpy()
        return placed

    def orders(self, volume: NDArray[np.floating], method: str) -> list[int]:
        """Regions in the order in which a map says that they matter, the strongest per voxel first.

        Contributions are ordered with their sign: first what holds the answer away from the controls'.
        """
        start, end = self.replacing.ends
        values = volume * np.sign(start - end) if method in CONTRIBUTIONS else np.abs(volume)
        labels, mask = self.regions.labels, self.regions.mask
        mean = {label: float(values[(labels == label) & mask].mean()) for label in self.regions.present}
        return sorted(mean, key=lambda label: (-mean[label], label))


def mean_map(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of the maps of several members."""
    return np.asarray(np.mean(maps, axis=0, dtype=np.float64), dtype=np.float32)
