"""A person's columns as predictors of a rate of change: linear in numbers, one offset per category, the mean where missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.coding import Categorical, Coding

Values = NDArray[np.float64]


def num_columns(coding: Coding) -> int:
    """Columns of `indicators`."""
    return sum(len(each.codes) if isinstance(each, Categorical) else 1 for each in coding.covariates)


def indicators(coding: Coding, frame: pd.DataFrame) -> Values:
    """Standardised numbers and an indicator per category [n, p], NaN where a value is missing.

    Raises:
        UserError: a column is missing, or holds a code that no training person had.
    """
    coded = coding.encode(frame).astype(np.float64)
    parts = [np.zeros((len(frame), 0))]
    for column, each in zip(coded.T, coding.covariates, strict=True):
        if isinstance(each, Categorical):
            places = np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(len(each.codes)))
            parts.append(places)
        else:
            parts.append(column[:, None])
    return np.concatenate(parts, axis=1)


def of_person(coding: Coding, columns: Mapping[str, Any]) -> Values:
    """`indicators` of one person [1, p]."""
    return indicators(coding, pd.DataFrame([{name: columns[name] for name in coding.names if name in columns}]))


def centred(values: Values, centre: Values) -> Values:
    """Rows [n, 1 + p] of a design: an intercept, and `values` about the training people's mean, which a missing one is."""
    about = np.where(np.isnan(values), 0.0, values - centre)
    return np.concatenate([np.ones((len(about), 1)), about], axis=1)
