"""A dataset laid out like that of `gen3d sample`, made of a second cohort, so that what it holds is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import GENERATOR_SUBJECTS, REGION_TABLE, REGIONS
from gen3d.cohort.manifest import read_manifest, subject_hash, write_manifest
from gen3d.cohort.regions import region_table, regions_on
from gen3d.core.artefact import write_json
from gen3d.core.tables import write_table
from gen3d.imaging.plan import read_plan
from gen3d.imaging.volume import read_stored, store, write_nifti
from gen3d.synthesis.folder import PROVENANCE
from tests.cohorts import write_cohort


def named_regions(folder: Path) -> Path:
    """Replace a cohort's two blocks by the named regions that structure volumes need."""
    plan = read_plan(folder / "plan.json")
    write_nifti(folder / REGIONS, regions_on(plan), plan.matrix)
    write_table(folder / REGION_TABLE, region_table())
    return folder


def write_synthetic(
    folder: Path,
    count: int = 12,
    seed: int = 100,
    run: Path | None = None,
    known: tuple[str, ...] = (),
    requested: tuple[str, ...] = ("age_years", "sex"),
    change: Any = None,
    **cohort: Any,
) -> Path:
    """Write `count` synthetic scans: healthy people of `write_cohort` with another seed.

    Args:
        run: the run they claim to be drawn from.
        known: subjects that the generator learned from.
        requested: columns of the table that were requested.
        change: volume [X, Y, Z] -> another T1w volume, to make them unlike real ones.
    """
    write_cohort(folder, num_controls=count, num_patients=0, seed=seed, prefix="syn", **cohort)
    named_regions(folder)
    table = read_manifest(folder).assign(role="evaluation", generator="run-key", site="synthetic")
    for name in requested:
        table[f"requested_{name}"] = table[name]
    write_manifest(folder, table)
    plan = read_plan(folder / "plan.json")
    if change is not None:
        for key in table["key"]:
            path = folder / "volumes" / f"{key}_t1w.nii"
            store(path, change(read_stored(path)), plan.matrix)
    record = json.loads((folder / "artefact.json").read_text())
    write_json(folder / "artefact.json", record | {"verb": "sample", "key": f"{record['key']} {change is not None}"})
    made_by = {"folder": str(run or folder / "gone"), "key": "run-key"}
    if run is not None:
        made_by["key"] = json.loads((run / "artefact.json").read_text())["key"]
    write_json(folder / PROVENANCE, {"run": made_by})
    write_json(folder / GENERATOR_SUBJECTS, {subject_hash(subject): "train" for subject in known})
    return folder


def people_of(folder: Path, role: str) -> tuple[str, ...]:
    """Subjects with a role."""
    table: pd.DataFrame = read_manifest(folder)
    return tuple(dict.fromkeys(table.loc[table["role"] == role, "subject"]))


def blurred(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """A scan without its detail."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(volume, 1.0) * (volume > 0), dtype=np.float32)
