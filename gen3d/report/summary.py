"""The first page: what was found and how sure it is, in plain sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen3d.anomaly.sections import calibration, groups, scores
from gen3d.evaluate import section as truth
from gen3d.figures import names as wording
from gen3d.figures.blocks import Heading, Points, Section, Table, Text
from gen3d.maths.stats import Interval
from gen3d.report.context import Context
from gen3d.report.folders import NULL, REGISTRATION_ALONE, Evaluation, Row, records
from gen3d.report.sources import is_baseline

FEWEST, FALSE_POSITIVE_PEOPLE, NUM_IN_LEAD = 3, 0.05, 3


def section(context: Context) -> Section | None:
    """Findings as sentences with n and interval, and a table of the key figures."""
    numbers: dict[str, Any] = {}
    parts: list[tuple[str, list[str]]] = []
    best = [row for evaluation in context.sources.evaluations for row in truth.best_by_condition(context, evaluation)]
    if best:
        numbers["best_by_condition"] = best
        verdicts = [text for evaluation in context.sources.evaluations for text in _verdicts(context, evaluation, best)]
        parts.append(("Against planted truth", [*[_best_sentence(row) for row in best], *verdicts]))
    lead = context.lead
    rows: list[Row] = []
    if lead is not None:
        rows = scores.separation(lead, headline_only=True)
        null = calibration.null_figures(lead)
        numbers |= {"auc": rows, "held_out_controls": null}
        parts.append(
            (f"Groups against held-out controls, {lead.name}", [*_group_sentences(rows), *_region_sentences(context)])
        )
        parts.append((f"z of {lead.name} in held-out controls", _calibration_sentences(null)))
    parts = [(title, sentences) for title, sentences in parts if sentences]
    if not parts:
        return None
    first = _plain(best) or [parts[0][1].pop(0)]
    blocks: list[Any] = [Text(text, "lead") for text in first]
    for title, sentences in parts:
        blocks += [Heading(title), Points(tuple(sentences))] if sentences else []
    if rows and lead is not None:
        blocks.append(_key_table(rows, lead.name))
    return Section("summary", "Summary", blocks, numbers)


def _plain(best: list[Row]) -> list[str]:
    """Which model and channel is best for lesions and which for atrophy, and how the network did against its baselines.

    Only a few conditions of each kind; the sentences that follow name them all.
    """
    if not best:
        return []
    text = []
    seen, unseen = [row for row in best if _is_found(row)], [row for row in best if not _is_found(row)]
    focal = [row for row in seen if row["measure"] != "auc"][:NUM_IN_LEAD]
    loss = [row for row in seen if row["direction"] == "loss"][:NUM_IN_LEAD]
    parts = [
        f"{what} best by {_winners(rows)}"
        for what, rows in (("lesions are located", focal), ("atrophy is seen", loss))
        if rows
    ]
    if parts:
        text.append(f"{wording.capital('; '.join(parts))}.")
    if any(row["model"].endswith(REGISTRATION_ALONE) for row in (*focal, *loss)):
        text.append(truth.WITHOUT_MODEL)
    if unseen:
        names = wording.listed([_planted(row) for row in unseen])
        are = "is" if len(unseen) == 1 else "are"
        text.append(f"{wording.capital(names)} {are} not told from chance by any model, judged in the same way.")
    standing = [part for row in (*focal, *loss) if (part := _against_baseline(row))]
    if standing:
        text.append(f"Network against the best baseline: {'; '.join(standing)}.")
    return [" ".join(text)] if text else []


def _winners(rows: list[Row]) -> str:
    """Models and channels that did best, each with the conditions in which they did."""
    by_winner: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        measure = "AUPRC" if row["measure"] != "auc" else f"AUC of {row['what']}"
        words = f"{wording.condition(row['condition'])}: {measure} {wording.with_interval(row['value'])}"
        by_winner.setdefault((row["model"], row["channel"]), []).append(words)
    return wording.listed(
        [f"{model} in {wording.in_text(channel)} ({'; '.join(words)})" for (model, channel), words in by_winner.items()]
    )


def _planted(row: Row) -> str:
    """What was planted, in words: a focal condition, or the volume loss or gain of one."""
    name = wording.condition(row["condition"])
    return f"volume {row['direction']} in {name}" if row["direction"] else name


def _is_found(row: Row) -> bool:
    """Whether the best figure of a condition is beyond chance: an AUC above 0.5, an AUPRC above the prevalence."""
    chance = 0.5 if row["measure"] == "auc" else float(row["prevalence"] or 0.0)
    return bool(row["value"].low > chance)


def _against_baseline(row: Row) -> str:
    """How the best network of one condition stands against the best baseline, in the channel that shows it best.

    Maps that no model made, of local volume where only T1w was learned, are neither.
    """
    rows = [{"model": row["model"], "value": row["value"], "behind": None}, *row["others"]]
    rows = [item for item in rows if not item["model"].endswith(REGISTRATION_ALONE)]
    networks = [item for item in rows if not is_baseline(item["model"])]
    baselines = [item for item in rows if is_baseline(item["model"])]
    if not networks or not baselines:
        return ""
    own, rival = (max(group, key=lambda item: item["value"].value) for group in (networks, baselines))
    first, second = (own, rival) if own["value"].value > rival["value"].value else (rival, own)
    ahead, gap = first is own, second["behind"] if first["model"] == row["model"] else None
    apart = gap.low > 0 if gap is not None else first["value"].low > second["value"].high
    verdict = f"is {'ahead of' if ahead else 'behind'}" if apart else "cannot be told from"
    measure = "AUC" if row["measure"] == "auc" else "AUPRC"
    figures = f"{measure} {wording.with_interval(own['value'])} against {wording.with_interval(rival['value'])}"
    if gap is not None:
        signed = gap if ahead else Interval(-gap.value, -gap.high, -gap.low, gap.num)
        figures = f"paired difference in {measure} {wording.with_interval(signed, 3)}"
    return f"on {_planted(row)}, {own['model']} {verdict} {rival['model']} ({figures})"


def _best_sentence(row: Row) -> str:
    who = f"{wording.capital(_planted(row))}, n = {row['value'].num}"
    where = f"{wording.in_text(row['channel'])} of {row['model']}"
    value: Interval = row["value"]
    others = [f"{item['model']} {wording.with_interval(item['value'])}" for item in row["others"]]
    beside = f"; beside it {wording.listed(others)}" if others else ""
    if row["measure"] == "auc":
        return (
            f"{who}: best told from controls by {where}, AUC of {row['what']} {wording.with_interval(value)}{beside}."
        )
    auroc = f"voxel AUROC {wording.with_interval(row['auroc'])}, " if row["auroc"] is not None else ""
    prevalence = f" at a prevalence of {row['prevalence']:.2g}" if row["prevalence"] is not None else ""
    return f"{who}: best located by {where}, {auroc}AUPRC {wording.with_interval(value)}{prevalence}{beside}."


def _verdicts(context: Context, evaluation: Evaluation, best: list[Row]) -> list[str]:
    """One sentence per condition judged by voxels: does the first model differ from the others, by paired difference?"""
    differences = truth.table(evaluation, "differences")
    names = truth.model_names(context, evaluation)
    sentences = []
    for row in best:
        if not len(differences) or row["measure"] != "auprc":
            continue
        paired = differences[
            (differences["condition"] == row["condition"]) & (differences["channel"] == row["channel"])
        ]
        for found in records(paired):
            gap = truth.interval(found, "auprc")
            other, first = (names.get(str(found[name]), str(found[name])) for name in ("maps", "minus"))
            if gap.low > 0:
                verdict = f"{other} is better than {first}"
            elif gap.high < 0:
                verdict = f"{first} is better than {other}"
            else:
                verdict = f"{first} cannot be told from {other}"
            sentences.append(
                f"Locating {wording.condition(row['condition'])} in {wording.in_text(row['channel'])}: {verdict} "
                f"(paired difference in AUPRC {wording.with_interval(gap, 3)})."
            )
    return sentences


def _group_sentences(rows: list[Row]) -> list[str]:
    sentences = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        sentences.append(f"{wording.capital(wording.group(group))}, {_group_sentence(mine, group == NULL)}")
    return sentences


def _group_sentence(rows: list[Row], null: bool) -> str:
    """By which scores one group differs from held-out controls; rows are its scores."""
    num_people, num_controls = (max(row[name] for row in rows) for name in ("num_people", "num_controls"))
    size = f"n = {num_people} against {wording.count(num_controls, 'held-out control')}"
    if min(num_people, num_controls) < FEWEST:
        return f"{size}: too few for a comparison."
    apart = [row for row in rows if row["auc"].low > 0.5]
    if not apart:
        top = max(rows, key=lambda row: np.nan_to_num(row["auc"].value))
        text = f"{size}: not told from controls by any score; the largest AUC is "
        text += f"{wording.with_interval(top['auc'])}, {wording.in_text(top['channel'])}."
        return text + (" That is as it should be: nothing was planted." if null else "")
    parts = [f"{wording.in_text(row['channel'])} (AUC {wording.with_interval(row['auc'])})" for row in apart]
    text = f"{size}: told from controls by {wording.listed(parts)}."
    doubt = (
        " Nothing was planted in these people: this is a false alarm, and the other findings deserve the same doubt."
    )
    return text + (doubt if null else "")


def _region_sentences(context: Context) -> list[str]:
    lead = context.lead
    if lead is None or "deformation" not in lead.channels:
        return []
    sentences = []
    found = groups.regions_that_differ(lead, "deformation")
    for group in dict.fromkeys(row["group"] for row in found):
        top = [row for row in found if row["group"] == group and row["q"] < groups.FALSE_DISCOVERY_RATE][:3]
        if top:
            parts = [
                f"{wording.region(row['region'])} ({wording.number(row['effect_percent'], 1, signed=True)} %, z "
                f"{wording.number(row['difference'].value, 1, signed=True)})"
                for row in top
            ]
            sentences.append(
                f"Regions whose volume differs most in {wording.group(group)}: {wording.listed(parts)}; q < 0.05 over "
                "regions."
            )
    return sentences


def _calibration_sentences(rows: list[Row]) -> list[str]:
    """What z is in people in whom nothing is known to be wrong; it should have mean 0 and SD 1."""
    sentences = []
    for row in rows:
        text = (
            f"{wording.channel(row['channel'])}: mean {wording.number(row['mean'])} and SD {wording.number(row['sd'])} "
            f"(expected 0 and 1), {wording.percent(row['share_beyond'].value)} of voxels beyond 1.96 (expected 5 %); "
            f"{row['num_positive']} of {wording.people(row['num_people'])} with a voxel that survives the false discovery rate."
        )
        if row["share_positive"].low > FALSE_POSITIVE_PEOPLE:
            text += " That is more than the expected 5 %, so single voxels found in this channel deserve doubt."
        sentences.append(text)
    return sentences


def _key_table(rows: list[Row], model: str) -> Table:
    columns = list(dict.fromkeys((row["channel"], row["kind"]) for row in rows))
    cells = []
    for group in dict.fromkeys(row["group"] for row in rows):
        by_column = {(row["channel"], row["kind"]): row for row in rows if row["group"] == group}
        num = max(row["num_people"] for row in by_column.values())
        cells.append(
            [
                wording.group(group),
                str(num),
                *[wording.with_interval(by_column[c]["auc"]) if c in by_column else wording.NONE for c in columns],
            ]
        )
    num_controls = max(row["num_controls"] for row in rows)
    caption = (
        f"AUC [95 %] of each group against {wording.count(num_controls, 'held-out control')}, {model}. 0.5 is chance."
    )
    return Table(
        caption, ["Group", "n", *[wording.channel(channel) for channel, _ in columns]], cells, "lr" + "r" * len(columns)
    )
