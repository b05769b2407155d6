"""All people of a simulated cohort, in several processes, each result kept as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.artefact import write_json
from gen3d.data.anatomy import Space
from gen3d.data.appearance import Site
from gen3d.data.conditions import DOWN_SYNDROME_AFFINE, Condition
from gen3d.data.intensity import apply_tissue_rule
from gen3d.data.people import NONE
from gen3d.data.person import CONDITION, Truth, make_person, plant_in_scan, stream
from gen3d.data.pool import as_done, num_workers
from gen3d.data.prepared import Prepared
from gen3d.data.registration import DeformationSettings, deformation_channel, register
from gen3d.data.screening import measure
from gen3d.data.screening_picture import draw
from gen3d.data.template import template_on
from gen3d.data.volume import store, write_nifti
from gen3d.errors import UserError

CACHE = ".people"
INTRACRANIAL_TEMPLATE_ML = 1880.0  # the template is larger than most heads: its brain mask holds this much

Row = dict[str, Any]


@dataclass(frozen=True)
class Cohort:
    """What all people of a cohort share; sent to each worker once."""

    out: Path
    seed: int
    space: Space
    sites: list[Site]
    conditions: dict[str, Condition]
    figures: bool
    bases: Prepared | None

    def condition(self, row: Row) -> Condition | None:
        """The condition of a person; None for the healthy."""
        return None if row["condition"] == NONE else self.conditions[row["condition"]]


def simulate_all(cohort: Cohort, people: Sequence[Row], workers: int) -> Iterator[Row]:
    """Yield one row per scan as it is done; rows kept by an earlier, interrupted run come first and cost nothing.

    Raises:
        UserError: the output cannot be written, or a worker process was killed.
    """
    waiting = []
    for person in people:
        kept = _kept(cohort, person)
        if kept is None:
            waiting.append(person)
        else:
            yield kept
    count = num_workers(workers, max(1, len(waiting)))
    if count == 1:
        yield from (simulate_scan(cohort, person) for person in waiting)
        return
    yield from as_done(_in_worker, waiting, count, _begin_worker, (cohort,))


_worker_cohort: Cohort | None = None


def _begin_worker(cohort: Cohort) -> None:
    global _worker_cohort
    _worker_cohort = cohort


def _in_worker(person: Row) -> Row:
    assert _worker_cohort is not None
    return simulate_scan(_worker_cohort, person)


def _kept(cohort: Cohort, person: Row) -> Row | None:
    try:
        row: Row = json.loads((cohort.out / CACHE / f"{person['key']}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return row


def simulate_scan(cohort: Cohort, person: Row) -> Row:
    """Simulate one scan and store all that belongs to it; the row says what the cohort's tables need.

    Raises:
        UserError: the output cannot be written, or a condition cannot be made on this grid.
    """
    # People are the parallel dimension; one thread each, so that results do not depend on the machine.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    start, key, plan = time.monotonic(), str(person["key"]), cohort.space.plan
    try:
        scan, brain, truth, volumes = _image(cohort, person)
    except ValueError as error:
        what = f"condition {person['condition']} at severity {person['severity']:g}"
        raise UserError(f"{key}: {what} cannot be made at {plan.spacing_mm:g} mm ({error}); lower it.") from None
    t1w, levels = apply_tissue_rule(scan, template_on(plan), brain)
    log_jacobian, quality = deformation_channel(t1w, plan)
    affine = _alignment(cohort, person)
    verdict = {
        "key": key,
        "source": "simulated",
        "failure": "",
        **measure(t1w, brain, template_on(plan), plan.spacing_mm, affine, float("nan"), levels),
        **quality,
    }
    try:
        _store(cohort, key, t1w * template_on(plan).mask, log_jacobian, truth, affine)
        row = {
            "key": key,
            "verdict": verdict,
            "truth": {
                "key": key,
                "lesion_ml": round(truth.lesion_ml, 4),
                "changed_ml": round(float(truth.changed.sum()) * plan.spacing_mm**3 / 1000, 3),
            },
            "percent_change": truth.percent_change,
            "volume_ml": volumes,
            "volume_error_percent": truth.error_percent,
            "seconds": round(time.monotonic() - start, 2),
        }
        write_json(cohort.out / CACHE / f"{key}.json", row)
    except OSError as error:
        raise UserError(
            f"{cohort.out}: cannot be written ({error.strerror or error}); free space and run again."
        ) from None
    return row


def _image(cohort: Cohort, person: Row) -> tuple[NDArray[np.float32], NDArray[np.bool_], Truth, dict[str, float]]:
    """Scan [X, Y, Z], brain, truth and true volumes (ml) of one person, from the template or from a base scan."""
    condition, severity, index = cohort.condition(person), float(person["severity"]), int(person["index"])
    if cohort.bases is None:
        site = next(site for site in cohort.sites if site.name == person["site"])
        made = make_person(
            cohort.space,
            site,
            float(person["age_years"]),
            condition,
            severity,
            cohort.seed,
            index,
            int(person["session"]),
        )
        return made.scan, made.brain, made.truth, made.volumes_ml
    plan = cohort.space.plan
    healthy = cohort.bases.volume(str(person["key"]), "t1w")
    settings = DeformationSettings.model_validate(dict(plan.deformation))
    to_scan, _ = register(template_on(plan).t1w, healthy, settings)
    image, truth = plant_in_scan(
        cohort.space, healthy, to_scan.astype(np.float32), condition, severity, stream(cohort.seed, index, CONDITION)
    )
    return image, image > 0, truth, {}


def _alignment(cohort: Cohort, person: Row) -> NDArray[np.float64]:
    """Affine template -> scan [4, 4] of this person: head size, the site's scale error, the shape of Down syndrome."""
    scales = np.ones(3)
    if cohort.bases is None:
        site = next(site for site in cohort.sites if site.name == person["site"])
        scales *= site.scale * (float(person["intracranial_ml"]) / INTRACRANIAL_TEMPLATE_ML) ** (1 / 3)
    condition = cohort.condition(person)
    if condition is not None and condition.kind == "ds":
        scales *= DOWN_SYNDROME_AFFINE
    return np.diag([*scales, 1.0])


def _store(
    cohort: Cohort,
    key: str,
    t1w: NDArray[np.float32],
    log_jacobian: NDArray[np.float32],
    truth: Truth,
    affine: NDArray[np.float64],
) -> None:
    plan, out = cohort.space.plan, cohort.out
    store(out / "volumes" / f"{key}_t1w.nii", t1w, plan.matrix)
    store(out / "volumes" / f"{key}_log_jacobian.nii", log_jacobian, plan.matrix)
    write_nifti(out / "truth" / f"{key}_log_jacobian.nii.gz", truth.log_jacobian, plan.matrix)
    write_nifti(out / "truth" / f"{key}_changed.nii.gz", truth.changed, plan.matrix)
    transform = {
        "affine_template_to_scan": affine.tolist(),
        "scan": "",
        "scan_affine": (affine @ plan.matrix).tolist(),
        "scan_shape": list(plan.shape),
        "dof": plan.degrees_of_freedom,
    }
    write_json(out / "transforms" / f"{key}.json", transform)
    if cohort.figures:
        draw(out / "figures" / f"{key}.png", t1w, log_jacobian, template_on(plan).mask, plan)
