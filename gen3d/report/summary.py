"""The summary: the main findings and their uncertainty, in plain sentences."""

from __future__ import annotations

from typing import Any

from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.sections import calibration, scores
from gen3d.anomaly.sections import summary as maps
from gen3d.core.tables import Row
from gen3d.evaluate import section_summary as truth
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.evaluate.section import best_by_condition
from gen3d.figures.blocks import Heading, Points, Section, Text
from gen3d.figures.context import Context, page_section


@page_section("Summary", "`gen3d anomaly` or `gen3d evaluate`", place=0)
def section(context: Context) -> Section | None:
    """Findings as sentences with n and interval, and a table of the key figures."""
    numbers: dict[str, Any] = {}
    parts: list[tuple[str, list[str]]] = []
    best = [row for evaluation in context.all(EvaluationFolder) for row in best_by_condition(context, evaluation)]
    if best:
        numbers["best_by_condition"] = best
        verdicts = [
            text for evaluation in context.all(EvaluationFolder) for text in truth.verdicts(context, evaluation, best)
        ]
        parts.append(("Against planted truth", [*[truth.best_sentence(row) for row in best], *verdicts]))
    parts += [
        ("Forecasts against later visits", list(evaluation.summary))
        for evaluation in context.all(EvaluationFolder)
        if evaluation.of_forecasts
    ]
    lead = context.first(MapsFolder)
    rows: list[Row] = []
    if lead is not None:
        null = calibration.null_figures(lead)
        if lead.is_one_scan:
            parts.append(("The scan", maps.scan_sentences(lead)))
        rows = scores.separation(lead, headline_only=True) if scores.has_groups(lead) else []
        numbers |= {"auc": rows, "held_out_controls": null}
        parts.append(
            (
                f"Groups against held-out controls, {lead.name}",
                [*maps.group_sentences(rows), *maps.region_sentences(context)],
            )
        )
        of_whom = "z in held-out controls of the norm" if lead.by_norm else f"z of {lead.name} in held-out controls"
        parts.append((of_whom, maps.calibration_sentences(null)))
    parts = [(title, sentences) for title, sentences in parts if sentences]
    if not parts:
        return None
    first = truth.in_short(best) or [parts[0][1].pop(0)]
    blocks: list[Any] = [Text(text, "lead") for text in first]
    for title, sentences in parts:
        blocks += [Heading(title), Points(tuple(sentences))] if sentences else []
    if rows and lead is not None:
        blocks.append(maps.key_table(rows, lead.name))
    return Section("summary", "Summary", blocks, numbers)
