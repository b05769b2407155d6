"""Sex, brain age and site from whole brains of three sources: what can heads predict, and what does harmonising remove?

Inputs: a table of real scans (GEN3D_REAL_DATA/t1w_2mm/participants.csv: 71 scans of 68 people, three sources). All are prepared
at 2.5 mm and encoded by models cross-fitted over everybody; the first session of each person is used. The sources differ in
age and in the share of women, so `site` is among the baselines. `gen3d harmonise` needs one latent space, so there a PCA of
everybody is used. Last question: is one person under two ids detected? For it the second sessions of people scanned twice are
renamed. Writes brains.tsv, sites.tsv, duplicates.tsv and brains.png.

    python analysis/11_heads_on_brains.py --brains DATA/t1w_2mm/participants.csv --out FOLDER
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from representations import BRAIN_MODELS, SEEN_BY_ALL, latents, prepare_brains

from gen3d.classify.classify import Classify
from gen3d.classify.study.baselines import read_voxels
from gen3d.cli import run_script
from gen3d.cohort.duplicates import find_duplicates
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.harmonise.harmonise import Harmonise
from gen3d.maths.stats import wilson_interval

Keys = dict[str, Any]

HEADS = ("linear", "svm", "boosting", "mlp")
PRIMARY = "pca_both"
"""Fixed beforehand, with the linear head; all heads, voxels and permutations are shown for this one."""

NUM_PERMUTATIONS = 200
VOLUMES = ("hippocampus_ml", "lateral_ventricle_ml")
QUESTIONS: dict[str, Keys] = {
    "sex": {"target": "sex", "classes": ("F", "M"), "covariates": ("age_years",)},
    "brain age": {"target": "age_years", "task": "number", "covariates": ("sex",)},
    "site": {"target": "site", "task": "categories"},
}
KEPT = {"sex": ("age_years",), "brain age": ("sex",)}
NAMES = {
    "pca": "PCA",
    "pca_both": "PCA and deformation",
    "vae_dense": "VAE, dense",
    "pca_50": "PCA and deformation, 50 components",
}
COMPONENTS = {"pca_50": 50}
"""Tried after the answer was known; 30 otherwise."""

RANKING = {"sex": "auc", "brain age": "mae", "site": "macro_auc"}
OTHERS = ("balanced_accuracy", "r2", "pearson", "calibration_slope", "calibration_intercept")


def studies(folders: dict[str, Path], out: Path) -> pd.DataFrame:
    """Every question on every representation, unchanged and harmonised by site within the folds."""
    found = []
    for question, asked in QUESTIONS.items():
        for name, folder in folders.items():
            variants: dict[str, Keys] = {"": {}}
            if question in KEPT:
                variants[", harmonised"] = {"harmonise": {"by": "site", "keep": KEPT[question]}}
            for words, more in variants.items():
                main = name == PRIMARY and not words
                keys = {**asked, **more, "latents": folder, "volumes": VOLUMES, "voxels": main}
                keys["components"] = COMPONENTS.get(name, 30)
                keys |= {"heads": HEADS if main else HEADS[:1], "permutations": NUM_PERMUTATIONS if main else 0}
                place = out / "heads" / f"{question} {name}{words}".replace(" ", "_").replace(",", "")
                found.append(
                    collected(Classify.model_validate({**keys, "out": place}).run(), question, NAMES[name] + words)
                )
    return pd.concat(found, ignore_index=True)


def collected(folder: Path, question: str, name: str) -> pd.DataFrame:
    """Every model of a study, with its difference from the site alone."""
    shown = pd.read_csv(folder / "performance.tsv", sep="\t", na_values=["n/a"])
    whole = shown[shown["class"].isna() | (shown["class"] == "")]
    main = whole[whole["measure"] == RANKING[question]].set_index("model")
    table = main[["kind", "measure", "value", "low", "high", "num_people"]].copy()
    for measure in OTHERS:
        table[measure] = whole[whole["measure"] == measure].set_index("model")["value"]
    against = pd.read_csv(folder / "differences.tsv", sep="\t", na_values=["n/a"])
    for other in ("site", "covariates"):
        rows = against[(against["against"] == other) & (against["measure"] == RANKING[question])].set_index("model")
        for column in ("difference", "low", "high"):
            table[f"minus_{other}_{column}"] = rows[column]
    if (folder / "permutation.tsv").is_file():
        table["permutation_p"] = pd.read_csv(folder / "permutation.tsv", sep="\t").set_index("model")["p"]
    return table.reset_index().assign(question=question, features=name)


def harmonised(prepared: Path, out: Path) -> pd.DataFrame:
    """The tables of the verb: how well site, age and sex are predicted before and after."""
    tables = []
    for name in ("pca", "pca_both"):
        one_space = latents(prepared, name, BRAIN_MODELS[name], out, SEEN_BY_ALL)
        keys = {"latents": one_space, "by": "site", "keep": ("age_years", "sex"), "out": out / "harmonised" / name}
        folder = Harmonise.model_validate(keys).run()
        for table in ("sites", "kept"):
            rows = pd.read_csv(folder / f"{table}.tsv", sep="\t", na_values=["n/a"])
            tables.append(rows.assign(features=NAMES[name], table=table))
    return pd.concat(tables, ignore_index=True)


def duplicates(prepared: Path, encoded: dict[str, Path]) -> pd.DataFrame:
    """Duplicates detected among first sessions (there are none), and with second sessions renamed (each is one)."""
    opened = open_prepared(prepared)
    table = opened.manifest[opened.manifest["role"] != "excluded"].sort_values("key").reset_index(drop=True)
    second = table["subject"].duplicated().to_numpy()
    renamed = np.where(second, table["subject"].astype(str) + " again", table["subject"].astype(str))
    vectors: dict[str, np.ndarray] = {f"voxels, {v.channel}": v.values for v in read_voxels(opened, list(table["key"]))}
    for name, folder in encoded.items():
        made = open_latents_folder(folder)
        vectors[f"latents, {NAMES[name]}"] = made.values[0][_places(made.table["key"], table["key"])]
    true = {frozenset((str(s), f"{s} again")) for s in table.loc[second, "subject"]}
    rows = []
    for name, values in vectors.items():
        for people, chosen in (("first sessions", ~second), ("both sessions, two ids", np.ones(len(second), bool))):
            pairs = find_duplicates(values[chosen], renamed[chosen].tolist())
            right = sum(frozenset((pair.first, pair.second)) in true for pair in pairs)
            planted = 0 if people == "first sessions" else len(true)
            share = wilson_interval(right, planted) if planted else None
            row = {"vectors": name, "people": people, "num_ids": int(chosen.sum()), "planted": planted}
            row |= {"found": right, "false": len(pairs) - right, "dimensions": values.shape[1]}
            rows.append(row | ({"low": share.low, "high": share.high} if share else {}))
    return pd.DataFrame(rows)


def _places(present: pd.Series, wanted: pd.Series) -> np.ndarray:
    place = {key: index for index, key in enumerate(present)}
    return np.array([place[key] for key in wanted])


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Every head and baseline, one panel per question."""
    figure, panels = plt.subplots(1, len(QUESTIONS), figsize=(14, 7.5), layout="constrained")
    for axes, question in zip(panels, QUESTIONS, strict=True):
        here = rows[rows["question"] == question]
        baselines = here[(here["kind"] == "baseline") & (here["features"] == NAMES["pca_both"])]
        shown = pd.concat([here[here["kind"] == "head"], baselines.assign(features="baseline")], ignore_index=True)
        places = np.arange(len(shown))[::-1]
        for place, (_, row) in zip(places, shown.iterrows(), strict=True):
            error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(
                row["value"], place, xerr=error, fmt="o", ms=4, color="0.4" if row["kind"] == "baseline" else "C0"
            )
        names = [f"{a}: {b}" for a, b in zip(shown["features"], shown["model"], strict=True)]
        axes.set_yticks(places, names, fontsize=7)
        axes.set_title(f"{question}, n {int(here['num_people'].iloc[0])}", fontsize=9)
        words = {"auc": "AUC", "mae": "mean absolute error, years", "macro_auc": "mean AUC, one against the rest"}
        axes.set_xlabel(f"{words[RANKING[question]]}, 95 %", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run what is not finished; write the tables and brains.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("GEN3D_REAL_DATA", ".")) / "t1w_2mm/participants.csv"
    parser.add_argument("--brains", type=Path, default=default, help="table of scans with age, sex and site")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    out = given.out / "brains"
    prepared = prepare_brains(given.brains, out / "prepared")
    folders = {name: latents(prepared, name, keys, out) for name, keys in BRAIN_MODELS.items()}
    sites = harmonised(prepared, out)
    sites.to_csv(given.out / "sites.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    one_space = {name: latents(prepared, name, BRAIN_MODELS[name], out, SEEN_BY_ALL) for name in ("pca", "pca_both")}
    pairs = duplicates(prepared, one_space)
    pairs.to_csv(given.out / "duplicates.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    rows = studies(folders, out)
    rows.to_csv(given.out / "brains.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    for table in (sites, pairs, rows):
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    draw(rows, given.out / "brains.png")


if __name__ == "__main__":
    run_script(main)
