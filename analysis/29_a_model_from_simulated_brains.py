"""Does a restorer that was trained on simulated brains alone find lesions in real scans as well as one of the lab's own controls?

Input: a prepared cohort with controls (`gen3d prepare`) and a folder of lesion masks in MNI space. Makes simulated people on the
same grid and trains the restorer of the box on them; trains the same network with the same steps on the cohort's people of
role train, and once more from the weights of the box (`start=`) with a quarter of the steps; fits a PCA to those people. Plants
lesions in people of role test, whom nobody was trained on, and maps them with each model and each restorer with the PCA. Prints
the tables of 04, differences paired over people and taken to the restorer of the lab.

    python analysis/29_a_model_from_simulated_brains.py --prepared PREPARED --masks MASKS --out FOLDER
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.evaluate.truth import open_maps, open_truth
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

planted: Any = importlib.import_module("04_which_model")  # a name that begins with a number

BOX_PEOPLE: dict[str, Any] = {
    "sites": 100,
    "site_strength": 1.5,
    "seed": 7771,
    "age_years": (18, 90),
    "conditions": {},
    "split": {"train": 1.0, "calibration": 0.0, "test": 0.0},
    "figures": False,
}
CHANNELS = ["t1w"]
RESTORER = {"kind": "restorer", "base_channels": 8, "max_channels": 16}
PCA = {"kind": "pca", "num_components": 10}
AUGMENT = {"flip": True, "intensity": 0.1}
ARMS: dict[str, tuple[str, ...]] = {
    "local": ("local",),
    "box": ("box",),
    "tuned": ("tuned",),
    "pca": ("pca",),
    "local and pca": ("local", "pca"),
    "box and pca": ("box", "pca"),
    "tuned and pca": ("tuned", "pca"),
}
"""Runs whose mean prediction is mapped."""


def main() -> None:
    """Make what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort with controls")
    parser.add_argument("--masks", type=Path, required=True, help="folder of lesion masks in MNI space")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tested", type=int, help="people of role test with planted lesions; default all")
    parser.add_argument("--people", type=int, default=300, help="simulated people of the box")
    parser.add_argument(
        "--steps", type=int, default=400, help="training steps of every restorer, four times those of the tuned"
    )
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="what to compare")
    given = parser.parse_args()
    bench = plant(given)
    maps = [make_maps(given, arm, bench) for arm in given.arms]
    truth = open_truth(bench)
    opened = [replace(m, name=name) for m, name in zip(open_maps(maps, truth), given.arms, strict=True)]
    for title, table in planted.tables(opened, truth, given.arms[0]).items():
        if len(table):
            table.to_csv(given.out / f"{title.split(',')[0].replace(' ', '_')}.tsv", sep="\t", index=False)
            print(f"\n{title}\n\n{planted.markdown(table)}")


def plant(given: argparse.Namespace) -> Path:
    """Lesions of three sizes in copies of the scans of people of role test."""
    conditions = yaml.safe_load(planted.BENCH.read_text(encoding="utf-8"))["conditions"]
    chosen = {name: conditions[name] | {"masks": given.masks} for name in planted.LESIONS}
    keys = {
        "base": given.prepared,
        "base_roles": ["test"],
        "subjects": given.tested,
        "conditions": chosen,
        "figures": False,
    }
    return Simulate.model_validate({**keys, "out": given.out / "bench"}).run()


def make_maps(given: argparse.Namespace, arm: str, bench: Path) -> Path:
    """Maps of the cohort and of the planted copies by one arm."""
    runs = [train(given, name) for name in ARMS[arm]]
    out = given.out / "maps" / arm.replace(" ", "_")
    keys = {"prepared": [given.prepared, bench], "run": runs, "out": out, "channels": ["residual"]}
    return Anomaly.model_validate({**keys, "native": False, "samples": 0}).run()


def train(given: argparse.Namespace, name: str) -> Path:
    """The run folder of one model; a finished one is left alone."""
    keys: dict[str, Any] = {
        "channels": CHANNELS,
        "out": given.out / "runs" / name,
        "prepared": given.prepared,
        "track": [],
    }
    if name == "pca":
        return Train.model_validate({**keys, "model": PCA}).run()
    steps = given.steps // 4 if name == "tuned" else given.steps
    keys |= {"model": RESTORER, "augment": AUGMENT, "optim": {"steps": steps, "batch_size": 4, "ema_decay": 0.99}}
    if name == "box":
        keys["prepared"] = simulated(given)
    elif name == "tuned":
        keys["start"] = train(given, "box")
    return Train.model_validate(keys).run()


def simulated(given: argparse.Namespace) -> Path:
    """The simulated people of the box, on the cohort's grid."""
    plan = open_prepared(given.prepared).plan
    keys = {**BOX_PEOPLE, "subjects": given.people, "spacing_mm": plan.spacing_mm, "divisible_by": plan.divisible_by}
    return Simulate.model_validate({**keys, "out": given.out / "people"}).run()


if __name__ == "__main__":
    run_script(main)
