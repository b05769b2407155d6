"""The folder of `gen3d stratify`: people with their place and cluster, tables, pictures, and the map itself.

The map is kept so that new people can be added to it: components, UMAP and clusters, without pickle.

map.npz holds numbers and settings only. New people are placed among those of the map, so that UMAP itself is not needed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from gen3d.core.arrays import read_arrays, require_finite
from gen3d.core.artefact import read
from gen3d.core.disk import write_whole
from gen3d.core.errors import UserError
from gen3d.core.plain_files import parse_json
from gen3d.core.result_folder import ResultFolder, write_result
from gen3d.core.tables import TableFile
from gen3d.imaging.volume import read_map_and_affine, write_nifti
from gen3d.latents.embedding import places_among
from gen3d.stratify.adjustment import Adjustment
from gen3d.stratify.mixture import Mixture

Floats = NDArray[np.float64]
FILE = "map.npz"
PACKAGES = ("umap-learn", "numba", "numpy", "scikit-learn")
PLACED_AT_ONCE = 512
"""New people whose distances to everybody in the map are in memory together."""

CORE_NEIGHBOURS = 5


@dataclass(frozen=True)
class Placed:
    """New people in a map: components [n, k], UMAP [n, 2] (NaN where the map has none), the cluster's name ("" where
    there is none) and how certain it is [n] (NaN without clusters)."""

    pcs: Floats
    umap: Floats
    cluster: list[str]
    certainty: Floats


@dataclass(frozen=True)
class PeopleMap:
    """Everything that is needed to place a new person.

    `labels` [n] are clusters of the map's people from 0, -1 for none; all -1 where there is no structure. `mixture` is
    None for clusters by density, whose new people go with the nearest people of the map. `settings` hold seed,
    num_neighbours, minimum_distance, run_key and versions.
    """

    keys: tuple[str, ...]
    mean: Floats
    loadings: Floats
    share_of_variance: Floats
    scores: Floats
    umap: Floats
    labels: NDArray[np.int64]
    certainty: Floats
    mixture: Mixture | None
    adjustment: Adjustment | None
    settings: dict[str, Any]

    @property
    def run_key(self) -> str:
        """Key of the run whose latents the map is of."""
        return str(self.settings["run_key"])

    @property
    def has_clusters(self) -> bool:
        """Whether the map has clusters."""
        return bool((self.labels >= 0).any())

    def project(self, values: NDArray[np.floating], table: pd.DataFrame | None = None) -> Placed:
        """Place people in the map, each independently of the others.

        Args:
            values: latents [n, d].
            table: their rows of the cohort table, needed where the map holds columns fixed.

        Raises:
            UserError: latents of another size or not finite, or a column that is missing.
        """
        rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        if rows.shape[1] != len(self.mean):
            raise UserError(
                f"the latents have {rows.shape[1]} dimensions and those of the map {len(self.mean)}; encode with the run "
                "that the map was made from."
            )
        if not np.isfinite(rows).all():
            raise UserError("some latents are not finite; encode these scans again.")
        if self.adjustment is not None:
            if table is None:
                raise UserError(f"the map holds {', '.join(self.adjustment.columns)} fixed; give the cohort table too.")
            rows = self.adjustment.apply(rows, table)
        pcs = (rows - self.mean) @ self.loadings.T
        mapped = places_among(self.scores, self.umap, int(self.settings["num_neighbours"]), pcs)
        labels, certainty = self._clusters(pcs)
        return Placed(pcs, mapped, [cluster_name(label) for label in labels], certainty)

    def _clusters(self, pcs: Floats) -> tuple[NDArray[np.int64], Floats]:
        if not self.has_clusters or not len(pcs):
            return np.full(len(pcs), -1), np.full(len(pcs), np.nan)
        if self.mixture is not None:
            probabilities = self.mixture.probabilities(pcs)
            return probabilities.argmax(axis=1), probabilities.max(axis=1)
        core = np.flatnonzero(self.labels >= 0)
        num = min(CORE_NEIGHBOURS, len(core))
        blocks = [
            np.argsort(cdist(pcs[start : start + PLACED_AT_ONCE], self.scores[core]), axis=1, kind="stable")[:, :num]
            for start in range(0, len(pcs), PLACED_AT_ONCE)
        ]
        nearest = np.concatenate(blocks)
        votes = self.labels[core][nearest][:, :, None] == np.arange(self.labels.max() + 1)
        share = votes.mean(axis=1)
        return share.argmax(axis=1), share.max(axis=1)

    def write(self, folder: Path) -> None:
        """Keep the map in a folder."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        if self.mixture is not None:
            arrays |= {f"mixture_{name}": getattr(self.mixture, name) for name in _MIXTURE}
        if self.adjustment is not None:
            arrays["adjustment_coefficients"] = self.adjustment.coefficients
        record = {
            "keys": list(self.keys),
            "settings": self.settings,
            "adjustment": None if self.adjustment is None else self.adjustment.record(),
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, record=np.array(json.dumps(record)), **arrays)  # type: ignore[arg-type]
        write_whole(folder / FILE, buffer.getvalue())


_ARRAYS = ("mean", "loadings", "share_of_variance", "scores", "umap", "labels", "certainty")
_MIXTURE = ("weights", "means", "variances", "differing")


def cluster_name(label: int) -> str:
    """What tables call a cluster: counted from 1; "" for none."""
    return str(int(label) + 1) if label >= 0 else ""


def with_versions(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a map with the versions that it was made with."""
    return {**settings, "versions": _versions()}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def open_map(folder: Path) -> PeopleMap:
    """Open the map of a finished folder of `gen3d stratify`.

    Raises:
        UserError: another folder, or a damaged map.
    """
    read(folder, ("stratify",))
    return _read(folder / FILE)


def _read(path: Path) -> PeopleMap:
    try:
        stored = read_arrays(path)
        record = parse_json(str(stored["record"]), finite=True)
        arrays = {name: stored[name] for name in _ARRAYS}
        _check(stored, record)
        mixture = Mixture(*(stored[f"mixture_{name}"] for name in _MIXTURE)) if "mixture_means" in stored else None
        held = record["adjustment"]
        adjustment = Adjustment.of(held, stored["adjustment_coefficients"]) if held is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); run `gen3d stratify` again.") from None
    return PeopleMap(
        tuple(record["keys"]), **arrays, mixture=mixture, adjustment=adjustment, settings=record["settings"]
    )


def _check(stored: Mapping[str, NDArray[Any]], record: Any) -> None:
    """Refuse arrays that no map has: of other sizes, or not finite where a new person's place is computed with them."""
    for name, array in stored.items():
        if name not in ("umap", "certainty", "record"):  # which are missing where there is no picture, or no cluster
            require_finite(array, name)
    (num, k), (d,) = stored["scores"].shape, stored["mean"].shape
    if (
        stored["loadings"].shape != (k, d)
        or stored["labels"].shape != (num,)
        or stored["labels"].dtype.kind not in "iu"
    ):
        raise ValueError("arrays that do not fit each other")
    if len(record["keys"]) != num or len(stored["umap"]) not in (0, num) or not isinstance(record["settings"], dict):
        raise ValueError("a record that does not fit its arrays")


STRATA = TableFile("strata.tsv", (), "run `gen3d stratify` again")
"""The cohort table's rows with pc1.., umap1, umap2, cluster ("" for none), certainty and consensus."""

CLUSTER_MAPS = "cluster_maps"
THUMBNAILS = "thumbnails"


def write_strata(
    folder: Path, strata: pd.DataFrame, metrics: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> None:
    """Write everybody's row, the tables and metrics.json."""
    STRATA.write(folder, strata)
    write_result(folder, metrics, tables)


def write_thumbnail(folder: Path, key: str, png: bytes) -> None:
    """Keep a small picture of a scan."""
    path = thumbnail_path(folder, key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png)


def thumbnail_path(folder: Path, key: str) -> Path:
    """Where the small picture of a scan lies."""
    return folder / THUMBNAILS / f"{key}.png"


def write_mean_map(
    folder: Path, cluster: str, channel: str, mean: NDArray[np.float32], affine: NDArray[np.float64]
) -> None:
    """Write the mean z map [X, Y, Z] of a cluster."""
    write_nifti(folder / "maps" / f"cluster-{cluster}_desc-{channel}_meanz.nii.gz", mean, affine)


def read_mean_map(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A map [X, Y, Z] and its affine [4, 4].

    Raises:
        UserError: not a readable image.
    """
    return read_map_and_affine(path)


@dataclass(frozen=True)
class StrataFolder(ResultFolder):
    """Clusters of people, what they are associated with, and a map of everybody."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """A row per scan."""
        return self.scans(STRATA)

    def thumbnail(self, key: str) -> bytes:
        """A small picture of a scan, b"" where there is none."""
        path = thumbnail_path(self.folder, key)
        return path.read_bytes() if path.is_file() else b""

    @cached_property
    def maps(self) -> tuple[tuple[int, str, Path], ...]:
        """Cluster, channel and file of every cluster-mean map, in order."""
        listed = []
        for path in (self.folder / "maps").glob("cluster-*_desc-*_meanz.nii*"):
            cluster, _, rest = path.name.removeprefix("cluster-").partition("_desc-")
            if cluster.lstrip("-").isdigit():
                listed.append((int(cluster), rest.split("_meanz")[0], path))
        return tuple(sorted(listed))


@dataclass(frozen=True)
class PlacedFolder(ResultFolder):
    """New scans, which may have been put into a map: pc1, pc2, umap1, umap2, cluster and certainty."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """A row per scan."""
        raise AssertionError(f"{type(self).__name__} has no scans")
