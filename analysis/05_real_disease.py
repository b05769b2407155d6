"""Does the map of a person with dementia differ from that of a healthy one? OASIS-1 slabs, controls against CDR > 0 and >= 1.

slabs.py prepares the slabs and describes them. Models are cross-fitted over the identified controls; controls without
demographics get maps but are never in training. Every score was fixed before any label was looked at, and all of them are
reported, with baselines that need no model: age, nWBV, and the share of dark voxels. Writes slabs.tsv and slabs.png.

    python analysis/05_real_disease.py --slabs DATA/t1w_slab_2mm --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from slabs import PrepareSlabs

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.cohort.manifest import read_manifest
from gen3d.imaging.volume import read_map
from gen3d.maths.significance import fdr, p_values
from gen3d.maths.stats import (
    Interval,
    auroc,
    bootstrap_interval,
    delong_interval,
    wilson_interval,
)
from gen3d.maths.stats import correlation as correlate
from gen3d.train.train import Train

Floats = NDArray[np.float32]
Row = dict[str, Any]

MODELS: dict[str, dict[str, Any]] = {"voxelwise": {"kind": "voxelwise"}, "pca": {"kind": "pca", "num_components": 20}}
TOP_SHARE = 0.05  # of voxels in a burden score
AGE_FROM = 60
IDENTIFIED = "identified, aged 60 and over"


def slabs(source: Path, out: Path) -> pd.DataFrame:
    """AUC of every score, by group of patients and of controls."""
    prepared = PrepareSlabs(source=source, out=out / "prepared").run()
    people = read_manifest(prepared).set_index("key")
    for column in ("nwbv", "dark", "deep_dark"):
        people[column] = pd.to_numeric(people[column], errors="coerce")
    scores = baselines(people)
    for name, model in MODELS.items():
        run = out / "runs" / name
        Train.model_validate({"prepared": prepared, "model": model, "cross_fit": 5, "out": run}).run()
        maps = out / "maps" / name
        Anomaly.model_validate({"prepared": prepared, "run": run, "out": maps, "native": False}).run()
        scores |= map_scores(name, maps, prepared)
    table = pd.DataFrame(scores, index=people.index)
    rows = auc_rows(table, people) + null_rows(out / "maps", table, people)
    return pd.DataFrame(rows)


def baselines(people: pd.DataFrame) -> dict[str, pd.Series]:
    """Baselines without a model, larger in disease; each also as z against the controls of the same age and sex."""
    plain = {"nWBV": -people["nwbv"], "fluid share": people["dark"], "deep fluid share": people["deep_dark"]}
    adjusted = {f"{name}, adjusted for age and sex": adjusted_z(values, people) for name, values in plain.items()}
    return {"age": people["age_years"], **plain, **adjusted}


def adjusted_z(values: pd.Series, people: pd.DataFrame) -> pd.Series:
    """z after age, age squared and sex, fitted on identified controls; a control's own is held out."""
    age = (people["age_years"].fillna(people["age_years"].mean()) - 75) / 10
    design = np.column_stack([np.ones(len(age)), age, age**2, people["sex"].map({"F": -0.5, "M": 0.5}).fillna(0)])
    learned = (people["diagnosis"] == "control").to_numpy()
    gram = np.linalg.inv(design[learned].T @ design[learned])
    residual = values - design @ (gram @ design[learned].T @ values.to_numpy()[learned])
    leverage = np.einsum("ip,pq,iq->i", design, gram, design)
    sd = np.sqrt((residual[learned] ** 2).sum() / (learned.sum() - design.shape[1]))
    return residual / (sd * np.sqrt(np.where(learned, 1 - leverage, 1 + leverage)))


def map_scores(name: str, maps: Path, prepared: Path) -> dict[str, pd.Series]:
    """Scores of one maps folder, larger where more is abnormal; fixed before labels were seen."""
    subjects = pd.read_csv(maps / "subjects.tsv", sep="\t").set_index("key")
    regions = pd.read_csv(maps / "regions.tsv", sep="\t")
    mask = read_map(prepared / "mask.nii") > 0.5
    found: dict[str, pd.Series] = {}
    for channel in ("residual", "structural", "deformation"):
        found[f"{name}: {channel}, top 5 % of |z|"] = subjects[f"score_{channel}"]
    found[f"{name}: residual, top 5 % of -z"] = pd.Series(
        {key: top_mean(-z_map(maps, key, "residual", mask)) for key in subjects.index}
    )
    for channel, sign in (("residual", -1), ("deformation", 1)):
        z = regions[regions["channel"] == channel].pivot(index="key", columns="region", values="z")
        arrow = "-z" if sign < 0 else "z"
        found[f"{name}: {channel}, {arrow} of deep fluid"] = sign * z["deep fluid"]
        found[f"{name}: {channel}, {arrow} of outer fluid"] = sign * z["outer fluid"]
    return found


def z_map(maps: Path, key: str, channel: str, mask: NDArray[np.bool_]) -> Floats:
    """One map inside the mask [V]."""
    return read_map(maps / "maps" / f"{key}_desc-{channel}_zmap.nii.gz")[mask]


def top_mean(values: Floats) -> float:
    """Mean of the largest 5 %."""
    count = max(1, int(TOP_SHARE * len(values)))
    return float(np.partition(values, -count)[-count:].mean())


def auc_rows(scores: pd.DataFrame, people: pd.DataFrame) -> list[Row]:
    """AUC with DeLong's interval of every score, and its difference from nWBV in the same people."""
    known = people["age_years"] >= AGE_FROM
    controls = {IDENTIFIED: known, "everybody": pd.Series(True, index=people.index)}
    patients = {"CDR > 0": people["cdr"] > 0, "CDR 0.5": people["cdr"] == 0.5, "CDR >= 1": people["cdr"] >= 1}
    rows: list[Row] = []
    for group, who in controls.items():
        healthy = who & (people["cdr"] == 0)
        for severity, ill in patients.items():
            for score in scores:
                usable = scores[score].notna()
                first, second = scores.loc[ill & who & usable, score], scores.loc[healthy & usable, score]
                row = {"part": "slabs", "people": group, "contrast": severity, "score": score, "measure": "AUC"}
                row |= {"num_patients": len(first), "num_controls": len(second)}
                rows.append(row | interval_columns(delong_interval(first.to_numpy(), second.to_numpy())))
                reference = "nWBV, adjusted for age and sex" if ":" in score else ""
                if reference and group != "everybody":
                    pairs = scores.loc[who & (ill | healthy), [score, reference]].assign(ill=ill)
                    rows.append(row | {"measure": "AUC minus nWBV's, adjusted"} | interval_columns(paired(pairs)))
    control = known & (people["diagnosis"] == "control")
    for score in scores:
        related = correlate(people.loc[control, "age_years"], scores.loc[control, score], method="spearman")
        row = {"part": "slabs", "people": "controls", "contrast": "age", "score": score, "measure": "Spearman with age"}
        rows.append(row | {"num_patients": 0, "num_controls": related.num} | interval_columns(related))
    return rows


def paired(pairs: pd.DataFrame) -> Interval:
    """Difference of two AUCs in the same people, percentile interval over people."""

    def difference(sample: NDArray[np.float64]) -> float:
        return auroc(sample[:, 0], sample[:, 2]) - auroc(sample[:, 1], sample[:, 2])

    return bootstrap_interval(pairs.to_numpy(dtype=np.float64), difference, num_resamples=1000)


def interval_columns(interval: Interval) -> Row:
    """Value and bounds."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def null_rows(folder: Path, scores: pd.DataFrame, people: pd.DataFrame) -> list[Row]:
    """How many people have an FDR-positive voxel, and the share of voxels beyond 1.96, by diagnosis."""
    rows: list[Row] = []
    groups = {"control": people["diagnosis"] == "control", "unidentified": people["diagnosis"] == "unidentified"}
    groups |= {"CDR 0.5": people["cdr"] == 0.5, "CDR >= 1": people["cdr"] >= 1}
    mask = read_map(folder.parent / "prepared" / "mask.nii") > 0.5
    for name in MODELS:
        for channel in ("residual", "structural", "deformation"):
            z = {key: z_map(folder / name, key, channel, mask) for key in people.index}
            for group, who in groups.items():
                keys = people.index[who]
                base = {
                    "part": "slabs",
                    "people": group,
                    "contrast": "",
                    "score": f"{name}: {channel}",
                }
                base |= {"num_patients": 0, "num_controls": len(keys)}
                beyond = bootstrap_interval([np.mean(np.abs(z[key]) > 1.96) for key in keys])
                positive = wilson_interval(sum(bool(fdr(p_values(z[key])).any()) for key in keys), len(keys))
                rows.append(base | {"measure": "share of |z| > 1.96"} | interval_columns(beyond))
                rows.append(base | {"measure": "people with an FDR-positive voxel"} | interval_columns(positive))
    return rows


def draw(rows: pd.DataFrame, path: Path) -> None:
    """AUC of every score in identified people, for the two severities."""
    chosen = rows[(rows["measure"] == "AUC") & (rows["people"] == IDENTIFIED)]
    names = chosen["score"].drop_duplicates().tolist()
    figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
    for severity, colour, shift in (("CDR > 0", "C0", 0.15), ("CDR >= 1", "C1", -0.15)):
        table = chosen[chosen["contrast"] == severity].set_index("score").loc[names]
        places = np.arange(len(names))[::-1] + shift
        errors = [table["value"] - table["low"], table["high"] - table["value"]]
        num = f"{table['num_patients'].max()} against {table['num_controls'].max()}"
        axes.errorbar(table["value"], places, xerr=errors, fmt="o", ms=4, color=colour, label=f"{severity}, {num}")
    axes.axvline(0.5, color="0.6", lw=0.8, ls="--")
    axes.set_yticks(np.arange(len(names))[::-1], names, fontsize=7)
    axes.set_xlabel("AUC against identified controls, 95 % interval")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run what is not finished; write slabs.tsv and slabs.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slabs", type=Path, required=True, help="folder of slabs with participants.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    rows = slabs(given.slabs, given.out)
    rows.to_csv(given.out / "slabs.tsv", sep="\t", index=False, float_format="%.4g")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    draw(rows, given.out / "slabs.png")


if __name__ == "__main__":
    run_script(main)
