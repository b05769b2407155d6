"""TRIPOD+AI and CLAIM filled as far as a finished classification knows the answers; the rest is left to the authors.

TRIPOD+AI: Collins et al. 2024 (BMJ 385:e078378), all 27 items with their parts. CLAIM: the 2024 update of the Checklist for
Artificial Intelligence in Medical Imaging, the items that such a study touches, by topic and without numbers: the topics
are a selection. Topics are in the words of this software, so a journal's own form is still to be filled in.

`checklist.tsv` holds the items: topic, who answers, and sentences in braces, separated by bars. `checklist_sentences.tsv`
holds the sentences, with values of the record in braces. `when` names a value that has to be true. A sentence with a value
that the record does not have is left out, and so is a part of an item with a sentence that was left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, Literal

import pandas as pd

from gen3d import __version__
from gen3d.core.package_data import package_text

Status = Literal["done by the software", "to be written by the authors", "not applicable"]
DONE: Status = "done by the software"
AUTHORS: Status = "to be written by the authors"
NOT_APPLICABLE: Status = "not applicable"
STATUS: dict[str, Status] = {"software": DONE, "authors": AUTHORS, "not applicable": NOT_APPLICABLE}

ITEMS, SENTENCES = "checklist.tsv", "checklist_sentences.tsv"
COLUMNS = ("guideline", "item", "topic", "status", "text")
UNKNOWN = "The record of this folder does not say."


def checklist(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per item: guideline, item, topic, status, text.

    Args:
        metrics: of the folder (metrics.json); what is missing there is not claimed.
        settings: of the verb; keys that are missing are not mentioned.
    """
    values = record_values(metrics, settings)
    sentences: dict[str, str] = {}
    for row in _applying(SENTENCES, values):
        text = _filled(row["text"], values)
        sentences[row["name"]] = f"{sentences.get(row['name'], '')} {text}".strip()
    items = []
    for row in _applying(ITEMS, values):
        status = STATUS[row["status"]]
        text = " ".join(filter(None, (_filled(part, sentences) for part in row["text"].split(" | "))))
        if status == DONE and not text:
            status, text = AUTHORS, UNKNOWN
        items.append((row["guideline"], row["item"], row["topic"], status, text))
    return pd.DataFrame(items, columns=list(COLUMNS))


def rows_of(name: str) -> Iterator[dict[str, str]]:
    """Rows of a table in the folder of this module."""
    text = package_text(__package__, name)
    return csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)


def placeholders(template: str) -> list[str]:
    """Names in braces."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def _applying(name: str, values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    return (row for row in rows_of(name) if not row["when"] or values[row["when"]])


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with its values, "" where one is missing."""
    needed = [name for name in placeholders(template) if name not in OPTIONAL]
    if any(values.get(name) in (None, "") for name in needed):
        return ""
    return template.format(**values)


OPTIONAL = ("by_class", "repeats", "resamples", "seed")
"""Values that add to a sentence and may be empty."""


def record_values(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the sentences; None or "" where the record has none."""
    is_external = bool(settings.get("external"))
    networks = {network["name"] for network in metrics.get("networks") or ()}
    network_kept = bool(networks & {model["name"] for model in list(metrics.get("models") or ())[:1]})
    no_head = metrics.get("head_kept") is False and not is_external and not network_kept
    values = {
        "version": __version__,
        "verdict": next(iter(metrics.get("summary") or ()), ""),
        "is_external": is_external,
        "is_internal": not is_external,
        "head_kept": bool(metrics.get("head_kept")),
        "head_tested": is_external,
        "no_head": no_head,
        "network_kept": network_kept,
        "may_have_head": not no_head,
        **_target(metrics.get("target") or {}),
        **_people(metrics.get("people") or {}, settings),
        **_guard(metrics.get("guard") or {}),
        **_models(metrics.get("models") or ()),
        **_study(settings, str(metrics.get("split") or "")),
        **_tables(metrics.get("tables") or {}),
    }
    return values | {
        "is_split": is_external or values["split"] is not None,
        "has_cut": values["has_classes"] and values["has_threshold"],
    }


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    task = target.get("task")
    return {
        "target": target.get("name"),
        "classes": ", ".join(target.get("classes") or ()),
        "is_number": task == "number",
        "is_ordered": task == "ordered",
        "is_categories": bool(target) and task not in ("number", "ordered"),
        "has_classes": bool(task) and task != "number",
    }


def _people(people: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    counts = ", ".join(f"{name} {num}" for name, num in (people.get("by_class") or {}).items())
    left_out = as_sentences(people.get("left_out") or ()) or "No scan of the table was left out by the software."
    requested = [f"{name}={settings[name]}" for name in ("classes", "only", "sessions") if settings.get(name)]
    return {
        "num_people": people.get("num_people"),
        "num_scans": people.get("num_scans", "n/a"),
        "by_class": f" ({counts})" if counts else "",
        "left_out": left_out if "left_out" in people else None,
        "requested": ", ".join(requested),
    }


def _guard(guard: Mapping[str, Any]) -> dict[str, Any]:
    waivers = as_sentences(guard.get("waivers") or ())
    return {
        "guard": bool(guard),
        "seen_policy": guard.get("seen_policy", "n/a"),
        "num_seen": guard.get("num_seen", "n/a"),
        "num_pairs": len(guard.get("duplicates") or ()),
        "waivers": waivers,
        "no_waivers": bool(guard) and not waivers,
    }


def _models(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = {kind: [model for model in models if model.get("kind") == kind] for kind in ("head", "baseline")}
    lists = {
        kind: "; ".join(
            f"{model['name']} ({model['features']})" if model.get("features") else str(model["name"])
            for model in listed
        )
        for kind, listed in named.items()
    }
    return {
        "heads": lists["head"],
        "baselines": lists["baseline"],
        "first_head": named["head"][0]["name"] if named["head"] else None,
        "features": "; ".join(dict.fromkeys(str(model["features"]) for model in models if model.get("features"))),
        "chosen": any(model.get("settings") for model in models),
    }


def _study(settings: Mapping[str, Any], of_networks: str) -> dict[str, Any]:
    split = None
    if "folds" in settings:
        by_site = settings.get("split") == "sites"
        split = "one site left out at a time" if by_site else f"{settings['folds']} stratified folds"
    split = of_networks or split
    harmonise = settings.get("harmonise")
    return {
        "split": split,
        "seed": f", seed {settings['seed']}" if "seed" in settings else "",
        "resamples": f" ({settings['bootstrap']} resamples of people)" if "bootstrap" in settings else "",
        "repeats": f", repeated {settings['repeats']} times" if "repeats" in settings and not of_networks else "",
        "threshold": settings.get("threshold"),
        "has_threshold": "threshold" in settings,
        "harmonise": bool(harmonise),
        "site_controls": isinstance(harmonise, Mapping) and harmonise.get("unknown") == "controls",
        "confounds": ", ".join(settings.get("confounds") or ()),
        "synthetic": bool(settings.get("synthetic")),
    }


def _tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    groups = tables.get("subgroups") or []
    columns = list(dict.fromkeys(str(row["column"]) for row in groups))
    num_sites = len({row["group"] for row in groups if row.get("column") == "site"})
    measures = dict.fromkeys(str(row["measure"]).replace("_", " ") for row in tables.get("performance") or ())
    permutation = tables.get("permutation") or [{}]
    return {
        "subgroups": ", ".join(columns),
        "by_site": "site" in columns,
        "sites": f"{num_sites} site{'s' if num_sites != 1 else ''}" if num_sites else None,
        "measures": ", ".join(measures),
        "num_permutations": permutation[0].get("num_permutations"),
        **{name: bool(tables.get(name)) for name in ("differences", "reliability", "confusion")},
    }


def as_sentences(texts: Sequence[str]) -> str:
    """One after the other, each with its full stop."""
    return " ".join(text if text.endswith(".") else f"{text}." for text in texts)
