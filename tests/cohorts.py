"""A prepared folder made of smooth random fields on the template, with effects of known size: fast, and its truth is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.folder import write_cohort as write_prepared
from gen3d.cohort.manifest import Split, assign_roles, scan_key
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.core.artefact import write_json
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store

SPACING_MM = 4.0
PLANTED = "left block"
EFFECT = -0.25
AGE_SLOPE_PER_DECADE = -0.03


def _smooth_noise(generator: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float32]:
    field = ndimage.gaussian_filter(generator.standard_normal(shape), sigma)
    return (field / field.std()).astype(np.float32)


def write_cohort(
    folder: Path,
    num_controls: int = 48,
    num_patients: int = 6,
    seed: int = 0,
    effect: float = EFFECT,
    sites: tuple[str, ...] = ("a",),
    lone_site: str | None = None,
    repeats: int = 0,
    split: Split | None = None,
    prefix: str = "p",
) -> Path:
    """Write a folder like prepare's.

    Patients have `effect` added to the log-Jacobian and 0.6 `effect` to the T1w inside the region PLANTED; everybody's
    T1w falls by AGE_SLOPE_PER_DECADE. `lone_site` puts the patients at a site without controls; the first `repeats`
    controls have a second session; subject ids begin with `prefix`.
    """
    generator = np.random.default_rng(seed)
    plan = plan_grid(SPACING_MM)
    template = template_on(plan)
    labels = np.zeros(plan.shape, dtype=np.int16)
    labels[8:16, 20:28, 14:22], labels[24:32, 20:28, 14:22] = 1, 2
    labels *= template.mask
    rows, hashes = [], []
    for i in range(num_controls + num_patients):
        patient = i >= num_controls
        for session in ("1", "2") if i < repeats else ("1",):
            subject = f"{prefix}{i:03d}"
            age, key = float(generator.uniform(40, 80)), scan_key(subject, session)
            t1w = (
                template.t1w + 0.05 * _smooth_noise(generator, plan.shape, 2.0) + AGE_SLOPE_PER_DECADE * (age - 60) / 10
            )
            log_jacobian = 0.08 * _smooth_noise(generator, plan.shape, 2.0)
            if patient:
                t1w, log_jacobian = t1w + 0.6 * effect * (labels == 1), log_jacobian + effect * (labels == 1)
            store(folder / "volumes" / f"{key}_t1w.nii", t1w * template.mask, plan.matrix)
            hashes.append(voxel_hash(t1w))
            store(folder / "volumes" / f"{key}_log_jacobian.nii", log_jacobian * template.mask, plan.matrix)
            site = lone_site if patient and lone_site else sites[i % len(sites)]
            rows.append(
                (subject, session, site, age, "FM"[i % 2], "AD" if patient else "control", np.nan, np.nan, "", key)
            )
    columns = ["subject", "session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse", "role", "key"]
    split = split or Split(train=0.3, calibration=0.45, test=0.25)
    names = pd.DataFrame(
        {"label": [1, 2], "name": [PLANTED, "right block"], "hemisphere": ["left", "right"], "tissue": ["gm", "gm"]}
    )
    table = assign_roles(pd.DataFrame(rows, columns=columns), split).assign(scan_hash=hashes)
    write_prepared(folder, plan, template.mask, labels, names, table)
    record = {
        "gen3d": "0",
        "verb": "prepare",
        "key": f"cohort {prefix} {seed} {effect} {num_controls}",
        "status": "finished",
    }
    write_json(folder / "artefact.json", {**record, "config": {}, "inputs": {}, "summary": {}, "finished_at": ""})
    return folder
