"""What is the 98 % of slice stagers made of, and what do networks of slices and volumes reach when people are split?

OASIS-1 slabs of identified people of 60 and more (CDR 0, 0.5, and 1 or more), 16 axial slices each.

1. slices as samples: features of each slice by EfficientNet-Lite0 (ImageNet weights, and random ones), and a head, in folds of
   people and in folds of slices, with real labels and with labels permuted over people. `gen3d` refuses the latter split; here it
   is made by hand;
2. people as samples: the stager (Lite0 frozen, attention over slices, and its random twin), a small 3D residual network, heads on
   components, brain volume, age and sex, through `prepare-slices`, `train` and `classify`: CN against CDR > 0, and three grades;
3. scans as samples: simulated people who come three times (the slabs show everybody once), half of them with AD-like atrophy;
   slices of each scan, in folds of people, of scans and of slices, with real and with permuted labels.

Writes slices.tsv and scans.tsv; the rest is in heads/*/metrics.json. A stopped run goes on where it was.

    python analysis/21_what_a_slice_stager_learns.py --slabs DATA/t1w_slab_2mm --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from leakage import Codes, Row, Values, folds, over_permutations, permuted, pipeline, predictions
from sklearn.metrics import cohen_kappa_score, f1_score

from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.core.errors import UserError
from gen3d.latents.encode import Encode
from gen3d.nets.classifiers.slices import BACKBONE, SliceNetwork
from gen3d.nets.pretrained import lite0_file
from gen3d.prepare.slices import PrepareSlices
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

Keys = dict[str, Any]
STAGES = ("CN", "CDR 0.5", "CDR 1 or more")
YOUNGEST = 60
NUM_FOLDS, NUM_DRAWS, NUM_SLICES = 5, 10, 16
PARTS = ("slices", "people", "scans")
HEADS = ("logistic", "svm, radial")
STAGER: Keys = {
    "network": {"kind": "slices", "weights": "package", "num_slices": NUM_SLICES, "pooling": "attention"},
    "frozen": BACKBONE,
}
RESIDUAL: Keys = {"network": {"kind": "resnet3d", "layers": 10}, "shift": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slabs", type=Path, help="folder of slabs with participants.tsv; not for scans")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cohort, runs and tables")
    parser.add_argument("--simulated", type=int, default=60, help="people of the part scans, who come three times")
    parser.add_argument("--part", choices=PARTS, help="one part only")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.part != "scans":
        if arguments.slabs is None:
            raise UserError("--slabs= names the folder of slabs; without it only --part scans can run.")
        prepared = cohort(arguments.slabs, out)
        if arguments.part != "people":
            pd.DataFrame(as_samples(prepared)).to_csv(out / "slices.tsv", sep="\t", index=False)
        if arguments.part != "slices":
            as_people(prepared, out)
    if arguments.part in (None, "scans"):
        pd.DataFrame(as_scans(out, arguments.simulated)).to_csv(out / "scans.tsv", sep="\t", index=False)
    return 0


def cohort(slabs: Path, out: Path) -> Path:
    """The slabs of identified people who are old enough, as a cohort; the others have no diagnosis and are left out."""
    given = pd.read_csv(slabs / "participants.tsv", sep="\t", dtype={"subject": str})
    used = given[given["Age"] >= YOUNGEST]
    cdr = used["CDR_from_class"].astype(float)
    table = pd.DataFrame(
        {
            "subject": used["subject"],
            "age": used["Age"],
            "sex": used["M/F"],
            "diagnosis": np.where(cdr > 0, "dementia", "CN"),
            "stage": np.select([cdr == 0, cdr == 0.5], STAGES[:2], STAGES[2]),
            "nwbv": used["nWBV"],
        }
    )
    people = out / "people.tsv"
    table.to_csv(people, sep="\t", index=False)
    settings = {
        "source": slabs,
        "people": people,
        "pattern": r"sub-(?P<subject>[a-z0-9]+)_",
        "spacing_mm": 2,
        "slice_mm": 2,
        "split": {"train": 1, "calibration": 0, "test": 0},
        "out": out / "prepared",
    }
    return PrepareSlices.model_validate(settings).run()


def as_samples(folder: Path) -> list[Row]:
    """Every feature network, head, split and kind of label."""
    prepared = open_prepared(folder)
    table = prepared.manifest[prepared.manifest["diagnosis"].astype(str) != ""]
    stages = table["stage"].map(STAGES.index).to_numpy()
    labels, people = np.repeat(stages, NUM_SLICES), np.repeat(np.arange(len(table)), NUM_SLICES)
    rows = [row("majority", "none", "none", "real", labels, np.zeros_like(labels), len(table))]
    for learned in (True, False):
        values = features(prepared.load([str(key) for key in table["key"]], ["t1w"]), learned)
        network = "ImageNet" if learned else "random"
        for head in HEADS:
            for by_people in (True, False):
                split = "people" if by_people else "slices"
                found = predicted(values, labels, people, head, by_people)
                rows.append(row(network, head, split, "real", labels, found, len(table)))
                drawn = []
                for draw in range(NUM_DRAWS):
                    shuffled = permuted(labels, people, draw)
                    found = predicted(values, shuffled, people, head, by_people)
                    drawn.append(float(np.mean(found == shuffled)))
                interval = over_permutations(drawn)
                rows.append(
                    {"features": network, "head": head, "split": split, "labels": "permuted"}
                    | {"accuracy": interval.value, "low": interval.low, "high": interval.high, "num_people": len(table)}
                )
                print(rows[-2], rows[-1], sep="\n", flush=True)
    return rows


def as_scans(out: Path, num: int) -> list[Row]:
    """Real and permuted labels of simulated people with three visits, split by people, by scans and by slices."""
    ill = {"ad": {"kind": "ad", "count": num // 2}}
    simulated = {"subjects": num, "visits": [0, 1, 2], "conditions": ill, "sites": 2, "seed": 211}
    prepared = open_prepared(
        Simulate.model_validate(
            {**simulated, "spacing_mm": 3, "figures": False, "workers": 1, "out": out / "visits"}
        ).run()
    )
    table = prepared.manifest.sort_values("key", ignore_index=True)
    people = np.repeat(pd.factorize(table["subject"])[0], NUM_SLICES)
    scans, labels = (
        np.repeat(values, NUM_SLICES) for values in (np.arange(len(table)), (table["condition"] == "ad").to_numpy(int))
    )
    values = features(prepared.load([str(key) for key in table["key"]], ["t1w"]), learned=True)
    rows = []
    for split, groups in (("people", people), ("scans", scans), ("slices", None)):
        for kind in ("real", "permuted"):
            shares = []
            for draw in range(NUM_DRAWS if kind == "permuted" else 1):
                shuffled = permuted(labels, people, draw) if kind == "permuted" else labels
                dealt = folds(shuffled, people if groups is None else groups, groups is not None, seed=0)
                found = predictions(values, shuffled, dealt, lambda: pipeline(HEADS[1]))
                shares.append(float(np.mean(found == shuffled)))
            interval = over_permutations(shares)
            rows.append(
                {"split": split, "labels": kind, "accuracy": interval.value, "low": interval.low, "high": interval.high}
                | {"num_people": num, "num_scans": len(table)}
            )
            print(rows[-1], flush=True)
    return rows


def predicted(values: Values, labels: Codes, people: Codes, head: str, by_people: bool) -> Codes:
    """The predicted class of every slice by a head that was fitted without its fold."""
    return predictions(values, labels, folds(labels, people, by_people, seed=0), lambda: pipeline(head))


@torch.no_grad()
def features(volumes: np.ndarray, learned: bool) -> Values:
    """Mean features of every slice [n x slices, F] of volumes [n, 1, X, Y, Z]."""
    torch.manual_seed(0)
    shape = volumes.shape[2:]
    weights = lite0_file() if learned else None
    network = SliceNetwork(1, shape, len(STAGES), num_slices=NUM_SLICES, weights=weights).eval()
    found = []
    for volume in volumes:
        maps = network.features(torch.from_numpy(volume[None]).clamp(0, 1), BACKBONE)
        found.append(maps[0].mean((1, 2)).T.numpy())
    return np.concatenate(found).astype(np.float64)


def row(network: str, head: str, split: str, kind: str, labels: Codes, found: Codes, num_people: int) -> Row:
    """Accuracy, F1 and kappa of predicted classes of slices."""
    measures = {
        "accuracy": float(np.mean(found == labels)),
        "macro_f1": float(f1_score(labels, found, average="macro")),
        "kappa": float(cohen_kappa_score(labels, found, weights="quadratic")),
    }
    return {"features": network, "head": head, "split": split, "labels": kind, **measures, "num_people": num_people}


def as_people(prepared: Path, out: Path) -> None:
    """Networks and heads on the same folds of people."""
    shared = {"prepared": prepared, "channels": ["t1w"], "track": []}
    pca = {"kind": "pca", "num_components": 30}
    run = out / "runs" / "pca"
    Train.model_validate({**shared, "model": pca, "cross_fit": NUM_FOLDS, "patients": 1, "out": run}).run()
    latents = Encode.model_validate({"prepared": prepared, "run": run, "out": out / "latents"}).run()
    targets: dict[str, Keys] = {
        "diagnosis": {"target": "diagnosis", "classes": ["CN", "dementia"]},
        "stage": {"target": "stage", "classes": list(STAGES), "task": "ordered"},
    }
    for name, question in targets.items():
        networks = []
        for network, model, steps, rate in (("stager", STAGER, 600, 2e-3), ("residual", RESIDUAL, 170, 1e-3)):
            optim = {"steps": steps, "batch_size": 8, "learning_rate": rate, "ema_decay": 0.97}
            settings = {"kind": "classifier", "looks": 6, **question, **model}
            folder = out / "runs" / f"{network}_{name}"
            Train.model_validate({**shared, "folds": run, "model": settings, "optim": optim, "out": folder}).run()
            networks.append(str(folder))
        Classify.model_validate(
            {
                "latents": latents,
                "prepared": prepared,
                **question,
                "heads": [*networks, "linear"],
                "volumes": ["nwbv"],
                "permutations": 199,
                "out": out / "heads" / name,
            }
        ).run()


if __name__ == "__main__":
    run_script(main)
