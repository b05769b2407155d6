"""From channel values to calibrated z, and the distribution of z in held-out controls.

Every scan of a calibration person (the calibration scan itself, a second session, a planted twin) gets its z from a
calibration without that person: the fit, the variance factors of sites, the empirical null and every reference
distribution exclude the person. All other scans get theirs from the calibration on all controls. The covariates of the
model are chosen once, on all controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.empirical_null import count, fit_null_map
from gen3d.anomaly.calibration.normative import NormativeModel, fit_normative, models_without_each, z_scores
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.calibration.site_variance import SiteVariance, fit_site_variance, some_voxels
from gen3d.maths.left_out import left_out_together
from gen3d.maths.significance import conformal_resolution, fdr, p_values


@dataclass(frozen=True)
class Calibrated:
    """z [n, V] of every scan of a panel (NaN rows for gated ones), and its model."""

    z: NDArray[np.float32]
    model: NormativeModel
    site_variance: SiteVariance

    def deviation(self, values: NDArray[np.floating], covariates: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values minus their prediction from the covariates, [m, V]."""
        return np.asarray(values - self.model.expected(covariates), dtype=np.float32)


def calibrate(
    values: NDArray[np.float32],
    panel: Panel,
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    empirical_null: bool = False,
    site_variance: bool = True,
    variance_floor: float = 0.0,
) -> Calibrated:
    """Fit the normative model on calibration people and give every scan its z.

    Args:
        values: channel values [n, V] of every scan of the panel; may be memory-mapped.
        panel: roles of the scans.
        mask: the V voxels, when the variance map is to be smoothed by `fwhm_voxels`.
        fwhm_voxels: smoothing of the variance map, voxels.
        empirical_null: map z so that the held-out z of calibration people, pooled over voxels, is standard normal;
            every scan of a calibration person is mapped by the pool of the others.
        site_variance: estimate a factor of the residual SD for each site.
        variance_floor: least SD of a voxel, as a share of the root mean square over voxels.
    """
    z = np.full(values.shape, np.nan, dtype=np.float32)
    spread = panel.spread
    weight = 1.0 / spread[panel.calibration][:, None]
    reference, design = values[panel.calibration], panel.covariates(panel.calibration) * weight
    reference *= weight.astype(np.float32)  # a copy: rows were picked by number
    all_factors, without = _site_factors(reference, design, panel, site_variance)
    names, groups = np.unique(panel.sites(panel.calibration).astype(str), return_inverse=True)
    scales = np.stack([factors.of(names) for factors in without])
    for position, model in enumerate(models_without_each(reference, design, mask, fwhm_voxels, groups, scales)):
        rows = panel.scans_of(position)
        scale = spread[rows] * without[position].of(panel.sites(rows))
        z[rows] = z_scores(model.with_floor(variance_floor), values[rows], panel.covariates(rows), scale)
    model = fit_normative(reference, design, mask, fwhm_voxels, all_factors.of(panel.sites(panel.calibration)))
    model = model.with_floor(variance_floor)
    for row in panel.others:
        one = np.asarray([row])
        scale = spread[one] * all_factors.of(panel.sites(one))
        z[row] = z_scores(model, values[one], panel.covariates(one), scale)[0]
    if empirical_null:
        _to_normal(z, panel)
    return Calibrated(z, model, all_factors)


def _site_factors(
    reference: NDArray[np.float32], design: NDArray[np.float64], panel: Panel, site_variance: bool
) -> tuple[SiteVariance, list[SiteVariance]]:
    """Variance factors of the sites from all controls, and for each from controls without that person (`left_out_together`)."""
    num = len(panel.calibration)
    if not site_variance:
        return SiteVariance({}, {}), [SiteVariance({}, {})] * num
    sites, some = panel.sites(panel.calibration), np.asarray(reference[:, some_voxels(reference.shape[1])], np.float64)
    without = [SiteVariance({}, {})] * num
    for group in left_out_together(num):
        others = np.ones(num, dtype=bool)
        others[group] = False
        factors = fit_site_variance(some[others], design[others], sites[others])
        for person in group:
            without[person] = factors
    return fit_site_variance(some, design, sites), without


def _to_normal(z: NDArray[np.float32], panel: Panel) -> None:
    """Map z in place by the empirical null of the calibration people."""
    counts = [count(z[row]) for row in panel.calibration]
    pool = np.sum(counts, axis=0)
    for position, of_person in enumerate(counts):
        without = fit_null_map(pool - of_person)
        for row in panel.scans_of(position):
            z[row] = without(z[row])
    null_map = fit_null_map(pool)
    for row in panel.others:
        z[row] = null_map(z[row])


def null_figures(
    z: NDArray[np.float32], rows: NDArray[np.int64], q: float, sites: NDArray[np.object_]
) -> dict[str, Any]:
    """Distribution of z [n, V] in healthy people, `rows` [m] of it: mean, SD, shares and number of people, also by site."""
    if not len(rows):
        return {"num_people": 0}
    squares, total = 0.0, 0.0
    for row in rows:  # one person at a time: squares of everybody in double precision would be three more copies of z
        person = z[row].astype(np.float64)
        squares += float(person @ person)
        total += float(person.sum())
    size = len(rows) * z.shape[1]
    by_person = {
        "mean": np.array([float(z[row].mean()) for row in rows]),
        "sd": np.array([float(z[row].std()) for row in rows]),
        "share_beyond_1.96": np.array([float((np.abs(z[row]) > 1.96).mean()) for row in rows]),
    }
    positive = np.array([bool(fdr(p_values(z[row]), q).any()) for row in rows])
    return {
        "num_people": len(rows),
        "mean": float(by_person["mean"].mean()),
        "sd": float(np.sqrt(squares / size - (total / size) ** 2)),
        "share_beyond_1.96": float(by_person["share_beyond_1.96"].mean()),
        "share_people_fdr_positive": float(positive.mean()),
        "by_site": {
            str(site): {
                "num_people": int((sites == site).sum()),
                "share_beyond_1.96": float(by_person["share_beyond_1.96"][sites == site].mean()),
                "share_people_fdr_positive": float(positive[sites == site].mean()),
            }
            for site in sorted(set(sites))
        },
        "per_person": {name: [round(float(v), 5) for v in values] for name, values in by_person.items()},
        "per_person_fdr_positive": [bool(v) for v in positive],
    }


def describe_calibration(panel: Panel, calibrated: Calibrated, q: float) -> dict[str, Any]:
    """The calibration record of one channel, JSON-ready."""
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
        "site_variance": _describe_sites(panel, calibrated.site_variance),
        "conformal_resolution": conformal_resolution(len(panel.calibration)),
        "calibration_held_out": null_figures(calibrated.z, panel.calibration, q, panel.sites(panel.calibration)),
        "test": null_figures(calibrated.z, test, q, panel.sites(test)),
    }


def _describe_sites(panel: Panel, variance: SiteVariance) -> dict[str, Any]:
    """Factor of the residual SD of each site with the number of controls behind it; empty without factors."""
    counts = panel.design.site_counts
    return {
        site: {"sd_factor": round(factor, 4), "num_controls": counts[site]} for site, factor in variance.factors.items()
    }
