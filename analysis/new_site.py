"""A norm on arrays, and four ways to judge people of a site that it has not seen, shared by the two scripts of question 16.

`unadapted`: as people of the norm's average site. `adapted`: `gen3d.anomaly.calibration.site_shift`. `plain`: the mean
and the SD factor of the site's own controls without shrinkage and without their uncertainty, as ComBat's location
and scale would be used. `refit`: the norm fitted again with the site's controls in it and a fixed effect of the site.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.empirical_null import NullMap, count, fit_null_map
from gen3d.anomaly.calibration.normative import NormativeModel, fit_normative, held_out_z, z_scores
from gen3d.anomaly.calibration.site_shift import SiteSpread, Squares, fit_site_shift, site_spread
from gen3d.anomaly.calibration.site_variance import SiteVariance, fit_site_variance, some_voxels
from gen3d.anomaly.calibration.student import t_to_z
from gen3d.maths.design import Design
from gen3d.maths.significance import fdr, p_values

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Judge = Callable[[Floats], Floats]
ARMS = ("unadapted", "plain", "adapted", "refit")
LEVEL = 1.96


@dataclass(frozen=True)
class Norm:
    """A fitted norm of one channel, its empirical null (None: z as it is), and the spread of its sites."""

    design: Design
    model: NormativeModel
    factors: SiteVariance
    null: NullMap | None
    spread: SiteSpread
    held_out: Floats

    def covariates(self, people: pd.DataFrame, site: str | None = None) -> Doubles:
        """Rows of the design, [m, p]; `site` in place of their own."""
        sites = people["site"].tolist() if site is None else [site] * len(people)
        return self.design.matrix(people["age_years"].tolist(), people["sex"].tolist(), sites)

    def mapped(self, z: Floats) -> Floats:
        return z if self.null is None else self.null(z)


@dataclass(frozen=True)
class Settings:
    """Mask [X, Y, Z] and width in voxels by which the variance map is smoothed, and whether z is mapped by an empirical null."""

    mask: NDArray[np.bool_] | None = None
    fwhm_voxels: float = 0.0
    empirical_null: bool = True


def fit_norm(values: Floats, people: pd.DataFrame, settings: Settings) -> Norm:
    """A norm of all people given, as `gen3d anomaly` calibrates: values [n, V], one row of `people` each."""
    sites = people["site"].to_numpy(dtype=object)
    design = Design.fit(people["age_years"].tolist(), people["sex"].tolist(), sites.tolist())
    rows = design.matrix(people["age_years"].tolist(), people["sex"].tolist(), sites.tolist())
    factors = fit_site_variance(values[:, some_voxels(values.shape[1])], rows, sites)
    names, groups = np.unique(sites.astype(str), return_inverse=True)
    scales = np.tile(factors.of(names), (len(people), 1))
    z = held_out_z(values, rows, settings.mask, settings.fwhm_voxels, groups, scales)
    model = fit_normative(values, rows, settings.mask, settings.fwhm_voxels, factors.of(sites))
    null = fit_null_map(np.sum([count(person) for person in z], axis=0)) if settings.empirical_null else None
    squares = np.square(z, dtype=np.float64).mean(axis=1) * factors.of(sites) ** 2
    listed = list(design.sites) if "site" in design.terms else []
    apart = _site_rows(design, listed)
    spread = site_spread(
        apart @ model.coefficients,
        np.einsum("ip,pq,iq->i", apart, model.gram_inverse, apart),
        model.sd,
        [Squares.of(squares[sites == name]) for name in sorted(set(sites))],
    )
    return Norm(design, model, factors, null, spread, z if null is None else null(z))


def _site_rows(design: Design, sites: list[str]) -> Doubles:
    """Rows whose prediction is the difference of a site from the mean over sites, [S, p]."""
    nobody = [None] * len(sites)
    unknown = design.matrix(nobody, nobody, [""] * len(sites)) if sites else np.zeros((0, len(design.columns)))
    return design.matrix(nobody, nobody, sites) - unknown if sites else unknown


@dataclass(frozen=True)
class NewSite:
    """A norm, the values and people behind it, controls of a new site, and the people of it who are to be judged."""

    norm: Norm
    base: tuple[Floats, pd.DataFrame]
    controls: tuple[Floats, pd.DataFrame]
    tested: pd.DataFrame
    settings: Settings

    def judge(self, arm: str) -> Judge:
        """A function from the values [m, V] of the tested people to their z."""
        judge: Judge = getattr(self, arm)()
        return judge

    def unadapted(self) -> Judge:
        rows = self.norm.covariates(self.tested, "")
        return lambda values: self.norm.mapped(z_scores(self.norm.model, values, rows))

    def plain(self) -> Judge:
        model, (controls, own, rows) = self.norm.model, self._deviations()
        mean = controls.mean(axis=0)
        squares = np.square((controls - mean) / model.sd, dtype=np.float64).mean() * len(own) / (len(own) - 1)
        leverage = np.einsum("ip,pq,iq->i", rows, model.gram_inverse, rows)
        width = np.sqrt((1 + leverage) * squares).astype(np.float32)[:, None] * model.sd
        return lambda values: self.norm.mapped(t_to_z((values - model.expected(rows) - mean) / width, model.dof))

    def adapted(self) -> Judge:
        model, (controls, own, rows) = self.norm.model, self._deviations()
        shift = fit_site_shift(controls, own, model.sd, model.gram_inverse, self.norm.spread)
        return lambda values: self.norm.mapped(
            shift.z(values - model.expected(rows), rows, model.sd, model.gram_inverse, model.dof)
        )

    def refit(self) -> Judge:
        values = np.vstack([self.base[0], self.controls[0]])
        again = fit_norm(values, pd.concat([self.base[1], self.controls[1]], ignore_index=True), self.settings)
        rows = again.covariates(self.tested)
        scale = again.factors.of(self.tested["site"].to_numpy(dtype=object))
        return lambda values: again.mapped(z_scores(again.model, values, rows, scale))

    def _deviations(self) -> tuple[Floats, Doubles, Doubles]:
        """Deviations of the site's controls from the norm's average site, their covariates, and those of the tested people."""
        own = self.norm.covariates(self.controls[1], "")
        return self.controls[0] - self.norm.model.expected(own), own, self.norm.covariates(self.tested, "")


def null_figures(z: Floats) -> dict[str, Any]:
    """Share of |z| > 1.96 of each person, and whether each has an FDR-positive value."""
    return {
        "beyond": [round(float((np.abs(person) > LEVEL).mean()), 5) for person in z],
        "positive": [bool(fdr(p_values(person)).any()) for person in z],
    }


class Kept:
    """Rows of a computation that goes on where it was stopped: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]

    def has(self, **wanted: Any) -> bool:
        return any(all(row.get(name) == value for name, value in wanted.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def over_draws(rows: list[dict[str, Any]], column: str, seed: int = 0) -> str:
    """Mean of a figure with its 95 % interval, resampling draws (people of one draw share its controls)."""
    values = np.array([float(np.nanmean(np.asarray(row[column], dtype=float))) for row in rows])
    values = values[np.isfinite(values)]
    if not len(values):
        return "n/a"
    resampled = np.random.default_rng(seed).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
