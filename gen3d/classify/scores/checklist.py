"""TRIPOD+AI and CLAIM filled as far as a finished classification knows the answers; the rest is left to the authors.

TRIPOD+AI: Collins et al. 2024 (BMJ 385:e078378), all 27 items with their parts. CLAIM: the 2024 update of the Checklist for
Artificial Intelligence in Medical Imaging, the items that such a study touches, by topic and without numbers. Topics are in
the words of this software, so a journal's own form is still to be filled in beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from gen3d.classify.scores.checklist_facts import Facts, as_sentences

Status = Literal["done by the software", "to be written by the authors", "not applicable"]
DONE: Status = "done by the software"
AUTHORS: Status = "to be written by the authors"
NOT_APPLICABLE: Status = "not applicable"

COLUMNS = ("guideline", "item", "topic", "status", "text")
TRIPOD, CLAIM = "TRIPOD+AI", "CLAIM 2024"

Item = tuple[str, str, Status, str]
"""Item, topic, status, text."""


def checklist(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per item: guideline, item, topic, status, text.

    Args:
        metrics: of the folder (metrics.json); what is missing there is not claimed.
        settings: of the verb; keys that are missing are not mentioned.
    """
    facts = Facts(metrics, settings)
    rows = [(TRIPOD, *item) for item in _tripod(facts)] + [(CLAIM, *item) for item in _claim(facts)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _known(item: str, topic: str, *texts: str) -> Item:
    """Done by the software if it knows anything about it."""
    text = " ".join(text for text in texts if text)
    return (item, topic, DONE, text) if text else (item, topic, AUTHORS, "The record of this folder does not tell.")


def _authors(item: str, topic: str, *hints: str) -> Item:
    return item, topic, AUTHORS, " ".join(hint for hint in hints if hint)


def _tripod(facts: Facts) -> list[Item]:
    return [*_tripod_opening(facts), *_tripod_methods(facts), *_tripod_results(facts)]


def _tripod_opening(facts: Facts) -> list[Item]:
    return [
        _authors("1", "title: development or evaluation of a model, population, outcome"),
        _authors("2", "abstract (TRIPOD+AI for Abstracts)"),
        _authors("3a", "healthcare context, rationale, existing models"),
        _authors("3b", "target population, purpose in the care pathway, intended users"),
        _authors("3c", "known health inequalities between groups"),
        _authors("4", "objectives: development, evaluation or both"),
        _authors("5a", "sources of data, why they were used, representativeness"),
        _authors("5b", "dates of the data"),
        _authors("6a", "setting, number and location of centres", _sites(facts)),
        _authors("6b", "eligibility", "The software used these scans: " + _asked(facts) if _asked(facts) else ""),
        _authors("6c", "treatments received"),
    ]


def _tripod_methods(facts: Facts) -> list[Item]:
    external = facts.is_external
    updating = "The head was not updated." if external else ""
    return [
        _known("7", "data preparation, whether alike across groups", facts.harmonisation(), _features(facts)),
        _authors("8a", "outcome: definition, time, how assessed", facts.target()),
        _authors("8b", "qualifications of those who assessed the outcome"),
        _authors("8c", "blinding of the outcome's assessment"),
        _known("9a", "choice of predictors", facts.heads(), facts.baselines()),
        _authors(
            "9b",
            "definition and measurement of predictors",
            "Features: " + _features(facts) if _features(facts) else "",
        ),
        _authors("9c", "qualifications of those who assessed predictors"),
        _authors("10", "study size and its justification", facts.numbers()),
        _known("11", "missing data", facts.left_out()),
        _known("12a", "how data were used and partitioned", facts.splits(), facts.leaks()),
        _known("12b", "handling of predictors", facts.harmonisation(), _features(facts)),
        _known("12c", "type of model, how built, internal validation", facts.heads(), facts.splits(), _chosen(facts)),
        _known("12d", "heterogeneity across clusters such as sites", _by_site(facts)),
        _known("12e", "measures of performance", facts.measures(), facts.comparisons(), facts.calibration()),
        (
            ("12f", "updating of the model", DONE, updating)
            if external
            else ("12f", "updating of the model", NOT_APPLICABLE, "No existing model was updated.")
        ),
        _known(
            "12g", "how predictions were calculated", "predictions.tsv holds every prediction, head/ the fitted head."
        ),
        _authors("13", "class imbalance: why and how handled, recalibration", _threshold(facts)),
        _authors("14", "approaches to fairness and their rationale", facts.subgroups()),
        _known("15", "output of the model, thresholds", _output(facts)),
        _authors("16", "differences between development and evaluation data"),
        _authors("17", "ethical approval and consent"),
    ]


def _tripod_results(facts: Facts) -> list[Item]:
    return [
        _authors("18a", "funding"),
        _authors("18b", "conflicts of interest"),
        _authors("18c", "protocol"),
        _authors("18d", "registration"),
        _authors("18e", "availability of data"),
        _authors("18f", "availability of code", facts.code()),
        _authors("19", "involvement of patients and the public"),
        _authors("20a", "flow of participants", facts.numbers(), facts.left_out()),
        _authors("20b", "characteristics of participants", facts.numbers()),
        _authors("20c", "comparison with development data for important predictors"),
        _known("21", "numbers of participants and outcomes in each analysis", facts.numbers()),
        _known("22", "the full model, so that others can predict", "head/ holds the fitted head for `gen3d predict`."),
        _known("23a", "performance with intervals, with key subgroups", facts.measures(), facts.subgroups()),
        _known("23b", "heterogeneity of performance across clusters", _by_site(facts)),
        ("24", "results of updating", NOT_APPLICABLE, "No existing model was updated."),
        _authors("25", "interpretation, with fairness", _verdict(facts)),
        _authors("26", "limitations", _waivers(facts)),
        _authors("27a", "handling of poor or missing input when used"),
        _authors("27b", "users' interaction and expertise"),
        _authors("27c", "next steps of research"),
    ]


def _claim(facts: Facts) -> list[Item]:
    """By topic: the numbers of the update are left out, for the topics here are a selection."""
    return [
        _authors("", "title and abstract name the technology"),
        _authors("", "aims, prospective or retrospective design"),
        _authors("", "sources of data, inclusion and exclusion", facts.left_out()),
        _authors("", "de-identification"),
        _authors("", "acquisition of images"),
        _authors("", "preprocessing of images", "The prepare step's record is in the artefact.json of the scans."),
        _known("", "missing data", facts.left_out()),
        _authors("", "reference standard: definition, rationale, annotators", facts.target()),
        _known("", "how data were assigned to partitions", facts.splits()),
        _known(
            "", "level at which partitions are disjoint: the person", facts.splits() and _disjoint(facts), facts.leaks()
        ),
        _authors("", "intended sample size", facts.numbers()),
        _known("", "description of the model", facts.heads()),
        _known("", "software and versions", facts.code()),
        _known("", "training: settings, augmentation with synthetic scans", _chosen(facts), facts.synthetic()),
        _known("", "choice of the final model", _final(facts)),
        _known("", "measures of performance", facts.measures()),
        _known("", "significance and uncertainty", facts.comparisons(), facts.measures()),
        _known("", "comparison with simpler methods", facts.baselines()),
        _authors("", "robustness or sensitivity analysis", facts.subgroups()),
        _authors("", "explainability"),
        (
            _known("", "testing on external data", facts.numbers())
            if facts.is_external
            else _authors("", "testing on external data", "This folder holds cross-validation only.")
        ),
        _authors("", "demographic and clinical characteristics of each partition"),
        _known("", "estimates of performance with their precision", facts.measures()),
        _authors("", "failure analysis", _confusion(facts)),
        _authors("", "limitations", _waivers(facts)),
        _authors("", "implications for practice"),
        _authors("", "registration, protocol, availability of software and data, funding"),
    ]


def _asked(facts: Facts) -> str:
    parts = [f"{name}={facts.settings[name]}" for name in ("classes", "only", "sessions") if facts.settings.get(name)]
    return f"{', '.join(parts)}." if parts else ""


def _sites(facts: Facts) -> str:
    groups = {row["group"] for row in facts.tables.get("subgroups") or [] if row.get("column") == "site"}
    return (
        f"The cohort table names {len(groups)} site{'s' if len(groups) != 1 else ''} among the tested."
        if groups
        else ""
    )


def _features(facts: Facts) -> str:
    found = dict.fromkeys(str(model["features"]) for model in facts.models if model.get("features"))
    return "; ".join(found) + "." if found else ""


def _chosen(facts: Facts) -> str:
    known = any(model.get("settings") for model in facts.models)
    return "The settings chosen in the folds are in metrics.json (models)." if known else ""


def _by_site(facts: Facts) -> str:
    return "Performance at each site (subgroups.tsv)." if "site" in facts.columns_of_groups() else ""


def _threshold(facts: Facts) -> str:
    if "threshold" not in facts.settings:
        return ""
    return f"Threshold: {facts.settings['threshold']}, set in training people. {facts.numbers()}".strip()


def _output(facts: Facts) -> str:
    task = (facts.metrics.get("target") or {}).get("task")
    if not task:
        return ""
    if task == "number":
        return "A number, in the units of the cohort table."
    return f"Calibrated probabilities of the classes and the class called. {_threshold(facts)}".strip()


def _disjoint(facts: Facts) -> str:
    return "All scans under one subject id were on the same side of every split."


def _final(facts: Facts) -> str:
    heads = [str(model["name"]) for model in facts.models if model.get("kind") == "head"]
    return f"The verdict is about {heads[0]}, the first head asked for, whatever the others reached." if heads else ""


def _confusion(facts: Facts) -> str:
    return (
        "Counts of truth and answer: confusion.tsv; every prediction: predictions.tsv."
        if facts.has("confusion")
        else ""
    )


def _verdict(facts: Facts) -> str:
    sentences = list(facts.metrics.get("summary") or [])
    return f"The software's verdict: {sentences[0]}" if sentences else ""


def _waivers(facts: Facts) -> str:
    waivers = list(facts.guard.get("waivers") or [])
    return f"To be named: {as_sentences(waivers)}" if waivers else ""
