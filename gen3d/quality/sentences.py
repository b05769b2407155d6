"""Turn the tables of an evaluation of synthetic scans into sentences, the comparison with real scans first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.quality.folder import BOTH, REAL, SAME_N, STANDARD, SYNTHETIC

SIGNIFICANT = 0.05
YARDSTICKS = (("reconstructed", "real scans through the autoencoder"), ("smoothed", "smoothed real scans"))


def quality_sentences(tables: dict[str, pd.DataFrame], num_synthetic: int, num_real: int) -> list[str]:
    """The results as sentences."""
    sentences = [*_realism(tables["distances"], num_synthetic, num_real)]
    sentences += [_diversity(row) for row in _records(tables["diversity"]) if row["set"] == "synthetic"]
    if len(tables["structures"]):
        sentences.append(_structures(tables["structures"]))
    fidelity = tables["fidelity"]
    for name in dict.fromkeys(fidelity["covariate"]) if len(fidelity) else ():
        sentences.append(fidelity_sentence(_records(fidelity[fidelity["covariate"] == name])))
    utility = tables["utility"]
    for target in dict.fromkeys(utility["target"]) if len(utility) else ():
        sentences.append(_utility(str(target), _records(utility[utility["target"] == target])))
    return sentences


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def lead_extractor(kinds: Sequence[str]) -> str:
    """The extractor that sentences are about: one with published results where there is one, else the first."""
    return next((kind for kind in kinds if kind in STANDARD), kinds[0])


def _realism(distances: pd.DataFrame, num_synthetic: int, num_real: int) -> list[str]:
    lead = distances[distances["extractor"] == lead_extractor(list(distances["extractor"]))]
    rows = {(row["metric"], row["set"]): row for row in _records(lead)}
    mmd, fid = rows["mmd", "synthetic"], rows["fid", "synthetic"]
    verdict = (
        f"differ detectably from {num_real} real ones"
        if mmd["p"] < SIGNIFICANT
        else f"do not differ detectably from {num_real} real ones at this number of scans"
    )
    present = [(name, title) for name, title in YARDSTICKS if ("mmd", name) in rows]
    distances_of = ", ".join(f"{title} {distance_text(rows['mmd', name])}" for name, title in present)
    ratios = ", ".join(f"{title} {spell.number(rows['fid', name]['ratio'])} times" for name, title in present)
    return [
        f"{num_synthetic} synthetic scans {verdict} (permutation test of the MMD in {mmd['extractor']} features, "
        f"p = {spell.probability(mmd['p'])}): {mmd['name']} is {distance_text(mmd, 'value')}; between halves of the real "
        f"people it is {distance_text(mmd, 'floor')} (for comparison: {distances_of}).",
        f"{fid['name']} is {distance_text(fid, 'value')}, {spell.number(fid['ratio'])} times the "
        f"{distance_text(fid, 'floor')} between halves of the real people ({ratios}). An FID of so few scans is also low when "
        "they have too little variety; read it together with the diversity.",
    ]


def _diversity(row: Row) -> str:
    low, high = row["minus_real_low"], row["minus_real_high"]
    if low <= 0 <= high:
        verdict = "about as different from one another as real people"
    elif row["minus_real"] > 0:
        verdict = "more alike than real people"
    else:
        verdict = "more different from one another than real people"
    difference = spell.interval(row["minus_real"], low, high, 3, signed=True)
    return (
        f"Synthetic scans are {verdict}: {row['measure']} {_interval(row, 'value', 3)} over {row['num_pairs']} pairs, "
        f"{difference} compared with real people."
    )


def _structures(table: pd.DataFrame) -> str:
    differing = table[table["q"] < SIGNIFICANT]
    largest = _records(table.loc[[table["difference_sd"].abs().idxmax()]])[0]
    difference = spell.interval(
        largest["difference_sd"], largest["difference_sd_low"], largest["difference_sd_high"], signed=True
    )
    return (
        f"{len(differing)} of {len(table)} structures differ in volume (Kolmogorov-Smirnov, q < {SIGNIFICANT:g}); the mean "
        f"differs most in the {largest['structure']} ({difference} SD of real people); SDs are "
        f"{spell.number(table['ratio_sd'].median())} times those of real people (median)."
    )


def fidelity_sentence(rows: Sequence[Row]) -> str:
    """One covariate's rows, of synthetic scans and of real people, as a sentence."""
    of = {row["people"]: row for row in rows}
    synthetic, real = of["synthetic"], of.get("real")
    return (_recognition if synthetic["method"] == "classified" else _agreement)(synthetic, real)


def _recognition(synthetic: Row, real: Row | None) -> str:
    def accuracy(row: Row, people: str) -> str:
        auc = f" (AUC {_interval(row, 'auc')})" if math.isfinite(row["auc"]) else ""
        return f"in {spell.percent(row['accuracy'], 0)} of {row['n']} {people}{auc}"

    text = f"{synthetic['covariate']} is recognised as requested {accuracy(synthetic, 'synthetic scans')}"
    return text + (f", {accuracy(real, 'real people')}" if real is not None and real["n"] else "") + "."


def _agreement(synthetic: Row, real: Row | None) -> str:
    name, method = synthetic["covariate"], synthetic["method"]
    error = spell.figure(synthetic["mae"])
    if not math.isfinite(synthetic["r"]):
        return f"{name}: the same was requested of all scans; {method} values differ from it by {error} on average."
    text = (
        f"{name}: requested and {method} values correlate with r = {_interval(synthetic, 'r')}, slope "
        f"{spell.number(synthetic['slope'])}, mean error {error}"
    )
    if real is not None and math.isfinite(real["r"]):
        text += f"; in {real['n']} real people r = {_interval(real, 'r')}, slope {spell.number(real['slope'])}"
        # A predictor is at its best in people that it was trained on, so better than in new people means copies of those.
        if synthetic["r_low"] > real["r_high"]:
            text += "; no new person is predicted as well, which points to copies of the predictor's training people"
    return text + "."


def _utility(target: str, rows: Sequence[Row]) -> str:
    of = {row["trained_on"]: row for row in rows}
    gain = spell.interval(of[BOTH]["gain"], of[BOTH]["gain_low"], of[BOTH]["gain_high"], 3, signed=True)
    return (
        f"A classifier of {target} trained on {of[SYNTHETIC]['n_train']} synthetic scans alone reaches AUC "
        f"{_interval(of[SYNTHETIC], 'auc')} in {of[REAL]['n_test']} real people; trained on {of[SAME_N]['n_train']} real scans "
        f"it reaches {_interval(of[SAME_N], 'auc')}. Adding the synthetic to {of[REAL]['n_train']} real scans changes AUC by "
        f"{gain}."
    )


def _interval(row: Row, name: str, digits: int = 2) -> str:
    return spell.interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)


def distance_text(row: Row, name: str | None = None) -> str:
    """A distance, which may be of any size, to about three digits: with its interval for a `name`, else the value alone."""
    parts = [row.get(column) for column in (name, f"{name}_low", f"{name}_high")] if name else [row["value"]]
    sizes = [abs(part) for part in parts if part is not None and math.isfinite(part)]
    largest = max(sizes, default=0.0)
    digits = 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3
    return spell.number(parts[0], digits) if name is None else spell.interval(parts[0], parts[1], parts[2], digits)
