"""The tables of a maps folder: one row per person, per region, per cluster."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.artefact import write_atomic
from gen3d.data.prepared import Prepared
from gen3d.infer.calibrate import Calibrated, Panel
from gen3d.infer.channels import Channel
from gen3d.maths.deviation import deviation, fit_deviation, held_out_deviation
from gen3d.maths.significance import burden, clusters, conformal_p, fdr, fdr_adjust, p_values, percentile

IDENTITY = ("key", "subject", "session", "role", "diagnosis", "age_years", "sex", "site")
CLUSTER_COLUMNS = ("key", "channel", "region", "peak_z", "volume_ml", "x_mm", "y_mm", "z_mm")
MAX_CLUSTERS = 20


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a TSV with BIDS's n/a for missing values."""
    buffer = io.StringIO()
    frame.to_csv(buffer, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    write_atomic(path, buffer.getvalue())


def region_table(
    panel: Panel, channel: Channel, means: NDArray[np.float32], regional: Calibrated, names: pd.DataFrame
) -> pd.DataFrame:
    """One row per scan and region: effect, z, p, conformal p and q (BH over the person's regions).

    `effect` is the region mean minus what age, sex and site predict, in the channel's units; `effect_percent` is the
    volume difference 100 (exp(effect) - 1) of the deformation channel. The conformal p ranks |z| among the held-out
    |z| of the calibration controls, so it needs no normal distribution.
    """
    rows = np.arange(len(panel.table))
    effect = regional.deviation(means, panel.covariates(rows))
    effect[panel.gated] = np.nan
    percent = 100.0 * np.expm1(effect) if channel == "deformation" else np.full_like(effect, np.nan)
    frames = []
    for i in rows:
        z = regional.z[i]
        known = np.isfinite(z).all()
        p = p_values(z) if known else np.full(len(z), np.nan)
        reference = np.abs(regional.z[panel.calibration])
        if i in panel.calibration:  # a calibration person is ranked among the others
            reference = np.delete(reference, int(np.flatnonzero(panel.calibration == i)[0]), axis=0)
        rank = [conformal_p(reference[:, r], np.abs(z[r : r + 1]))[0] if known else np.nan for r in range(len(z))]
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
                    "p_conformal": rank,
                    "q": fdr_adjust(p) if known else p,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class LatentScores:
    """Mahalanobis distance of every scan's latent from calibration controls, and its percentile among them."""

    distance: NDArray[np.float64]
    percentile: NDArray[np.float64]


def latent_scores(panel: Panel, latents: NDArray[np.float32] | None) -> LatentScores | None:
    """Distances in latent space; None for models without a latent or with latents that are not comparable."""
    if latents is None:
        return None
    reference = held_out_deviation(latents[panel.calibration])
    distance = deviation(fit_deviation(latents[panel.calibration]), latents)
    distance[panel.calibration] = reference
    return LatentScores(distance, percentile(distance, reference))


def subject_table(
    panel: Panel,
    voxelwise: dict[Channel, Calibrated],
    regions: pd.DataFrame,
    latent: LatentScores | None,
    q: float,
) -> pd.DataFrame:
    """One row per scan: identity, flags in words, and per channel a voxel score and a region score.

    `score_*` is the mean of the largest 5 % of |z| in the brain, `region_score_*` the largest |z| of any region; each
    with its percentile among the held-out scores of calibration controls.
    """
    frame = panel.table[list(IDENTITY)].copy()
    people = panel.table
    flags = panel.design.flags(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())
    for i in panel.gated:
        flags[i] = "; ".join(
            part for part in (flags[i], "no z map: prepare controls of this site as calibration and run again") if part
        )
    frame["flags"] = flags
    for channel, calibrated in voxelwise.items():
        known = np.isfinite(calibrated.z[:, 0])
        score = np.array([burden(z) if ok else np.nan for z, ok in zip(calibrated.z, known, strict=True)])
        frame[f"score_{channel}"] = score
        frame[f"percentile_{channel}"] = percentile(score, score[panel.calibration])
        found = [int(fdr(p_values(z), q).sum()) if ok else np.nan for z, ok in zip(calibrated.z, known, strict=True)]
        frame[f"voxels_fdr_{channel}"] = found
        largest = regions[regions["channel"] == channel].groupby("key", sort=False)["z"].agg(_largest)
        region_score = largest.reindex(frame["key"]).to_numpy(dtype=np.float64)
        frame[f"region_score_{channel}"] = region_score
        frame[f"region_percentile_{channel}"] = percentile(region_score, region_score[panel.calibration])
    if latent is not None:
        frame["latent_d"] = latent.distance
        frame["percentile_latent"] = latent.percentile
    return frame


def _largest(z: pd.Series) -> float:
    return float(z.abs().max())


def cluster_rows(
    key: str,
    channel: Channel,
    significant: NDArray[np.bool_],
    z: NDArray[np.float32],
    min_voxels: int,
    prepared: Prepared,
) -> list[dict[str, Any]]:
    """Clusters of FDR-significant voxels of one map, largest first, with the region at their peak."""
    if not significant.any():
        return []
    table = prepared.region_table
    names = dict(zip(table["label"], table["name"], strict=True))
    to_voxel = np.linalg.inv(prepared.plan.matrix)
    rows = []
    found = clusters(significant, z, min_voxels, prepared.plan.matrix)
    for cluster in sorted(found, key=lambda c: -c.num_voxels)[:MAX_CLUSTERS]:
        i, j, k = np.rint((to_voxel @ [*cluster.peak_mm, 1.0])[:3]).astype(int)
        region = names.get(int(prepared.regions[i, j, k]), "unlabelled")
        numbers = (cluster.peak_z, cluster.volume_ml, *cluster.peak_mm)
        rows.append(dict(zip(CLUSTER_COLUMNS, (key, channel, region, *numbers), strict=True)))
    return rows
