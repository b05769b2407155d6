"""Report section of `gen3d sample`: requested conditions, the first scans, and the audit for copies of training people."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gen3d.core import words as spell
from gen3d.figures import names as wording
from gen3d.figures.blocks import Figure, Heading, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval
from gen3d.synthesis.folder import SyntheticFolder

REQUESTED = "requested_"
MEASURES = (
    ("copies", "Scans that are copies"),
    ("subjects_copied", "Training people copied"),
    ("paired", "Nearest real person is a training person (chance 0.50)"),
    ("accuracy_train", "Accuracy of separation from training people by nearest neighbours (ideal 0.50)"),
    ("accuracy_held_out", "Accuracy of separation from held-out people by nearest neighbours (ideal 0.50)"),
    ("privacy_loss", "Privacy loss: held-out minus training (ideal 0)"),
    ("membership", "AUC of membership in the training people (chance 0.50)"),
)


@page_section("Synthetic scans", "`gen3d sample`", place=130, reads=SyntheticFolder)
def section(context: Context) -> Section | None:
    """For every synthetic dataset: its picture, the requested conditions, and its audit."""
    if not context.all(SyntheticFolder):
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    several = len(context.all(SyntheticFolder)) > 1
    for dataset in context.all(SyntheticFolder):
        if several:
            blocks.append(Heading(dataset.name))
        blocks += [Text(_sentence(dataset), "lead"), _picture(dataset)]
        requested = _requested(dataset.scan_table)
        if requested is not None:
            blocks.append(requested)
        blocks += _audit(dataset)
        numbers[dataset.name] = {"num_scans": len(dataset.scan_table), "audit": dataset.audit}
    return Section("synthetic", "Synthetic scans", blocks, numbers)


def _sentence(dataset: SyntheticFolder) -> str:
    drawing = dataset.provenance.get("drawing", {})
    text = (
        f"{spell.count(len(dataset.scan_table), 'scan')} of people who do not exist, drawn by {drawing.get('sampler', '')} in "
        f"{drawing.get('steps', '')} steps. "
    )
    audit = dataset.audit
    if not audit.get("done"):
        return text + f"They were not audited for copies of training people; the stated reason: {audit.get('waiver')}."
    copies = Interval(**audit["copies"])
    verdict = (
        "The audit found copies of training people"
        if audit["failed"]
        else "The audit for copies of training people was passed"
    )
    text += (
        f"{verdict}: {wording.with_interval(copies, 1, 100)} % of the scans are copies, n = {audit['num_synthetic']}."
    )
    return text + (f" They were released with a waiver: {audit['waiver']}." if audit["failed"] else "")


def _picture(dataset: SyntheticFolder) -> Figure:
    caption = "The first synthetic scans in three planes, with their requested conditions."
    return Figure(f"synthetic_{dataset.folder.name}", "Synthetic scans.", caption, dataset.samples)


def _requested(table: pd.DataFrame) -> Table | None:
    """One row per condition: the requested values, and the number of scans that left it open."""
    rows = []
    for column in [name for name in table.columns if name.startswith(REQUESTED)]:
        known = table[column].dropna()
        numbers = pd.to_numeric(known, errors="coerce")
        if len(known) and numbers.notna().all():
            values = f"{numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4g}"
        else:
            values = ", ".join(f"{code} {count}" for code, count in known.value_counts().items())
        rows.append(
            [column.removeprefix(REQUESTED).replace("_", " "), values or spell.NONE, str(len(table) - len(known))]
        )
    if not rows:
        return None
    return Table("Requested conditions.", ["Condition", "Requested", "Left open"], rows, "llr")


def _audit(dataset: SyntheticFolder) -> list[Any]:
    embeddings = dataset.audit.get("embeddings", {})
    if not embeddings:
        return []
    rows = [
        [title, *[wording.with_interval(Interval(**figures[name])) for figures in embeddings.values()]]
        for name, title in MEASURES
    ]
    counts = "; ".join(
        f"{name}: {figures['num_train_people']} training and {figures['num_held_out_people']} held-out people"
        for name, figures in embeddings.items()
    )
    caption = f"The audit for copies, by the embedding in which scans are compared, with 95 % intervals over people ({counts})."
    return [
        Table(caption, ["Measure", *embeddings], rows, "l" + "r" * len(embeddings)),
        Text(f"The audit {dataset.audit['rule']}.", "note"),
    ]
