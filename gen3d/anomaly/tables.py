"""The tables of a maps folder: one row per person, per region, per cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import Calibrated
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.folder import IDENTITY, LATENT_SCORE, P_CONFORMAL, P_MAX, REGION_SCORE, SCORE
from gen3d.cohort.channels import LOG_VOLUMES, Channel
from gen3d.cohort.folder import Prepared
from gen3d.cohort.region_validity import validity_columns
from gen3d.maths.deviation import deviation, fit_deviation, held_out_deviation
from gen3d.maths.reference import Reference
from gen3d.maths.significance import (
    burden,
    clusters,
    conformal_p_columns,
    fdr,
    fdr_adjust,
    heaviest_cluster,
    p_values,
    percentile,
)

MAX_CLUSTERS = 20


def region_table(
    panel: Panel, channel: str, means: NDArray[np.float32], regional: Calibrated, names: pd.DataFrame
) -> pd.DataFrame:
    """One row per scan and region: effect, z, p, conformal p, q (BH over the person's regions) and p_max.

    `effect` is the region mean minus its prediction from age, sex and site, in the channel's units; `effect_percent` is the
    volume difference 100 (exp(effect) - 1) where the channel is a log volume. The conformal p ranks |z| among the
    held-out |z| of the same region in the other calibration controls, so it assumes no normal distribution. `p_max` ranks
    it among the largest |z| of any region in each control, so it is family-wise over regions (the max statistic of
    Westfall and Young 1993). Neither can be below 1 / (controls + 1), but for `p_max` where a control is outlying
    (`maths.reference`). The last columns say what each reading measures (`validity_columns`).
    """
    rows = np.arange(len(panel.table))
    effect = regional.deviation(means, panel.covariates(rows))
    effect[panel.gated] = np.nan
    percent = 100.0 * np.expm1(effect) if channel in LOG_VOLUMES else np.full_like(effect, np.nan)
    frames, measured = [], validity_columns(names["name"].reset_index(drop=True), channel)
    for i in rows:
        z = regional.z[i]
        known = np.isfinite(z).all()
        p = p_values(z) if known else np.full(len(z), np.nan)
        reference = np.abs(regional.z[panel.reference(int(i))])
        frames.append(
            pd.DataFrame(
                {
                    "key": panel.table.at[i, "key"],
                    "channel": channel,
                    "region": names["name"].to_numpy(),
                    "effect": effect[i],
                    "effect_percent": percent[i],
                    "z": z,
                    "p": p,
                    P_CONFORMAL: conformal_p_columns(reference, np.abs(z)),
                    "q": fdr_adjust(p) if known else p,
                    P_MAX: Reference.of(reference.max(axis=1)).p(np.abs(z)),
                }
            ).join(measured)
        )
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class LatentScores:
    """Mahalanobis distance of every latent from those of calibration controls, and its percentile among them."""

    distance: NDArray[np.float64]
    percentile: NDArray[np.float64]


def latent_scores(panel: Panel, latents: NDArray[np.float32] | None) -> LatentScores | None:
    """Distances in latent space; None for models without latents or with latents that are not comparable."""
    if latents is None:
        return None
    reference = latents[panel.calibration]
    distance = deviation(fit_deviation(reference), latents)
    distance[panel.calibration] = held_out_deviation(reference)
    for position in np.unique(panel.calibration_position[panel.repeats]):
        further = panel.scans_of(int(position))[1:]
        distance[further] = deviation(fit_deviation(np.delete(reference, position, axis=0)), latents[further])
    return LatentScores(distance, _percentiles(panel, distance))


def _percentiles(panel: Panel, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percentile of each scan's score [n] among those of the other calibration controls."""
    return np.array([percentile(scores[i : i + 1], scores[panel.reference(i)])[0] for i in range(len(scores))])


@dataclass(frozen=True)
class VoxelScores:
    """Of every scan in one channel: the burden of its z map, and its voxels that survive FDR, [n]; NaN without a map."""

    burden: NDArray[np.float64]
    voxels_fdr: NDArray[np.float64]

    @classmethod
    def of(cls, z: NDArray[np.float32], q: float) -> VoxelScores:
        """From z [n, V]."""
        burdens, voxels = np.full(len(z), np.nan), np.full(len(z), np.nan)
        for row in np.flatnonzero(np.isfinite(z[:, 0])):
            burdens[row], voxels[row] = burden(z[row]), int(fdr(p_values(z[row]), q).sum())
        return cls(burdens, voxels)


def subject_table(
    panel: Panel, voxelwise: dict[Channel, VoxelScores], regions: pd.DataFrame, latent: LatentScores | None
) -> pd.DataFrame:
    """One row per scan: identity, flags as text, and per channel a voxel score and a region score.

    `score_*` is the mean of the largest 5 % of |z| in the brain, `region_score_*` the largest |z| of any region. Each has
    its percentile among the held-out scores of the other calibration controls.
    """
    frame = panel.table[[*IDENTITY, *panel.table.columns.intersection(["base"])]].copy()
    frame["flags"] = panel.flags()
    for channel, scores in voxelwise.items():
        frame[f"{SCORE}{channel}"] = scores.burden
        frame[f"percentile_{channel}"] = _percentiles(panel, scores.burden)
        known = np.isfinite(scores.voxels_fdr).all()
        frame[f"voxels_fdr_{channel}"] = scores.voxels_fdr.astype(np.int64) if known else scores.voxels_fdr
        largest = regions[regions["channel"] == channel].groupby("key", sort=False)["z"].agg(_largest)
        region_score = largest.reindex(frame["key"]).to_numpy(dtype=np.float64)
        frame[f"{REGION_SCORE}{channel}"] = region_score
        frame[f"region_percentile_{channel}"] = _percentiles(panel, region_score)
    if latent is not None:
        frame[LATENT_SCORE] = latent.distance
        frame["percentile_latent"] = latent.percentile
    return frame


def _largest(z: pd.Series) -> float:
    return float(z.abs().max())


def unmask(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values [V] of the voxels of a mask as a volume [X, Y, Z], 0 outside."""
    volume = np.zeros(mask.shape, dtype=np.float32)
    volume[mask] = values
    return volume


def largest_regions(regional: Calibrated) -> NDArray[np.float64]:
    """The largest |z| of any region of every scan, NaN without a z, [n]."""
    return np.abs(regional.z.astype(np.float64)).max(axis=1)


def heaviest_clusters(
    panel: Panel, z: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.float64]:
    """Mass of the heaviest cluster beyond the threshold in each calibration control, NaN for every other row, [n]."""
    masses = np.full(len(panel.table), np.nan)
    for row in panel.calibration:
        masses[row] = heaviest_cluster(unmask(z[row], mask), threshold)
    return masses


def cluster_rows(
    key: str,
    channel: Channel,
    z: NDArray[np.float32],
    threshold: float,
    min_voxels: int,
    reference: Reference,
    prepared: Prepared,
) -> list[dict[str, Any]]:
    """Clusters of voxels with |z| above a threshold in one map, largest first, with the region at their peak.

    `p_cluster` ranks a cluster's mass among `reference`, that of the heaviest cluster of each calibration control:
    (1 + controls whose heaviest cluster is at least as heavy) / (controls + 1), family-wise over the brain. Where a control
    is outlying it is the share of a tail that is fitted to the others (`maths.reference`).
    """
    table = prepared.region_table
    names = dict(zip(table["label"], table["name"], strict=True))
    to_voxel = np.linalg.inv(prepared.plan.matrix)
    rows = []
    for cluster in clusters(np.abs(z) > threshold, z, min_voxels, prepared.plan.matrix)[:MAX_CLUSTERS]:
        i, j, k = np.rint((to_voxel @ [*cluster.peak_mm, 1.0])[:3]).astype(int)
        region = names.get(int(prepared.regions[i, j, k]), "unlabelled")
        p_cluster = float(reference.p([cluster.mass(threshold)])[0])
        x, y, z_mm = cluster.peak_mm
        row = {
            "key": key,
            "channel": channel,
            "region": region,
            "peak_z": cluster.peak_z,
            "volume_ml": cluster.volume_ml,
        }
        rows.append(row | {"x_mm": x, "y_mm": y, "z_mm": z_mm, "p_cluster": p_cluster})
    return rows
