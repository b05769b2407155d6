"""Small prepared cohorts whose levels differ where it is planted and nowhere else, and quick settings of `gen3d explore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from gen3d.cohort.folder import write_cohort
from gen3d.cohort.manifest import scan_key
from gen3d.core.artefact import write_json
from gen3d.explore.explore import Explore
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from tests.sealing import reseal

PLANTED, OTHER = "left block", "right block"
_FINER = plan_grid(4.0)
_ROWS = [tuple(float(value) * (2 if column < 3 else 1) for column, value in enumerate(row)) for row in _FINER.affine]
PLAN = GridPlan(
    spacing_mm=8.0,
    shape=(_FINER.shape[0] // 2, _FINER.shape[1] // 2, _FINER.shape[2] // 2),
    affine=(*_ROWS[:3], (0.0, 0.0, 0.0, 1.0)),  # type: ignore[arg-type]
)
QUICK: dict[str, Any] = {"permutations": 199, "bootstrap": 100, "pairs": 4, "map_mm": 8.0, "age_bin_years": 10.0}


def people(num: int = 24, names: Sequence[str] = ("CN", "AD"), sessions: int = 1) -> pd.DataFrame:
    """A row per scan: people in turn at each level, with the same ages at all of them."""
    rows = []
    for number in range(num):
        for session in range(sessions):
            subject, level = f"p{number:03d}", names[number % len(names)]
            rows.append(
                (subject, str(session + 1), "a", 60.0 + number // len(names) % 20, "FM"[number // 2 % 2], level)
            )
    return pd.DataFrame(rows, columns=["subject", "session", "site", "age_years", "sex", "diagnosis"])


def write(folder: Path, table: pd.DataFrame, effect: float = 0.0, slices: bool = False, seed: int = 0) -> Path:
    """A prepared folder of these scans; whoever's diagnosis is AD has `effect` added in the region PLANTED.

    A second scan of a person is the first one again. With `slices` there is one channel, and no region.
    """
    template = template_on(PLAN)
    labels = np.zeros(PLAN.shape, np.int16)
    middle = PLAN.shape[0] // 2
    labels[middle - 6 : middle - 2, 8:14, 8:14], labels[middle + 2 : middle + 6, 8:14, 8:14] = 1, 2
    labels *= template.mask
    names = pd.DataFrame(
        {"label": [1, 2], "name": [PLANTED, OTHER], "hemisphere": ["left", "right"], "tissue": ["GM", "GM"]}
    )
    plan = PLAN.model_copy(update={"channels": ("t1w",)}) if slices else PLAN
    for row in table.to_dict("records"):
        generator = np.random.default_rng([seed, int(row["subject"][1:])])
        ill = effect * (labels == 1) * (row["diagnosis"] == "AD")
        key = scan_key(row["subject"], row["session"])
        for channel, base, amount in (("t1w", template.t1w, 0.6), ("log_jacobian", 0.0 * template.t1w, 1.0)):
            noise = ndimage.gaussian_filter(generator.standard_normal(PLAN.shape), 1.0)
            volume = (base + 0.05 * noise / noise.std() + amount * ill) * template.mask
            if channel in plan.channels:
                store(folder / "volumes" / f"{key}_{channel}.nii", volume, PLAN.matrix)
    scans = table.assign(cdr=np.nan, mmse=np.nan, role="evaluation")
    scans["key"] = [scan_key(*pair) for pair in scans[["subject", "session"]].itertuples(index=False)]
    if slices:
        labels, names = np.zeros_like(labels), names.iloc[:0]
    write_cohort(folder, plan, template.mask, labels, names, scans)
    record = {"gen3d": "0", "verb": "prepare", "key": f"{folder.name} {seed} {effect}", "status": "finished"}
    write_json(folder / "artefact.json", {**record, "config": {}, "inputs": {}, "summary": {}, "finished_at": ""})
    reseal(folder)
    return folder


def explore(prepared: Path, out: Path, **settings: Any) -> Path:
    """A finished folder of `gen3d explore`."""
    return Explore.model_validate({"prepared": prepared, "out": out, **QUICK, **settings}).run()
