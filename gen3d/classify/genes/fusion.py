"""Late fusion of two classifiers: the mean of their calibrated logits, scan by scan, with nothing fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gen3d.cohort.target import Target, Values

KEYS = ["repeat", "fold", "key"]
SMALLEST = 1e-6
"""A probability nearer to 0 has the logarithm of this one, so that one classifier that is sure does not decide alone."""


def fused(first: pd.DataFrame, second: pd.DataFrame, target: Target, name: str) -> pd.DataFrame:
    """Predictions of the scans that both predicted in the same fold, in the order of the first.

    The probabilities are those whose logarithms are the means of both, made to sum to 1: for two classes the mean of the logits,
    for more the geometric mean (Genest and Zidek 1986, Stat Sci 1:114, logarithmic pooling).
    """
    columns = list(target.output_columns)
    both = first.merge(second[[*KEYS, *columns]], on=KEYS, suffixes=("", "_other"), validate="one_to_one")
    one = both[columns].to_numpy(dtype=np.float64)
    other = both[[f"{column}_other" for column in columns]].to_numpy(dtype=np.float64)
    outputs = pooled(one, other)
    return with_outputs(both[first.columns], outputs, target, name)


def pooled(one: Values, other: Values) -> Values:
    """Probabilities [n, classes] from those of two classifiers."""
    logs = 0.5 * (np.log(np.maximum(one, SMALLEST)) + np.log(np.maximum(other, SMALLEST)))
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def with_outputs(frame: pd.DataFrame, outputs: Values, target: Target, name: str) -> pd.DataFrame:
    """Rows of predictions with other probabilities, the calls that follow from them, and another model's name."""
    calls = outputs.argmax(axis=1)
    if target.is_binary:
        calls = (outputs[:, -1] >= frame["threshold"].to_numpy(dtype=np.float64)).astype(np.int64)
    changed = frame.assign(model=name, y_pred=np.array(target.classes, dtype=object)[calls])
    for column, values in zip(target.output_columns, outputs.T, strict=True):
        changed[column] = values
    return changed
