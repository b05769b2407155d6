"""The first page: what was found and how sure it is, in plain sentences."""

from __future__ import annotations

from typing import Any

from gen3d.maths.stats import Interval
from gen3d.report import wording
from gen3d.report.blocks import Heading, Points, Section, Table, Text
from gen3d.report.context import Context
from gen3d.report.folders import Evaluation, Row, records
from gen3d.report.sections import calibration, groups, scores, truth
from gen3d.report.sources import KINDS

NULL_NAMES = ("null",)


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
            ("Groups against held-out controls", [*_group_sentences(rows, lead.name), *_region_sentences(context)])
        )
        parts.append(("Can z be trusted", _calibration_sentences(null, lead.name)))
    parts = [(title, sentences) for title, sentences in parts if sentences]
    if not parts:
        return None
    blocks: list[Any] = [Text(text, "lead") for text in _plain(context, best) or parts[0][1][:1]]
    for title, sentences in parts:
        blocks += [Heading(title), Points(tuple(sentences))]
    if rows and lead is not None:
        blocks.append(_key_table(rows, lead.name))
    return Section("summary", "Summary", blocks, numbers)


def _plain(context: Context, best: list[Row]) -> list[str]:
    """What did best, and whether the network did, before any figure."""
    if not best:
        return []
    found = []
    for words, measure in (("Atrophy and other volume change", "auc"), ("Focal change", "auprc")):
        mine = [row for row in best if row["measure"] == measure]
        if mine:
            parts = [f"in {wording.in_text(row['channel'])} by {row['model']} ({row['condition']})" for row in mine]
            found.append(f"{words} is seen best {wording.listed(parts)}.")
    network = KINDS["vae"]
    models = {row["model"] for row in best} | {other["model"] for row in best for other in row["others"]}
    if any(name.startswith(network) for name in models) and len(models) > 1:
        won = [row["condition"] for row in best if row["model"].startswith(network)]
        if not won:
            found.append("The network beats its baselines on none of them.")
        elif len(won) < len(best):
            found.append(f"The network is ahead of its baselines on {wording.listed(won)} only.")
        else:
            found.append("The network is ahead of its baselines on each of them.")
    return [" ".join(found)]


def _best_sentence(row: Row) -> str:
    who = wording.group(row["condition"])
    where = f"{wording.in_text(row['channel'])} of {row['model']}"
    value: Interval = row["value"]
    others = [f"{item['model']} {wording.with_interval(item['value'])}" for item in row["others"]]
    beside = f"; beside it {wording.listed(others)}" if others else ""
    if row["measure"] == "auc":
        return (
            f"Planted {who}, n = {value.num}: best told from controls by {where}, AUC of {row['what']} "
            f"{wording.with_interval(value)}{beside}."
        )
    auroc = f"voxel AUROC {wording.with_interval(row['auroc'])}, " if row["auroc"] is not None else ""
    prevalence = f" at a prevalence of {row['prevalence']:.2g}" if row["prevalence"] is not None else ""
    return (
        f"Planted {who}, n = {value.num}: best located by {where}, {auroc}AUPRC "
        f"{wording.with_interval(value)}{prevalence}{beside}."
    )


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
                verdict = f"{other} locates it better than {first}"
            elif gap.high < 0:
                verdict = f"{first} locates it better than {other}"
            else:
                verdict = f"{first} and {other} cannot be told apart"
            sentences.append(
                f"In {wording.in_text(row['channel'])}, on {row['condition']}, {verdict} (difference in AUPRC "
                f"{wording.with_interval(gap, 3)})."
            )
    return sentences


def _group_sentences(rows: list[Row], model: str) -> list[str]:
    sentences = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group and row["auc"].value == row["auc"].value]
        if not mine:
            continue
        apart = [row for row in mine if row["auc"].low > 0.5]
        size = f"n = {mine[0]['num_people']} against {mine[0]['num_controls']} held-out controls"
        null = group.lower() in NULL_NAMES
        if apart:
            parts = [f"{wording.in_text(row['channel'])} (AUC {wording.with_interval(row['auc'])})" for row in apart]
            text = (
                f"{wording.capital(wording.group(group))}, {size}: told from controls by {wording.listed(parts)}, "
                f"{model}."
            )
            text += (
                " Nothing was planted in these people, so this is a false alarm and the other findings deserve the "
                "same doubt."
                if null
                else ""
            )
        else:
            top = max(mine, key=lambda row: row["auc"].value)
            text = (
                f"{wording.capital(wording.group(group))}, {size}: not told from controls by any score of {model}; "
                f"the largest AUC is {wording.with_interval(top['auc'])}, {wording.in_text(top['channel'])}."
            )
            text += " That is as it should be: nothing was planted." if null else ""
        sentences.append(text)
    return sentences


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


def _calibration_sentences(rows: list[Row], model: str) -> list[str]:
    if not rows:
        return []
    parts = [
        f"{wording.in_text(row['channel'])} mean {wording.number(row['mean'])}, SD {wording.number(row['sd'])}, "
        f"{wording.percent(row['share_beyond'].value)} of voxels beyond 1.96"
        for row in rows
    ]
    positive = wording.listed([f"{row['num_positive']}" for row in rows])
    return [
        f"In {wording.count(rows[0]['num_people'], 'control')} whom neither {model} nor its calibration saw, z "
        f"behaves like this: {'; '.join(parts)} "
        f"(expected 0, 1 and 5 %). {wording.capital(positive)} of them have an FDR-positive voxel in these channels."
    ]


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
