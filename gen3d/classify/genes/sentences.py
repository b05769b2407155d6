"""What genes add as sentences, the verdict first. Nothing is stated that is not in a table."""

from __future__ import annotations

import math

from gen3d.classify.genes.tables import BOTH, FUSION, GENES_ONLY, SCAN_ONLY, GeneTables
from gen3d.core import words as spell
from gen3d.core.tables import Row

SHUFFLED, WITHIN = "keys shuffled", "permuted within diagnosis and ancestry"
CONVINCING = 0.05
"""Largest p of the gain among gains with shuffled keys."""
NAMES = {"auc": "AUC", "macro_auc": "mean AUC"}


def gene_sentences(found: GeneTables) -> list[str]:
    """Whether genes add anything, and what stands behind it."""
    controls = _controls_of(found)
    return [_verdict(found, controls), *_others(found), *_controls(controls), *_people(found)]


def _rows(found: GeneTables, table: str, **where: object) -> list[Row]:
    """Rows of a table with these cells."""
    rows: list[Row] = [
        {str(name): cell for name, cell in row.items()} for row in found.tables[table].to_dict("records")
    ]
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def _controls_of(found: GeneTables) -> dict[str, Row]:
    return {str(row["control"]): row for row in _rows(found, "genes_controls")}


def adds(found: GeneTables) -> bool:
    """Whether the gain is above 0 by its interval, and above the gains with shuffled keys."""
    gain = _gain(found, FUSION)
    shuffled = _controls_of(found)[SHUFFLED]
    beats = not shuffled["num"] or shuffled["p"] <= max(CONVINCING, 1 / (1 + int(shuffled["num"])))
    return bool(gain["low"] > 0 and beats)


def _gain(found: GeneTables, model: str) -> Row:
    """The row of a fused model against the better single modality."""
    return _rows(found, "genes_gain", model=model, against=found.best)[0]


def _figure_of(found: GeneTables, model: str) -> str:
    row = _rows(found, "genes_performance", model=model, measure=found.measure)[0]
    return spell.interval(row["value"], row["low"], row["high"])


def _verdict(found: GeneTables, controls: dict[str, Row]) -> str:
    gain, measure = _gain(found, FUSION), NAMES[found.measure]
    people = spell.people(int(gain["num_people"]))
    best = f"{_called(found, found.best)} {_figure_of(found, found.best)}"
    figures = (
        f"{measure} of scan and genes {_figure_of(found, FUSION)}, of {best}; "
        f"gain {spell.interval(gain['difference'], gain['low'], gain['high'], None)} in {people}"
    )
    shuffled = controls[SHUFFLED]
    if shuffled["num"]:
        figures += f"; with genes of other people {spell.figure(shuffled['gain'])} on average, p {spell.probability(shuffled['p'])}"
    genes_lead = found.best != found.scan_model
    if adds(found):
        what = "Genes add to the scan, and the scan to genes" if genes_lead else "Genes add to the scan"
    elif gain["high"] < 0:
        what = "The scan takes away from genes" if genes_lead else "Genes take away from the scan"
    else:
        what = f"No evidence that {'the scan adds to genes' if genes_lead else 'genes add to the scan'}"
    return f"{what}: {figures}."


def _called(found: GeneTables, model: str) -> str:
    return f"the scan ({model})" if model == found.scan_model else model


def _others(found: GeneTables) -> list[str]:
    listed = [
        f"{_called(found, str(row['model']))} {spell.interval(row['value'], row['low'], row['high'])}"
        for row in _rows(found, "genes_performance", measure=found.measure)
        if row["model"] != FUSION
    ]
    return [f"{NAMES[found.measure]} of each on the same people and folds: {'; '.join(listed)}."]


def _controls(controls: dict[str, Row]) -> list[str]:
    lines = []
    if controls[SHUFFLED]["num"]:
        row = controls[SHUFFLED]
        lines.append(
            f"With keys shuffled {int(row['num'])} times, so that everybody has somebody's genes, the gain is {_range(row)}: "
            "that is what fusion gives by itself."
        )
    if controls[WITHIN]["num"]:
        row = controls[WITHIN]
        lines.append(
            f"With genes exchanged between people of the same diagnosis and ancestry {int(row['num'])} times the gain is "
            f"{_range(row)}. It vanishes where genes matter only together with this person's own scan; it stays where they say "
            "something of the diagnosis by themselves, as a risk allele does."
        )
    return lines


def _range(row: Row) -> str:
    return f"{spell.figure(row['gain'])} on average (95 % between {spell.figure(row['low'])} and {spell.figure(row['high'])})"


def _people(found: GeneTables) -> list[str]:
    table = {(str(row["people"]), str(row["inputs"])): row for row in _rows(found, "genes_people")}
    num = {
        group: int(table[group, inputs]["num_people"])
        for group, inputs in ((BOTH, "G+I"), (SCAN_ONLY, "I"), (GENES_ONLY, "G"))
    }
    lines = [
        f"{spell.people(num[BOTH])} have both; {num[SCAN_ONLY]} have a scan and no genes, and are scored by the scan; "
        f"{num[GENES_ONLY]} have genes and no scan, and are scored by genes."
    ]
    for group, inputs in ((SCAN_ONLY, "I"), (GENES_ONLY, "G")):
        row = table[group, inputs]
        if math.isfinite(row["value"]):
            lines.append(
                f"{NAMES[found.measure]} of people with {group}: {spell.interval(row['value'], row['low'], row['high'])} "
                f"({spell.people(num[group])})."
            )
    return [*lines, *(f"{spell.capital(note)}." for note in found.notes)]
