"""Mean anomaly maps of the people of each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.folder import map_path, map_paths
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.imaging.volume import read_map, read_map_and_affine
from gen3d.stratify.folder import write_mean_map

EXPECTED = 1.96
"""Over root n: what the mean z of n healthy people stays within in 95 % of voxels."""


@dataclass(frozen=True)
class ClusterMap:
    """Mean z [X, Y, Z] of one channel over the people of a cluster who have a map; `mask` is where maps are."""

    cluster: str
    channel: str
    num_people: int
    mean_z: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def row(self) -> dict[str, str | int | float]:
        """Its row in the table `cluster_maps`: extremes, and the share of voxels whose mean is beyond 1.96 / root n, which
        is 5 % where the cluster is like the healthy."""
        inside = self.mean_z[self.mask]
        beyond = np.abs(inside) * np.sqrt(self.num_people) > EXPECTED
        return {
            "cluster": self.cluster,
            "channel": self.channel,
            "num_people": self.num_people,
            "lowest_mean_z": float(inside.min()),
            "highest_mean_z": float(inside.max()),
            "share_beyond_chance": float(beyond.mean()),
        }


def cluster_maps(maps: Path, keys: list[str], clusters: list[str], out: Path) -> list[ClusterMap]:
    """Average z maps by cluster and channel and write each mean as out/maps/cluster-<k>_desc-<channel>_meanz.nii.gz.

    Args:
        maps: folder of `gen3d anomaly`.
        keys: scans.
        clusters: cluster of every scan; "" is left out.
        out: folder to write.

    Raises:
        UserError: not such a folder, none of the scans has a map there, or maps on different grids.
    """
    read(maps, ("anomaly",))
    averages = []
    for channel in sorted(map_paths(maps, "*")):
        for cluster in sorted({name for name in clusters if name}, key=int):
            wanted = [map_path(maps, key, channel) for key, of in zip(keys, clusters, strict=True) if of == cluster]
            paths = [path for path in wanted if path.is_file()]
            averaged = _average(paths, f"cluster {cluster}, {channel}")
            if averaged is None:
                continue
            mean, mask, num = averaged
            _, affine = read_map_and_affine(paths[0])
            write_mean_map(out, cluster, channel, mean, affine)
            averages.append(ClusterMap(cluster, channel, num, mean, mask))
    if not averages:
        raise UserError(f"{maps}: none of the clustered scans has a z map there; run `gen3d anomaly` on these scans.")
    return averages


def _average(paths: list[Path], what: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], int] | None:
    total: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None
    num = 0
    for path in track(paths, f"mean map of {what}"):
        z = read_map(path)
        if not np.isfinite(z).all() or not z.any():
            continue  # a scan that was not judged in this channel
        if total is None or mask is None:
            total, mask = np.zeros(z.shape), np.zeros(z.shape, dtype=bool)
        if z.shape != total.shape:
            raise UserError(f"{path}: its grid {z.shape} is not that of the other maps {total.shape}; make them again.")
        total += z
        mask |= z != 0
        num += 1
    if total is None or mask is None:
        return None
    return (total / num).astype(np.float32), mask, num
