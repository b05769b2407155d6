"""The scorecard of one model as plain sentences, the verdict first. Nothing is stated that is not in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gen3d.classify.scores.sentences import (
    MEASURES,
    Tables,
    class_sentences,
    measured,
    number_sentences,
    predictive_sentences,
    rows_where,
    subgroup_sentences,
    with_interval,
)
from gen3d.classify.scores.verdict import (
    FEWEST_OF_CLASS,
    NO_SKILL,
    BaselineComparison,
    Doubt,
    Verdict,
    judge,
    people_by_class,
)
from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.tables import Row

MOST_NAMED = 2
"""Baselines that the verdict names with their figures; the second sentence has all of them."""

DOUBTS: dict[Doubt, str] = {
    "no skill": f"which is not shown to be below that of the {NO_SKILL}",
    "no interval": "with too few people for an interval",
    "below chance": "below chance (0.50), as happens where the features hold no information or where labels are exchanged",
    "covers chance": "whose interval covers chance (0.50)",
    "few people": f"from fewer than {FEWEST_OF_CLASS} people of a class, and labels were not permuted",
    "permutations": "no better than with permuted labels",
}


def summary(
    tables: Tables, target: Target, primary_model: str, split: str = "cross-validation", without: str = ""
) -> list[str]:
    """Sentences about one model, compared with the others; the first is the verdict.

    Args:
        tables: of `score`, with `permutation` where labels were permuted.
        target: what was predicted.
        primary_model: the head that the verdict is about, named before the results were seen.
        split: `cross-validation` or `external`, as in the table of predictions.
        without: the reason why a usual baseline was not run, as a sentence without a full stop; "" where all were.
    """
    absent = [f"Not compared with plain voxels: {without}."] if without else []
    if target.is_binary:
        sentences = _one_class(tables, target, primary_model)
        if sentences:
            return [*sentences, *absent]
    verdict = judge(tables, target, primary_model)
    measure = verdict.measure
    sentences = [_verdict(tables, target, verdict, split, bool(without)), *absent]
    sentences += _baselines(tables, measure)
    sentences += _tests(verdict)
    sentences += _about_chance(tables, primary_model, measure, split)
    if target.task == "number":
        sentences += number_sentences(tables, primary_model)
    else:
        sentences += class_sentences(tables, target, primary_model)
    sentences += predictive_sentences(tables, target, primary_model)
    sentences += _other_heads(tables, primary_model, measure)
    sentences += subgroup_sentences(tables, primary_model, measure)
    return sentences


def _one_class(tables: Tables, target: Target, model: str) -> list[str]:
    """The sentences where all people are of one class, so that there is nothing to compare; else none."""
    rates = [measured(tables, model, name) for name in ("specificity", "sensitivity")]
    exists = [row is not None and math.isfinite(row["value"]) for row in rates]
    if sum(exists) != 1:
        return []
    code = exists.index(True)
    name, measure, other = (
        target.classes[code],
        *(("sensitivity", "specificity") if code else ("specificity", "sensitivity")),
    )
    row = rates[code] or {}
    first = (
        f"{model} predicts {name} for {with_interval(row)} of {row['num_people']} {name} people at its threshold ({measure}). "
        f"The external people are all {name}, so only {measure} can be measured; no {other}, AUC or predictive value."
    )
    others = [
        f"{rival['model']} {with_interval(rival)}"
        for rival in rows_where(tables["performance"], measure=measure)
        if rival["model"] != model
    ]
    rest = [f"The {measure} of the others: {'; '.join(others)}."] if others else []
    caution = f"A model that predicts {name} for everybody reaches 1.00, so {measure} alone is no evidence of skill."
    return [first, caution, *rest]


def _verdict(tables: Tables, target: Target, verdict: Verdict, split: str, incomplete: bool) -> str:
    model, row = verdict.model, verdict.row
    if row is None:
        return f"There are no predictions of {model}, so there is no verdict."
    claim = f"{model} {_task(target)} in {_people(tables, target, model, row, split)}"
    if not math.isfinite(row["value"]):
        return f"Unknown whether {claim}: {_missing_measure(tables, target, model, split, verdict.measure)}."
    value = f"{MEASURES[verdict.measure]} {with_interval(row)}"
    permuted = "" if verdict.permutation_p is None else f"; permutation p {spell.probability(verdict.permutation_p)}"
    baselines = _baseline_comparison(verdict, incomplete)
    twin = _twin(verdict)
    if not verdict.doubts:
        return f"{claim}: {value}{permuted}; it {baselines}{twin}."
    doubts = spell.listed([DOUBTS[doubt] for doubt in verdict.doubts])
    # Where chance is not excluded, a baseline that is beaten is no evidence.
    failed = f"; it {baselines}" if verdict.worse or verdict.unbeaten else ""
    return f"No evidence that {claim}: {value}, {doubts}{permuted}{failed}{twin}."


def _twin(verdict: Verdict) -> str:
    """Whether what the network had learned before helps, where its random twin was trained."""
    twin = verdict.twin
    if twin is None:
        return ""
    how = (
        "which beats it"
        if twin in verdict.worse
        else f"which it {'beats' if twin in verdict.beaten else 'does not beat'}"
    )
    difference = spell.interval(twin.difference.value, twin.difference.low, twin.difference.high, None)
    return f"; the same network from random weights reaches {spell.figure(twin.value)}, {how} (difference {difference})"


def _baseline_comparison(verdict: Verdict, incomplete: bool) -> str:
    """`beats all 4 baselines ...`, or `is not better than hippocampus_ml alone ...`; `incomplete` where one was not run."""
    num, beaten = len(verdict.compared), len(verdict.beaten)
    if not num:
        return "was compared with no baseline, so a simpler model may do as well"
    if beaten == num:
        closest = _named(verdict.compared[0])
        if num == 1:
            return f"beats the one baseline that was run, {closest}"
        run = " that were run" if incomplete else ""
        return f"beats {'both' if num == 2 else f'all {num}'} baselines{run}, the closest being {closest}"
    parts = [f"is worse than {_listed(verdict.worse, 'and')}"] if verdict.worse else []
    parts += [f"is not better than {_listed(verdict.unbeaten, 'or')}"] if verdict.unbeaten else []
    if not beaten:
        return spell.listed(parts)
    return spell.listed([*parts, f"better than {spell.count(beaten, 'other baseline')}"], "but")


def _listed(baselines: Sequence[BaselineComparison], last: str) -> str:
    """The strongest baselines with their figures, the others counted."""
    shown = [_named(each) for each in baselines[:MOST_NAMED]]
    rest = len(baselines) - len(shown)
    return spell.listed([*shown, *([spell.count(rest, "further baseline")] if rest else [])], last)


def _named(compared: BaselineComparison) -> str:
    name = compared.baseline
    if name == NO_SKILL:
        name = f"the {name}"
    elif " " not in name:
        name = f"{name} alone"
    difference = compared.difference
    interval = spell.interval(difference.value, difference.low, difference.high, None)
    return f"{name} ({spell.figure(compared.value)}; difference {interval})"


def _missing_measure(tables: Tables, target: Target, model: str, split: str, measure: str) -> str:
    """Where the measure does not exist: classes without people, or folds without one of the classes."""
    counts = {} if target.is_binary else people_by_class(tables, target, model)
    absent, present = [name for name in counts if not counts[name]], [name for name in counts if counts[name]]
    if len(present) == 1:
        accuracy = measured(tables, model, "accuracy") or {}
        return (
            f"the {split} people are all {present[0]}, so only the share predicted to be {present[0]} can be measured "
            f"({with_interval(accuracy)}); no AUC and no predictive value"
        )
    if absent:
        return f"none of the {split} people is {spell.listed(absent, 'or')}, so no {MEASURES[measure]} exists"
    return f"no fitted model was tested on people of every class, so no {MEASURES[measure]} exists"


def _task(target: Target) -> str:
    """What the model does: `separates AD from CN`, `predicts age_years`."""
    if target.task == "number":
        return f"predicts {target.name}"
    if target.is_binary:
        return f"separates {target.classes[1]} from {target.classes[0]}"
    return f"separates {spell.listed(target.classes)} ({target.name})"


def _people(tables: Tables, target: Target, model: str, row: Row, split: str) -> str:
    """`200 people (100 AD, 100 CN; cross-validation)`; people of several classes over time count in each."""
    people = spell.people(row["num_people"])
    if target.task == "number":
        return f"{people} ({split})"
    counts = people_by_class(tables, target, model)
    named = ", ".join(f"{counts[name]} {name}" for name in (reversed(counts) if target.is_binary else counts))
    return f"{people} ({named}; {split})"


def _tests(verdict: Verdict) -> list[str]:
    """p against the closest baseline, of both kinds."""
    parts = []
    for closest in verdict.compared[:1]:
        if math.isfinite(closest.p_delong):
            parts.append(f"DeLong p {spell.probability(closest.p_delong)} for the models as fitted")
        if math.isfinite(closest.p_resampled):
            parts.append(f"corrected resampled t p {spell.probability(closest.p_resampled)} for models fitted anew")
    return [f"{verdict.model} against {verdict.compared[0].baseline}: {', '.join(parts)}."] if parts else []


def _baselines(tables: Tables, measure: str) -> list[str]:
    rows = rows_where(tables["performance"], measure=measure, kind="baseline", **{"class": ""})
    listed = "; ".join(f"{row['model']} {with_interval(row)}" for row in rows)
    return [f"Baselines on the same people ({MEASURES[measure]}): {listed}."] if rows else []


def _about_chance(tables: Tables, model: str, measure: str, split: str) -> list[str]:
    rows = rows_where(tables.get("permutation"), model=model)
    if rows:
        row = rows[0]
        if row.get("fixed_scores"):
            return [
                f"With labels of the tested people permuted {row['num_permutations']} times the {MEASURES[measure]} of {model} was "
                f"{spell.figure(row['null_mean'])} on average; 95 % lay between {spell.figure(row['null_low'])} and "
                f"{spell.figure(row['null_high'])}. Its scores stayed as they are: networks that are trained anew vary more, so "
                "this p is too small where scans hold no information."
            ]
        return [
            f"With labels permuted {row['num_permutations']} times the {MEASURES[measure]} of {model} was "
            f"{spell.figure(row['null_mean'])} on average; 95 % lay between {spell.figure(row['null_low'])} and "
            f"{spell.figure(row['null_high'])}."
        ]
    if split == "cross-validation":
        return [
            "Labels were not permuted. The interval takes the fitted models as fixed and is too narrow where the features hold "
            "no information, so it is no test against chance."
        ]
    return []


def _other_heads(tables: Tables, model: str, measure: str) -> list[str]:
    rows = rows_where(tables["performance"], measure=measure, kind="head", **{"class": ""})
    others = [f"{row['model']} {with_interval(row)}" for row in rows if row["model"] != model]
    if not others:
        return []
    return [
        f"Other heads ({MEASURES[measure]}): {'; '.join(others)}. Choosing the best head by "
        "these figures would overestimate it."
    ]
