"""Sentences on planted truth for the summary: which model and channel is best, and how the others compare."""

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

NO_DIFFERENCE = "does not differ detectably from"


def in_short(best: list[Row]) -> list[str]:
    """The best model and channel for lesions and for atrophy, and the best network compared with the best baseline.

    At most `NUM_IN_LEAD` conditions of each kind; the sentences that follow name all conditions.
    """
    if not best:
        return []
    sentences = []
    detected = [row for row in best if _is_above_chance(row)]
    missed = [row for row in best if not _is_above_chance(row)]
    focal = [row for row in detected if row["measure"] != "auc"][:NUM_IN_LEAD]
    loss = [row for row in detected if row["direction"] == "loss"][:NUM_IN_LEAD]
    if focal:
        sentences.append(f"Lesions are located best by {_winners(focal)}.")
    if loss:
        sentences.append(f"Atrophy is detected best by {_winners(loss)}.")
    if any(row["model"].endswith(REGISTRATION_ALONE) for row in (*focal, *loss)):
        sentences.append(WITHOUT_MODEL)
    if missed:
        names = spell.listed([_planted(row) for row in missed], "or")
        sentences.append(f"No model detects {names} better than chance.")
    comparisons = [text for row in (*focal, *loss) if (text := _against_baseline(row))]
    if comparisons:
        sentences.append(f"Best network compared with the best baseline: {'; '.join(comparisons)}.")
    return [" ".join(sentences)] if sentences else []


def _winners(rows: list[Row]) -> str:
    """The best models and channels, each with the conditions in which it is best."""
    by_winner: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        measure = "AUPRC" if row["measure"] != "auc" else f"AUC of {row['what']}"
        score = f"{wording.condition(row['condition'])}: {measure} {wording.with_interval(row['value'])}"
        by_winner.setdefault((row["model"], row["channel"]), []).append(score)
    return spell.listed(
        [
            f"{model} in {wording.in_text(channel)} ({'; '.join(scores)})"
            for (model, channel), scores in by_winner.items()
        ]
    )


def _planted(row: Row) -> str:
    """The planted change: the name of a focal condition, or the volume loss or gain of a condition."""
    name = wording.condition(row["condition"])
    return f"volume {row['direction']} in {name}" if row["direction"] else name


def _is_above_chance(row: Row) -> bool:
    """Whether the best score of a condition is above chance: an AUC above 0.5, an AUPRC above the prevalence."""
    chance = 0.5 if row["measure"] == "auc" else float(row["prevalence"] or 0.0)
    return bool(row["value"].low > chance)


def _against_baseline(row: Row) -> str:
    """The best network of one condition compared with the best baseline, in the channel that shows the condition best.

    Maps without a model, those of local volume where only T1w was learned, count as neither.
    """
    rows = [{"model": row["model"], "value": row["value"], "behind": None}, *row["others"]]
    rows = [item for item in rows if not item["model"].endswith(REGISTRATION_ALONE)]
    networks = [item for item in rows if not is_baseline(item["model"])]
    baselines = [item for item in rows if is_baseline(item["model"])]
    if not networks or not baselines:
        return ""
    network, baseline = (max(group, key=lambda item: item["value"].value) for group in (networks, baselines))
    network_leads = network["value"].value > baseline["value"].value
    first, second = (network, baseline) if network_leads else (baseline, network)
    # Paired differences are known against the best row of the condition only; otherwise the intervals are compared.
    gap = second["behind"] if first["model"] == row["model"] else None
    differs = gap.low > 0 if gap is not None else first["value"].low > second["value"].high
    verdict = f"is {'better' if network_leads else 'worse'} than" if differs else NO_DIFFERENCE
    measure = "AUC" if row["measure"] == "auc" else "AUPRC"
    if gap is not None:
        signed = gap if network_leads else Interval(-gap.value, -gap.high, -gap.low, gap.num)
        figures = f"paired difference in {measure} {wording.with_interval(signed, 3)}"
    else:
        values = [wording.with_interval(item["value"]) for item in (network, baseline)]
        figures = f"{measure} {values[0]} against {values[1]}"
    return f"on {_planted(row)}, {network['model']} {verdict} {baseline['model']} ({figures})"


def best_sentence(row: Row) -> str:
    """The model and channel that show a condition best, and the scores of the other models in that channel."""
    group = f"{spell.capital(_planted(row))}, n = {row['value'].num}"
    winner = f"{wording.in_text(row['channel'])} of {row['model']}"
    value = wording.with_interval(row["value"])
    others = [f"{item['model']} {wording.with_interval(item['value'])}" for item in row["others"]]
    rest = f" Other models in this channel: {spell.listed(others)}." if others else ""
    if row["measure"] == "auc":
        return f"{group}: best separated from controls by {winner}, AUC of {row['what']} {value}.{rest}"
    auroc = f"voxel AUROC {wording.with_interval(row['auroc'])}, " if row["auroc"] is not None else ""
    chance = f" (chance: {spell.probability(row['prevalence'])})" if row["prevalence"] is not None else ""
    return f"{group}: best located by {winner}, {auroc}AUPRC {value}{chance}.{rest}"


def verdicts(context: Context, evaluation: EvaluationFolder, best: list[Row]) -> list[str]:
    """Per condition scored by voxels, a sentence on the paired difference of the first model and each other model."""
    differences = evaluation.table("differences")
    names = model_names(context, evaluation)
    sentences = []
    for row in best:
        if not len(differences) or row["measure"] != "auprc":
            continue
        paired = differences[
            (differences["condition"] == row["condition"]) & (differences["channel"] == row["channel"])
        ]
        for difference in rows_of(paired):
            gap = interval(difference, "auprc")
            other, first = (names.get(str(difference[name]), str(difference[name])) for name in ("maps", "minus"))
            if gap.low > 0:
                verdict = f"{other} is better than {first}"
            elif gap.high < 0:
                verdict = f"{first} is better than {other}"
            else:
                verdict = f"{first} {NO_DIFFERENCE} {other}"
            sentences.append(
                f"Locating {wording.condition(row['condition'])} in {wording.in_text(row['channel'])}: {verdict} "
                f"(paired difference in AUPRC {wording.with_interval(gap, 3)})."
            )
    return sentences
