"""What does a map show of a patient from a site without controls? Two MS patients with lesion masks, one large load, one small.

The patients come from a site that the cohort `--prepared` does not have. Shown are the gate (no z map, with the reason), and
the maps that it prevents: the same scans under the name of each of the cohort's sites. Those maps are not calibrated.
Calibration by the patients' own site is impossible with two people. Voxel figures against the consensus lesion mask, the
share of |z| > 1.96 away from lesions, compared with held-out controls. Writes ms.tsv and ms.png.

    python analysis/05_real_disease_ms.py --ms DATA/lesion_ms --prepared real/prepared --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import read_manifest, scan_key, write_manifest
from gen3d.core.artefact import read
from gen3d.core.config import Folder, Verb
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.resample import onto_plan
from gen3d.imaging.volume import Volume, read_map, read_stored
from gen3d.maths.stats import auprc, auroc, bootstrap_interval, dice, oracle_dice
from gen3d.prepare.prepare import Prepare
from gen3d.train.train import Train

Floats = NDArray[np.float32]
Row = dict[str, Any]

MODELS: dict[str, dict[str, Any]] = {"voxelwise": {"kind": "voxelwise"}, "pca": {"kind": "pca", "num_components": 20}}
CHANNELS = ("residual", "structural", "deformation")
CONTROL_ROLES = ["train", "calibration", "test"]
FALSE_POSITIVE_VOXELS = 0.001
SITE = "lesionms"
SHARE = "share of |z| > 1.96, normal-appearing, residual"


class Relabelled(Verb):
    """Copies of an uncalibrated site's scans under the name of each known site, which the gate would forbid."""

    source: Folder = Field(description="prepared folder")
    sites: tuple[str, ...] = Field(description="names to give")

    def run(self) -> Path:
        """Write the folder; volumes are hard links."""
        work = begin(self, "prepare", {"source": self.source})
        if work.finished:
            return self.out
        for name in ("plan.json", "mask.nii", "regions.nii", "regions.tsv"):
            shutil.copy(self.source / name, self.out / name)
        (self.out / "volumes").mkdir(exist_ok=True)
        rows = []
        for _, row in read_manifest(self.source).iterrows():
            for site in self.sites:
                key = scan_key(row["subject"], f"as{site}")
                for channel in ("t1w", "log_jacobian"):
                    link = self.out / "volumes" / f"{key}_{channel}.nii"
                    link.unlink(missing_ok=True)
                    os.link(self.source / "volumes" / f"{row['key']}_{channel}.nii", link)
                (self.out / "transforms").mkdir(exist_ok=True)
                shutil.copy(self.source / "transforms" / f"{row['key']}.json", self.out / "transforms" / f"{key}.json")
                rows.append({**row, "session": f"as{site}", "site": site, "key": key})
        write_manifest(self.out, pd.DataFrame(rows))
        work.finish({"num_scans": len(rows)})
        return self.out


def prepare_patients(folder: Path, cohort: Path, out: Path) -> Path:
    """Prepare the patients with the cohort's settings."""
    if not (folder / "patient_info.csv").is_file():
        raise UserError(f"{folder}: no patient_info.csv; --ms must name the folder of the patients with lesion masks.")
    info = pd.read_csv(folder / "patient_info.csv")
    scans = sorted(folder.glob("patient*_T1.nii.gz"))
    numbers = [int(scan.name[7:9]) for scan in scans]
    known = info.set_index("patient_id").loc[numbers]
    table = pd.DataFrame({"subject": [f"ms{n:02d}" for n in numbers], "path": [str(scan.resolve()) for scan in scans]})
    table = table.assign(age=known["age"].to_numpy(), sex=known["sex"].to_numpy(), diagnosis="MS", site=SITE)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "patients.csv", index=False)
    settings = {
        k: v for k, v in read(cohort).config.items() if k in ("spacing_mm", "degrees_of_freedom", "deformation")
    }
    return Prepare.model_validate(
        {"source": out / "patients.csv", "out": out / "prepared", "workers": 1, **settings}
    ).run()


def lesion_on_grid(folder: Path, key: str, prepared: Path, plan: GridPlan) -> NDArray[np.bool_]:
    """The consensus lesion on the prepared scan's grid, by the transform that prepare kept."""
    record = json.loads((prepared / "transforms" / f"{key}.json").read_text())
    number = key.removeprefix("sub-ms")[:2]
    # A small lesion is a nearly constant image, which read_volume refuses.
    image = nib.as_closest_canonical(nib.load(folder / f"patient{number}_lesion_mask.nii.gz"))
    lesion = Volume(np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine))
    return onto_plan(lesion, np.asarray(record["affine_template_to_scan"]), plan) > 0.5


def patients(folder: Path, cohort: Path, out: Path, restorer: Path | None) -> pd.DataFrame:
    """Maps of the two patients with the gate, and with their site renamed to each of the cohort's sites."""
    prepared = prepare_patients(folder, cohort, out)
    opened = open_prepared(cohort)
    counts = opened.select(CONTROL_ROLES).drop_duplicates("subject")["site"].value_counts()
    sites = tuple(sorted(str(site) for site in counts.index[counts >= 3]))
    relabelled = Relabelled(source=prepared, sites=sites, out=out / "relabelled").run()
    lesions = {key: lesion_on_grid(folder, key, prepared, opened.plan) for key in read_manifest(prepared)["key"]}
    rows: list[Row] = []
    runs = {name: out / "runs" / name for name in MODELS}
    for name, model in MODELS.items():
        Train.model_validate({"prepared": cohort, "model": model, "cross_fit": 5, "out": runs[name]}).run()
    for name, run in (runs | ({"restorer": restorer} if restorer else {})).items():
        maps = out / "maps" / name
        settings = {"run": run, "native": False}
        Anomaly.model_validate({"prepared": [cohort, prepared, relabelled], "out": maps, **settings}).run()
        show_gate(name, pd.read_csv(maps / "subjects.tsv", sep="\t"))
        try:
            Anomaly.model_validate({"prepared": prepared, "out": out / "maps" / f"{name}_alone", **settings}).run()
        except UserError as error:
            print(f"{name}, the patients alone: {error}")
        maps_of = Maps(name, maps, opened.mask)
        rows += maps_of.control_rows()
        for load, key in by_load(lesions).items():
            scan = read_stored(prepared / "volumes" / f"{key}_t1w.nii")
            rows += maps_of.patient_rows(load, key, lesions[key], scan, opened.plan)
    draw(pd.DataFrame(rows), out, prepared, lesions)
    return pd.DataFrame(rows)


def show_gate(name: str, subjects: pd.DataFrame) -> None:
    """Print how many scans of the unknown site have a z map, and why the others have none."""
    gated = subjects[subjects["site"] == SITE]
    print(
        f"{name}, gate on: {gated['score_residual'].notna().sum()} of {len(gated)} patients have a z map; the reason:"
    )
    for sentence in sorted(set(gated["flags"])):
        print(f"  {sentence}")


def by_load(lesions: dict[str, NDArray[np.bool_]]) -> dict[str, str]:
    """Keys of the patient with the smallest and with the largest lesion volume."""
    order = sorted(lesions, key=lambda key: int(lesions[key].sum()))
    return {"small load": order[0], "large load": order[-1]}


class Maps:
    """One maps folder, read inside the mask."""

    def __init__(self, model: str, folder: Path, mask: NDArray[np.bool_]) -> None:
        self.model, self.folder, self.mask = model, folder, mask
        self.subjects = pd.read_csv(folder / "subjects.tsv", sep="\t", dtype={"session": str})
        self.controls = self.subjects[self.subjects["role"].isin(CONTROL_ROLES)]
        pooled = np.concatenate([self.z(key, "residual") for key in self.controls["key"]])
        self.threshold = {
            "|z|": float(np.quantile(np.abs(pooled), 1 - FALSE_POSITIVE_VOXELS)),
            "-z": float(np.quantile(-pooled, 1 - FALSE_POSITIVE_VOXELS)),
        }

    def z(self, key: str, channel: str) -> Floats:
        """One map [V]."""
        return read_map(self.folder / "maps" / f"{key}_desc-{channel}_zmap.nii.gz")[self.mask]

    def control_rows(self) -> list[Row]:
        """The share of voxels beyond 1.96 in held-out controls of each site, interval over people."""
        rows = []
        for site, people in self.controls.drop_duplicates("subject").groupby("site"):
            for channel in CHANNELS:
                shares = [float(np.mean(np.abs(self.z(key, channel)) > 1.96)) for key in people["key"]]
                found = bootstrap_interval(shares)
                row = {"model": self.model, "people": f"controls of {site}", "num": len(shares), "called": site}
                row |= {"measure": f"share of |z| > 1.96, {channel}"}
                rows.append(row | {"value": found.value, "low": found.low, "high": found.high})
        return rows

    def patient_rows(self, load: str, key: str, lesion: NDArray[np.bool_], t1w: Floats, plan: GridPlan) -> list[Row]:
        """Voxel figures of one patient under each borrowed site name; dark T1w alone is the model-free baseline."""
        around = ndimage.binary_dilation(lesion, iterations=2)[self.mask]
        inside = lesion[self.mask]
        subject = key.removeprefix("sub-").split("_")[0]
        borrowed = self.subjects[(self.subjects["subject"] == subject) & (self.subjects["site"] != SITE)]
        rows = []
        for scan, site in borrowed[["key", "site"]].to_numpy():
            figures = {"lesion, ml": inside.sum() * plan.spacing_mm**3 / 1000, "prevalence": inside.mean()}
            figures |= {"AUROC of dark T1w": auroc(-t1w[self.mask], inside)}
            figures |= {"AUPRC of dark T1w": auprc(-t1w[self.mask], inside)}
            figures |= self.detection(scan, inside) | self.elsewhere(scan, around)
            row = {"model": self.model, "people": load, "num": 1, "called": site, "low": np.nan, "high": np.nan}
            rows += [row | {"measure": measure, "value": float(value)} for measure, value in figures.items()]
        return rows

    def detection(self, scan: str, lesion: NDArray[np.bool_]) -> dict[str, float]:
        """Ranking and overlap; Dice at the score that 0.1 % of the controls' voxels exceed."""
        z = self.z(scan, "residual")
        figures: dict[str, float] = {}
        for label, score in (("|z|", np.abs(z)), ("-z", -z)):
            figures |= {f"AUROC of {label}": auroc(score, lesion), f"AUPRC of {label}": auprc(score, lesion)}
            figures[f"Dice of {label} at the controls' 0.1 %"] = dice(score > self.threshold[label], lesion)
            figures[f"oracle Dice of {label}"] = oracle_dice(score, lesion)
        structural = self.z(scan, "structural")
        return figures | {
            "AUROC, structural": auroc(structural, lesion),
            "AUPRC, structural": auprc(structural, lesion),
        }

    def elsewhere(self, scan: str, around: NDArray[np.bool_]) -> dict[str, float]:
        """Normal-appearing tissue: everything two voxels and more away from lesions."""
        z = {channel: self.z(scan, channel)[~around] for channel in CHANNELS}
        figures = {"mean z, normal-appearing": float(z["residual"].mean())}
        figures["SD of z, normal-appearing"] = float(z["residual"].std())
        for channel, values in z.items():
            figures[f"share of |z| > 1.96, normal-appearing, {channel}"] = float(np.mean(np.abs(values) > 1.96))
        return figures


def draw(rows: pd.DataFrame, out: Path, prepared: Path, lesions: dict[str, NDArray[np.bool_]]) -> None:
    """The scan with its lesions, the z map under each borrowed name, and the shares beyond 1.96."""
    sites = sorted(set(rows.loc[rows["measure"] == "prevalence", "called"]))
    drawn = str(rows["model"].iloc[-1])
    figure, axes = plt.subplots(2, len(sites) + 2, figsize=(3 * (len(sites) + 2), 6.4), layout="constrained")
    for line, (load, key) in zip(axes, by_load(lesions).items(), strict=True):
        lesion, scan = lesions[key], read_map(prepared / "volumes" / f"{key}_t1w.nii")
        k = int(lesion.sum(axis=(0, 1)).argmax())
        line[0].imshow(scan[:, :, k].T, cmap="gray", origin="lower", vmin=0, vmax=1.3)
        line[0].set_title(load)
        subject = key.removeprefix("sub-").split("_")[0]
        for axis, site in zip(line[1:], sites, strict=False):
            name = f"{scan_key(subject, f'as{site}')}_desc-residual_zmap.nii.gz"
            z = read_map(out / "maps" / drawn / "maps" / name)
            shown = axis.imshow(z[:, :, k].T, cmap="RdBu_r", origin="lower", vmin=-6, vmax=6)
            axis.set_title(f"z ({drawn}), called {site}", fontsize=9)
        for axis in line[:-1]:
            axis.contour(lesion[:, :, k].T, [0.5], colors="lime", linewidths=0.8)
            axis.set_axis_off()
        shares = rows[(rows["people"] == load) & (rows["measure"] == SHARE)]
        models = list(dict.fromkeys(rows["model"]))
        for place, model in enumerate(models):
            mine = shares[shares["model"] == model]
            line[-1].plot(
                [place] * len(mine), 100 * mine["value"], "o", color="C3", label="patient" if not place else None
            )
            own = rows[(rows["model"] == model) & (rows["measure"] == "share of |z| > 1.96, residual")]
            errors = 100 * np.array([own["value"] - own["low"], own["high"] - own["value"]])
            places = place + 0.15 + 0.1 * np.arange(len(own))
            label = "controls of each site" if not place else None
            line[-1].errorbar(places, 100 * own["value"], yerr=errors, fmt="s", ms=4, color="0.4", label=label)
        line[-1].axhline(5, color="0.6", lw=0.8, ls="--")
        line[-1].set(
            xticks=np.arange(len(models)) + 0.1,
            xticklabels=models,
            ylabel="|z| > 1.96 outside lesions, %",
            ylim=(0, None),
        )
        line[-1].legend(frameon=False, fontsize=8)
    figure.colorbar(shown, ax=axes[:, :-1], shrink=0.5, label="z, T1w residual")
    figure.savefig(out / "ms.png", dpi=130)
    plt.close(figure)


def main() -> None:
    """Run what is not finished; write ms.tsv and ms.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", type=Path, required=True, help="folder of the patients with lesion masks")
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort to compare them with")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--restorer", type=Path, help="run of a cross-fitted restorer trained on the cohort (train)")
    given = parser.parse_args()
    rows = patients(given.ms, given.prepared, given.out, given.restorer)
    rows.to_csv(given.out / "ms.tsv", sep="\t", index=False, float_format="%.4g")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    run_script(main)
