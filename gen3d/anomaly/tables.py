"""The tables of a maps folder: one row per person, per region, per cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import Calibrated
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.control_scores import ControlScores
from gen3d.anomaly.folder import IDENTITY, LATENT_SCORE, P_CONFORMAL, P_MAX, REGION_SCORE, SCORE
from gen3d.cohort.channels import LOG_VOLUMES
from gen3d.cohort.folder import Prepared
from gen3d.cohort.region_validity import validity_columns
from gen3d.maths.deviation import deviation, fit_deviation, held_out_deviation
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.significance import (
    clusters,
    conformal_p_columns,
    fdr_adjust,
    p_values,
    percentile,
)

MAX_CLUSTERS = 20


@dataclass(frozen=True)
class RegionRows:
    """Rows of regions.tsv of one channel: what each region's reading measures, and its label on the grid."""

    channel: str
    names: pd.DataFrame

    @cached_property
    def _measured(self) -> pd.DataFrame:
        return validity_columns(self.names["name"].reset_index(drop=True), self.channel)

    def of(
        self, key: str, effect: NDArray[np.floating], z: NDArray[np.floating], scores: ControlScores
    ) -> pd.DataFrame:
        """One row per region of a scan: effect, z, p, conformal p, q (BH over the person's regions) and p_max.

        `effect` is the region mean minus its prediction from age, sex and site, in the channel's units; `effect_percent` is
        the volume difference 100 (exp(effect) - 1) where the channel is a log volume. The conformal p ranks |z| among the
        held-out |z| of the same region in controls other than the person, so it assumes no normal distribution. `p_max`
        ranks it among the largest |z| of any region in each control, so it is family-wise over regions (the max statistic
        of Westfall and Young 1993). Neither can be below 1 / (controls + 1), but for `p_max` where a control is outlying
        (`maths.reference`). The last columns say what each reading measures (`validity_columns`).

        Args:
            key: of the scan.
            effect: [R].
            z: [R], NaN for a scan without a z.
            scores: of the controls but the person.
        """
        known = np.isfinite(z).all()
        p = p_values(z) if known else np.full(len(z), np.nan)
        percent = 100.0 * np.expm1(effect) if self.channel in LOG_VOLUMES else np.full(len(z), np.nan, np.float32)
        return pd.DataFrame(
            {
                "key": key,
                "channel": self.channel,
                "region": self.names["name"].to_numpy(),
                "effect": effect if known else np.nan,
                "effect_percent": percent if known else np.nan,
                "z": z,
                "p": p,
                P_CONFORMAL: conformal_p_columns(scores.regions, np.abs(z)),
                "q": fdr_adjust(p) if known else p,
                P_MAX: ReferenceScores.of(scores.largest).p(np.abs(z)),
            }
        ).join(self._measured)


def region_table(
    panel: Panel, rows: RegionRows, means: NDArray[np.float32], regional: Calibrated, scores: ControlScores
) -> pd.DataFrame:
    """The rows of every scan of a panel: means [N, R], their z, and the scores of the controls."""
    effect = regional.norm.effect(means, panel.coded(np.arange(len(panel.table))))
    frames = [
        rows.of(str(key), effect[i], regional.z[i], scores.without(int(panel.calibration_position[i])))
        for i, key in enumerate(panel.table["key"])
    ]
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
    return LatentScores(distance, _percentiles(panel, distance, distance[panel.calibration]))


def _percentiles(panel: Panel, scores: NDArray[np.float64], of_controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percentile of each scan's score [N] among those of the other calibration controls [n]."""
    others = [np.delete(of_controls, place) if place >= 0 else of_controls for place in panel.calibration_position]
    return np.array([percentile(scores[i : i + 1], of)[0] for i, of in enumerate(others)])


@dataclass(frozen=True)
class SubjectColumns:
    """Columns of subjects.tsv of one channel of one scan."""

    channel: str
    scores: ControlScores

    def of(self, burden: float, voxels_fdr: float, regional_z: NDArray[np.floating]) -> dict[str, float]:
        """Scores of a scan and their percentiles among those of the controls but the person.

        `score_*` is the mean of the largest 5 % of |z| in the brain, `region_score_*` the largest |z| of any region.
        """
        largest = float(np.abs(regional_z).max()) if np.isfinite(regional_z).all() else math.nan
        return {
            f"{SCORE}{self.channel}": burden,
            f"percentile_{self.channel}": float(percentile([burden], self.scores.burdens)[0]),
            f"voxels_fdr_{self.channel}": voxels_fdr,
            f"{REGION_SCORE}{self.channel}": largest,
            f"region_percentile_{self.channel}": float(percentile([largest], self.scores.largest)[0]),
        }


def subject_table(
    table: pd.DataFrame, flags: Sequence[str], columns: Sequence[pd.DataFrame], latent: LatentScores | None
) -> pd.DataFrame:
    """One row per scan: identity, flags as text, the columns of every channel, and the distance in latent space."""
    frame = table[[*IDENTITY, *table.columns.intersection(["base"])]].reset_index(drop=True)
    frame["flags"] = list(flags)
    frame = pd.concat([frame, *columns], axis=1)
    for name in frame.columns[frame.columns.str.startswith("voxels_fdr_")]:
        frame[name] = frame[name].astype(np.int64) if frame[name].notna().all() else frame[name]
    if latent is not None:
        frame[LATENT_SCORE] = latent.distance
        frame["percentile_latent"] = latent.percentile
    return frame


def cluster_rows(
    key: str,
    channel: str,
    z: NDArray[np.float32],
    threshold: float,
    min_voxels: int,
    reference: ReferenceScores,
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
