"""The tables of `gen3d predict`: what the head says of each person, how far to trust it, and who is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.prediction.people import Asked, balanced, training_people
from gen3d.classify.prediction.typicality import (
    PARTS,
    Typicality,
    TypicalityModel,
    fit_typicality,
    nearest_distances,
    pair_distances,
    typicality,
)
from gen3d.classify.study.crossvalidation import IDENTITY, score_and_call
from gen3d.classify.study.recipes import FeatureRecipe
from gen3d.cohort.manifest import is_control

TAIL = 0.01
"""Share of people like those learned from who are called unusual, at least 99 people given."""
SAME_SCAN = 1e-6
"""Distance to a training scan, in the unit of the neighbours' table, below which it is that scan."""

Values = NDArray[np.float64]


def judge_typicality(asked: Asked, seed: int) -> tuple[TypicalityModel, Typicality]:
    """How unusual the scans are among those the head learned from, in the space of the features themselves.

    Not in the head's components: those were fitted on the training people, who therefore lie farther out on them than new
    people do.
    """
    rows, _, groups, _ = training_people(asked)
    model = fit_typicality(balanced(rows, rows), groups, seed=seed)
    return model, typicality(model, balanced(asked.rows, rows))


def tail_of(model: TypicalityModel) -> float:
    """The p from which a scan is called unusual: 1 in 100, or 1 in n + 1 where fewer than 99 people are there to compare with."""
    return max(TAIL, model.smallest_tail)


def prediction_table(asked: Asked, model: TypicalityModel, found: Typicality, neighbours: pd.DataFrame) -> pd.DataFrame:
    """One row per scan: identity, outputs, call, reliability of such probabilities, typicality and warnings."""
    head, rows = asked.head, asked.rows
    outputs = head.outputs(rows)
    present = [name for name in IDENTITY if name in rows.table.columns]
    frame = rows.table[present].copy()
    for column, values in zip(head.target.output_columns, outputs.T, strict=True):
        frame[column] = values
    score, call, threshold = score_and_call(head.target, outputs, head.threshold)
    frame["y_score"], frame["y_pred"], frame["threshold"] = score, call, threshold
    if head.target.task != "number":
        chance = outputs[:, -1] if head.target.is_binary else outputs.max(axis=1)
        for name, values in reliability_of(chance, asked.rows_of("reliability")).items():
            frame[name] = values
    frame["typicality_percentile"] = found.percentile
    frame["typicality_p"] = found.p
    for place, name in enumerate(("distance_percentile", "residual_percentile")):
        frame[name] = found.part_percentiles[:, place] if model.spread[place] > 0 else np.nan
    frame["out_of_distribution"] = warnings_of(asked, model, found, neighbours)
    frame["seen"] = asked.seen_by()
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


def neighbour_table(asked: Asked, num: int) -> pd.DataFrame:
    """The nearest training people of each scan in the head's reduced space, one row per neighbour, the nearest first.

    A person is as near as the nearest of their scans. distance: in units of the median distance of a training person's scan to
    the nearest other person.
    """
    rows, codes, groups, table = training_people(asked)
    reduced = asked.head.reducer.apply(rows)
    usual = nearest_distances(reduced, groups)
    usual = usual[np.isfinite(usual) & (usual > 0)]
    unit = float(np.median(usual)) if usual.size else 1.0
    classes = asked.head.target.classes
    shown = [name for name in ("age_years", "sex", "diagnosis") if name in table.columns]
    found = []
    new = asked.rows
    distances = pair_distances(asked.head.reducer.apply(new), reduced) / unit
    for key, row in zip(new.table["key"], distances, strict=True):
        order = np.argsort(row, kind="stable")
        _, first = np.unique(groups[order], return_index=True)
        for rank, place in enumerate(order[np.sort(first)][:num], start=1):
            label: Any = classes[int(codes[place])] if classes else codes[place]
            neighbour = {"key": key, "rank": rank, "neighbour_key": table.at[place, "key"], "distance": row[place]}
            found.append(neighbour | {"neighbour_y": label} | {name: table.at[place, name] for name in shown})
    return pd.DataFrame(found)


def warnings_of(asked: Asked, model: TypicalityModel, found: Typicality, neighbours: pd.DataFrame) -> list[str]:
    """Why a prediction may not hold for a person, in words; "" where nothing speaks against it."""
    table, training = asked.rows.table, training_people(asked)[3]
    beyond, part = found.beyond(tail_of(model)), found.widest()
    nearest = {str(row["key"]): row for row in neighbours[neighbours["rank"] == 1].to_dict("records")}
    sites = set(training["site"].astype(str)) if "site" in training.columns else None
    needed = _needed(asked)
    said = []
    for number, row in enumerate(table.to_dict("records")):
        reasons: list[str] = []
        if beyond[number]:
            share = "all" if found.percentile[number] >= 100 else f"{found.percentile[number]:.1f} % of"
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
            reasons.append(f"the scan is the same as {closest['neighbour_key']}, which the head learned from")
        said.append("; ".join(reasons))
    return said


def _of_age(age: Any, training: pd.DataFrame, needed: bool) -> list[str]:
    known = pd.to_numeric(training.get("age_years", pd.Series(dtype=float)), errors="coerce").dropna()
    if age is None or not np.isfinite(float(age)):
        return ["age is missing, and the head uses it"] if needed else []
    if not len(known) or known.min() <= float(age) <= known.max():
        return []
    return [f"age {float(age):.0f} is outside of the {known.min():.0f} to {known.max():.0f} years of training people"]


def _needed(asked: Asked) -> set[str]:
    """Columns of the cohort table that the head's features are adjusted by."""
    recipe = asked.head.recipe
    if not isinstance(recipe, FeatureRecipe):
        return set()
    harmonised = getattr(recipe.reduction.harmonisation, "keep", ())
    return {*recipe.reduction.confounds, *harmonised}


def training_summary(asked: Asked) -> dict[str, Any]:
    """Whom the head learned from, in numbers."""
    _, codes, groups, table = training_people(asked)
    target = asked.head.target
    counts = {name: len(np.unique(groups[codes == place])) for place, name in enumerate(target.classes)}
    controls = int(table.loc[is_control(table), "subject"].nunique()) if "diagnosis" in table.columns else None
    return {"num_people": len(np.unique(groups)), "num_scans": len(table), "by_class": counts, "num_controls": controls}
