"""What an evaluation of synthetic scans found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gen3d.core.tables import Row
from gen3d.quality.folder import BOTH, REAL, SAME_N, STANDARD, SYNTHETIC

SURE = 0.05
ANCHORS = (("reconstructed", "real scans through the autoencoder"), ("smoothed", "smoothed real scans"))


def sentences(tables: dict[str, pd.DataFrame], num_synthetic: int, num_real: int) -> list[str]:
    """The findings, the comparison with real scans first."""
    found = [*_realism(tables["distances"], num_synthetic, num_real)]
    found += [_diversity(row) for row in _records(tables["diversity"]) if row["set"] == "synthetic"]
    if len(tables["structures"]):
        found.append(_structures(tables["structures"]))
    fidelity = tables["fidelity"]
    for name in dict.fromkeys(fidelity["covariate"]) if len(fidelity) else ():
        found.append(fidelity_words(_records(fidelity[fidelity["covariate"] == name])))
    utility = tables["utility"]
    for target in dict.fromkeys(utility["target"]) if len(utility) else ():
        found.append(_utility(str(target), _records(utility[utility["target"] == target])))
    return found


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def lead_extractor(kinds: Sequence[str]) -> str:
    """The extractor that sentences are about: one that others use too, where there is one; else the first."""
    return next((kind for kind in kinds if kind in STANDARD), kinds[0])


def _realism(distances: pd.DataFrame, num_synthetic: int, num_real: int) -> list[str]:
    lead = distances[distances["extractor"] == lead_extractor(list(distances["extractor"]))]
    rows = {(row["metric"], row["set"]): row for row in _records(lead)}
    mmd, fid = rows["mmd", "synthetic"], rows["fid", "synthetic"]
    told = (
        f"can be told from {num_real} real ones"
        if mmd["p"] < SURE
        else f"cannot be told from {num_real} real ones at this number of scans"
    )
    anchors = [(name, words) for name, words in ANCHORS if ("mmd", name) in rows]
    scale = ", ".join(f"{words} {_number(rows['mmd', name]['value'])}" for name, words in anchors)
    times = ", ".join(f"{words} {rows['fid', name]['ratio']:.2f} times" for name, words in anchors)
    return [
        f"{num_synthetic} synthetic scans {told} (permutation test of the MMD in {mmd['extractor']} features, "
        f"p = {mmd['p']:.3g}): {mmd['name']} is {_shown(mmd, 'value')}, where halves of the real people differ by "
        f"{_shown(mmd, 'floor')} (for scale: {scale}).",
        f"{fid['name']} is {_shown(fid, 'value')}, {fid['ratio']:.2f} times the {_shown(fid, 'floor')} between halves of the "
        f"real people ({times}). Of so few scans an FID is also low when they have too little variety, so that it says nothing "
        "without the diversity.",
    ]


def _diversity(row: Row) -> str:
    low, high = row["minus_real_low"], row["minus_real_high"]
    if low <= 0 <= high:
        words = "about as different from one another as real people"
    else:
        words = (
            "more alike than real people"
            if row["minus_real"] > 0
            else "more different from one another than real people"
        )
    return (
        f"Synthetic scans are {words}: {row['measure']} {_shown(row, 'value')} over {row['num_pairs']} pairs, "
        f"{row['minus_real']:+.3f} [{low:+.3f}, {high:+.3f}] from that of real people."
    )


def _structures(table: pd.DataFrame) -> str:
    differing = table[table["q"] < SURE]
    largest = _records(table.loc[[table["difference_sd"].abs().idxmax()]])[0]
    return (
        f"{len(differing)} of {len(table)} structures differ in volume (Kolmogorov-Smirnov, q < {SURE:g}); the mean is "
        f"furthest off in the {largest['structure']} ({largest['difference_sd']:+.2f} SD of real people "
        f"[{largest['difference_sd_low']:+.2f}, {largest['difference_sd_high']:+.2f}]); SDs are {table['ratio_sd'].median():.2f} "
        "times those of real people (median)."
    )


def fidelity_words(rows: Sequence[Row]) -> str:
    """One covariate's rows, of synthetic scans and of real people, as a sentence."""
    of = {row["people"]: row for row in rows}
    made, real = of["synthetic"], of.get("real")
    name = made["covariate"]
    if made["method"] == "classified":
        words = f"{name} is recognised in {made['accuracy']:.0%} of {made['n']} synthetic scans as requested"
        words += f" (AUC {_shown(made, 'auc')})" if math.isfinite(made["auc"]) else ""
        if real is not None and real["n"]:
            words += f", in {real['accuracy']:.0%} of {real['n']} real people"
            words += f" (AUC {_shown(real, 'auc')})" if math.isfinite(real["auc"]) else ""
        return words + "."
    if not math.isfinite(made["r"]):
        return f"{name}: the same was requested of all, {made['method']} values are off by {_number(made['mae'])} on average."
    words = f"{name}: requested and {made['method']} r = {_shown(made, 'r')}, slope {made['slope']:.2f}"
    words += f", mean error {_number(made['mae'])}"
    if real is not None and math.isfinite(real["r"]):
        words += f"; the same in {real['n']} real people r = {_shown(real, 'r')}, slope {real['slope']:.2f}"
        if made["r_low"] > real["r_high"]:
            words += (
                "; no new person is predicted as well, which points to copies of people that the predictor learned from"
            )
    return words + "."


def _utility(target: str, rows: Sequence[Row]) -> str:
    of = {row["trained_on"]: row for row in rows}
    return (
        f"A classifier of {target} trained on {of[SYNTHETIC]['n_train']} synthetic scans alone reaches AUC "
        f"{_shown(of[SYNTHETIC], 'auc')} in {of[REAL]['n_test']} real people, on {of[SAME_N]['n_train']} real ones "
        f"{_shown(of[SAME_N], 'auc')}; adding the synthetic to {of[REAL]['n_train']} real scans changes AUC by "
        f"{of[BOTH]['gain']:+.3f} [{of[BOTH]['gain_low']:+.3f}, {of[BOTH]['gain_high']:+.3f}]."
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _shown(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = f" [{_number(low)}, {_number(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{_number(row[name])}{interval}"
