"""Do image networks tell sex and age from healthy whole brains better than volumes or a linear machine on voxels?

Prepared scans of healthy adults of one scanner, 2 mm. A principal component analysis of T1w and log-Jacobian, cross-fitted in
three, gives latents and folds; networks, heads and baselines learn from the same people and are tested on the same:

liu          the network of Liu et al. 2022 at an eighth of its width, of T1w
residual     a residual network of 10 layers, of T1w and log-Jacobian
inflated     EfficientNet-Lite0 with ImageNet weights, inflated to 3D and frozen, and its random twin, of T1w
slices       the same weights on 16 slices with attention: in three orientations, chosen inside each fold, and random twins

Everything is in heads/*/metrics.json and scores.tsv. A stopped run goes on where it was.

    gen3d prepare configs/prepare/bids_2mm.yaml source=BIDS brain_mask=given controls=[control] out=FOLDER/prepared
    python analysis/25_networks_on_whole_brains.py --prepared FOLDER/prepared --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.cohort.manifest import read_manifest
from gen3d.latents.encode import Encode
from gen3d.train.train import Train

Keys = dict[str, Any]
FOLDS, BATCH = 3, 6
PLANES = ("coronal", "axial", "sagittal")
TARGETS: dict[str, Keys] = {
    "sex": {"target": "sex", "classes": ["F", "M"]},
    "age": {"target": "age_years", "task": "number"},
}
LEARNED: Keys = {"kind": "slices", "weights": "package"}
NETWORKS: dict[str, tuple[list[str], Keys, float, float]] = {
    "liu": (["t1w"], {"network": {"kind": "liu", "width": 1}, "grid": [88, 96, 88], "shift": 2}, 1e-3, 15),
    "residual": (
        ["t1w", "log_jacobian"],
        {"network": {"kind": "resnet3d", "layers": 10}, "intensity": "stored"},
        1e-3,
        15,
    ),
    "inflated": (["t1w"], {"network": {**LEARNED, "inflate": True}, "frozen": "layer4"}, 3e-3, 60),
    **{
        plane: (
            ["t1w"],
            {"network": {**LEARNED, "plane": plane, "num_slices": 16, "pooling": "attention"}, "frozen": "backbone"},
            3e-3,
            60,
        )
        for plane in PLANES
    },
}
"""Channels, settings of the model, learning rate, and rounds through the training people."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of gen3d prepare")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and tables")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="which targets")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which networks")
    arguments = parser.parse_args()
    prepared, out = arguments.prepared, arguments.out
    runs = out / "runs"
    pca = {"kind": "pca", "num_components": 30}
    Train.model_validate(
        {"prepared": prepared, "out": runs / "pca", "model": pca, "cross_fit": FOLDS, "patients": 1}
    ).run()
    latents = Encode.model_validate({"prepared": prepared, "run": runs / "pca", "out": out / "latents"}).run()
    rows = []
    for target in arguments.targets:
        one_target(target, arguments.networks, prepared, latents, out)
        metrics = json.loads((out / "heads" / target / "metrics.json").read_text(encoding="utf-8"))
        rows.append(pd.DataFrame(metrics["models"]).assign(target=target))
    pd.concat(rows).to_csv(out / "scores.tsv", sep="\t", index=False)
    return 0


def one_target(target: str, networks: list[str], prepared: Path, latents: Path, out: Path) -> None:
    """Train every network for a target and compare them; whatever is finished is left as it is."""
    folder, question = out / "runs" / target, TARGETS[target]
    table = read_manifest(prepared)
    people = int(table.loc[table["role"] != "excluded", "subject"].nunique())
    for name in networks:
        channels, model, rate, rounds = NETWORKS[name]
        steps = max(20, round(rounds * people * (1 - 1 / FOLDS) * 0.85 / BATCH))
        Train.model_validate(
            {
                "prepared": prepared,
                "folds": out / "runs" / "pca",
                "out": folder / name,
                "channels": channels,
                "model": {"kind": "classifier", "looks": 5, **question, **model},
                "optim": {"steps": steps, "batch_size": BATCH, "learning_rate": rate, "ema_decay": 0.95},
                "track": [],
            }
        ).run()
    planes = [str(folder / name) for name in networks if name in PLANES]
    slices = [{"kind": "run", "run": planes[0], "or_run": planes[1:] or None, "name": "slices"}] if planes else []
    heads = [str(folder / name) for name in networks if name not in PLANES]
    Classify.model_validate(
        {
            "latents": latents,
            "prepared": prepared,
            **question,
            "heads": [*heads, *slices, "linear"],
            "permutations": 199,
            "untrained": True,
            "out": out / "heads" / target,
        }
    ).run()


if __name__ == "__main__":
    run_script(main)
