"""A baseline that no weight was learned for: features of a network with random weights, and a linear machine on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.nets.untrained import NUM_FEATURES, SHORTEST_SIDE, UntrainedNetwork, three_views

NAME = "untrained network"
PUBLISHED_MM = 2.0
"""Of the published network's volumes; finer ones are brought to it."""


@dataclass(frozen=True)
class UntrainedFeatures:
    """What the network with random weights makes of the T1w volumes of some scans; computed when it is first asked for."""

    prepared: Prepared
    keys: tuple[str, ...]

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[n, features]."""
        network, mask = UntrainedNetwork(), torch.from_numpy(self.prepared.mask)
        coarser = _resized(mask.float(), self.prepared) > 0.5
        rows = np.empty((len(self.keys), NUM_FEATURES), dtype=np.float32)
        for row, key in enumerate(track(self.keys, f"reading by an {NAME}")):
            volume = _resized(torch.from_numpy(self.prepared.volume(key, T1W)), self.prepared)
            views = torch.from_numpy(three_views(volume.numpy(), coarser.numpy()))
            with torch.no_grad():
                rows[row] = network(views[None])[0].numpy()
        return rows

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def of(self, keys: Iterable[str]) -> NDArray[np.float64]:
        """Rows of some scans, by key."""
        return np.asarray(self.values[[self._places[str(key)] for key in keys]], dtype=np.float64)


def untrained_features(prepared: Prepared, keys: Sequence[str]) -> UntrainedFeatures:
    """The features of these scans.

    Raises:
        UserError: scans that are not there, no T1w, or a grid that is too small for the network's four halvings.
    """
    where = prepared.folders[0]
    if T1W not in prepared.plan.channels:
        raise UserError(f"{where}: holds no {T1W} volumes, which untrained=true reads; leave out untrained=.")
    absent = sorted(set(keys) - set(prepared.manifest["key"].astype(str)))
    if absent:
        raise UserError(f"{where}: lacks the scan {absent[0]}; give prepared=FOLDERS of all scans, or untrained=false.")
    shape = _shape(prepared)
    if min(shape) < SHORTEST_SIDE:
        sides = " x ".join(map(str, shape))
        raise UserError(
            f"{where}: {sides} voxels are too few for untrained=true, which needs {SHORTEST_SIDE} along every axis; prepare at a "
            "finer spacing_mm, or leave out untrained=."
        )
    return UntrainedFeatures(prepared, tuple(keys))


def _shape(prepared: Prepared) -> tuple[int, ...]:
    scale = min(1.0, prepared.plan.spacing_mm / PUBLISHED_MM)
    return tuple(round(side * scale) for side in prepared.plan.shape)


def _resized(volume: torch.Tensor, prepared: Prepared) -> torch.Tensor:
    """A volume [X, Y, Z] at 2 mm, or as it is where its voxels are that large."""
    shape = _shape(prepared)
    if shape == tuple(volume.shape):
        return volume
    resized: torch.Tensor = torch.nn.functional.interpolate(volume[None, None], shape, mode="area")[0, 0]
    return resized
