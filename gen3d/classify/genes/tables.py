"""Figures of what genes add: performance of every model, gains with paired intervals, controls, and people who miss a modality."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.scores.rows import headline_measure, read_predictions
from gen3d.classify.scores.scorecard import ScoreSettings, score
from gen3d.classify.settings import StudySettings
from gen3d.cohort.target import Target
from gen3d.core.tables import Row

Values = NDArray[np.float64]
FUSION, GENETICS = "late fusion", "genetics"
SCAN_ONLY, GENES_ONLY, BOTH, EVERYBODY = "scan alone", "genes alone", "scan and genes", "everybody"
INPUTS = {"I": "the scan", "G": "genes", "G+I": "both"}
FEWEST_TESTED = 10
"""People below whom a subset has no figure."""


@dataclass(frozen=True)
class GeneTables:
    """What is written, over people; `scan_model` and `best` are the names of the scan's model and of the better modality."""

    tables: dict[str, pd.DataFrame]
    scan_model: str
    best: str
    measure: str
    notes: tuple[str, ...]


def headline(frame: pd.DataFrame, target: Target) -> float:
    """Area under the curve of one model's predictions (mean over classes), of scans that one fitted model predicted."""
    model = read_predictions(frame, target)[0]
    return float(np.mean([area.value for area in model.areas]))


def control_row(name: str, gains: Values) -> Row:
    """Gains with genes of other people: mean, range of 95 %, and the gains themselves under `gains`."""
    finite = gains[np.isfinite(gains)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (math.nan, math.nan)
    mean = float(finite.mean()) if finite.size else math.nan
    return {
        "control": name,
        "gain": mean,
        "low": float(low),
        "high": float(high),
        "num": int(finite.size),
        "gains": finite,
    }


def tables_of(
    target: Target,
    settings: StudySettings,
    scan: pd.DataFrame,
    frames: Mapping[str, pd.DataFrame],
    controls: list[Row],
    people: Mapping[str, pd.DataFrame],
    notes: tuple[str, ...],
) -> GeneTables:
    """Score everything on people who have a scan and genes, and every subset of inputs on people who miss one.

    Args:
        target: what was predicted.
        settings: of the study.
        scan: predictions of the scan's model, of everybody.
        frames: predictions of genetic and fused models by name, of people with both.
        controls: of `control_row`.
        people: predictions by what they are made from: scan, genes, both, and genes of people without a scan.
        notes: who has genes.
    """
    scoring = ScoreSettings(bootstrap=settings.bootstrap, seed=settings.seed, subgroups=())
    name, measure = str(scan["model"].iloc[0]), headline_measure(target)
    both = scan[scan["key"].isin(set(frames[FUSION]["key"]))].assign(kind="baseline")
    order = sorted(frames, key=lambda model: frames[model]["kind"].iloc[0] != "head")
    order = [FUSION, *(model for model in order if model != FUSION)]
    found = score(pd.concat([*(frames[model] for model in order), both], ignore_index=True), target, scoring)
    performance = found["performance"]
    values = performance[(performance["measure"] == measure) & (performance["class"] == "")].set_index("model")["value"]
    best = name if not values[GENETICS] > values[name] else GENETICS
    gains = found["differences"]
    real = gains[(gains["model"] == FUSION) & (gains["against"] == best)]["difference"].iloc[0]
    shown = performance["measure"].isin([measure, "balanced_accuracy", "brier"]) & (performance["class"] == "")
    return GeneTables(
        {
            "genes_performance": performance[shown].reset_index(drop=True),
            "genes_gain": gains.reset_index(drop=True),
            "genes_controls": pd.DataFrame([_compared(row, float(real)) for row in controls]),
            "genes_people": _subsets(target, scoring, people),
        },
        name,
        best,
        measure,
        notes,
    )


def _compared(row: Row, real: float) -> Row:
    """The row with the real gain, and the share of gains with other people's genes that are as large."""
    gains = row.pop("gains")
    p = (1 + int((gains >= real).sum())) / (1 + len(gains)) if len(gains) and math.isfinite(real) else math.nan
    return {**row, "real_gain": real, "p": p}


def _subsets(target: Target, scoring: ScoreSettings, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per group of people and set of inputs: who is scored, by what, and how well."""
    scan, genes, both, without = (frames[name] for name in ("scan", "genes", "both", "without_scan"))
    paired = set(both["key"])
    of_both = scan["key"].isin(paired)
    parts: dict[str, dict[str, list[pd.DataFrame]]] = {
        BOTH: {"I": [scan[of_both]], "G": [genes], "G+I": [both]},
        SCAN_ONLY: {"I": [scan[~of_both]], "G": [], "G+I": [scan[~of_both]]},
        GENES_ONLY: {"I": [], "G": [without], "G+I": [without]},
    }
    parts[EVERYBODY] = {inputs: [frame for group in parts.values() for frame in group[inputs]] for inputs in INPUTS}
    rows: list[Row] = []
    for group, by_inputs in parts.items():
        for inputs, listed in by_inputs.items():
            usable = [frame for frame in listed if len(frame)]
            rows.append(
                {
                    "people": group,
                    "inputs": inputs,
                    "scored_by": _how(group, inputs),
                    **_figure(target, scoring, usable, inputs),
                }
            )
    return pd.DataFrame(rows)


def _figure(target: Target, scoring: ScoreSettings, frames: list[pd.DataFrame], inputs: str) -> Row:
    if not frames:
        return {"num_people": 0, "value": math.nan, "low": math.nan, "high": math.nan}
    frame = pd.concat(frames, ignore_index=True).assign(model=inputs, kind="head")
    num = int(frame["subject"].nunique())
    several = frame["y_true"].nunique() == len(target.classes)
    if num < FEWEST_TESTED or not several:
        return {"num_people": num, "value": math.nan, "low": math.nan, "high": math.nan}
    found = score(frame, target, scoring)["performance"]
    row = found[(found["measure"] == headline_measure(target)) & (found["class"] == "")].iloc[0]
    return {"num_people": num, **{name: float(row[name]) for name in ("value", "low", "high")}}


def _how(group: str, inputs: str) -> str:
    """By what a group of people is scored from a set of inputs."""
    if group == EVERYBODY:
        return "what each of them has" if inputs == "G+I" else f"{INPUTS[inputs]}, of those who have it"
    lacks = {SCAN_ONLY: "G", GENES_ONLY: "I"}.get(group, "")
    if inputs == lacks:
        return "nothing: they are not scored"
    if inputs == "G+I":
        return {SCAN_ONLY: "the scan", GENES_ONLY: "genes", BOTH: "mean of both logits"}[group]
    return INPUTS[inputs]
