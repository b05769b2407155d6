"""Do heads on latents predict dementia on real scans better than one number does? OASIS-1 slabs, CN against CDR > 0, and stages.

slabs.py prepares the slabs, representations.py trains the models behind the latents: cross-fitted over all 133 people, so that
nobody is tested in the space of a model that saw them. Anomaly scores come from models cross-fitted over the identified
controls and calibrated on them, as in 05: they reveal who is a control (see 12), so these studies need a waiver and are kept
apart. Baselines of the heads: age and sex, nWBV of OASIS-1's own table, the share of dark voxels (everywhere and deep), all
of these together, and linear machines on voxels.

Fixed before any result was seen: the answer is the result of PRIMARY (identified people, CN against CDR > 0; 30
components of T1w and log-Jacobian; logistic head), with its permutation p and its difference from nWBV. All other
figures are exploratory, and all of them are reported. Writes heads.tsv (every model of every study) and heads.png.

    python analysis/10_heads_on_slabs.py --slabs DATA/t1w_slab_2mm --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from representations import SLAB_MODELS, latents
from slabs import PrepareSlabs, for_heads

from gen3d.anomaly.anomaly import Anomaly
from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.train.train import Train

Keys = dict[str, Any]

PRIMARY = ("identified", "PCA and deformation", "linear")
MEASURES = ("nwbv", "dark", "deep_dark")
HEADS = ("linear", "svm", "boosting", "mlp")
HEADS_ON = {"identified": 5, "stages": 4}  # number of heads compared; other questions get the logistic one alone
NORMATIVE: dict[str, Keys] = {"pca": {"kind": "pca", "num_components": 20}, "voxelwise": {"kind": "voxelwise"}}
QUESTIONS: dict[str, Keys] = {
    "identified": {"target": "identified", "classes": ("CN", "AD")},
    "matched": {"target": "matched", "classes": ("CN", "AD")},
    "everybody": {"target": "everybody", "classes": ("CN", "AD")},
    "CDR >= 1": {"target": "stage", "classes": ("0", "1+")},
    "stages": {"target": "stage", "classes": ("0", "0.5", "1+"), "task": "ordered"},
}
IN_WORDS = {
    "identified": "CN against CDR > 0, identified people",
    "matched": "CN against CDR > 0, pairs of one sex and age",
    "everybody": "CN against CDR > 0, everybody",
    "CDR >= 1": "CN against CDR >= 1, identified people",
    "stages": "CDR 0, 0.5, 1 and more, identified people",
}
RANKING = ("auc", "macro_auc")
OTHERS = ("balanced_accuracy", "sensitivity", "specificity", "brier", "calibration_slope", "kappa")


def features(source: Path, out: Path) -> dict[str, Keys]:
    """Train and encode what is not finished; the feature sets as keys of `gen3d classify`."""
    everybody = for_heads(source, out)
    encoded = {name: latents(everybody, name, keys, out) for name, keys in SLAB_MODELS.items()}
    maps = [anomaly(PrepareSlabs(source=source, out=out / "prepared").run(), name, out) for name in NORMATIVE]
    vaes = (encoded["vae_dense"], encoded["vae_spatial"])
    return {
        "PCA": {"latents": encoded["pca"]},
        "PCA and deformation": {"latents": encoded["pca_both"]},
        "VAE, dense": {"latents": encoded["vae_dense"]},
        "VAE, spatial": {"latents": encoded["vae_spatial"], "heads": (*HEADS, "residual")},
        "anomaly scores": {"latents": maps[0], "beside": maps[1:], "seen": "waive"},
        "union": {"latents": encoded["pca_both"], "beside": vaes},
    }


def variants(sets: dict[str, Keys]) -> dict[str, Keys]:
    """Other ways to use the same features, tried on the first question after its answer was known."""
    primary = sets[PRIMARY[1]]
    return {
        "PCA and deformation, without age and sex": {**primary, "confounds": ("age_years", "sex")},
        "PCA and deformation, 10 components": {**primary, "components": 10},
        "PCA, 10 components": {**sets["PCA"], "components": 10},
        "union, 10 components": {**sets["union"], "components": 10},
    }


def anomaly(prepared: Path, name: str, out: Path) -> Path:
    """Maps of a model that is cross-fitted over identified controls."""
    run = out / "runs" / f"controls_{name}"
    Train.model_validate({"prepared": prepared, "model": NORMATIVE[name], "cross_fit": 5, "out": run}).run()
    maps = out / "maps" / name
    Anomaly.model_validate({"prepared": prepared, "run": run, "out": maps, "native": False}).run()
    return maps


def study(question: str, name: str, given: Keys, out: Path) -> Path:
    """One study: all heads on one feature set, and all baselines."""
    primary, heads = (question, name) == PRIMARY[:2], given.get("heads", HEADS)
    keys: Keys = {
        "volumes": MEASURES,
        "voxels": name == PRIMARY[1],
        "permutations": 1000 if primary else 0,
        **QUESTIONS[question],
        **given,
        "heads": heads[: HEADS_ON.get(question, 1)],
        "out": out / "heads" / f"{question} {name}".lower().replace(" ", "_").replace(",", "").replace(">=", "from"),
    }
    return Classify.model_validate(keys).run()


def collected(folder: Path, question: str, name: str) -> pd.DataFrame:
    """Every model of a study: area under the curve, difference from nWBV, and further measures for two classes."""
    shown = pd.read_csv(folder / "performance.tsv", sep="\t", na_values=["n/a"])
    whole = shown[shown["class"].isna() | (shown["class"] == "")]
    area = whole[whole["measure"].isin(RANKING)].set_index("model")
    table = area[["kind", "measure", "value", "low", "high", "num_people", "num_positive"]].copy()
    for measure in OTHERS:
        table[measure] = whole[whole["measure"] == measure].set_index("model")["value"]
    against = pd.read_csv(folder / "differences.tsv", sep="\t", na_values=["n/a"])
    against = against[(against["against"] == "nwbv") & against["measure"].isin(RANKING)].set_index("model")
    for column, called in (("difference", "minus_nwbv"), ("low", "minus_low"), ("high", "minus_high")):
        table[called] = against[column]
    if (folder / "permutation.tsv").is_file():
        null = pd.read_csv(folder / "permutation.tsv", sep="\t").set_index("model")
        table["permutation_p"] = null["p"]
        table["null_high"] = null["null_high"]
    return table.reset_index().assign(question=question, features=name)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """The logistic head of every feature set (and the residual one), and the baselines, for three questions."""
    chosen = ("identified", "CDR >= 1", "stages")
    heads = rows[rows["model"].isin(["linear", "residual"]) & ~rows["features"].str.contains("component|without")]
    baselines = rows[(rows["kind"] == "baseline") & (rows["features"] == PRIMARY[1])].assign(features="baseline")
    shown = pd.concat([heads, baselines], ignore_index=True)
    lines = [(a, b) for a, b in shown[["features", "model"]].drop_duplicates().to_numpy().tolist()]
    figure, panels = plt.subplots(1, len(chosen), figsize=(13, 5), layout="constrained", sharey=True)
    for axes, question in zip(panels, chosen, strict=True):
        here = shown[shown["question"] == question].set_index(["features", "model"])
        for place, line in enumerate(reversed(lines)):
            if line not in here.index:
                continue
            row = here.loc[line]
            colour = "C3" if (question, *line) == PRIMARY else "0.4" if row["kind"] == "baseline" else "C0"
            error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(row["value"], place, xerr=error, fmt="o", ms=4, color=colour)
        axes.axvline(float(here.loc[("baseline", "nwbv"), "value"]), color="0.4", lw=0.8, ls=":")
        axes.axvline(0.5, color="0.7", lw=0.8, ls="--")
        axes.set_yticks(range(len(lines)), [f"{a}: {b}" for a, b in reversed(lines)], fontsize=8)
        axes.set_title(f"{IN_WORDS[question]}, n {int(here['num_people'].iloc[0])}", fontsize=9)
        axes.set_xlabel("AUC (mean over classes for stages), 95 %", fontsize=8)
    figure.suptitle("Red: fixed beforehand. Grey: baselines; the dotted line is nWBV", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run what is not finished; write heads.tsv and heads.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slabs", type=Path, required=True, help="folder of slabs with participants.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    sets = features(given.slabs, given.out / "slabs")
    found = []
    for question in QUESTIONS:
        more = variants(sets) if question == PRIMARY[0] else {}
        for name, keys in (sets | more).items():
            found.append(collected(study(question, name, keys, given.out / "slabs"), question, name))
            pd.concat(found).to_csv(given.out / "heads.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    rows = pd.concat(found, ignore_index=True)
    shown = ["question", "features", "model", "value", "low", "high", "minus_nwbv", "minus_low", "minus_high"]
    print(rows[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    draw(rows, given.out / "heads.png")


if __name__ == "__main__":
    run_script(main)
