"""A cohort whose stages are known: heads with a dark ventricle that is wider at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from gen3d.cohort.manifest import scan_key, write_manifest
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.imaging.volume import store, write_nifti
from gen3d.stages.stages import Stages
from gen3d.train.train import Train

SHAPE = (32, 32, 6)
RADII = (0.18, 0.26, 0.34)
"""Of the ventricle at each stage, as a share of half the field of view."""

STAGES = ("0", "0.5", "1")


def head(person: int, radius: float, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A person's brain with a ventricle of this radius: outline, place of the ventricle and texture are the person's own."""
    rng = np.random.default_rng([5, person])
    x, y = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape[:2]), indexing="ij")
    width, height, shift = 0.75 + 0.1 * rng.random(), 0.8 + 0.1 * rng.random(), 0.1 * (rng.random(2) - 0.5)
    brain = (x / width) ** 2 + (y / height) ** 2 < 1
    fluid = ((x - shift[0]) ** 2 + (y - shift[1]) ** 2) < radius**2
    texture = gaussian_filter(rng.standard_normal(shape), 1.5)
    tissue = 0.85 + 0.05 * texture / texture.std()
    picture = np.where(fluid[..., None], 0.2, tissue) * brain[..., None]
    return np.asarray(gaussian_filter(picture, (0.5, 0.5, 0)) * (brain[..., None]), dtype=np.float32)


def write_staged(
    out: Path,
    people: Sequence[int] = (8, 8, 8),
    first: int = 0,
    same_people: bool = False,
    radii: Sequence[float] = RADII,
    shape: tuple[int, int, int] = SHAPE,
) -> Path:
    """A prepared folder with so many people at each stage; with `same_people` everybody has a visit at every stage."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    plan = GridPlan(spacing_mm=4.0, shape=shape, affine=rows, channels=("t1w",))
    work = begin(Verb(out=out), "simulate", {}, extra={"people": list(people), "first": first, "same": same_people})
    write_plan(out / "plan.json", plan)
    mask = np.ones(shape, bool)
    write_nifti(out / "mask.nii", mask, affine)
    write_nifti(out / "regions.nii", mask.astype(np.int16), affine)
    pd.DataFrame({"label": [1], "name": ["brain"]}).to_csv(out / "regions.tsv", sep="\t", index=False)
    table: list[dict[str, Any]] = []
    number = first
    for stage, count in enumerate(people):
        for place in range(count):
            person = first + place if same_people else number
            number += 1
            subject, session = f"p{person:03d}", str(stage + 1)
            key = scan_key(subject, session)
            store(out / "volumes" / f"{key}_t1w.nii", head(person, radii[stage], shape), affine)
            row = {"subject": subject, "session": session, "site": "A", "age_years": 70.0, "sex": "FM"[person % 2]}
            table.append(row | {"diagnosis": "control", "role": "train", "key": key, "cdr": float(STAGES[stage])})
    write_manifest(out, pd.DataFrame(table).assign(mmse=np.nan))
    work.finish({})
    return out


def train_chain(
    out: Path, prepared: Path, steps: int = 4, cross_fit: int = 1, checkpoint_every: int = 500, **model: Any
) -> Path:
    """A small run of kind `transition`."""
    small = {"kind": "transition", "classes": list(STAGES), "slices": 2, "widths": [8, 8, 16], "fewest": 2}
    optim = {"steps": steps, "batch_size": 8, "learning_rate": 2e-3, "beta1": 0.5, "beta2": 0.999, "ema_decay": 0.0}
    return Train.model_validate(
        {
            "prepared": prepared,
            "out": out,
            "channels": ["t1w"],
            "cross_fit": cross_fit,
            "model": small | model,
            "optim": optim | {"weight_decay": 0.0, "warmup": 0.0, "final_rate": 1.0},
            "engine": {"device": "cpu", "precision": "fp32", "checkpoint_every": checkpoint_every},
            "track": [],
        }
    ).run()


def write_stages(root: Path) -> Path:
    """A finished folder of `gen3d stages` below `root`: a chain that has hardly been trained, and visits of other people."""
    run = train_chain(root / "chain", write_staged(root / "learned", people=(4, 4, 4)), steps=2)
    visits = write_staged(root / "visits", people=(4, 4, 4), first=50, same_people=True)
    quick = {"features": "none", "bootstrap": 100, "repeats": 10, "pictures": 1, "device": "cpu"}
    return Stages.model_validate({"run": run, "prepared": [visits], "out": root / "stages", **quick}).run()
