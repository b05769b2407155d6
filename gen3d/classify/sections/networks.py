"""Trained networks among the models of a study: whose folds were used, and what permuted labels gave."""

from __future__ import annotations

from typing import Any

from gen3d.classify.folder import TWIN
from gen3d.classify.sections.models import MEASURES, Models
from gen3d.core import words as spell
from gen3d.figures.blocks import Heading, Table, Text


def networks(models: Models) -> list[Any]:
    """What the networks are, and how they were trained with permuted labels; nothing without networks."""
    listed = models.head.networks
    if not listed:
        return []
    repeats = int(_number(listed[0].get("repeats")) or 1)
    times = "once" if repeats == 1 else f"in each of {repeats} trainings that differ in their seed"
    text = (
        f"A network was trained by `gen3d train`, fold by fold. Its folds are those of all models here, {times}: everybody is "
        "tested by models that were fitted on the same people. Its probabilities are calibrated on validation people of the fold, "
        "who chose the checkpoint and were not learned from. Hashes of everybody whom each network saw were compared with those of "
        "the people it is tested on."
    )
    if any(network.get("twin") for network in listed):
        text += (
            f" A {TWIN} is the same network, trained alike from random weights: what was learned before has to beat it."
        )
    measure = MEASURES.get(models.ranking, models.ranking)
    rows = [
        [
            models.title(str(network.get("name", ""))),
            str(network.get("network", "")),
            str(network.get("form", "") or spell.NONE),
            spell.listed([str(name) for name in network.get("channels") or ()]),
            str(network.get("folds", "")),
            spell.percent(_number(network.get("validation")), 0),
            _permuted(network.get("permuted") or ()),
        ]
        for network in listed
    ]
    header = ["Network", "Kind", "Form", "Channels", "Folds", "Validation", f"{measure} with permuted labels"]
    caption = (
        "Validation: share of the training people who only watched. Each value of the last column is a whole training."
    )
    return [Heading("Networks"), Text(text, "note"), Table(caption, header, rows, "lllllrr")]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _permuted(values: Any) -> str:
    """`0.48, 0.55, 0.51 (3 trainings)`."""
    shown = [spell.number(_number(item.get("value"))) for item in values if isinstance(item, dict)]
    return f"{', '.join(shown)} ({spell.count(len(shown), 'training')})" if shown else "not trained"
