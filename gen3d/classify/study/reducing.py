"""Reduce features without labels: missing values, harmonisation, confounds, and principal components.

Everything is fitted on the rows of training people and then applied to anybody, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.columns import PENALISED, TableCode, fit_columns
from gen3d.cohort.manifest import is_control
from gen3d.cohort.target import Rows
from gen3d.core.errors import UserError
from gen3d.harmonise.recipe import FittedHarmonisation, Harmonisation

Values = NDArray[np.float64]
PEOPLE_PER_COLUMN = 5
"""Controls needed for each column of confounds; with fewer, all training people are used."""
WHITENING = 0.5
"""Components are divided by their standard deviation to this power.

0 keeps their variances, which a penalised head takes for importance; 1 makes them equal, which gives noise the weight of
anatomy. In simulations of 120 people (power-law spectra, 30 components kept, 1000 people to test on) 0.5 was as good as 0 where
the signal lay in the first components and better elsewhere; 1 cost up to 0.02 of AUC in the first case, and gained up to 0.03
where the signal lay in components of little variance alone."""


@dataclass(frozen=True)
class Reduction:
    """The label-free steps. `components`: how many at most; None keeps all features, centred."""

    components: int | None = 30
    confounds: tuple[str, ...] = ()
    harmonisation: Harmonisation | None = None

    def fit(self, train: Rows) -> FeatureReducer:
        """Fit all steps on training people.

        Raises:
            UserError: features that are the same for everybody, or a confound that the table has not.
        """
        cleaning = fit_cleaning(train, self.harmonisation, self.confounds)
        return FeatureReducer(cleaning, _fit_components(cleaning.apply(train), train.blocks, self.components))

    def describe(self, features: str) -> str:
        """`30 principal components of latents, harmonised by site, without age_years and sex`."""
        kept = f"{self.components} principal components of {features}" if self.components else features
        harmonised = [f"harmonised by {self.harmonisation.by}"] if self.harmonisation is not None else []
        regressed = [f"without {' and '.join(self.confounds)}"] if self.confounds else []
        return ", ".join([kept, *harmonised, *regressed])


@dataclass(frozen=True)
class Cleaning:
    """Missing values, harmonisation and confounds, fitted; the features stay as many.

    `filling` [d] stands for missing values; `slopes` [columns, d] are what confounds add to a feature. `learned_from` are
    the people on whom the confounds were estimated: `controls`, `everybody`, or "" without confounds.
    """

    filling: Values
    harmonisation: FittedHarmonisation | None
    columns: TableCode | None
    slopes: Values
    learned_from: str

    def apply(self, rows: Rows) -> Values:
        """[n, d]."""
        values = _filled(np.asarray(rows.values, dtype=np.float64), self.filling)
        if self.harmonisation is not None:
            values = np.asarray(self.harmonisation.apply(_with(rows, values)), dtype=np.float64)
        if self.columns is not None:
            values = values - self.columns.matrix(rows.table) @ self.slopes
        return values


def fit_cleaning(train: Rows, harmonisation: Harmonisation | None, confounds: tuple[str, ...]) -> Cleaning:
    """Fit missing values (the mean), then harmonisation, then confounds.

    Confounds are estimated on the controls among the training people, so that what the disease does is not taken for an
    effect of age (Dukart et al. 2011). Where diagnoses are not known, or of too few controls, everybody is used.
    """
    values = np.asarray(train.values, dtype=np.float64)
    known = np.isfinite(values)
    filling = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    rows = _with(train, _filled(values, filling))
    fitted = None
    if harmonisation is not None:
        fitted = harmonisation.fit(rows)
        rows = _with(train, fitted.apply(rows))
    if not confounds:
        return Cleaning(filling, fitted, None, np.zeros((0, values.shape[1])), "")
    columns, slopes, learned_from = _confounds(rows, confounds)
    return Cleaning(filling, fitted, columns, slopes, learned_from)


def _confounds(rows: Rows, confounds: tuple[str, ...]) -> tuple[TableCode, Values, str]:
    columns = fit_columns(rows.table, confounds, PENALISED, "confounds")
    design = columns.matrix(rows.table)
    control = (
        is_control(rows.table).to_numpy() if "diagnosis" in rows.table.columns else np.zeros(len(rows), dtype=bool)
    )
    enough = int(rows.table.loc[control, "subject"].nunique()) >= PEOPLE_PER_COLUMN * (design.shape[1] + 1)
    chosen = control if enough else np.ones(len(rows), dtype=bool)
    part, target = design[chosen], np.asarray(rows.values, dtype=np.float64)[chosen]
    slopes = np.linalg.lstsq(part - part.mean(axis=0), target - target.mean(axis=0), rcond=1e-10)[0]
    return columns, slopes, "controls" if enough else "everybody"


def _with(rows: Rows, values: NDArray[Any]) -> Rows:
    return Rows(values, rows.table, rows.blocks, rows.shape)


def _filled(values: Values, filling: Values) -> Values:
    missing = ~np.isfinite(values)
    return np.where(missing, filling, values) if missing.any() else values


@dataclass(frozen=True)
class Components:
    """Centre [d], divisor of each feature's block [d], and loadings [d, k] (None: the features themselves)."""

    centre: Values
    divisor: Values
    loadings: Values | None

    def project(self, values: Values) -> Values:
        """[n, k]."""
        scaled = (values - self.centre) / self.divisor
        return scaled if self.loadings is None else scaled @ self.loadings


def _fit_components(values: Values, blocks: tuple[int, ...], num_components: int | None) -> Components:
    """Scale blocks to a total variance of 1 each, so that wide blocks do not dominate; then take components.

    Components come from the smaller of the two inner products (rows or features), exactly. The loading of largest size is
    positive, which fixes the sign.
    """
    centre = values.mean(axis=0)
    variance = ((values - centre) ** 2).mean(axis=0)
    divisor = np.ones(values.shape[1])
    start = 0
    for width in blocks or (values.shape[1],):
        part = slice(start, start + width)
        start += width
        total, size = float(variance[part].sum()), float(np.abs(values[:, part]).max(initial=0.0))
        if total > 1e-16 * size**2 * width:
            divisor[part] = np.sqrt(total)
        else:
            divisor[part] = np.inf  # the same for everybody: nothing but rounding is left
    if not np.isfinite(divisor).any():
        raise UserError(
            "the features are identical for every training person, so they predict nothing; check whether the VAE has "
            "collapsed, and train it with a lower model.beta."
        )
    if num_components is None:
        return Components(centre, divisor, None)
    loadings, spread = _principal((values - centre) / divisor, num_components)
    return Components(centre, divisor, loadings / spread**WHITENING)


def _principal(centred: Values, num_components: int) -> tuple[Values, Values]:
    """Orthonormal loadings [d, k] and standard deviations [k] of the first components of centred rows [n, d]."""
    num, width = centred.shape
    products = centred @ centred.T if num < width else centred.T @ centred
    powers, vectors = np.linalg.eigh(products)
    order = np.argsort(powers)[::-1][: min(num_components, num - 1, width)]
    order = order[powers[order] > 1e-10 * powers[order[0]]]
    vectors_kept = vectors[:, order]
    loadings = centred.T @ vectors_kept / np.sqrt(powers[order]) if num < width else vectors_kept
    largest = np.abs(loadings).argmax(axis=0)
    return loadings * np.sign(loadings[largest, np.arange(len(order))]), np.sqrt(powers[order] / num)


@dataclass(frozen=True)
class FeatureReducer:
    """All label-free steps, fitted."""

    cleaning: Cleaning
    components: Components

    def apply(self, rows: Rows) -> Values:
        """[n, k]."""
        return self.components.project(self.cleaning.apply(rows))
