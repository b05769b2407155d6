"""The scorecard as plain sentences, the verdict first. What the tables do not show is not said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gen3d.classify.scores.sentences import (
    MEASURES,
    Row,
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
from gen3d.cohort.target import Target

LEVEL = 0.05
FEWEST_OF_CLASS = 10
"""With fewer people the interval is too narrow to exclude chance by itself."""

MOST_NAMED = 2
"""Baselines that the verdict names with their figures; the second sentence has all of them."""

NO_SKILL = "mean of the training people"
"""The baseline of a number that knows nothing of the person."""


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
    measure = "mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"
    sentences = [_verdict(tables, target, primary_model, measure, split)]
    sentences += _baselines(tables, measure)
    sentences += _tests(tables, primary_model, measure)
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


def _verdict(tables: Tables, target: Target, model: str, measure: str, split: str) -> str:
    row = measured(tables, model, measure)
    if row is None:
        return f"There are no predictions of {model}, so there is no verdict."
    who, task = _who(tables, target, model, row, split), _task(target)
    if not math.isfinite(row["value"]):
        return f"Cannot tell whether {model} can {task[0]} in {who}: {_why_no_area(tables, target, model, split, measure)}."
    p = _permutation(tables, model)
    value = f"{MEASURES[measure]} {with_interval(row)}"
    reasons = _doubts(tables, target, model, measure, row, p)
    known = [] if p is None else [f"permutation p {p_words(p)}"]
    if reasons:
        beaten = _against(tables, model, measure)
        further = f"; it {beaten}" if beaten.startswith("is ") else ""
        found = ", ".join([value, joined(reasons)]) + "".join(f"; {words}" for words in known)
        return f"Cannot tell {_cannot(target)} with {model} in {who}: {found}{further}."
    return f"{model} {task[1]} in {who}: {'; '.join([value, *known])}; it {_against(tables, model, measure)}."


def _why_no_area(tables: Tables, target: Target, model: str, split: str, measure: str) -> str:
    """Where the measure does not exist: classes without people, or folds without one of the classes."""
    counts = {} if target.is_binary else _counts(tables, target, model)
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
    counts = _counts(tables, target, model)
    named = ", ".join(f"{counts[name]} {name}" for name in (reversed(counts) if target.is_binary else counts))
    return f"{people} ({named}; {split})"


def _counts(tables: Tables, target: Target, model: str) -> dict[str, int]:
    """People of each class, in the order of the classes."""
    if target.is_binary:
        rates = [measured(tables, model, name) for name in ("specificity", "sensitivity")]
        return {name: int(row["num_people"]) if row else 0 for name, row in zip(target.classes, rates, strict=True)}
    found = [(name, measured(tables, model, "auc", name)) for name in target.classes]
    return {name: int(row["num_positive"]) if row else 0 for name, row in found}


def _permutation(tables: Tables, model: str) -> float | None:
    found = rows_where(tables.get("permutation"), model=model)
    return float(found[0]["p"]) if found and math.isfinite(found[0]["p"]) else None


def _doubts(tables: Tables, target: Target, model: str, measure: str, row: Row, p: float | None) -> list[str]:
    """Why chance is not excluded; none where it is."""
    reasons = []
    if measure == "mae":
        skill = rows_where(tables["differences"], model=model, against=NO_SKILL)
        if skill and not skill[0]["high"] < 0:
            reasons.append(f"which is not shown to be below that of the {NO_SKILL}")
    elif not math.isfinite(row["low"]):
        reasons.append("with too few people for an interval")
    elif row["high"] < 0.5:
        reasons.append("below chance (.50), as happens where there is nothing to find or where labels are exchanged")
    elif row["low"] <= 0.5:
        reasons.append("whose interval covers chance (.50)")
    elif p is None and min(_counts(tables, target, model).values()) < FEWEST_OF_CLASS:
        reasons.append(f"from fewer than {FEWEST_OF_CLASS} people of a class, and labels were not permuted")
    if p is not None and p > LEVEL:
        reasons.append("no better than many permutations of the labels")
    return reasons


def _better(row: Row, measure: str) -> bool:
    return bool(row["high"] < 0 if measure == "mae" else row["low"] > 0)


def _worse(row: Row, measure: str) -> bool:
    return bool(row["low"] > 0 if measure == "mae" else row["high"] < 0)


def _compared(tables: Tables, model: str, measure: str) -> list[Row]:
    """The differences from baselines, the closest to the model's disadvantage first; those that do not exist before all."""
    baselines = {row["model"] for row in rows_where(tables["performance"], measure=measure, kind="baseline")}
    rows = [row for row in rows_where(tables["differences"], model=model) if row["against"] in baselines]
    sign = -1.0 if measure == "mae" else 1.0
    return sorted(rows, key=lambda row: sign * row["difference"] if math.isfinite(row["difference"]) else -math.inf)


def _tests(tables: Tables, model: str, measure: str) -> list[str]:
    """p against the closest baseline, of both kinds."""
    for row in _compared(tables, model, measure)[:1]:
        parts = []
        if math.isfinite(row["p_delong"]):
            parts.append(f"DeLong p {p_words(row['p_delong'])} for the models as fitted")
        if math.isfinite(row["p_resampled"]):
            parts.append(f"corrected resampled t p {p_words(row['p_resampled'])} for fitting them anew")
        if parts:
            return [f"{model} against {row['against']}: {', '.join(parts)}."]
    return []


def _against(tables: Tables, model: str, measure: str) -> str:
    """`beats all 4 baselines ...`, or `is not better than hippocampus_ml alone ...`."""
    baselines = {
        row["model"]: row
        for row in rows_where(tables["performance"], measure=measure, kind="baseline", **{"class": ""})
    }
    rows = _compared(tables, model, measure)
    if not rows:
        return "was compared with no baseline, so nothing says whether something simpler does as well"

    def words(row: Row) -> str:
        value = figure(baselines[row["against"]]["value"])
        return f"{_called(row['against'])} ({value}; difference {with_interval(row, 'difference')})"

    own = measured(tables, model, measure)
    above_chance = measure == "mae" or (own is not None and own["low"] > 0.5)

    def beaten_by_model(row: Row) -> bool:
        """A baseline below chance has learned the contrary of what the tested people show: it counts as chance."""
        return _better(row, measure) and (above_chance or baselines[row["against"]]["value"] >= 0.5)

    worse = [row for row in rows if _worse(row, measure)]
    unbeaten = [row for row in rows if not beaten_by_model(row) and not _worse(row, measure)]
    if not worse and not unbeaten:
        if len(rows) == 1:
            return f"beats the one baseline that was run, {words(rows[0])}"
        return f"beats {'both' if len(rows) == 2 else f'all {len(rows)}'} baselines, the closest being {words(rows[0])}"
    parts = []
    if worse:
        parts.append(f"is worse than {_listed(worse, words, 'and')}")
    if unbeaten:
        parts.append(f"is not better than {_listed(unbeaten, words, 'or')}")
    beaten = len(rows) - len(worse) - len(unbeaten)
    if beaten:
        parts.append(f"better than {beaten} other baseline{'s' if beaten > 1 else ''}")
    return joined(parts, "but") if beaten else joined(parts)


def _listed(rows: Sequence[Row], words: Callable[[Row], str], last: str) -> str:
    """The strongest baselines with their figures, the others counted."""
    shown = [words(row) for row in rows[:MOST_NAMED]]
    more = len(rows) - len(shown)
    return joined([*shown, *([f"{more} further baseline{'s' if more > 1 else ''}"] if more else [])], last)


def _called(name: str) -> str:
    if name == NO_SKILL:
        return f"the {name}"
    return name if " " in name else f"{name} alone"


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
