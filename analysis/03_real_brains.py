"""How do the maps behave on real brains: are they calibrated in healthy people on whom nothing was trained?

Inputs: a folder of real scans with a table `participants.csv` (GEN3D_REAL_DATA/t1w_2mm by default) whose controls are
marked. Prepares every scan, fits the voxelwise and PCA baselines cross-fitted over controls and the VAE on train
controls, makes maps of everybody else, and prints per model and channel: mean and SD of z in held-out controls, the share of
|z| > 1.96 (5 % is right) and the share of people with any FDR-positive voxel, with n. Figure: the share of |z| > 1.96
of each held-out control, by model and channel.

    python analysis/03_real_brains.py --out real --steps 400
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.core.errors import Unfinished
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.maths.stats import bootstrap_interval, wilson_interval
from gen3d.prepare.prepare import Prepare
from gen3d.report.report import Report
from gen3d.train.train import Train

MODELS: dict[str, dict[str, Any]] = {
    "voxelwise": {"model": {"kind": "voxelwise"}, "cross_fit": 5},
    "pca": {"model": {"kind": "pca", "num_components": 20}, "cross_fit": 5},
    "vae": {"model": {"kind": "vae"}},
}
GROUPS = (("calibration_held_out", "calibration, held out"), ("test", "test"))


def main() -> None:
    """Run the steps that are not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, default=Path(os.environ.get("GEN3D_REAL_DATA", ".")) / "t1w_2mm/participants.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--spacing-mm", type=float, default=2.0, help="edge of a voxel, mm")
    parser.add_argument("--steps", type=int, default=400, help="training steps of the VAE")
    given = parser.parse_args()
    prepared = prepare(given.source, given.out / "prepared", given.spacing_mm)
    for name, keys in MODELS.items():
        optim = {"optim": {"steps": given.steps}} if name == "vae" else {}
        Train.model_validate({"prepared": prepared, "out": given.out / "runs" / name, **keys, **optim}).run()
        Anomaly.model_validate(
            {
                "prepared": prepared,
                "run": given.out / "runs" / name,
                "out": given.out / "maps" / name,
                "native": name == "vae",
            }
        ).run()
    vae = {"prepared": prepared, "run": given.out / "runs" / "vae"}
    Reconstruct.model_validate({**vae, "out": given.out / "reconstructed"}).run()
    Encode.model_validate({**vae, "out": given.out / "latents"}).run()
    folders = [
        prepared,
        *(given.out / "runs" / name for name in MODELS),
        given.out / "latents",
        given.out / "reconstructed",
    ]
    maps = [given.out / "maps" / name for name in ("vae", "pca", "voxelwise")]
    Report(inputs=(*folders, *maps), out=given.out / "report", title="Real brains: calibration of anomaly maps").run()
    rows = calibration(given.out / "maps")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    rows.to_csv(given.out / "calibration.tsv", sep="\t", index=False)
    draw(given.out / "maps", given.out / "calibration.png")


def prepare(source: Path, out: Path, spacing_mm: float) -> Path:
    """Prepare the scans; a scan that cannot be read is listed in verdicts.tsv and skipped."""
    began = time.monotonic()
    try:
        Prepare(source=(source,), out=out, spacing_mm=spacing_mm).run()
    except Unfinished as error:
        print(error)
    verdicts = pd.read_csv(out / "verdicts.tsv", sep="\t")
    print(f"{len(verdicts)} scans in {time.monotonic() - began:.0f} s: {verdicts['verdict'].value_counts().to_dict()}")
    return out


def calibration(maps: Path) -> pd.DataFrame:
    """One row per model, channel and group of held-out controls; intervals over people."""
    rows = []
    for name in MODELS:
        for channel, record in json.loads((maps / name / "calibration.json").read_text()).items():
            for key, group in GROUPS:
                found = record[key]
                if not found["num_people"]:
                    continue
                share = bootstrap_interval(np.array(found["per_person"]["share_beyond_1.96"]))
                positive = wilson_interval(sum(found["per_person_fdr_positive"]), found["num_people"])
                rows.append(
                    {
                        "model": name,
                        "channel": channel,
                        "people": group,
                        "n": found["num_people"],
                        "mean": found["mean"],
                        "sd": found["sd"],
                        "beyond_1.96": found["share_beyond_1.96"],
                        "beyond_low": share.low,
                        "beyond_high": share.high,
                        "fdr_positive": found["share_people_fdr_positive"],
                        "fdr_low": positive.low,
                        "fdr_high": positive.high,
                    }
                )
    return pd.DataFrame(rows)


def draw(maps: Path, path: Path) -> None:
    """The share of |z| > 1.96 of each held-out control."""
    figure, axes = plt.subplots(1, len(MODELS), figsize=(10, 3.2), sharey=True)
    for axis, name in zip(axes, MODELS, strict=True):
        records = json.loads((maps / name / "calibration.json").read_text())
        for place, (_channel, record) in enumerate(records.items()):
            for shift, (key, group) in zip((-0.15, 0.15), GROUPS, strict=True):
                shares = record[key].get("per_person", {}).get("share_beyond_1.96", [])
                spread = np.linspace(-0.08, 0.08, len(shares)) if len(shares) > 1 else np.zeros(len(shares))
                axis.plot(
                    place + shift + spread,
                    100 * np.array(shares),
                    "o",
                    ms=3,
                    alpha=0.6,
                    color="C0" if shift < 0 else "C1",
                    label=group if place == 0 else None,
                )
        axis.axhline(5, color="0.4", lw=0.8, ls="--")
        axis.set_xticks(range(len(records)), list(records))
        axis.set_title(name)
    axes[0].set_ylabel("voxels with |z| > 1.96, %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run_script(main)
