"""From channel values to calibrated z: who calibrates, who is judged, and what the figures of held-out controls are.

Calibration people are controls whose expectation comes from a model that never saw them. Their own z is held out in
closed form; everybody else is judged by the model fitted on all of them. A second scan of a calibration person is
judged by a model fitted without that person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.errors import UserError
from gen3d.maths.design import Design
from gen3d.maths.empirical_null import count, fit_null_map
from gen3d.maths.normative import NormativeModel, fit_normative, held_out_z, z_scores
from gen3d.maths.significance import conformal_resolution, fdr, p_values

MIN_CALIBRATION = 8
NULL_SD_RANGE = (0.9, 1.1)


@dataclass(frozen=True)
class Panel:
    """The people of one set of maps. Row numbers refer to `table`, one row per assessed scan."""

    table: pd.DataFrame
    calibration: NDArray[np.int64]
    repeats: NDArray[np.int64]
    others: NDArray[np.int64]
    gated: NDArray[np.int64]
    design: Design

    def covariates(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows of the design matrix [len(rows), p]."""
        people = self.table.iloc[rows]
        return self.design.matrix(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())


def make_panel(table: pd.DataFrame, terms: Sequence[str]) -> Panel:
    """Sort assessed scans into calibration, repeats of calibration people, others, and those of an uncalibrated site.

    Args:
        table: rows of the cohort table of every scan that has an expectation; column `calibrates` says which may
            calibrate.
        terms: covariates of the per-voxel model.

    Raises:
        UserError: too few calibration controls.
    """
    table = table.reset_index(drop=True)
    candidates = table[table["calibrates"]]
    first = ~candidates["subject"].duplicated()
    calibration = candidates.index[first].to_numpy()
    repeats = candidates.index[~first].to_numpy()
    if len(calibration) < MIN_CALIBRATION:
        raise UserError(
            f"only {len(calibration)} controls can calibrate (role calibration and unseen by the model), at least "
            f"{MIN_CALIBRATION} are needed; prepare with a larger split.calibration, or train with cross_fit=5."
        )
    people = table.loc[calibration]
    design = Design.fit(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist(), terms)
    known = table["site"].map(design.known_site).to_numpy(dtype=bool)
    rest = np.setdiff1d(np.arange(len(table)), np.concatenate([calibration, repeats]))
    return Panel(table, calibration, repeats, rest[known[rest]], rest[~known[rest]], design)


@dataclass(frozen=True)
class Calibrated:
    """z [n, V] of every scan of a panel (NaN rows for gated ones), and the model behind it."""

    z: NDArray[np.float32]
    model: NormativeModel

    def deviation(self, values: NDArray[np.floating], covariates: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values minus what the covariates predict, [m, V]."""
        return np.asarray(values - self.model.expected(covariates), dtype=np.float32)


def calibrate(
    values: NDArray[np.float32],
    panel: Panel,
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    empirical_null: bool = False,
) -> Calibrated:
    """Fit the normative model on calibration people and give every scan its z.

    Args:
        values: channel values [n, V] of every scan of the panel; may be memory-mapped.
        panel: who is who.
        mask: the V voxels, when the variance map is to be smoothed by `fwhm_voxels`.
        fwhm_voxels: smoothing of the variance map, voxels.
        empirical_null: map z so that the held-out z of calibration people, pooled over voxels, is standard normal; a
            calibration person's own z is mapped by the pool of the others.
    """
    z = np.empty(values.shape, dtype=np.float32)
    reference, design = values[panel.calibration], panel.covariates(panel.calibration)
    model = fit_normative(reference, design, mask, fwhm_voxels)
    z[panel.calibration] = held_out_z(reference, design, mask, fwhm_voxels)
    for row in panel.repeats:
        others = panel.calibration[
            (panel.table.loc[panel.calibration, "subject"] != panel.table.at[row, "subject"]).to_numpy()
        ]
        without = fit_normative(values[others], panel.covariates(others), mask, fwhm_voxels)
        one = np.asarray([row])
        z[row] = z_scores(without, values[one], panel.covariates(one))[0]
    for row in panel.others:
        one = np.asarray([row])
        z[row] = z_scores(model, values[one], panel.covariates(one))[0]
    if empirical_null:
        _to_normal(z, panel)
    z[panel.gated] = np.nan
    return Calibrated(z, model)


def _to_normal(z: NDArray[np.float32], panel: Panel) -> None:
    """Map z in place by the empirical null of the calibration people."""
    counts = {int(row): count(z[row]) for row in panel.calibration}
    pool = np.sum(list(counts.values()), axis=0)
    subjects = panel.table["subject"]
    own = {str(subjects[row]): counts[row] for row in counts}
    everybody = fit_null_map(pool)
    for row in (*panel.calibration, *panel.repeats):
        z[row] = fit_null_map(pool - own[str(subjects[row])])(z[row])
    for row in panel.others:
        z[row] = everybody(z[row])


def null_figures(z: NDArray[np.float32], q: float) -> dict[str, Any]:
    """How z behaves in people in whom nothing is known to be wrong: z [m, V] -> mean, SD, shares, with m."""
    if not len(z):
        return {"num_people": 0}
    by_person = {
        "mean": np.array([float(row.mean()) for row in z]),
        "sd": np.array([float(row.std()) for row in z]),
        "share_beyond_1.96": np.array([float((np.abs(row) > 1.96).mean()) for row in z]),
    }
    positive = np.array([bool(fdr(p_values(row), q).any()) for row in z])
    return {
        "num_people": len(z),
        "mean": float(by_person["mean"].mean()),
        "sd": float(np.sqrt((z.astype(np.float64) ** 2).mean() - z.mean(dtype=np.float64) ** 2)),
        "share_beyond_1.96": float(by_person["share_beyond_1.96"].mean()),
        "share_people_fdr_positive": float(positive.mean()),
        "per_person": {name: [round(float(v), 5) for v in values] for name, values in by_person.items()},
        "per_person_fdr_positive": [bool(v) for v in positive],
    }


def describe_calibration(panel: Panel, calibrated: Calibrated, q: float) -> dict[str, Any]:
    """What a reader must know of one channel's calibration, JSON-ready."""
    roles = panel.table["role"].to_numpy()
    test = panel.others[roles[panel.others] == "test"]
    test = test[~panel.table.loc[test, "subject"].duplicated().to_numpy()]
    dof = calibrated.model.dof
    return {
        "num_controls": len(panel.calibration),
        "columns": list(panel.design.columns),
        "terms": list(panel.design.terms),
        "dropped": panel.design.dropped,
        "sites": panel.design.site_counts,
        "age_range_years": list(panel.design.age_range_years),
        "dof": None if np.isinf(dof) else float(dof),
        "conformal_resolution": conformal_resolution(len(panel.calibration)),
        "calibration_held_out": null_figures(calibrated.z[panel.calibration], q),
        "test": null_figures(calibrated.z[test], q),
    }
