"""The normative model by plain least squares with everybody's values at hand: what sums over people must reproduce."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.normative import (
    NormativeModel,
    model_of,
    refuse_single_carriers,
    require_people,
    variance_smoother,
    z_scores,
)
from gen3d.anomaly.calibration.sums import Fitted, People, ValueSums
from gen3d.core.errors import UserError
from gen3d.maths.covariate_sums import Group

Array = NDArray[np.floating]


def fit_normative(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    scale: NDArray[np.float64] | None = None,
) -> NormativeModel:
    """Residuals [n, V], design [n, p], scale [n] (1 when absent)."""
    num, columns = design.shape
    require_people(num, columns)
    if not np.isfinite(residuals).all():
        raise ValueError("NaN")
    if np.linalg.matrix_rank(design) < columns:
        raise UserError("The covariates of the calibration controls are collinear")
    weight = 1.0 / (np.ones(num) if scale is None else scale)[:, None]
    values, rows = np.asarray(residuals, dtype=np.float64) * weight, design * weight
    gram_inverse = np.linalg.inv(rows.T @ rows)
    coefficients = gram_inverse @ (rows.T @ values)
    squares = ((values - rows @ coefficients) ** 2).sum(axis=0)
    return model_of(Fitted(gram_inverse, coefficients, squares, num), variance_smoother(mask, fwhm_voxels))


def held_out_z(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    groups: NDArray[np.int64] | None = None,
    scales: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """z [n, V] of each person by the sums of the others; row i of scales [n, groups] is estimated without person i."""
    num, columns = design.shape
    require_people(num, columns, left_out=1)
    refuse_single_carriers(design)
    member = np.zeros(num, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    num_groups = int(member.max()) + 1
    factor = np.ones((num, num_groups)) if scales is None else scales
    named: Sequence[Group] = [Group(str(number), True, True) for number in range(num_groups)]
    sums = ValueSums.empty(named, residuals.shape[1], columns)
    sums.add(People(design, member, np.ones(num), residuals))
    smooth, z = variance_smoother(mask, fwhm_voxels), np.empty(residuals.shape, dtype=np.float32)
    for person in range(num):
        one = slice(person, person + 1)
        without = People(design[one], member[one], np.ones(1), residuals[one])
        fitted = sums.fit([np.eye(columns)] * num_groups, 1 / factor[person] ** 2, without)
        z[one] = z_scores(model_of(fitted, smooth), residuals[one], design[one], factor[person, member[one]])
    return z
