"""New people by a trained network: a run of `gen3d train` with model.kind classifier or fusion, instead of a kept head.

The run itself holds all that a prediction needs besides its weights: scores of the people that watched a member, by which its
probabilities are calibrated as in a study, and scores of the people that no member saw, which say what such predictions were
worth. A person who lacks genetics or images is scored by the network's learned token for them, calibrated on the scores of that
side alone, and told what that side alone was worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.heads.network_recipe import CalibratedNetwork, NetworkRecipe
from gen3d.classify.prediction.network_people import NetworkRequest
from gen3d.classify.prediction.tables import reliability_of
from gen3d.classify.scores.rows import headline_measure
from gen3d.classify.scores.scorecard import ScoreSettings, score
from gen3d.classify.scores.sentences import NOT_EVALUABLE
from gen3d.classify.study.crossvalidation import IDENTITY, prediction_rows, score_and_call
from gen3d.cohort.fusion_folder import Subset, of_subset
from gen3d.cohort.scores_folder import MAIN, TEST, VALIDATION, RunScores, ScoredMember
from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.tables import Row, records
from gen3d.models.run import Run

Values = NDArray[np.float64]
BOOTSTRAP = 500
"""Resamples behind the intervals of the run's own test."""
CHANCE = 0.5


@dataclass(frozen=True)
class SubsetTest:
    """What a run said of the people that it never saw, by one subset of modalities: calibration of each member, and its worth."""

    members: tuple[CalibratedNetwork, ...]
    tables: Mapping[str, pd.DataFrame]

    @property
    def threshold(self) -> float:
        """Mean over members; NaN where there are not two classes."""
        return float(np.mean([member.threshold for member in self.members]))

    @property
    def reliability(self) -> list[Row]:
        """Bins of predictions, and what came true."""
        return records(self.tables["reliability"]) if "reliability" in self.tables else []

    def record(self, target: Target) -> Row:
        """JSON-ready: the headline figure with its interval and people, and how many people each member was calibrated on."""
        row = self.headline(target) or {}
        figures = {name: row.get(name) for name in ("measure", "value", "low", "high", "num_people")}
        return figures | {"calibrated_on": [member.num_people for member in self.members]}

    def headline(self, target: Target) -> Row | None:
        """The figure that a study leads with (area under the curve, mean absolute error), None where nobody was held out."""
        rows = records(self.tables["performance"]) if "performance" in self.tables else []
        named = [row for row in rows if row["measure"] == headline_measure(target) and row["value"] is not None]
        return named[0] if named else None


def calibrate_and_test(run: Run, scores: RunScores, subset: Subset, seed: int) -> SubsetTest:
    """Calibrate every member on the people that watched it, and test it on those whom it never saw.

    Args:
        run: opened.
        scores: of the run.
        subset: of modalities that the scores are by.
        seed: of the resampling.
    """
    chosen, target = of_subset(scores, subset), scores.target
    members = tuple(_calibrated(run, chosen, member) for member in chosen.of(MAIN))
    name = scores.folder.resolve().name
    parts = []
    for member, calibrated in zip(chosen.of(MAIN), members, strict=True):
        rows = chosen.rows(member.index, TEST)
        if len(rows):
            outputs = calibrated.outputs(chosen.scores(rows))
            where = {"repeat": 0, "fold": member.fold, "split": "cross-validation"}
            codes = target.codes(rows["label"])
            parts.append(prediction_rows(name, "head", target, rows, codes, outputs, calibrated.threshold, where))
    if not parts:
        return SubsetTest(members, {})
    settings = ScoreSettings(bootstrap=BOOTSTRAP, seed=seed, subgroups=())
    return SubsetTest(members, score(pd.concat(parts, ignore_index=True), target, settings))


def _calibrated(run: Run, scores: RunScores, member: ScoredMember) -> CalibratedNetwork:
    """A member with probabilities, from its validation people; shares of classes are those of all its training people."""
    target = scores.target
    watching = scores.rows(member.index, VALIDATION)
    main = [other.index for other in scores.of(MAIN) if other.index != member.index]
    tested = scores.table["member"].isin(main) & (scores.table["part"] == TEST)
    others = scores.table[tested & ~scores.table["key"].isin(set(watching["key"]))]
    table = pd.concat([watching, others], ignore_index=True)
    values = scores.scores(table)
    values[len(watching) :] = np.nan
    codes, groups = target.codes(table["label"]), pd.factorize(table["subject"].astype(str))[0]
    if (
        not len(others) and target.task != "number"
    ):  # one member: nobody was held out, but it knows the sizes of its classes
        counts = cast(Any, run.member(member.index)).class_people.cpu().numpy().astype(np.int64)
        codes = np.append(codes, np.repeat(np.arange(len(counts), dtype=np.float64), counts))
        values = np.concatenate([values, np.full((len(codes) - len(values), values.shape[1]), np.nan)])
        groups = np.append(groups, groups.max(initial=-1) + 1 + np.arange(len(codes) - len(groups)))
    return NetworkRecipe("", "", "prevalence").learn(values, codes, groups.astype(np.int64), target, 0)


@dataclass(frozen=True)
class NetworkPrediction:
    """What `gen3d predict` writes of a network: predictions, sentences, and the tests behind them by subset."""

    table: pd.DataFrame
    sentences: list[str]
    tests: Mapping[Subset, SubsetTest]


def predict_by_network(request: NetworkRequest, seed: int) -> NetworkPrediction:
    """Predict everybody by the mean of the members' calibrated outputs, each row by what is known of the person."""
    target, num = request.scores.target, len(request.people)
    used = [subset for subset in ("both", "genetics", "images") if (request.subsets == subset).any()]
    tests = {
        cast(Subset, subset): calibrate_and_test(request.run, request.scores, cast(Subset, subset), seed)
        for subset in used
    }
    raw = [request.scored(member.index) for member in request.scores.of(MAIN)]
    by_member = np.full((len(raw), num, len(target.output_columns)), np.nan)
    frame = request.people[[name for name in IDENTITY if name in request.people.columns]].copy()
    call, score_of, threshold = np.full(num, "", dtype=object), np.full(num, np.nan), np.full(num, np.nan)
    reliable = {f"reliability_{name}": np.full(num, np.nan) for name in ("observed", "low", "high", "num")}
    for subset, test in tests.items():
        rows = np.flatnonzero(request.subsets == subset)
        by_member[:, rows] = [member.outputs(values[rows]) for member, values in zip(test.members, raw, strict=True)]
        outputs = by_member[:, rows].mean(axis=0)
        score_of[rows], call[rows], threshold[rows] = score_and_call(target, outputs, test.threshold)
        if target.task != "number":
            chance = outputs[:, -1] if target.is_binary else outputs.max(axis=1)
            for name, values in reliability_of(chance, test.reliability).items():
                reliable[name][rows] = values
    for column, values in zip(target.output_columns, by_member.mean(axis=0).T, strict=True):
        frame[column] = values
    frame["y_score"], frame["y_pred"], frame["threshold"] = score_of, call, threshold
    if target.task != "number":
        frame = frame.assign(**reliable)
    last = by_member[:, :, -1]
    frame["member_low"], frame["member_high"] = last.min(axis=0), last.max(axis=0)
    for side, flags in request.has.items():
        frame[f"has_{side}"] = np.where(flags, "yes", "no")
    frame["out_of_distribution"] = _warnings(request, tests)
    frame["seen"] = ""
    return NetworkPrediction(frame, _sentences(request, frame, tests), tests)


def _warnings(request: NetworkRequest, tests: Mapping[Subset, SubsetTest]) -> list[str]:
    blind = {subset: _no_better_than_chance(test, request.scores.target) for subset, test in tests.items()}
    warnings = []
    for subset, remarks in zip(request.subsets, request.remarks, strict=True):
        if not subset:
            reasons = [f"{NOT_EVALUABLE}: neither genetics nor a scan of this person is known"]
        else:
            reasons = [*([f"{NOT_EVALUABLE}: {blind[subset]}"] if blind[subset] else []), *remarks]
        warnings.append("; ".join(reasons))
    return warnings


def _no_better_than_chance(test: SubsetTest, target: Target) -> str:
    """Why predictions by this subset say nothing of a person, "" where they say something or nothing is known of it."""
    row = None if target.task == "number" else test.headline(target)
    if row is None or row["low"] is None or row["low"] > CHANCE:
        return ""
    return f"of people that the networks never saw, AUC {_interval(row)}, no better than chance"


def _interval(row: Row) -> str:
    parts = [f"{row[name]:.2f}" for name in ("value", "low", "high") if row[name] is not None]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]" if len(parts) == 3 else parts[0]


def _sentences(request: NetworkRequest, frame: pd.DataFrame, tests: Mapping[Subset, SubsetTest]) -> list[str]:
    target = request.scores.target
    num = spell.count(len(frame), "row")
    if target.task == "number":
        values = frame["y_score"].dropna()
        lines = [f"{num}: {target.name} is predicted from {values.min():.3g} to {values.max():.3g}."]
    else:
        counts = frame["y_pred"].value_counts()
        lines = [f"{num}: {', '.join(f'{int(counts.get(name, 0))} {name}' for name in target.classes)}."]
    titles = {
        "both": "What people have" if request.has else "The scan",
        "genetics": "Genetics alone",
        "images": "A scan alone",
    }
    for subset, test in tests.items():
        who = int((request.subsets == subset).sum())
        row = test.headline(target)
        if row is None:
            worth = "nobody was held out from these networks, so that nothing says what they are worth (cross_fit=5)"
        else:
            what = "mean error" if target.task == "number" else "AUC"
            worth = f"of people that the networks never saw, {what} {_interval(row)}"
        lines.append(f"{titles[subset]} ({spell.count(who, 'row')}): {worth}.")
        if blind := _no_better_than_chance(test, target):
            lines.append(f"{titles[subset]}: {NOT_EVALUABLE}: {blind}.")
    if target.task != "number":
        calibrated = min(member.num_people for test in tests.values() for member in test.members) if tests else 0
        lines.append(
            f"Probabilities were calibrated on people who only watched the training, {calibrated} at least per network; they are "
            "those among people mixed as in training."
            if calibrated
            else "Too few people watched the training to calibrate probabilities; the shares of the classes stand for it."
        )
    nothing = int((request.subsets == "").sum())
    if nothing:
        lines.append(f"{spell.count(nothing, 'row')}: {NOT_EVALUABLE}, neither genetics nor a scan is known.")
    warned = int((frame["out_of_distribution"] != "").sum())
    if warned:
        lines.append(f"{warned} of {num} with a warning (column out_of_distribution): the prediction may not hold.")
    if request.has and request.has["genetics"].any():
        lines.append("A probability by few variants tells a genotype: predictions.tsv is as private as genotypes.")
    return [*lines, *(f"{note[0].upper()}{note[1:]}." for note in request.notes)]
