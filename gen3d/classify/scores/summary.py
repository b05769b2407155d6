"""The scorecard of one model as plain sentences, the verdict first. Nothing is stated that is not in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gen3d.classify.scores.sentences import (
    MEASURES,
    Tables,
    class_sentences,
    figure,
    joined,
    measured,
    number_sentences,
    p_words,
    predictive_sentences,
    rows_where,
    subgroup_sentences,
    with_interval,
)
from gen3d.classify.scores.verdict import (
    FEWEST_OF_CLASS,
    NO_SKILL,
    Comparison,
    Doubt,
    Verdict,
    judge,
    people_by_class,
)
from gen3d.cohort.target import Target
from gen3d.core.tables import Row
from gen3d.maths.stats import Interval

MOST_NAMED = 2
"""Baselines that the verdict names with their figures; the second sentence has all of them."""

DOUBTS: dict[Doubt, str] = {
    "no skill": f"which is not shown to be below that of the {NO_SKILL}",
    "no interval": "with too few people for an interval",
    "below chance": "below chance (.50), as happens where there is nothing to find or where labels are exchanged",
    "covers chance": "whose interval covers chance (.50)",
    "few people": f"from fewer than {FEWEST_OF_CLASS} people of a class, and labels were not permuted",
    "permutations": "no better than many permutations of the labels",
}


def summary(tables: Tables, target: Target, primary_model: str, split: str = "cross-validation") -> list[str]:
    """Sentences about one model beside the others; the first is the verdict.

    Args:
        tables: of `score`, with `permutation` where labels were permuted.
        target: what was told.
        primary_model: the head that the verdict is about, named before the results were seen.
        split: `cross-validation` or `external`, as in the table of predictions.
    """
    if target.is_binary:
        alone = _one_class(tables, target, primary_model)
        if alone:
            return alone
    verdict = judge(tables, target, primary_model)
    measure = verdict.measure
    sentences = [_verdict(tables, target, verdict, split)]
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
    there = [row is not None and math.isfinite(row["value"]) for row in rates]
    if sum(there) != 1:
        return []
    code = there.index(True)
    name, measure, other = (
        target.classes[code],
        *(("sensitivity", "specificity") if code else ("specificity", "sensitivity")),
    )
    row = rates[code] or {}
    first = (
        f"{model} called {with_interval(row)} of {row['num_people']} {name} people {name} at its threshold ({measure}); the "
        f"external people are all {name}, so only {measure} can be told; no {other}, AUC or predictive value."
    )
    others = [
        f"{found['model']} {with_interval(found)}"
        for found in rows_where(tables["performance"], measure=measure)
        if found["model"] != model
    ]
    rest = [f"The {measure} of the others: {'; '.join(others)}."] if others else []
    caution = f"A model that called everybody {name} would reach 1.00, so {measure} alone is no evidence of skill."
    return [first, caution, *rest]


def _verdict(tables: Tables, target: Target, verdict: Verdict, split: str) -> str:
    model, row = verdict.model, verdict.row
    if row is None:
        return f"There are no predictions of {model}, so there is no verdict."
    who, task = _who(tables, target, model, row, split), _task(target)
    if not math.isfinite(row["value"]):
        why = _why_no_area(tables, target, model, split, verdict.measure)
        return f"Cannot tell whether {model} can {task[0]} in {who}: {why}."
    value = f"{MEASURES[verdict.measure]} {with_interval(row)}"
    permuted = "" if verdict.permutation_p is None else f"; permutation p {p_words(verdict.permutation_p)}"
    baselines = _beside_baselines(verdict)
    if not verdict.doubts:
        return f"{model} {task[1]} in {who}: {value}{permuted}; it {baselines}."
    doubts = joined([DOUBTS[doubt] for doubt in verdict.doubts])
    # Where chance is not excluded, baselines that are beaten say nothing.
    failed = f"; it {baselines}" if verdict.worse or verdict.unbeaten else ""
    return f"Cannot tell {_cannot(target)} with {model} in {who}: {value}, {doubts}{permuted}{failed}."


def _beside_baselines(verdict: Verdict) -> str:
    """`beats all 4 baselines ...`, or `is not better than hippocampus_ml alone ...`."""
    num, beaten = len(verdict.compared), len(verdict.beaten)
    if not num:
        return "was compared with no baseline, so nothing says whether something simpler does as well"
    if beaten == num:
        closest = _named(verdict.compared[0])
        if num == 1:
            return f"beats the one baseline that was run, {closest}"
        return f"beats {'both' if num == 2 else f'all {num}'} baselines, the closest being {closest}"
    parts = [f"is worse than {_listed(verdict.worse, 'and')}"] if verdict.worse else []
    parts += [f"is not better than {_listed(verdict.unbeaten, 'or')}"] if verdict.unbeaten else []
    if not beaten:
        return joined(parts)
    return joined([*parts, f"better than {beaten} other baseline{'s' if beaten > 1 else ''}"], "but")


def _listed(baselines: Sequence[Comparison], last: str) -> str:
    """The strongest baselines with their figures, the others counted."""
    shown = [_named(each) for each in baselines[:MOST_NAMED]]
    rest = len(baselines) - len(shown)
    return joined([*shown, *([f"{rest} further baseline{'s' if rest > 1 else ''}"] if rest else [])], last)


def _named(compared: Comparison) -> str:
    name = compared.baseline
    if name == NO_SKILL:
        name = f"the {name}"
    elif " " not in name:
        name = f"{name} alone"
    return f"{name} ({figure(compared.value)}; difference {_shown(compared.difference)})"


def _shown(interval: Interval) -> str:
    return with_interval({"value": interval.value, "low": interval.low, "high": interval.high})


def _why_no_area(tables: Tables, target: Target, model: str, split: str, measure: str) -> str:
    """Where the measure does not exist: classes without people, or folds without one of the classes."""
    counts = {} if target.is_binary else people_by_class(tables, target, model)
    absent, there = [name for name in counts if not counts[name]], [name for name in counts if counts[name]]
    if len(there) == 1:
        right = measured(tables, model, "accuracy") or {}
        return (
            f"the {split} people are all {there[0]}, so only the share of them called {there[0]} can be told "
            f"({with_interval(right)}); no AUC and no predictive value"
        )
    if absent:
        return f"none of the {split} people is {joined(absent, 'or')}, so no {MEASURES[measure]} exists"
    return f"no fitted model was tested on people of every class, so no {MEASURES[measure]} exists"


def _task(target: Target) -> tuple[str, str]:
    """What the model does, as `tell AD from CN` and `tells AD from CN`."""
    if target.task == "number":
        return f"predict {target.name}", f"predicts {target.name}"
    if target.is_binary:
        return tuple(f"{verb} {target.classes[1]} from {target.classes[0]}" for verb in ("tell", "tells"))  # type: ignore[return-value]
    names = f"{joined(target.classes)} ({target.name}) apart"
    return f"tell {names}", f"tells {names}"


def _cannot(target: Target) -> str:
    if target.task == "number":
        return f"{target.name} of a person"
    if target.is_binary:
        return f"{target.classes[1]} from {target.classes[0]}"
    return f"{joined(target.classes)} ({target.name}) apart"


def _who(tables: Tables, target: Target, model: str, row: Row, split: str) -> str:
    """`200 people (100 AD, 100 CN; cross-validation)`; who was of several classes over time counts in each."""
    people = f"{row['num_people']} {'person' if row['num_people'] == 1 else 'people'}"
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
            parts.append(f"DeLong p {p_words(closest.p_delong)} for the models as fitted")
        if math.isfinite(closest.p_resampled):
            parts.append(f"corrected resampled t p {p_words(closest.p_resampled)} for fitting them anew")
    return [f"{verdict.model} against {verdict.compared[0].baseline}: {', '.join(parts)}."] if parts else []


def _baselines(tables: Tables, measure: str) -> list[str]:
    rows = rows_where(tables["performance"], measure=measure, kind="baseline", **{"class": ""})
    words = "; ".join(f"{row['model']} {with_interval(row)}" for row in rows)
    return [f"Baselines on the same people ({MEASURES[measure]}): {words}."] if rows else []


def _about_chance(tables: Tables, model: str, measure: str, split: str) -> list[str]:
    found = rows_where(tables.get("permutation"), model=model)
    if found:
        row = found[0]
        return [
            f"With labels permuted {row['num_permutations']} times the {MEASURES[measure]} of {model} was "
            f"{figure(row['null_mean'])} on average, and 95 % lay between {figure(row['null_low'])} and "
            f"{figure(row['null_high'])}."
        ]
    if split == "cross-validation":
        return [
            "Labels were not permuted; the interval takes the fitted models as given and is too narrow where there is nothing "
            "to find, so it is no test against chance."
        ]
    return []


def _other_heads(tables: Tables, model: str, measure: str) -> list[str]:
    rows = rows_where(tables["performance"], measure=measure, kind="head", **{"class": ""})
    others = [f"{row['model']} {with_interval(row)}" for row in rows if row["model"] != model]
    if not others:
        return []
    return [
        f"Other heads ({MEASURES[measure]}): {'; '.join(others)}; choosing the best of several by these figures would make it "
        "look better than it is."
    ]
