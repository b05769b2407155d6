"""Do image networks see more than a linear machine or the hippocampus? Simulated AD, MCI and nothing, where the truth is known.

Cohorts at 2 mm from two scanners: 90 controls and people with AD-like atrophy of severity 0.5, 1 and 2 (1 is a mean patient), and
MCI. A principal component analysis of T1w and log-Jacobian, cross-fitted in three over everybody of a study, gives latents and
folds; every network takes the same folds. All contestants are tested on the same people by members that never saw them:

liu          the network of Liu et al. 2022, at an eighth of its width so that it trains on a CPU, of T1w
liu_long     the same with four times the updates
liu_both     the same of T1w and log-Jacobian
slices       EfficientNet-Lite0 with ImageNet weights, frozen, and its random twin: 16 coronal slices, attention
inflated     the same kernels inflated to 3D, frozen, and its random twin
video        r3d_18 from random weights on a crop around the hippocampi
jacobian     a small residual network of the log-Jacobian around the hippocampi; of the same view in the study `channels` also
             of T1w (residual_t1w), of both (residual_both), and of modulated density (density)
linear       logistic regression on the components (30; 20 with 40 people)
             and the baselines of classify: covariates, site, hippocampus, ventricles, voxels; a network that never learned

Writes scores.tsv (AUC with interval of everything in every study) and differences.tsv (paired differences). A stopped run goes on.

    python analysis/20_networks_on_simulated_brains.py --out FOLDER [--studies n90 null ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from simulated_brains import Chosen

from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.cohort.manifest import read_manifest
from gen3d.core.config import Folder
from gen3d.latents.encode import Encode
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

Keys = dict[str, Any]
FOLDS = 3
LABEL = "label"
CEREBELLAR = {"cerebellar cortex": -15, "cerebellar white matter": -15}
COHORTS: dict[str, Keys] = {
    "A": {"subjects": 40, "seed": 101, "conditions": {"ad1": {"kind": "ad", "count": 20}}},
    "B": {"subjects": 50, "seed": 102, "conditions": {"ad1": {"kind": "ad", "count": 25}}},
    "C": {"subjects": 90, "seed": 103, "conditions": {"ad1": {"kind": "ad", "count": 45}}},
    "D": {
        "subjects": 136,
        "seed": 104,
        "conditions": {
            "adhalf": {"kind": "ad", "count": 45, "severity": [0.5]},
            "adtwo": {"kind": "ad", "count": 45, "severity": [2]},
            "cerebellum": {"kind": "atrophy", "count": 45, "changes": CEREBELLAR},
        },
    },
    "E": {"subjects": 46, "seed": 105, "conditions": {"mci": {"kind": "mci", "count": 45}}},
}
COHORTS |= {name: {**COHORTS[of], "density_channel": True} for name, of in (("F", "A"), ("G", "B"))}
SHARED: Keys = {"sites": 2, "site_seed": 7, "spacing_mm": 2, "figures": False}
STUDIES: dict[str, tuple[str, str]] = {
    "n90": ("AB", "ad1"),
    "n40": ("A", "ad1"),
    "null": ("ABC", "drawn"),
    "half": ("ABD", "adhalf"),
    "two": ("ABD", "adtwo"),
    "mci": ("ABE", "mci"),
    "n180": ("ABC", "ad1"),
    "confounded": ("ABC", "site"),
    "channels": ("FG", "ad1"),
}
"""Cohorts (those of `channels` are the people of n90 with one volume more), and who is told from the controls: a condition,
controls drawn at random, or controls mostly of one scanner."""


def liu(**further: Any) -> Keys:
    """Liu's network at the smallest width, on a grid that it takes."""
    network = {"kind": "liu", "width": 1}
    return {"model": {"network": network, "grid": [88, 96, 88], "shift": 2}, "optim": rate(1e-3, 15), **further}


def rate(learning_rate: float, epochs: float, batch_size: int = 6) -> Keys:
    """An optimiser for so many rounds through the training people; `rounds` becomes steps when their number is known."""
    return {"learning_rate": learning_rate, "batch_size": batch_size, "rounds": epochs, "ema_decay": 0.95}


HIPPOCAMPI: Keys = {"crop_around": ["hippocampus", "entorhinal", "amygdala"], "margin_mm": 8.0}


def residual(channels: list[str], **further: Any) -> Keys:
    """A residual network of ten layers of a crop around the hippocampi."""
    model = {"network": {"kind": "resnet3d", "layers": 10}, "intensity": "stored", **further, **HIPPOCAMPI}
    return {"channels": channels, "model": model, "optim": rate(1e-3, 17.6)}


NETWORKS: dict[str, Keys] = {
    "liu": liu(channels=["t1w"]),
    "slices": {
        "channels": ["t1w"],
        "model": {
            "network": {
                "kind": "slices",
                "weights": "package",
                "plane": "coronal",
                "num_slices": 16,
                "pooling": "attention",
            },
            "frozen": "backbone",
        },
        "optim": rate(3e-3, 60),
    },
    "inflated": {
        "channels": ["t1w"],
        "model": {"network": {"kind": "slices", "weights": "package", "inflate": True}, "frozen": "layer4"},
        "optim": rate(3e-3, 60),
    },
    "video": {
        "channels": ["t1w"],
        "model": {"network": {"kind": "r3d_18"}, "shift": 2, **HIPPOCAMPI},
        "optim": rate(5e-4, 12),
    },
    "liu_long": liu(channels=["t1w"]) | {"optim": rate(1e-3, 60)},
    "liu_both": liu(channels=["t1w", "log_jacobian"]),
    "jacobian": residual(["log_jacobian"], permuted=1),
    "residual_t1w": residual(["t1w"]),
    "residual_both": residual(["t1w", "log_jacobian"]),
    "density": residual(["modulated_density"]),
}
ONLY_AT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("video", "liu_long", "liu_both"), ("n90",)),
    "inflated": ("n90", "half", "null"),
    **dict.fromkeys(("residual_t1w", "residual_both", "density"), ("channels",)),
}
"""Studies of networks that are not in all of them."""
UNTRAINED = ("n90", "half")
"""Studies with a network that never learned."""


class Labelled(Chosen):
    """Simulated people with a column that says who is told from whom; the others are left out."""

    prepared: Folder = Field(description="folder of simulate")
    case: str = Field(description="who is told from the controls")

    def changed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the label."""
        return table.assign(**{LABEL: labels(table, self.case)})


def labels(table: pd.DataFrame, case: str) -> list[str]:
    """control, case or nothing for every scan."""
    control = (table["condition"] == "none").to_numpy()
    if case == "drawn":
        drawn = np.array([int(str(subject_seed(subject))[-1]) % 2 == 1 for subject in table["key"]])
        return list(np.where(control, np.where(drawn, "case", "control"), ""))
    if case == "site":
        first = (table["site"] == sorted(set(table["site"]))[0]).to_numpy()
        share = np.array([subject_seed(key) % 10 for key in table["key"]])
        ill = np.where(first, share < 8, share < 2)
        return list(np.where(control, np.where(ill, "case", "control"), ""))
    return list(np.select([control, (table["condition"] == case).to_numpy()], ["control", "case"], ""))


def subject_seed(key: str) -> int:
    """A number of a scan that nothing else decides."""
    return int(np.random.default_rng(list(key.encode())).integers(1_000_000))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for cohorts, runs and tables")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="which studies")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which networks")
    parser.add_argument("--train-only", action="store_true", help="stop before the comparison")
    arguments = parser.parse_args()
    out: Path = arguments.out
    for study in arguments.studies:
        chosen = [name for name in arguments.networks if study in ONLY_AT.get(name, tuple(STUDIES))]
        one_study(study, chosen, out, arguments.train_only)
    if arguments.train_only:
        return 0
    written = [name for name in STUDIES if (out / "heads" / name / "artefact.json").is_file()]
    pd.concat([rows_of(out / "heads" / name, name) for name in written]).to_csv(
        out / "scores.tsv", sep="\t", index=False
    )
    return 0


def one_study(study: str, networks: list[str], out: Path, train_only: bool) -> None:
    """Simulate, train, encode and classify; whatever is finished is left as it is."""
    cohorts, case = STUDIES[study]
    folders = []
    for name in cohorts:
        Simulate.model_validate({"out": out / name, "workers": 1, **SHARED, **COHORTS[name]}).run()
        table = read_manifest(out / name)
        people = table.loc[np.array(labels(table, case)) != "", "subject"].astype(str)
        labelled = {
            "prepared": out / name,
            "case": case,
            "people": tuple(people),
            "out": out / "labelled" / study / name,
        }
        folders.append(Labelled.model_validate(labelled).run())
    runs = out / "runs" / study
    people = sum(int((read_manifest(folder)["role"] == "train").sum()) for folder in folders)
    pca = {"kind": "pca", "num_components": min(30, people // 2)}  # a member of n40 has 27 people
    channels = ["t1w", "log_jacobian"]
    Train.model_validate(
        {"prepared": folders, "out": runs / "pca", "model": pca, "channels": channels, "cross_fit": FOLDS}
    ).run()
    latents = Encode.model_validate({"prepared": folders, "run": runs / "pca", "out": out / "latents" / study}).run()
    for name in networks:
        Train.model_validate(trained(NETWORKS[name], folders, runs / name, runs / "pca", people)).run()
    if train_only:
        return
    Classify.model_validate(
        {
            "latents": latents,
            "prepared": folders,
            "target": LABEL,
            "classes": ["control", "case"],
            "heads": [*(str(runs / name) for name in networks), "linear"],
            "permutations": 199,
            "untrained": study in UNTRAINED,
            "out": out / "heads" / study,
        }
    ).run()


def trained(keys: Keys, folders: list[Path], out: Path, folds: Path, people: int) -> Keys:
    """The settings of one training, its rounds as steps."""
    optim = dict(keys["optim"])
    optim["steps"] = max(20, round(optim.pop("rounds") * people * (1 - 1 / FOLDS) * 0.85 / optim["batch_size"]))
    model = {"kind": "classifier", "target": LABEL, "classes": ["control", "case"], "looks": 5, **keys["model"]}
    return {
        "prepared": folders,
        "out": out,
        "folds": folds,
        "channels": keys["channels"],
        "model": model,
        "optim": optim,
        "track": [],
    }


def rows_of(folder: Path, study: str) -> pd.DataFrame:
    """AUC with its interval of every contestant, and its difference to the first network."""
    metrics: Mapping[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return pd.DataFrame(metrics["models"]).assign(study=study)


if __name__ == "__main__":
    run_script(main)
