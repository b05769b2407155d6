"""What a stratification found, in sentences: the verdict first, and what a scanner explains before what it means."""

from __future__ import annotations

import pandas as pd

from gen3d.stratify.associations import CONFOUND_PARTS, has_part, strongest_confound
from gen3d.stratify.structure import Structure

MOST_NAMED = 5
QUALITY = ("quality", "qc", "snr", "cnr", "noise", "motion", "sharpness", "tilt", "verdict", "reason")


def sentences(
    structure: Structure, table: pd.DataFrame, quality: pd.DataFrame, num_people: int, left_out: list[str]
) -> list[str]:
    """The summary of a run.

    Args:
        structure: the verdict and its statistics.
        found: table of associations (empty without structure).
        quality: table of the map's quality.
        num_people: who was clustered.
        left_out: sentences on who was not.
    """
    lines = [_verdict(structure, table, num_people), _evidence(structure)]
    if structure.is_stable:
        lines += _meaning(table)
    return [*lines, *_map(quality), *left_out]


def _verdict(structure: Structure, table: pd.DataFrame, num_people: int) -> str:
    solution = structure.solution
    if not structure.is_stable or solution is None:
        return f"No stable structure among {num_people} people: {'; '.join(structure.reasons)}."
    confound = strongest_confound(table)
    sizes = ", ".join(str(int((solution.labels == cluster).sum())) for cluster in range(solution.num_clusters))
    many = f"{solution.num_clusters} stable clusters among {num_people} people (n {sizes})"
    if confound is None:
        return f"{many[0].upper()}{many[1:]}."
    how = f"{confound['effect_name']} {confound['effect']:.2f}, n {confound['num']}"
    return f"The clusters follow {confound['column']} ({how}): {explanation(str(confound['column']))} There are {many}."


def explanation(column: str) -> str:
    """What clusters that follow a confound are, and what to do."""
    lowered = column.lower()
    if lowered == "age_years":
        return "ages, not subtypes; hold age fixed (adjust=[age_years]) and run again."
    if lowered == "sex":
        return "women and men, not subtypes; hold sex fixed (adjust=[sex]) and run again."
    if lowered == "seen":
        return "whom the model learned from, not a subtype; cluster people=evaluation alone."
    if has_part(lowered, QUALITY):
        return "the quality of scans, not a subtype; leave poor scans out and run again."
    if lowered == "site" or has_part(lowered, CONFOUND_PARTS):
        return "a scanner, not a subtype; harmonise and run again."
    return "how scans were made, not a subtype; hold it fixed (adjust=) and run again."


def _evidence(structure: Structure) -> str:
    table = structure.statistics.set_index("statistic")
    p, ari, solution = table["p"], table.loc["bootstrap_ari"], structure.solution
    if solution is None:
        return "No solution has clusters that are large enough to count, so there was nothing to test."
    kept = "" if structure.is_stable else "The best exploratory solution, kept in exploratory.tsv, has "
    start = (
        f"{kept}{solution.num_clusters} clusters"
        if kept
        else "Against cohorts of one group with the same skew and tails"
    )
    return (
        f"{start}: separation p {p['separation']:.3f}, valley p {p['valley']:.3f}; bootstrap "
        f"adjusted Rand index {ari['value']:.2f} (one group: {ari['null_mean']:.2f}, 95 % below {ari['null_95']:.2f}); "
        f"smallest cluster n {solution.smallest}."
    )


def _meaning(table: pd.DataFrame) -> list[str]:
    others = table[~table["confound"].astype(bool)] if len(table) else table
    confounds = table[table["confound"].astype(bool) & (table["q"] < 0.05)] if len(table) else table
    lines = []
    if len(confounds):
        lines.append(f"Of the confounds, clusters differ in {_named(confounds)} (q < 0.05).")
    if not len(others):
        return [*lines, "No further column of the table could be tested."]
    adjusted = others["p_adjusted"].isna() | (others["p_adjusted"] < 0.05)
    real = others[(others["q"] < 0.05) & adjusted]
    gone = others[(others["q"] < 0.05) & ~adjusted]
    if len(real):
        held = " and with the confounds held fixed" if real["p_adjusted"].notna().any() else ""
        lines.append(
            f"Clusters differ in {_named(real)} (q < 0.05{held}), of {len(others)} columns that are no confounds."
        )
    else:
        lines.append(
            f"None of the {len(others)} columns that are no confounds differs between clusters beyond confounds."
        )
    if len(gone):
        lines.append(f"What the confounds explain: {_named(gone)}.")
    return lines


def _named(rows: pd.DataFrame) -> str:
    named = [
        f"{row['column']} ({row['effect_name']} {row['effect']:.2f}, n {row['num']})"
        for row in rows.head(MOST_NAMED).to_dict("records")
    ]
    rest = len(rows) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")


def _map(quality: pd.DataFrame) -> list[str]:
    rows = quality.set_index("map") if len(quality) else quality
    if "umap" not in rows.index:
        return ["There are too few people or components for a UMAP."]
    row, chance = rows.loc["umap"], rows.loc["random"]
    return [
        f"UMAP keeps neighbourhoods of {row['neighbours']:.0f} people with trustworthiness {row['trustworthiness']:.2f} and "
        f"continuity {row['continuity']:.2f} (random places: {chance['trustworthiness']:.2f}, {chance['continuity']:.2f}; "
        f"n {row['num_people']:.0f}); distances between far points mean nothing."
    ]
