"""What planted truth says, for the first section of the page: which model and channel is best, and against what."""

from __future__ import annotations

from gen3d.anomaly.folder import REGISTRATION_ALONE
from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.evaluate.section import WITHOUT_MODEL, interval, model_names
from gen3d.figures import names as wording
from gen3d.figures.context import Context
from gen3d.maths.stats import Interval
from gen3d.models.run_folder import is_baseline

NUM_IN_LEAD = 3
"""Conditions of each kind that the first sentence names."""


def in_short(best: list[Row]) -> list[str]:
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
        text.append(f"{spell.capital('; '.join(parts))}.")
    if any(row["model"].endswith(REGISTRATION_ALONE) for row in (*focal, *loss)):
        text.append(WITHOUT_MODEL)
    if unseen:
        names = spell.listed([_planted(row) for row in unseen])
        are = "is" if len(unseen) == 1 else "are"
        text.append(f"{spell.capital(names)} {are} not told from chance by any model, judged in the same way.")
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
    return spell.listed(
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


def best_sentence(row: Row) -> str:
    """What shows a condition best, and how the other models did there."""
    who = f"{spell.capital(_planted(row))}, n = {row['value'].num}"
    where = f"{wording.in_text(row['channel'])} of {row['model']}"
    value: Interval = row["value"]
    others = [f"{item['model']} {wording.with_interval(item['value'])}" for item in row["others"]]
    beside = f"; beside it {spell.listed(others)}" if others else ""
    if row["measure"] == "auc":
        return (
            f"{who}: best told from controls by {where}, AUC of {row['what']} {wording.with_interval(value)}{beside}."
        )
    auroc = f"voxel AUROC {wording.with_interval(row['auroc'])}, " if row["auroc"] is not None else ""
    prevalence = f" at a prevalence of {row['prevalence']:.2g}" if row["prevalence"] is not None else ""
    return f"{who}: best located by {where}, {auroc}AUPRC {wording.with_interval(value)}{prevalence}{beside}."


def verdicts(context: Context, evaluation: EvaluationFolder, best: list[Row]) -> list[str]:
    """One sentence per condition judged by voxels: does the first model differ from the others, by paired difference?"""
    differences = evaluation.table("differences")
    names = model_names(context, evaluation)
    sentences = []
    for row in best:
        if not len(differences) or row["measure"] != "auprc":
            continue
        paired = differences[
            (differences["condition"] == row["condition"]) & (differences["channel"] == row["channel"])
        ]
        for found in rows_of(paired):
            gap = interval(found, "auprc")
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
