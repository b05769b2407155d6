"""A tiny cohort as prepare writes it, and the pieces of a training on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import scan_key, write_manifest
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.imaging.volume import store, write_nifti

ROLES = ("train", "train", "calibration", "test", "evaluation")
SMALL_VAE: dict[str, Any] = {
    "kind": "vae",
    "base_channels": 8,
    "max_channels": 8,
    "levels": 2,
    "latent_size": 6,
    "critic_channels": 4,
    "critic_layers": 1,
}


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], scale: float) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal(shape), 2.0)
    return scale * field / field.std()


def write_cohort(
    out: Path, num_people: int = 10, shape: tuple[int, int, int] = (12, 14, 12), changed: str | None = None
) -> Path:
    """Write a prepared folder; the volumes of the subject `changed` are other ones, all else is the same."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    plan = GridPlan(spacing_mm=4.0, shape=shape, affine=rows)
    work = begin(Verb(out=out), "simulate", {}, extra={"changed": changed, "people": num_people})
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.9
    base = 0.6 + 0.3 * np.cos(3 * axes[0]) * np.cos(2 * axes[1])
    write_plan(out / "plan.json", plan)
    write_nifti(out / "mask.nii", mask, affine)
    write_nifti(out / "regions.nii", mask.astype(np.int16), affine)
    pd.DataFrame({"label": [1], "name": ["brain"]}).to_csv(out / "regions.tsv", sep="\t", index=False)
    people = []
    for index in range(num_people):
        subject = f"p{index:02d}"
        rng = np.random.default_rng([index, 99 if subject == changed else 0])
        key, age = scan_key(subject, "1"), 20.0 + 6.0 * index
        t1w = base - 0.002 * age + smooth_field(rng, shape, 0.1)
        store(out / "volumes" / f"{key}_t1w.nii", t1w * mask, affine)
        store(out / "volumes" / f"{key}_log_jacobian.nii", smooth_field(rng, shape, 0.1) * mask, affine)
        people.append({"subject": subject, "session": "1", "site": "A", "age_years": age, "sex": "FM"[index % 2]})
        people[-1] |= {"diagnosis": "control", "role": ROLES[index % len(ROLES)], "key": key}
    write_manifest(out, pd.DataFrame(people).assign(cdr=np.nan, mmse=np.nan))
    work.finish({})
    return out


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of ten people: four train, two calibration, two test, two evaluation."""
    return write_cohort(tmp_path_factory.mktemp("cohort") / "prepared")


@pytest.fixture(scope="session")
def prepared(cohort: Path) -> Prepared:
    return open_prepared(cohort)


@pytest.fixture
def other_cohort(tmp_path: Path) -> Callable[..., Path]:
    """Write another cohort: `other_cohort(changed="p03")`."""
    return lambda **settings: write_cohort(tmp_path / "other", **settings)


@pytest.fixture(scope="session")
def small_vae() -> dict[str, Any]:
    """Settings of a VAE that trains in milliseconds."""
    return dict(SMALL_VAE)
