"""OASIS-1 slabs as a prepared folder, shared by the analyses of real disease.

A slab is a folder's `sub-*_T1w_slab.nii.gz`; all lie on one grid, and `participants.tsv` has subject, CDR_from_class, M/F,
Age, nWBV. Their slices were stretched to grey levels one by one, so each is scaled by its own white level; the mean slab
is the template of the deformation channel. Template, mask and regions are made from everybody, without labels.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment

from gen3d.cohort.manifest import Split, assign_roles, read_manifest, scan_key, write_manifest
from gen3d.core.config import Folder, Verb
from gen3d.core.output_folder import begin
from gen3d.imaging.deformation import jacobian_determinant
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.imaging.registration import DeformationSettings, register
from gen3d.imaging.volume import read_volume, store, write_nifti

Floats = NDArray[np.float32]

DARK = 0.5  # of the white level: between fluid (.29) and grey matter (.65)
DEEP_MM = 36.0  # from the edge of the brain within a slice; deeper lie the ventricles, not the Sylvian fissure
PADDING = 4  # slices repeated above and below before registration
REGIONS = ("deep fluid", "outer fluid", "grey matter", "white matter")
TISSUE = ("CSF", "CSF", "GM", "WM")
MATCHED_YEARS = 3.0  # largest difference of age within a matched pair


class PrepareSlabs(Verb):
    """Slabs on one grid to a prepared folder: scaled by white level, with the log-Jacobian from the mean slab."""

    source: Folder = Field(description="folder of slabs with participants.tsv")

    def run(self) -> Path:
        """Write the folder; a finished one is left alone."""
        work = begin(self, "prepare", {"source": self.source})
        if work.finished:
            return self.out
        table = slab_table(self.source)
        first = read_volume(slab_path(self.source, table["subject"].iloc[0]))
        raw = np.stack([read_volume(slab_path(self.source, subject)).data for subject in table["subject"]])
        mask = (raw > 10).mean(axis=0) > 0.5
        scans = np.stack([by_white_level(slab, mask) for slab in raw])
        settings = DeformationSettings()
        plan = GridPlan(
            spacing_mm=2.0,
            shape=mask.shape,
            affine=tuple(tuple(map(float, row)) for row in first.affine),
            template="mean slab of the cohort (atlas space of OASIS-1)",
            intensity="white level of each slice",
            deformation=settings.model_dump(mode="json"),
        )
        mean = scans.mean(axis=0)
        for key, scan in zip(table["key"], scans, strict=True):
            store(self.out / "volumes" / f"{key}_t1w.nii", scan, plan.matrix)
            log_jacobian = slab_log_jacobian(mean, scan, mask, settings)
            store(self.out / "volumes" / f"{key}_log_jacobian.nii", log_jacobian, plan.matrix)
        write_plan(self.out / "plan.json", plan)
        write_nifti(self.out / "mask.nii", mask, plan.matrix)
        write_nifti(self.out / "regions.nii", tissue_regions(scans, mask), plan.matrix)
        names = pd.DataFrame({"label": range(1, 5), "name": REGIONS, "hemisphere": "midline", "tissue": TISSUE})
        names.to_csv(self.out / "regions.tsv", sep="\t", index=False)
        table["dark"], table["deep_dark"] = dark_shares(scans, mask)
        write_manifest(self.out, assign_roles(with_questions(table), Split(train=0.6, calibration=0.4, test=0.0)))
        work.finish({"num_scans": len(table)})
        return self.out


def slab_path(folder: Path, subject: str) -> Path:
    """A person's slab."""
    return folder / f"sub-{subject}_T1w_slab.nii.gz"


def slab_table(folder: Path) -> pd.DataFrame:
    """The cohort table. Controls without demographics are of unknown identity: they are scored, never in training."""
    given = pd.read_csv(folder / "participants.tsv", sep="\t", dtype={"subject": str})
    cdr, known = given["CDR_from_class"].astype(float), given["Age"].notna()
    return pd.DataFrame(
        {
            "subject": given["subject"],
            "session": "1",
            "site": "slabs",
            "age_years": given["Age"].astype(float),
            "sex": given["M/F"].fillna(""),
            "diagnosis": np.select([(cdr == 0) & known, cdr == 0], ["control", "unidentified"], "dementia"),
            "cdr": cdr,
            "mmse": np.nan,
            "role": "",
            "key": [scan_key(subject, "1") for subject in given["subject"]],
            "nwbv": given["nWBV"].astype(float),
        }
    )


def by_white_level(slab: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Each slice divided by its white level (the brightest of three classes), background 0."""
    scaled = np.zeros_like(slab)
    for k in range(slab.shape[2]):
        values = slab[:, :, k][mask[:, :, k]].astype(np.float64)
        start = np.percentile(values, 98) * np.array([[0.25], [0.65], [0.95]])
        labels = kmeans2(values[:, None], start, iter=30, minit="matrix")[1]
        scaled[:, :, k] = slab[:, :, k] / np.median(values[labels == 2])
    return np.where(mask, np.clip(scaled, 0, 2), 0).astype(np.float32)


def slab_log_jacobian(mean: Floats, scan: Floats, mask: NDArray[np.bool_], settings: DeformationSettings) -> Floats:
    """log det J of the diffeomorphism mean slab -> scan; end slices are repeated so that they are not a border."""
    padded = [np.pad(volume, ((0, 0), (0, 0), (PADDING, PADDING)), mode="edge") for volume in (mean, scan)]
    displacement, _ = register(padded[0], padded[1], settings)
    determinant = jacobian_determinant(displacement)[:, :, PADDING:-PADDING]
    return np.where(mask, np.log(np.maximum(determinant, 0.05)), 0).astype(np.float32)


def depth_mm(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance from the edge of the brain within the slice, mm."""
    return 2.0 * np.stack([ndimage.distance_transform_edt(mask[:, :, k]) for k in range(mask.shape[2])], axis=2)


def tissue_regions(scans: Floats, mask: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Labels 1 to 4 of `REGIONS` from everybody's slabs together: fluid where 30 % of people are dark."""
    fluid, mean = (scans < DARK).mean(axis=0) > 0.3, scans.mean(axis=0)
    labels = np.select([fluid & (depth_mm(mask) >= DEEP_MM), fluid, mean < 0.8], [1, 2, 3], 4)
    return np.where(mask, labels, 0).astype(np.int16)


def dark_shares(scans: Floats, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dark voxels of each slab, everywhere and in the deep part, as shares of the brain."""
    dark = (scans < DARK) & mask
    deep = depth_mm(mask) >= DEEP_MM
    return dark.sum(axis=(1, 2, 3)) / mask.sum(), (dark & deep).sum(axis=(1, 2, 3)) / mask.sum()


# ------------------------------------------------------------------------------------------------- everybody is learned from


class SlabsForHeads(Verb):
    """The same volumes with every person in role `train`, for representations that are cross-fitted over everybody."""

    prepared: Folder = Field(description="folder of PrepareSlabs")

    def run(self) -> Path:
        """Link the volumes and write the other table; a finished folder is left alone."""
        work = begin(self, "prepare", {"prepared": self.prepared})
        if work.finished:
            return self.out
        table = link_slabs(self.prepared, self.out)
        write_manifest(self.out, assign_roles(table, Split(train=1.0, calibration=0.0, test=0.0), controls=("all",)))
        work.finish({"num_scans": len(table)})
        return self.out


class SlabsWithDrawnControls(Verb):
    """The same volumes of identified people; as many as there are controls, drawn at random, are labelled as controls.

    Disease plays no part in that label, so a head can separate the drawn people from the others only if it shows in their
    features that a normative model was trained and calibrated on them.
    """

    prepared: Folder = Field(description="folder of PrepareSlabs")
    seed: int = Field(0, description="of the draw")

    def run(self) -> Path:
        """Link the volumes and write the other table; a finished folder is left alone."""
        work = begin(self, "prepare", {"prepared": self.prepared})
        if work.finished:
            return self.out
        table = link_slabs(self.prepared, self.out)
        known = np.flatnonzero(table["identified"] != "")
        drawn = np.random.default_rng(self.seed).choice(
            known, size=int((table["identified"] == "CN").sum()), replace=False
        )
        table["diagnosis"] = "unidentified"
        table.loc[known, "diagnosis"] = "others"
        table.loc[drawn, "diagnosis"] = "control"
        write_manifest(self.out, assign_roles(table, Split(train=0.6, calibration=0.4, test=0.0)))
        work.finish({"num_scans": len(table)})
        return self.out


def link_slabs(prepared: Path, out: Path) -> pd.DataFrame:
    """Put everything but the table into another folder, volumes as links; the table."""
    (out / "volumes").mkdir(parents=True, exist_ok=True)
    for path in sorted((prepared / "volumes").iterdir()):
        _link(path, out / "volumes" / path.name)
    for name in ("plan.json", "mask.nii", "regions.nii", "regions.tsv"):
        shutil.copyfile(prepared / name, out / name)
    return read_manifest(prepared)


def with_questions(table: pd.DataFrame) -> pd.DataFrame:
    """The table with one column per question for heads; "" excludes a person.

    `everybody`: CN against AD (CDR > 0); `identified`: the same of people whose age is known, all of them 60 and older;
    `matched`: of these, pairs of one sex and about one age; `stage`: their CDR, 1+ for 1 and more.
    """
    asked = table.copy()
    known = asked["age_years"].notna()
    asked["everybody"] = np.where(asked["cdr"] > 0, "AD", "CN")
    asked["identified"] = asked["everybody"].where(known, "")
    asked["matched"] = matched(asked)
    asked["stage"] = np.where(known, np.select([asked["cdr"] >= 1, asked["cdr"] > 0], ["1+", "0.5"], "0"), "")
    return asked


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def matched(table: pd.DataFrame) -> pd.Series:
    """CN or AD for people in a pair of one sex and nearly one age (least sum of differences), "" for the others."""
    labels = pd.Series("", index=table.index, dtype=object)
    controls = table.index[table["diagnosis"] == "control"]
    patients = table.index[table["diagnosis"] == "dementia"]
    ages = table["age_years"].to_numpy()
    years = np.abs(ages[controls][:, None] - ages[patients][None])
    other_sex = table["sex"].to_numpy()[controls][:, None] != table["sex"].to_numpy()[patients][None]
    cost = np.where(np.isfinite(years) & (years <= MATCHED_YEARS) & ~other_sex, years, 1000.0)
    for first, second in zip(*linear_sum_assignment(cost), strict=True):
        if cost[first, second] <= MATCHED_YEARS:
            labels[controls[first]], labels[patients[second]] = "CN", "AD"
    return labels


def for_heads(source: Path, out: Path) -> Path:
    """Prepare the slabs of a folder, if they are not finished; the prepared folder with everybody in role `train`."""
    controls_first = PrepareSlabs(source=source, out=out / "prepared").run()
    return SlabsForHeads(prepared=controls_first, out=out / "everybody").run()
