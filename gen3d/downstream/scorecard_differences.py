"""Two models on the same scans: how much better is the first, and could that be chance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gen3d.downstream.scorecard_rows import Predicted, Row, headline_measure
from gen3d.maths.classification import Areas, Difference, auc_difference, draw_areas, rows_by_model
from gen3d.maths.cross_validated import Bootstrap, Values, codes_of, corrected_resampled_t
from gen3d.maths.probability import ratio
from gen3d.maths.stats import auroc


def difference_rows(
    models: list[Predicted], areas: dict[str, Areas], weights: Values, cross_validated: bool
) -> list[Row]:
    """Every head against every baseline, and against the heads after it; columns of the table `differences`.

    Only scans that both models predicted in the same repeat are compared. A difference of errors (mae) is good below 0.
    areas: of each model, empty for numbers; weights [resamples, people].
    """
    found = []
    heads = [model for model in models if model.kind == "head"]
    for place, head in enumerate(heads):
        others = [model for model in models if model.kind == "baseline"] + heads[place + 1 :]
        for other in others:
            found.append(_row(head, other, areas, weights, cross_validated))
    return found


def _row(head: Predicted, other: Predicted, areas: dict[str, Areas], weights: Values, cross_validated: bool) -> Row:
    first, second = align(head, other)
    if not len(first.truth):
        difference = Difference(math.nan, math.nan, math.nan, math.nan, 0)
    elif first.target.task == "number":
        difference = _error_difference(first, second, weights)
    else:
        if not (first is head and second is other):
            areas = {model.name: draw_areas(model.areas, weights) for model in (first, second)}
        difference = auc_difference(areas[head.name], areas[other.name])
    p_resampled = _p_resampled(first, second) if cross_validated and len(first.truth) else math.nan
    return {
        "model": head.name,
        "against": other.name,
        "measure": headline_measure(head.target),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_delong": difference.p,
        "p_resampled": p_resampled,
        "num_people": difference.num,
    }


def align(first: Predicted, second: Predicted) -> tuple[Predicted, Predicted]:
    """Both models on the rows (repeat and scan) that both predicted; the models themselves where nothing has to be done.

    Rows are of one fitted model where they are for both, so that folds that differ are cut up.
    """
    keys = ["repeat", "key", "fold"]
    if len(first.rows) == len(second.rows) and bool(
        np.array_equal(first.rows[keys].to_numpy(dtype=object), second.rows[keys].to_numpy(dtype=object))
    ):
        return first, second
    left = first.rows[["repeat", "key"]].assign(left=np.arange(len(first.rows)))
    right = second.rows[["repeat", "key"]].assign(right=np.arange(len(second.rows)))
    both = left.merge(right, on=["repeat", "key"])
    one, two = first.take(both["left"].to_numpy()), second.take(both["right"].to_numpy())
    if len(both):
        together = codes_of(one.models, two.models)
        one, two = (replace(model, models=together) for model in (one, two))
    return one, two


def _error_difference(first: Predicted, second: Predicted, weights: Values) -> Difference:
    errors = [np.abs(model.outputs[:, 0] - model.truth) for model in (first, second)]
    columns = np.stack([first.share * (errors[0] - errors[1]), first.share], axis=1)
    found = Bootstrap(first.people, weights).interval(columns, ratio)
    return Difference(found.value, found.low, found.high, math.nan, found.num)


def _p_resampled(first: Predicted, second: Predicted) -> float:
    """Corrected resampled t over folds; the people of a repeat who are not tested in a fold are taken for its training set."""
    differences, shares = [], []
    repeats = first.rows["repeat"].to_numpy()
    for rows in rows_by_model(first.models):
        differences.append(_in_fold(first, rows) - _in_fold(second, rows))
        tested = len(np.unique(first.people[rows]))
        learned = len(np.unique(first.people[repeats == repeats[rows[0]]])) - tested
        shares.append(tested / learned if learned else math.nan)
    usable = np.isfinite(shares)
    if not usable.any():
        return math.nan
    return corrected_resampled_t(np.array(differences)[usable], float(np.mean(np.array(shares)[usable])))[1]


def _in_fold(model: Predicted, rows: np.ndarray) -> float:
    truth, outputs = model.truth[rows], model.outputs[rows]
    if model.target.task == "number":
        return float(np.mean(np.abs(outputs[:, 0] - truth)))
    codes = [1] if model.target.is_binary else range(len(model.target.classes))
    return float(np.mean([auroc(outputs[:, code], truth == code) for code in codes]))
