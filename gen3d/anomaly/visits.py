"""The part of `gen3d change` that looks at all visits of people: measured, put into tables, drawn, and said."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from gen3d.anomaly.change_folder import write_rates
from gen3d.anomaly.picture_rates import draw_group_rates, draw_trajectories
from gen3d.anomaly.rates import (
    RatePeople,
    group_model,
    group_table,
    pair_table,
    rate_people,
    rate_table,
    trajectory_table,
)
from gen3d.anomaly.visit_changes import CACHE, Measuring, VisitingPeople, measure
from gen3d.core import words as spell
from gen3d.core.disk import remove_folder
from gen3d.core.progress import say, track
from gen3d.core.result_folder import write_picture
from gen3d.maths.rates import RateModel


def write_visits(
    people: VisitingPeople, measuring: Measuring, workers: int, min_controls: int, q: float, regions_drawn: int
) -> dict[str, Any]:
    """Measure everybody, write tables and pictures (none with `regions_drawn` 0), and return the summary of them."""
    measured = list(
        track(measure(people, measuring, workers), "aligning the visits of people", total=people.num_people)
    )
    of = rate_people(measured, people.regions)
    names, model = group_model(of)
    rates, groups = rate_table(of, model, min_controls), group_table(of, names, model)
    trajectories = trajectory_table(of)
    write_rates(measuring.out, rates, groups, pair_table(of, min_controls), trajectories)
    if regions_drawn:
        _draw(measuring, rates, groups, trajectories, q, regions_drawn)
    remove_folder(measuring.out / CACHE)
    return _summary(of, model, rates, min_controls, q)


def _draw(
    measuring: Measuring,
    rates: pd.DataFrame,
    groups: pd.DataFrame,
    trajectories: pd.DataFrame,
    q: float,
    num_regions: int,
) -> None:
    for subject, part in rates.groupby("subject", sort=False):
        own = trajectories[trajectories["subject"] == subject]
        stem = "visits_" + re.sub(r"[^0-9A-Za-z]", "", str(subject))
        write_picture(measuring.out, stem, draw_trajectories(own, part, q, num_regions))
    if len(groups):
        write_picture(measuring.out, "group_rates", draw_group_rates(groups, num_regions))


def _summary(
    of: RatePeople, model: RateModel | None, rates: pd.DataFrame, min_controls: int, q: float
) -> dict[str, Any]:
    num_visits = sum(len(person.visits) for person in of.people)
    say(f"within people: {spell.count(num_visits, 'visit')} of {spell.people(len(of.people))}")
    changed = rates[rates["q"] < q]
    if model is None:
        say("  too few people for rates of groups and intervals")
    elif not model.separable:
        say(
            "  too few third visits to tell measurement error from people's own rates: rates of people are their own lines, "
            "and the intervals hold both"
        )
    if of.controls.sum() <= min_controls:
        say(
            f"  {of.controls.sum()} controls with several visits: rates are compared with controls where {min_controls} others are"
        )
    else:
        say(
            f"  {spell.count(len(changed), 'region')} of {spell.people(changed['subject'].nunique())} change unlike controls"
        )
    return {
        "num_people": len(of.people),
        "num_visits": num_visits,
        "num_controls": int(of.controls.sum()),
        "separable": bool(model is not None and model.separable),
        "num_changed_regions": len(changed),
        "num_people_changed": int(changed["subject"].nunique()),
    }
