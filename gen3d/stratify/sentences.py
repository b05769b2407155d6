"""The result of a stratification in sentences: the verdict first, and confounds before everything else."""

from __future__ import annotations

import pandas as pd

from gen3d.core import words as spell
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
        num_people: how many people were clustered.
        left_out: sentences on people who were excluded.
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
        return f"{spell.capital(many)}."
    how = f"{confound['effect_name']} {spell.number(confound['effect'])}, n {confound['num']}"
    return f"The clusters follow {confound['column']} ({how}): {explanation(str(confound['column']))} There are {many}."


def explanation(column: str) -> str:
    """What clusters that follow a confound are, and what to do."""
    lowered = column.lower()
    if lowered == "age_years":
        return "ages, not subtypes; hold age fixed (adjust=[age_years]) and run again."
    if lowered == "sex":
        return "women and men, not subtypes; hold sex fixed (adjust=[sex]) and run again."
    if lowered == "seen":
        return "the training people of the model, not a subtype; cluster people=evaluation alone."
    if has_part(lowered, QUALITY):
        return "the quality of scans, not a subtype; leave poor scans out and run again."
    if lowered == "site" or has_part(lowered, CONFOUND_PARTS):
        return "a scanner, not a subtype; harmonise and run again."
    return "how scans were made, not a subtype; hold it fixed (adjust=) and run again."


def _evidence(structure: Structure) -> str:
    table = structure.statistics.set_index("statistic")
    p, solution = table["p"], structure.solution
    if solution is None:
        return "Every solution has a cluster that is too small to count, so nothing was tested."
    names = ("value", "null_mean", "null_95")
    value, null_mean, null_high = (spell.number(float(table[name]["bootstrap_ari"])) for name in names)
    kept = "" if structure.is_stable else "The best exploratory solution, kept in exploratory.tsv, has "
    start = (
        f"{kept}{solution.num_clusters} clusters"
        if kept
        else "Against cohorts of one group with the same skew and tails"
    )
    return (
        f"{start}: separation p {spell.probability(p['separation'])}, valley p {spell.probability(p['valley'])}; bootstrap "
        f"adjusted Rand index {value} (one group: {null_mean}, 95 % below {null_high}); smallest cluster n {solution.smallest}."
    )


def _meaning(table: pd.DataFrame) -> list[str]:
    others = table[~table["confound"].astype(bool)] if len(table) else table
    confounds = table[table["confound"].astype(bool) & (table["q"] < 0.05)] if len(table) else table
    lines = []
    if len(confounds):
        lines.append(f"Clusters differ in these confounds: {_named(confounds)} (q < 0.05).")
    if not len(others):
        return [*lines, "No further column of the table could be tested."]
    adjusted = others["p_adjusted"].isna() | (others["p_adjusted"] < 0.05)
    real = others[(others["q"] < 0.05) & adjusted]
    gone = others[(others["q"] < 0.05) & ~adjusted]
    if len(real):
        held = " and with the confounds held fixed" if real["p_adjusted"].notna().any() else ""
        lines.append(
            f"Clusters differ in {_named(real)} (q < 0.05{held}), of {len(others)} columns that are not confounds."
        )
    else:
        lines.append(
            f"None of the {len(others)} columns that are not confounds differs between clusters beyond the confounds."
        )
    if len(gone):
        lines.append(f"Explained by the confounds: {_named(gone)}.")
    return lines


def _named(rows: pd.DataFrame) -> str:
    named = [
        f"{row['column']} ({row['effect_name']} {spell.number(float(row['effect']))}, n {row['num']})"
        for row in rows.head(MOST_NAMED).to_dict("records")
    ]
    rest = len(rows) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")


def _map(quality: pd.DataFrame) -> list[str]:
    rows = quality.set_index("map") if len(quality) else quality
    if "umap" not in rows.index:
        return ["There are too few people or components for a UMAP."]
    row, chance = rows.loc["umap"].to_dict(), rows.loc["random"].to_dict()
    trustworthiness, continuity = (
        f"{spell.number(row[name])} (random places: {spell.number(chance[name])})"
        for name in ("trustworthiness", "continuity")
    )
    return [
        f"UMAP keeps neighbourhoods of {row['neighbours']:.0f} people with trustworthiness {trustworthiness} and continuity "
        f"{continuity}; n {row['num_people']:.0f}; distances between far points mean nothing."
    ]
