"""Which figures improve with more training, and which with more people?

Simulated cohorts of growing size at low resolution. Every model is trained on each with one and with four times the training
steps, and tested on ONE other cohort of people in no training set (lesions, AD-like atrophy, null twins); its
sites are those of the training cohorts. Prints a markdown table: voxel AUPRC of lesions, AUC of the hippocampus in AD,
share of |z| > 1.96 in null twins, each with n and interval, and writes it as TSV.

    python analysis/06_time_and_people.py --out growth --people 50 200 800 --steps 200
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.evaluate.evaluate import Evaluate
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

MODELS: dict[str, dict[str, Any]] = {
    "voxelwise": {"model": {"kind": "voxelwise"}},
    "pca": {"model": {"kind": "pca", "num_components": 20}},
    "vae": {"model": {"kind": "vae"}},
    "restorer": {"model": {"kind": "restorer"}},
}
JUDGED = {
    "lesion": {"kind": "lesion", "severity": [2.0, 10.0, 30.0]},
    "ad": {"kind": "ad"},
    "null": {"kind": "null"},
}
SPACING_MM = 4.0
CHANNELS = {"channels": ["t1w"]}


def main() -> None:
    """Make what is not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--people", type=int, nargs="+", default=[50, 200, 800], help="sizes of the training cohorts")
    parser.add_argument("--steps", type=int, default=200, help="training steps; also four times as many")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="which models")
    parser.add_argument("--judged", type=int, default=24, help="people per planted condition")
    given = parser.parse_args()
    judged = Simulate.model_validate(
        {"out": given.out / "judged", "subjects": 3 * given.judged, "spacing_mm": SPACING_MM, "seed": 999}
        | {"conditions": {name: {**planted, "count": given.judged} for name, planted in JUDGED.items()}}
        | {"figures": False}
    ).run()
    rows: list[dict[str, Any]] = []
    for people in given.people:
        split = {"train": 0.7, "calibration": 0.2, "test": 0.1} if people > 100 else {}
        cohort = Simulate.model_validate(
            {"out": given.out / f"cohort_{people}", "subjects": people, "spacing_mm": SPACING_MM, "seed": people}
            | {"conditions": {}, "figures": False, "split": split}
        ).run()
        for name in given.models:
            settings = MODELS[name]
            for times in (1, 4) if name in ("vae", "restorer") else (0,):
                rows.append(one(given, cohort, judged, people, name, settings, times))
                pd.DataFrame(rows).to_csv(given.out / "growth.tsv", sep="\t", index=False)
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def one(
    given: argparse.Namespace, cohort: Path, judged: Path, people: int, name: str, settings: dict[str, Any], times: int
) -> dict[str, Any]:
    """Train one model on one cohort and test it."""
    label = f"{name}_{people}_x{times}"
    optim = {"optim": {"steps": given.steps * times}} if times else {}
    began = time.monotonic()
    run = Train.model_validate(
        {"prepared": cohort, "out": given.out / "runs" / label, **CHANNELS, **settings, **optim}
    ).run()
    seconds = time.monotonic() - began
    maps = Anomaly.model_validate(
        {"prepared": [cohort, judged], "run": run, "out": given.out / "maps" / label, "native": False, "samples": 0}
    ).run()
    evaluation = Evaluate(maps=(maps,), truth=judged, out=given.out / "evaluation" / label).run()
    voxels, regions, null = (
        pd.read_csv(evaluation / f"{table}.tsv", sep="\t", keep_default_na=False, na_values=["n/a"])
        for table in ("voxels", "regions", "calibration")
    )
    lesion = _row(voxels, channel="residual", condition="lesion", severity="all")
    hippocampus = _row(regions, channel="deformation", condition="ad", region="left hippocampus")
    quiet = _row(null, channel="residual", group="null condition")
    return {
        "people": people,
        "model": name,
        "steps": given.steps * times or "",
        "training seconds": round(seconds) if times else "",
        "lesion AUPRC": _text(lesion, "auprc"),
        "n": int(lesion["num"]),
        "AD left hippocampus AUC": _text(hippocampus, "auc"),
        "null |z| > 1.96": _text(quiet, "share_beyond_1_96"),
    }


def _row(table: pd.DataFrame, **wanted: str) -> pd.Series:
    for column, value in wanted.items():
        table = table[table[column].astype(str) == value]
    return table.iloc[0]


def _text(row: pd.Series, name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


if __name__ == "__main__":
    run_script(main)
