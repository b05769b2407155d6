"""From channel values to calibrated z, and the distribution of z in held-out controls.

Every scan of a calibration person (the calibration scan itself, a second session, a planted twin) gets its z from a
calibration without that person: the fit, the variance factors of sites, the empirical null and every reference
distribution exclude the person. All other scans get theirs from the calibration on all controls. The covariates of the
model are chosen once, on all controls. Beyond 400 controls groups of them are left out of the fit together (`maths.left_out`).

Values are read person by person, and only sums of them are held, so memory does not depend on the number of people.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import AgeVariance, fit_age_variance
from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.controls import ages_of
from gen3d.anomaly.calibration.empirical_null import Counts, count, fit_null_map
from gen3d.anomaly.calibration.normative import (
    NormativeModel,
    model_of,
    refuse_single_carriers,
    require_people,
    variance_smoother,
    z_scores,
)
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.calibration.site_shift import Squares
from gen3d.anomaly.calibration.site_variance import SiteVariance, fit_site_variance, some_voxels
from gen3d.anomaly.calibration.sums import People, ValueSums
from gen3d.maths.design import basis_of
from gen3d.maths.left_out import left_out_together
from gen3d.maths.significance import conformal_resolution, fdr, p_values
from gen3d.maths.splines import Bends

AT_ONCE = 16
"""People whose values are in memory at a time."""


class ValueRows(Protocol):
    """Values of people [n, V] that are read row by row: an array, a memory map, or several of them on end."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, V)."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        """Some rows, or parts of them."""
        ...


@dataclass(frozen=True)
class CalibrationSettings:
    """How a channel is calibrated.

    Attributes:
        fwhm_voxels: smoothing of the variance map in the mask, voxels.
        empirical_null: map z so that the held-out z of calibration people, pooled over voxels, is standard normal;
            every scan of a calibration person is mapped by the pool of the others.
        site_variance: estimate a factor of the residual SD for each site.
        variance_floor: least SD of a voxel, as a share of the root mean square over voxels.
        age_variance: estimate a factor of the residual SD by age.
    """

    fwhm_voxels: float = 0.0
    empirical_null: bool = False
    site_variance: bool = True
    variance_floor: float = 0.0
    age_variance: bool = False


@dataclass(frozen=True)
class Calibrated:
    """z [n, V] of every scan of a panel (NaN rows for gated ones), and the norm of its controls."""

    z: NDArray[np.float32]
    norm: ChannelNorm


def calibrate(
    values: ValueRows,
    panel: Panel,
    settings: CalibrationSettings = CalibrationSettings(),
    mask: NDArray[np.bool_] | None = None,
    z: NDArray[np.float32] | None = None,
) -> Calibrated:
    """Fit the normative model on calibration people and give every scan its z.

    Args:
        values: channel values [n, V] of every scan of the panel.
        panel: roles of the scans.
        settings: of the calibration.
        mask: the V voxels, when the variance map is to be smoothed.
        z: where z is to be written [n, V], such as a memory map; None for a new array.

    Raises:
        UserError: too few controls for the covariates, a control who alone carries one, or values that do not vary.
    """
    z = np.empty(values.shape, dtype=np.float32) if z is None else z
    z[panel.gated] = np.nan
    controls = _Controls(values, panel)
    norm = _fit_and_hold_out(controls, values, panel, settings, mask, z)
    norm = replace(norm, squares=_squares(z, panel, norm.site_variance))
    if settings.empirical_null:
        norm = replace(norm, null_counts=_to_normal(z, panel))
    for row in panel.others:
        one = np.asarray([row])
        z[row] = norm.z(values[one], panel.coded(one))[0]
    return Calibrated(z, norm)


class _Controls:
    """The calibration people of a panel as rows of sums."""

    def __init__(self, values: ValueRows, panel: Panel) -> None:
        people = panel.table.iloc[panel.calibration]
        self.rows, member = basis_of(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())
        self.groups = tuple(sorted(set(member)))
        place = {group: number for number, group in enumerate(self.groups)}
        self.group = np.array([place[group] for group in member], dtype=np.int64)
        self.weight = 1.0 / panel.spread[panel.calibration]
        self.transforms = [panel.design.transform(group) for group in self.groups]
        self.design = panel.covariates(panel.calibration) * self.weight[:, None]
        self.sites, self.ages = panel.sites(panel.calibration), ages_of(people)
        self.bends, self.width = panel.design.bends, panel.design.basis_width
        self.free = self.design[:, panel.design.free]
        self._values, self._rows = values, panel.calibration
        require_people(len(self.rows), self.free.shape[1], left_out=1)
        refuse_single_carriers(self.free)

    def people(self, positions: NDArray[np.int64]) -> People:
        """Some of them with their values.

        Raises:
            ValueError: NaN or infinite values.
        """
        values = self._values[self._rows[positions]]
        if not np.isfinite(values).all():
            raise ValueError("values hold NaN or infinity")
        return People(self.rows[positions], self.group[positions], self.weight[positions], values)

    def sums(self) -> ValueSums:
        """The sums over all."""
        sums = ValueSums.empty(self.groups, self._values.shape[1], self.width)
        for first in range(0, len(self.rows), AT_ONCE):
            sums.add(self.people(np.arange(first, min(first + AT_ONCE, len(self.rows)))))
        return sums

    def some_values(self) -> NDArray[np.float64]:
        """Weighted values of all in some of the voxels, [n, few]."""
        few = some_voxels(self._values.shape[1], len(self.rows))
        some = [np.asarray(self._values[row][few], dtype=np.float64) for row in self._rows]
        return np.stack(some) * self.weight[:, None]

    def factors(self, wanted: bool) -> tuple[SiteVariance, Iterator[tuple[NDArray[np.int64], SiteVariance]]]:
        """Variance factors of sites from all, and for each group left out together (`left_out_together`) from the others."""
        groups = left_out_together(len(self.rows))
        if not wanted:
            none = SiteVariance({}, {})
            return none, ((group, none) for group in groups)
        some = self.some_values()

        def without(group: NDArray[np.int64]) -> SiteVariance:
            others = np.ones(len(self.rows), dtype=bool)
            others[group] = False
            return fit_site_variance(some[others], self.free[others], self.sites[others])

        return fit_site_variance(some, self.free, self.sites), ((group, without(group)) for group in groups)

    def smoothed(self, sums: ValueSums, factors: SiteVariance) -> Bends | None:
        """The spline columns with the smoothing that the controls make most likely, None without a spline."""
        return sums.likeliest(self.transforms, self.weights(factors), self.bends)

    def mean_squares(self, model: NormativeModel, factors: SiteVariance) -> NDArray[np.float64]:
        """Mean over some of the voxels of each one's squared residual in units of the model's and the site's variance, [n]."""
        few, scale = some_voxels(self._values.shape[1], len(self.rows)), factors.of(self.sites)[:, None]
        design = self.design / scale
        leverage = np.einsum("ip,pq,iq->i", design, model.gram_inverse, design)
        errors = self.some_values() / scale - design @ model.coefficients[:, few]
        return np.asarray(((errors / model.sd[few]) ** 2).mean(axis=1) / np.maximum(1.0 - leverage, 1e-3))

    def weights(self, factors: SiteVariance) -> NDArray[np.float64]:
        """The weight of each group of the sums."""
        return 1.0 / factors.of([group.site for group in self.groups]) ** 2


def _fit_and_hold_out(
    controls: _Controls,
    values: ValueRows,
    panel: Panel,
    settings: CalibrationSettings,
    mask: NDArray[np.bool_] | None,
    z: NDArray[np.float32],
) -> ChannelNorm:
    """The norm of all controls, without a null map; z of the scans of each from the others is written into `z`."""
    sums, smooth = controls.sums(), variance_smoother(mask, settings.fwhm_voxels)
    all_factors, held_out = controls.factors(settings.site_variance)
    bends = controls.smoothed(sums, all_factors)
    fitted = sums.fit(controls.transforms, controls.weights(all_factors), bends=bends)
    norm = ChannelNorm(
        model_of(fitted, smooth).with_floor(settings.variance_floor), all_factors, bends=bends, sums=sums
    )
    squares = controls.mean_squares(norm.model, all_factors) if settings.age_variance else np.zeros(len(controls.ages))
    for left_out, factors in held_out:
        fitted = sums.fit(controls.transforms, controls.weights(factors), controls.people(left_out), bends)
        model = model_of(fitted, smooth).with_floor(settings.variance_floor)
        by_age = _age_variance(controls, squares, left_out)
        for position in left_out:
            rows = panel.scans_of(int(position))
            people = panel.coded(rows)
            scale = people.spread * factors.of(people.sites) * by_age.of(people.age_years)
            z[rows] = z_scores(model, values[rows], people.covariates, scale)
    return replace(norm, age_variance=_age_variance(controls, squares))


def _age_variance(
    controls: _Controls, squares: NDArray[np.float64], left_out: NDArray[np.int64] | None = None
) -> AgeVariance:
    """The factor by age from the mean squares of controls, without some of them; 1 where all are 0."""
    kept = np.ones(len(squares), dtype=bool)
    kept[left_out if left_out is not None else []] = False
    return fit_age_variance(squares[kept], controls.ages[kept], controls.sites[kept])


def _squares(z: NDArray[np.float32], panel: Panel, factors: SiteVariance) -> dict[str, Squares]:
    """How much the calibration people of each site scatter, from their held-out z in units of the average site's SD."""
    sites = panel.sites(panel.calibration).astype(str)
    of_person = np.array([float(np.square(z[row], dtype=np.float64).mean()) for row in panel.calibration])
    of_person *= factors.of(sites) ** 2
    return {str(site): Squares.of(of_person[sites == site]) for site in np.unique(sites)}


def _to_normal(z: NDArray[np.float32], panel: Panel) -> Counts:
    """Map z of the scans of calibration people in place by the empirical null of the others; returns the counts of all."""
    pool = np.zeros_like(count(z[:0]))
    for row in panel.calibration:
        pool += count(z[row])
    for position, row in enumerate(panel.calibration):
        without = fit_null_map(pool - count(z[row]))
        for scan in panel.scans_of(position):
            z[scan] = without(z[scan])
    return pool


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
    dof = calibrated.norm.model.dof
    return {
        "num_controls": len(panel.calibration),
        "columns": list(panel.design.columns),
        "terms": list(panel.design.terms),
        "dropped": panel.design.dropped,
        "sites": panel.design.site_counts,
        "age_range_years": list(panel.design.age_range_years),
        "dof": None if np.isinf(dof) else float(dof),
        "site_variance": _describe_sites(panel, calibrated.norm.site_variance),
        "age_effects": describe_age(calibrated.norm),
        "conformal_resolution": conformal_resolution(len(panel.calibration)),
        "calibration_held_out": null_figures(calibrated.z, panel.calibration, q, panel.sites(panel.calibration)),
        "test": null_figures(calibrated.z, test, q, panel.sites(test)),
    }


def describe_age(norm: ChannelNorm) -> dict[str, Any]:
    """Smoothing of the spline (None: a straight line, or no spline), and change of the log variance per decade."""
    smoothing = norm.bends.smoothing if norm.bends is not None else math.inf
    slope, error = norm.age_variance.estimate
    return {
        "smoothing": smoothing if math.isfinite(smoothing) else None,
        "log_variance_per_decade": norm.age_variance.slope,
        "before_shrinking": [slope, error] if math.isfinite(error) else None,
    }


def _describe_sites(panel: Panel, variance: SiteVariance) -> dict[str, Any]:
    """Factor of the residual SD of each site with the number of controls behind it; empty without factors."""
    counts = panel.design.site_counts
    return {
        site: {"sd_factor": round(factor, 4), "num_controls": counts[site]} for site, factor in variance.factors.items()
    }
