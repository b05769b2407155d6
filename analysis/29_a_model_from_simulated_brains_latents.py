"""Are latents of a network that was trained on simulated brains alone worth as much as those of the lab's own network or its PCA?

Input: a prepared cohort of healthy people with sex and age (`gen3d prepare`, everybody in role train). The same dense VAE of
T1w and log-Jacobian, for the same number of steps: trained on simulated people on the cohort's grid (box), left with its random
weights (random), trained on the cohort, cross-fitted in five (lab), and the latter begun with the weights of the box (tuned, a
quarter of the steps). Beside them a PCA of the cohort, cross-fitted in five, and of the simulated people. A linear head on
each predicts sex and age, cross-validated by person, and with the PCA of the cohort voxels and volumes do.

With --few 20, for a lab that has only so many controls: three times, so many people drawn at random learn a PCA (15 components);
all others are encoded by it and by the box, and heads learn and are tested on those others alone.

Prints the area under the curve and the mean absolute error, and paired differences to the PCA of the cohort with 95 % bootstrap
intervals over people; writes scores.tsv and differences.tsv. A stopped run goes on.

    python analysis/29_a_model_from_simulated_brains_latents.py --prepared PREPARED --out FOLDER [--few 20]
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from simulated_brains import Chosen

from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.latents.encode import Encode
from gen3d.maths.cross_validated import auc_within_models
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

box: Any = importlib.import_module("29_a_model_from_simulated_brains")  # a name that begins with a number

Keys = dict[str, Any]
CHANNELS = ["t1w", "log_jacobian"]
VAE: Keys = {"kind": "vae", "latent": "dense", "levels": 3, "base_channels": 16, "max_channels": 32, "latent_size": 64}
PCA: Keys = {"kind": "pca", "num_components": 30}
MEMBERS, RESAMPLES = 5, 2000
DRAWS, FEW_COMPONENTS = 3, 15
ARMS = ("pca", "lab", "box", "tuned", "box_pca", "random")
TARGETS: dict[str, Keys] = {
    "sex": {"target": "sex", "classes": ["F", "M"], "covariates": ["age_years"]},
    "age": {"target": "age_years", "task": "number", "covariates": ["sex"]},
}


def main() -> None:
    """Make what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort of healthy people")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--people", type=int, default=600, help="simulated people of the box")
    parser.add_argument(
        "--steps", type=int, default=1000, help="training steps of every VAE, four times those of tuned"
    )
    parser.add_argument(
        "--few", type=int, default=0, help="instead: so many people learn, and the others are told apart"
    )
    given = parser.parse_args()
    if given.few:
        table = pd.DataFrame([row for draw in range(DRAWS) for row in few_people(given, draw)])
        table.to_csv(given.out / "few.tsv", sep="\t", index=False)
        means = table.groupby(["target", "arm"])[["value", "gain"]].mean().reset_index()
        print(table.round(3).to_string(index=False), means.round(3).to_string(index=False), sep="\n\n")
        return
    scores, differences = [], []
    for target, question in TARGETS.items():
        found = {arm: predicted(given, arm, target, question) for arm in ARMS}
        scores += [rows.assign(arm=arm, target=target) for arm, (rows, _) in found.items()]
        tables = {arm: table for arm, (_, table) in found.items()}
        tables |= {f"{name} (baseline)": table for name, table in baselines(given, target).items()}
        differences += paired(tables, target)
    for name, table in (("scores", pd.concat(scores)), ("differences", pd.DataFrame(differences))):
        table.to_csv(given.out / f"{name}.tsv", sep="\t", index=False)
        print(f"\n{table.round(3).to_string(index=False)}")


def few_people(given: argparse.Namespace, draw: int) -> list[Keys]:
    """Some people learn the representation, the others are told apart by it: every arm against the PCA of the few."""
    subjects = sorted(set(open_prepared(given.prepared).manifest["subject"].astype(str)))
    own = set(np.random.default_rng([29, draw]).choice(subjects, given.few, replace=False).tolist())
    out = given.out / "few" / str(draw)
    folders = {}
    for name, people in (("own", own), ("others", set(subjects) - own)):
        keys = {"prepared": given.prepared, "people": sorted(people), "out": out / name}
        folders[name] = Chosen.model_validate(keys).run()
    keys = {"channels": CHANNELS, "prepared": folders["own"], "model": {**PCA, "num_components": FEW_COMPONENTS}}
    runs = {"few_pca": Train.model_validate({**keys, "out": out / "few_pca"}).run(), "box": train(given, "box")}
    rows = []
    for target, question in TARGETS.items():
        tables = {}
        for arm in runs:
            encoded = {"prepared": folders["others"], "run": runs[arm], "out": out / f"latents_{arm}"}
            keys = {"latents": Encode.model_validate(encoded).run(), "prepared": folders["others"], "heads": ["linear"]}
            keys |= {"voxels": False, "components": 64, "out": out / f"{target}_{arm}", "permutations": 0}
            tables[arm] = predictions(Classify.model_validate({**question, **keys}).run(), "linear")
        rows += [{"draw": draw, **row} for row in paired(tables, target, "few_pca")]
    return rows


def predicted(given: argparse.Namespace, arm: str, target: str, question: Keys) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Performance of everything in the study of one representation, and the predictions of its head."""
    main_arm = arm == ARMS[0]
    keys = {"latents": latents(given, arm), "heads": ["linear"], "out": given.out / "heads" / f"{target}_{arm}"}
    keys |= {"prepared": given.prepared, "voxels": main_arm, "permutations": 199 if main_arm else 0, "components": 64}
    folder = Classify.model_validate({**question, **keys}).run()
    rows = pd.read_csv(folder / "performance.tsv", sep="\t", na_values=["n/a"])
    return rows if main_arm else rows[rows["kind"] == "head"], predictions(folder, "linear")


def baselines(given: argparse.Namespace, target: str) -> dict[str, pd.DataFrame]:
    """Predictions of voxels and volumes, in the folds of the PCA."""
    folder = given.out / "heads" / f"{target}_{ARMS[0]}"
    names = sorted(set(PREDICTIONS.read(folder)["model"]) - {"linear"})
    return {name: predictions(folder, name) for name in names}


def predictions(folder: Path, model: str) -> pd.DataFrame:
    """Truth, prediction and fold of every person, in the order of their keys; of the first repeat."""
    table = PREDICTIONS.read(folder)
    table = table[(table["model"] == model) & (table["repeat"].astype(int) == 0)]
    return table.set_index("key").sort_index()


def paired(tables: dict[str, pd.DataFrame], target: str, against: str = ARMS[0]) -> list[Keys]:
    """Every arm against one, the PCA of the cohort, on the same people: a positive difference is better."""
    keys = sorted(set.intersection(*(set(table.index) for table in tables.values())))
    drawn = np.random.default_rng(0).integers(0, len(keys), (RESAMPLES, len(keys)))
    worth = {arm: resampled(table.loc[keys], target, drawn) for arm, table in tables.items()}
    rows = []
    for arm, (value, draws) in worth.items():
        gain = draws - worth[against][1]
        row: Keys = {"target": target, "arm": arm, "people": len(keys), "value": value}
        row |= dict(zip(("low", "high"), np.nanquantile(draws, (0.025, 0.975)), strict=True))
        row |= {"gain": value - worth[against][0]}
        row |= dict(zip(("gain_low", "gain_high"), np.nanquantile(gain, (0.025, 0.975)), strict=True))
        rows.append(row)
    return rows


def resampled(table: pd.DataFrame, target: str, drawn: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """Area under the curve within the models that tested, or minus the mean absolute error; and in every resample of people."""
    if target == "age":
        errors = -(table["y_score"].astype(float) - table["y_true"].astype(float)).abs().to_numpy()
        return float(errors.mean()), errors[drawn].mean(axis=1)
    score, ill = table["y_score"].astype(float).to_numpy(), (table["y_true"] == "M").to_numpy()
    fold = table["fold"].astype(int).to_numpy()
    return auc_within_models(score, ill, fold), np.array(
        [auc_within_models(score[rows], ill[rows], fold[rows]) for rows in drawn]
    )


def latents(given: argparse.Namespace, arm: str) -> Path:
    """The latents of one arm; whatever is finished is left as it is."""
    keys = {"prepared": given.prepared, "run": train(given, arm), "out": given.out / "latents" / arm}
    return Encode.model_validate(keys).run()


def train(given: argparse.Namespace, arm: str) -> Path:
    """The run folder of one representation."""
    keys: Keys = {"channels": CHANNELS, "out": given.out / "runs" / arm, "prepared": given.prepared, "track": []}
    keys["model"] = PCA if arm in ("pca", "box_pca") else VAE
    if arm in ("box", "box_pca", "random"):
        keys["prepared"] = simulated(given)
    else:
        keys["cross_fit"] = MEMBERS
    if arm == "tuned":
        keys["start"] = train(given, "box")
    if keys["model"] is VAE:
        steps = {"random": 1, "tuned": given.steps // 4}.get(arm, given.steps)
        rate = 1e-12 if arm == "random" else 1e-3
        keys["optim"] = {"steps": steps, "batch_size": 4, "ema_decay": 0.99, "learning_rate": rate}
    return Train.model_validate(keys).run()


def simulated(given: argparse.Namespace) -> Path:
    """The simulated people of the box, on the cohort's grid."""
    plan = open_prepared(given.prepared).plan
    keys = {
        **box.BOX_PEOPLE,
        "subjects": given.people,
        "spacing_mm": plan.spacing_mm,
        "divisible_by": plan.divisible_by,
    }
    return Simulate.model_validate({**keys, "out": given.out / "people", "workers": 1}).run()


if __name__ == "__main__":
    run_script(main)
