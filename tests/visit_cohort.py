"""A prepared folder of people who came several times, whose region volumes change at known rates: fast, and its truth is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import write_cohort
from gen3d.cohort.manifest import Split, assign_roles, scan_key
from gen3d.cohort.regions import find, region_table, regions_on
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.core.artefact import write_json
from gen3d.imaging.deformation import compose, exponential, invert, jacobian_determinant, random_velocity, warp
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.models.forecast.realise import velocity_of_rates

SPACING_MM = 4.0
VENTRICLES = "lateral ventricle"
"""The structure that grows: large enough for a grid of 4 mm."""

Rate = Callable[["Visitor"], float]


@dataclass(frozen=True)
class Visitor:
    """One person: number, age at the first visit, sex, diagnosis."""

    number: int
    age: float
    sex: str
    diagnosis: str


def write_visits(
    folder: Path,
    rate: Rate,
    num_people: int = 14,
    years: tuple[float, ...] = (0.0, 2.0),
    seed: int = 0,
    noise: float = 0.01,
    sites: Callable[[int, int], str] = lambda person, visit: "a",
    channels: tuple[str, ...] = ("t1w", "log_jacobian"),
    spacing_mm: float = SPACING_MM,
) -> Path:
    """Write a folder like prepare's: everybody's ventricles grow by `rate(visitor)` (log volume per year), the rest stays.

    Args:
        folder: to be made.
        rate: log volume change of the ventricles per year.
        num_people: half are controls, half have AD.
        years: of the visits, since the first.
        seed: of everything random.
        noise: SD of the T1w's noise, white matter 1.
        sites: site of person and visit.
        channels: that are stored.
        spacing_mm: of the grid.
    """
    generator = np.random.default_rng(seed)
    plan = coarse_plan(spacing_mm, channels)
    template, labels = template_on(plan), np.array(regions_on(plan))
    unit = unit_velocity(plan)
    rows, hashes = [], []
    for number in range(num_people):
        visitor = Visitor(
            number, float(generator.uniform(60, 80)), "FM"[number % 2], "AD" if number >= num_people // 2 else "control"
        )
        anatomy = exponential(random_velocity(plan.shape, 16 / spacing_mm, 1 / spacing_mm, generator, template.mask))
        for visit, time in enumerate(years):
            subject, session = f"v{number:03d}", str(visit + 1)
            key = scan_key(subject, session)
            change = exponential(unit * np.float32(rate(visitor) * time))
            forward = compose(anatomy, change)
            backward = compose(
                exponential(-unit * np.float32(rate(visitor) * time)), invert(anatomy, num_iterations=12)
            )
            t1w = warp(template.t1w, backward) * (1 + noise * generator.standard_normal(plan.shape)).astype(np.float32)
            store(folder / "volumes" / f"{key}_t1w.nii", t1w * template.mask, plan.matrix)
            hashes.append(voxel_hash(t1w))
            logs = np.log(np.maximum(jacobian_determinant(forward), 0.05)) * template.mask
            if "log_jacobian" in channels:
                store(folder / "volumes" / f"{key}_log_jacobian.nii", logs.astype(np.float32), plan.matrix)
            rows.append(
                (
                    subject,
                    session,
                    sites(number, visit),
                    visitor.age + time,
                    visitor.sex,
                    visitor.diagnosis,
                    np.nan,
                    np.nan,
                    "",
                    key,
                )
            )
    columns = ["subject", "session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse", "role", "key"]
    table = assign_roles(pd.DataFrame(rows, columns=columns), Split(train=0.5, calibration=0.25, test=0.25))
    names = region_table()[["label", "name", "hemisphere", "tissue"]]
    write_cohort(folder, plan, template.mask, labels, names, table.assign(scan_hash=hashes))
    record = {
        "gen3d": "0",
        "verb": "prepare",
        "key": f"visits {seed} {num_people} {years} {noise}",
        "status": "finished",
    }
    write_json(folder / "artefact.json", {**record, "config": {}, "inputs": {}, "summary": {}, "finished_at": ""})
    return folder


def coarse_plan(spacing_mm: float, channels: tuple[str, ...] = ("t1w", "log_jacobian")) -> GridPlan:
    """A plan of the template's field of view with voxels larger than prepare offers, for fast tests."""
    fine = plan_grid(SPACING_MM, channels=channels)
    factor = spacing_mm / SPACING_MM
    shape = tuple(int(np.ceil(side / factor / 4)) * 4 for side in fine.shape)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    centre = fine.matrix[:3, 3] + (np.array(fine.shape) - 1) / 2 * SPACING_MM
    affine[:3, 3] = centre - (np.array(shape) - 1) / 2 * spacing_mm
    rows = tuple(tuple(float(value) for value in row) for row in affine)
    return fine.model_copy(update={"spacing_mm": spacing_mm, "shape": shape, "affine": rows, "divisible_by": 4})


def unit_velocity(plan: GridPlan) -> NDArray[np.float32]:
    """Velocity on the template whose ventricles gain 1 in log volume, nothing else changes."""
    labels = np.array(regions_on(plan))
    wanted = np.zeros(int(region_table()["label"].max()))
    wanted[np.array(find(VENTRICLES)) - 1] = 1.0
    rates = np.concatenate([[0.0], wanted])[labels].astype(np.float32)
    return velocity_of_rates(rates, labels, wanted, template_on(plan).mask)
