"""The image side of people as columns: volumes of regions, or latents of their scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import LOG_JACOBIAN
from gen3d.cohort.folder import Prepared
from gen3d.cohort.fusion_folder import IMAGES
from gen3d.cohort.latents_folder import Latents
from gen3d.core.progress import track
from gen3d.train.modalities import Columns, Side

MOST_CELLS = 4
"""Cells along each side to which a spatial latent is averaged; each is a token."""

MOST_CHUNKS = 32
"""Tokens that a latent vector is cut into."""


def region_side(prepared: Prepared) -> Side:
    """Volumes of the regions of a cohort, both hemispheres of a structure together.

    Raises:
        UserError: no deformation channel to read volumes from.
    """
    prepared.require_channels([LOG_JACOBIAN])
    names = list(dict.fromkeys(_structures(prepared)))
    return Side(
        pd.DataFrame({"token": names, "column": [f"{name} (ml)" for name in names]}, columns=list(IMAGES.columns))
    )


def _structures(prepared: Prepared) -> list[str]:
    table = prepared.region_table
    return table["structure" if "structure" in table.columns else "name"].astype(str).tolist()


def region_values(prepared: Prepared, keys: Sequence[str]) -> Columns:
    """Volumes of scans in ml, [n, structures]: the integral of det J over each region of the template.

    They are measured after the linear alignment, which takes out head size where it scales.
    """
    regions = prepared.regions.ravel()
    labels, structures = prepared.region_table["label"].to_numpy(), _structures(prepared)
    names = list(dict.fromkeys(structures))
    belongs = np.zeros((int(labels.max()) + 1, len(names)))
    belongs[labels, [names.index(name) for name in structures]] = prepared.plan.spacing_mm**3 / 1000
    values = np.empty((len(keys), len(names)), dtype=np.float32)
    for row in track(range(len(keys)), "volumes of regions"):
        weights = np.exp(prepared.volume(keys[row], LOG_JACOBIAN)).ravel()
        values[row] = np.bincount(regions, weights=weights, minlength=len(belongs))[: len(belongs)] @ belongs
    return values


def latent_side(latents: Latents) -> Side:
    """Tokens of latents: cells of a spatial latent, averaged to 4 x 4 x 4 at most, or pieces of a vector.

    The further column `made_by` names the run behind them.
    """
    if len(latents.shape) == 4:
        cells = [min(MOST_CELLS, side) for side in latents.shape[1:]]
        rows = [
            (f"latent cell {x + 1}.{y + 1}.{z + 1}", f"channel {channel + 1} at {x + 1}.{y + 1}.{z + 1}")
            for x, y, z in np.ndindex(*cells)
            for channel in range(latents.shape[0])
        ]
    else:
        width = latents.values.shape[2]
        piece_of = np.arange(width) * min(MOST_CHUNKS, width) // width
        rows = [(f"latents piece {piece + 1}", f"latent {place + 1}") for place, piece in enumerate(piece_of.tolist())]
    return Side(pd.DataFrame(rows, columns=list(IMAGES.columns)).assign(made_by=latents.run_key))


def latent_values(latents: Latents, member: int, keys: Sequence[str]) -> Columns:
    """Latents of scans by a member [n, columns of `latent_side`], NaN for scans that have none."""
    place_of = {str(key): place for place, key in enumerate(latents.table["key"])}
    places = np.array([place_of.get(str(key), -1) for key in keys], dtype=np.int64)
    found = places >= 0
    values = np.asarray(latents.values[member], dtype=np.float32)[places[found]]
    if len(latents.shape) == 4:
        spatial = values.reshape(len(values), *latents.shape)
        for axis in (2, 3, 4):
            spatial = _averaged(spatial, axis, min(MOST_CELLS, spatial.shape[axis]))
        values = np.moveaxis(spatial, 1, -1).reshape(len(values), -1)
    filled = np.full((len(keys), values.shape[1]), np.nan, dtype=np.float32)
    filled[found] = values
    return filled


def _averaged(values: NDArray[np.float32], axis: int, cells: int) -> NDArray[np.float32]:
    """Means of consecutive pieces along an axis."""
    starts = np.arange(cells) * values.shape[axis] // cells
    sizes = np.diff(np.append(starts, values.shape[axis]))
    shape = [1] * values.ndim
    shape[axis] = cells
    means = np.add.reduceat(values, starts, axis=axis) / sizes.reshape(shape)
    return np.asarray(means, dtype=np.float32)
