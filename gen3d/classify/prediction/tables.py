"""The tables of `gen3d predict`: the prediction for each person, how far to trust it, and the nearest training people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.prediction.people import PredictionRequest, balanced
from gen3d.classify.prediction.typicality import (
    PARTS,
    Typicality,
    TypicalityModel,
    fit_typicality,
    mean_typicality,
    nearest_distances,
    pair_distances,
    typicality,
)
from gen3d.classify.study.crossvalidation import IDENTITY, score_and_call
from gen3d.classify.study.recipes import FeatureRecipe
from gen3d.cohort.manifest import is_control
from gen3d.core.memory import announce_memory

TAIL = 0.01
"""Share of people like those learned from who are called unusual, at least 99 people given."""
SAME_SCAN = 1e-6
"""Distance to a training scan, in the unit of the neighbours' table, below which it is that scan."""

Values = NDArray[np.float64]


def judge_typicality(request: PredictionRequest, seed: int) -> tuple[TypicalityModel, Typicality]:
    """How unusual the scans are among those the head was trained on, in the space of the features themselves.

    Not in the head's components: those were fitted on the training people, who therefore lie farther out on them than new
    people do. In a cross-fitted family each member judges in its own space, and what they find is averaged; the model that is
    returned is that of the member with the fewest people, whose smallest p bounds what can be said.
    """
    models, results = [], []
    for member, rows in enumerate(request.spaces):
        training = request.training(member)
        model = fit_typicality(balanced(training.rows, training.rows), training.groups, seed=seed)
        models.append(model)
        results.append(typicality(model, balanced(rows, training.rows)))
    return min(models, key=lambda model: model.num_people), mean_typicality(results)


def tail_of(model: TypicalityModel) -> float:
    """The p from which a scan is called unusual: 1 in 100, or 1 in n + 1 where fewer than 99 people are there to compare with."""
    return max(TAIL, model.smallest_tail)


def prediction_table(
    request: PredictionRequest, model: TypicalityModel, typical: Typicality, neighbours: pd.DataFrame
) -> pd.DataFrame:
    """One row per scan: identity, outputs, call, reliability of such probabilities, typicality and warnings."""
    target, table = request.head.target, request.people.table
    outputs = request.family.outputs(request.spaces)
    present = [name for name in IDENTITY if name in table.columns]
    frame = table[present].copy()
    for column, values in zip(target.output_columns, outputs.T, strict=True):
        frame[column] = values
    score, call, threshold = score_and_call(target, outputs, request.family.threshold)
    frame["y_score"], frame["y_pred"], frame["threshold"] = score, call, threshold
    if target.task != "number":
        chance = outputs[:, -1] if target.is_binary else outputs.max(axis=1)
        for name, values in reliability_of(chance, request.rows_of("reliability")).items():
            frame[name] = values
    frame["typicality_percentile"] = typical.percentile
    frame["typicality_p"] = typical.p
    for place, name in enumerate(("distance_percentile", "residual_percentile")):
        frame[name] = typical.part_percentiles[:, place] if model.spread[place] > 0 else np.nan
    frame["out_of_distribution"] = warnings_of(request, model, typical, neighbours)
    frame["seen"] = request.seen_by()
    return frame


def reliability_of(chance: Values, bins: Sequence[dict[str, Any]]) -> dict[str, Values]:
    """What came true in cross-validation of predictions of this size: the bin whose mean prediction is nearest.

    Args:
        chance: probability of the last of two classes, or of the most likely of more, [n].
        bins: rows with predicted, observed, low, high and num (people); none gives NaN.
    """
    names = ("observed", "low", "high", "num")
    if not bins:
        return {f"reliability_{name}": np.full(len(chance), np.nan) for name in names}
    predicted = np.array([float(row["predicted"]) for row in bins])
    nearest = np.abs(chance[:, None] - predicted[None]).argmin(axis=1)
    columns = {name: np.array([_number(row[name]) for row in bins]) for name in names}
    return {f"reliability_{name}": values[nearest] for name, values in columns.items()}


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def neighbour_table(request: PredictionRequest, num: int) -> pd.DataFrame:
    """The nearest training people of each scan in the head's reduced space, one row per neighbour, the nearest first.

    A person is as near as the nearest of their scans. distance: in units of the median distance of a training person's scan to
    the nearest other person; the mean over the members of a family whose head was trained on that person.
    """
    everybody, target = request.everybody, request.head.target
    table = everybody.rows.table
    shown = [name for name in ("age_years", "sex", "diagnosis") if name in table.columns]
    rows_found = []
    for key, row in zip(request.people.table["key"], _distances(request), strict=True):
        order = np.argsort(row, kind="stable")
        _, first = np.unique(everybody.groups[order], return_index=True)
        for rank, place in enumerate(order[np.sort(first)][:num], start=1):
            code = everybody.codes[place]
            label: Any = target.classes[int(code)] if target.classes else code
            neighbour = {"key": key, "rank": rank, "neighbour_key": table.at[place, "key"], "distance": row[place]}
            rows_found.append(neighbour | {"neighbour_y": label} | {name: table.at[place, name] for name in shown})
    return pd.DataFrame(rows_found)


def _distances(request: PredictionRequest) -> Values:
    """Distance of each scan to each training scan [n, training scans], see `neighbour_table`."""
    places = {str(key): place for place, key in enumerate(request.everybody.rows.table["key"])}
    num_pairs = len(request.people) * len(places)
    what = f"the distances of {len(request.people)} scans to {len(places)} training scans"
    announce_memory(what, 3 * 8 * num_pairs, "predict fewer people at a time")
    total = np.zeros((len(request.people), len(places)))
    members = np.zeros(len(places))
    for member, (head, rows) in enumerate(zip(request.family.heads, request.spaces, strict=True)):
        training = request.training(member)
        reduced = head.reducer.apply(training.rows)
        usual = nearest_distances(reduced, training.groups)
        usual = usual[np.isfinite(usual) & (usual > 0)]
        unit = float(np.median(usual)) if usual.size else 1.0
        columns = [places[str(key)] for key in training.rows.table["key"]]
        total[:, columns] += pair_distances(head.reducer.apply(rows), reduced) / unit
        members[columns] += 1
    return np.asarray(total / members)


def warnings_of(
    request: PredictionRequest, model: TypicalityModel, typical: Typicality, neighbours: pd.DataFrame
) -> list[str]:
    """Why a prediction may not hold for a person, in words; "" where nothing speaks against it."""
    training = request.everybody.rows.table
    beyond, part = typical.beyond(tail_of(model)), typical.widest()
    nearest = {str(row["key"]): row for row in neighbours[neighbours["rank"] == 1].to_dict("records")}
    sites = set(training["site"].astype(str)) if "site" in training.columns else None
    needed = _needed(request)
    warnings = []
    for number, row in enumerate(request.people.table.to_dict("records")):
        reasons: list[str] = []
        if beyond[number]:
            share = "all" if typical.percentile[number] >= 100 else f"{typical.percentile[number]:.1f} % of"
            reasons.append(
                f"the scan is more unusual than {share} {model.num_people:.0f} training people ({PARTS[part[number]]})"
            )
        reasons += _of_age(row.get("age_years"), training, "age_years" in needed)
        if sites is not None and str(row.get("site", "")) not in sites:
            reasons.append(f"no training person is of the site {row.get('site') or '(none)'}")
        if "sex" in needed and not str(row.get("sex") or ""):
            reasons.append("sex is missing, and the head uses it")
        closest = nearest[str(row["key"])]
        if float(closest["distance"]) < SAME_SCAN:
            reasons.append(f"the scan is the same as {closest['neighbour_key']}, which the head was trained on")
        warnings.append("; ".join(reasons))
    return warnings


def _of_age(age: Any, training: pd.DataFrame, needed: bool) -> list[str]:
    known = pd.to_numeric(training.get("age_years", pd.Series(dtype=float)), errors="coerce").dropna()
    if age is None or not np.isfinite(float(age)):
        return ["age is missing, and the head uses it"] if needed else []
    if not len(known) or known.min() <= float(age) <= known.max():
        return []
    return [f"age {float(age):.0f} is outside of the {known.min():.0f} to {known.max():.0f} years of training people"]


def _needed(request: PredictionRequest) -> set[str]:
    """Columns of the cohort table that the head's features are adjusted by."""
    recipe = request.head.recipe
    if not isinstance(recipe, FeatureRecipe):
        return set()
    harmonised = getattr(recipe.reduction.harmonisation, "keep", ())
    return {*recipe.reduction.confounds, *harmonised}


def training_summary(request: PredictionRequest) -> dict[str, Any]:
    """The people that the head was trained on, in numbers."""
    everybody, target = request.everybody, request.head.target
    table, groups = everybody.rows.table, everybody.groups
    counts = {name: len(np.unique(groups[everybody.codes == place])) for place, name in enumerate(target.classes)}
    controls = int(table.loc[is_control(table), "subject"].nunique()) if "diagnosis" in table.columns else None
    return {"num_people": len(np.unique(groups)), "num_scans": len(table), "by_class": counts, "num_controls": controls}
