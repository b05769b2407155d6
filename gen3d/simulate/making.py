"""All people of a simulated cohort, in several processes, each result kept as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.cohort.channels import LOG_JACOBIAN, MODULATED, T1W
from gen3d.cohort.folder import Prepared
from gen3d.cohort.screening_picture import draw
from gen3d.core.artefact import write_json
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.tables import Row
from gen3d.imaging.density import modulated_density
from gen3d.imaging.intensity import apply_tissue_rule
from gen3d.imaging.registration import deform
from gen3d.imaging.similarity import measure
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.simulate.anatomy import AnatomySpace
from gen3d.simulate.appearance import Site
from gen3d.simulate.conditions import DOWN_SYNDROME_AFFINE, Condition
from gen3d.simulate.folder import write_truth_volumes
from gen3d.simulate.label_maps import template_to_scan
from gen3d.simulate.lesion_masks import LesionMask
from gen3d.simulate.people import NONE
from gen3d.simulate.person import ScanTruth, SimulatedPerson, make_person
from gen3d.simulate.planting import Base, Channels, channels_of, plant
from gen3d.simulate.visits import Comer, Course, RepeatedPerson, scan_at

CACHE = ".people"
INTRACRANIAL_TEMPLATE_ML = 1880.0  # the template is larger than most heads: its brain mask holds this much


@dataclass(frozen=True)
class SimulatedCohort:
    """What all people of a cohort share; sent to each worker once."""

    out: Path
    seed: int
    space: AnatomySpace
    sites: list[Site]
    conditions: dict[str, Condition]
    figures: bool
    bases: Prepared | None
    masks: dict[str, tuple[LesionMask, ...]] = field(default_factory=dict)
    course: Course | None = None
    shifts: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """Change of the log volume of regions by label, of each person (index) whose alleles change any."""

    @property
    def rows(self) -> KeptRows:
        """The rows of the scans that are done."""
        return KeptRows(self.out / CACHE)

    def condition(self, row: Row) -> Condition | None:
        """The condition of a person; None for the healthy."""
        return None if row["condition"] == NONE else self.conditions[row["condition"]]


def simulate_all(cohort: SimulatedCohort, people: Sequence[Row], workers: int) -> Iterator[Row]:
    """Yield one row per scan as it is done; rows kept by an earlier, interrupted run come first and cost nothing.

    Twins of one base, and with a course the visits of one person, are made together, so that what they share is computed once.

    Raises:
        UserError: the output cannot be written, or a worker process was killed.
    """
    return kept_or_made(
        people,
        lambda person: cohort.rows.get(str(person["key"])),
        _make_group,
        cohort,
        lambda num_groups: num_workers(workers, num_groups),
        group_of=lambda person: str(person["base" if cohort.bases else "subject" if cohort.course else "key"]),
    )


def _make_group(cohort: SimulatedCohort, group: list[Row]) -> list[Row]:
    """The scans of a group: twins of one base, the visits of one simulated person, or one scan."""
    if cohort.bases:
        return list(simulate_twins(cohort, group))
    return list(simulate_visits(cohort, group)) if cohort.course else [simulate_scan(cohort, row) for row in group]


def simulate_scan(cohort: SimulatedCohort, person: Row) -> Row:
    """Simulate one person's scan and store all that belongs to it; the row says what the cohort's tables need.

    Raises:
        UserError: the output cannot be written, or a condition cannot be made on this grid.
    """
    # People are the parallel dimension; one thread each, so that results do not depend on the machine.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    start, key, plan = time.monotonic(), str(person["key"]), cohort.space.plan
    site = next(site for site in cohort.sites if site.name == person["site"])
    severity, age = float(person["severity"]), float(person["age_years"])
    who = (cohort.seed, int(person["index"]), int(person["session"]))
    try:
        simulated = make_person(
            cohort.space,
            site,
            age,
            cohort.condition(person),
            severity,
            *who,
            masks=cohort.masks.get(str(person["condition"]), ()),
            shift=cohort.shifts.get(int(person["index"]), {}),
        )
    except ValueError as error:
        what = f"condition {person['condition']} at severity {severity:g}"
        raise UserError(f"{key}: {what} cannot be made at {plan.spacing_mm:g} mm ({error}); lower it.") from None
    return _keep_simulated(cohort, person, simulated, start, {})


def simulate_visits(cohort: SimulatedCohort, visits: Sequence[Row]) -> Iterator[Row]:
    """Simulate the visits of one person and store all that belongs to them, as `simulate_scan` does.

    Raises:
        UserError: the output cannot be written, or a change cannot be made on this grid.
    """
    assert cohort.course is not None
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    row = visits[0]
    comer = Comer(
        int(row["index"]),
        float(row["first_age_years"]),
        cohort.condition(row),
        float(row["first_severity"]),
        bool(row["converts"]),
        float(row["last_years"]),
        cohort.shifts.get(int(row["index"]), {}),
    )
    person = RepeatedPerson(cohort.space, comer, cohort.course, cohort.seed)
    for visit in visits:
        start, years = time.monotonic(), float(visit["years"])
        site = next(site for site in cohort.sites if site.name == visit["site"])
        try:
            masks = cohort.masks.get(str(visit["condition"]), ())
            simulated = scan_at(person, site, years, int(visit["session"]), masks)
        except ValueError as error:
            raise UserError(
                f"{visit['key']}: condition {visit['condition']} at severity {comer.severity:g} and {years:g} years later cannot "
                f"be made at {cohort.space.plan.spacing_mm:g} mm ({error}); lower severity or progression."
            ) from None
        yield _keep_simulated(cohort, visit, simulated, start, {"attenuation": round(person.attenuation, 2)})


def _keep_simulated(
    cohort: SimulatedCohort, person: Row, simulated: SimulatedPerson, start: float, further: Row
) -> Row:
    """What prepare would make of the scan, stored."""
    plan = cohort.space.plan
    t1w, levels = apply_tissue_rule(simulated.scan, template_on(plan), simulated.brain)
    deformation, density = deform(t1w, plan), None
    if MODULATED in plan.channels:
        density = modulated_density(t1w, deformation, template_on(plan))
    volumes = Channels(t1w, deformation.log_jacobian, density, levels, deformation.quality)
    scan = SimulatedScan(volumes, simulated.brain, _alignment(cohort, person), "simulated")
    return _keep(
        cohort,
        str(person["key"]),
        scan,
        simulated.truth,
        start,
        {"volume_ml": simulated.volumes_ml, "planting": further},
    )


def simulate_twins(cohort: SimulatedCohort, twins: Sequence[Row]) -> Iterator[Row]:
    """Make the twins of one base and store what belongs to them, as `simulate_scan` does.

    A twin that cannot be made in this base is left out: its row holds only its key and the reason, ``left_out``.

    Raises:
        UserError: the output cannot be written, or the base cannot be read.
    """
    assert cohort.bases is not None
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    key = str(twins[0]["base"])
    folder = Path(str(cohort.bases.row(key)["folder"]))
    alignment = template_to_scan(folder, key)
    stored = {name: cohort.bases.volume(key, name) for name in cohort.space.plan.channels}
    base = Base(key, stored[T1W], stored.get(LOG_JACOBIAN), cohort.space, alignment, stored.get(MODULATED))
    affine = np.eye(4) if alignment is None else alignment
    for twin in twins:
        start, name, severity = time.monotonic(), str(twin["condition"]), float(twin["severity"])
        try:
            planted = plant(base, cohort.conditions[name], severity, cohort.masks.get(name, ()), cohort.seed, name)
        except ValueError as error:
            yield {"key": str(twin["key"]), "condition": name, "left_out": f"{key}: no twin with {name} ({error})"}
            continue
        seen = channels_of(base, planted)
        scan = SimulatedScan(seen, planted.brain, affine, "planted")
        noise = {"noise_level": round(base.noise.level, 5)}
        noise["noise_correlation"] = round(float(np.mean(base.noise.correlation)), 3)
        yield _keep(cohort, str(twin["key"]), scan, planted.truth, start, {"volume_ml": {}, "planting": noise})


@dataclass(frozen=True)
class SimulatedScan:
    """A finished scan on the grid, and what its screening row needs."""

    volumes: Channels
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    source: str


def _keep(cohort: SimulatedCohort, key: str, scan: SimulatedScan, truth: ScanTruth, start: float, further: Row) -> Row:
    """Store a scan with its truth, and its row in the cache of this run; ``start`` is when its making began."""
    plan, template = cohort.space.plan, template_on(cohort.space.plan)
    row: Row = {
        "key": key,
        "verdict": {
            "key": key,
            "source": scan.source,
            "failure": "",
            **measure(
                scan.volumes.t1w, scan.brain, template, plan.spacing_mm, scan.affine, float("nan"), scan.volumes.levels
            ),
            **scan.volumes.quality,
        },
        "truth": {
            "key": key,
            "lesion_ml": round(truth.lesion_ml, 4),
            "changed_ml": round(float(truth.changed.sum()) * plan.spacing_mm**3 / 1000, 3),
            **({"lesion_mask": truth.lesion_mask} if truth.lesion_mask else {}),
            **further.pop("planting", {}),
        },
        "percent_change": truth.percent_change,
        "volume_error_percent": truth.error_percent,
        **further,
    }
    with writing(cohort.out):
        _store(cohort, key, scan, truth)
        row["seconds"] = round(time.monotonic() - start, 2)
        cohort.rows.keep(key, row)
    return row


def _alignment(cohort: SimulatedCohort, person: Row) -> NDArray[np.float64]:
    """Affine template -> scan [4, 4] of this person: head size, the site's scale error, the shape of Down syndrome."""
    site = next(site for site in cohort.sites if site.name == person["site"])
    scales = np.ones(3) * site.scale * (float(person["intracranial_ml"]) / INTRACRANIAL_TEMPLATE_ML) ** (1 / 3)
    condition = cohort.condition(person)
    if condition is not None and condition.kind == "ds":
        scales *= DOWN_SYNDROME_AFFINE
    return np.diag([*scales, 1.0])


def _store(cohort: SimulatedCohort, key: str, scan: SimulatedScan, truth: ScanTruth) -> None:
    plan, out = cohort.space.plan, cohort.out
    mask = template_on(plan).mask
    t1w, log_jacobian = scan.volumes.t1w * mask, scan.volumes.log_jacobian
    for name, volume in ((T1W, t1w), (LOG_JACOBIAN, log_jacobian), (MODULATED, scan.volumes.density)):
        if volume is not None:
            store(out / "volumes" / f"{key}_{name}.nii", volume, plan.matrix)
    write_truth_volumes(out, key, truth.log_jacobian, truth.changed, plan.matrix)
    transform = {
        "affine_template_to_scan": scan.affine.tolist(),
        "scan": "",
        "scan_affine": (scan.affine @ plan.matrix).tolist(),
        "scan_shape": list(plan.shape),
        "dof": plan.degrees_of_freedom,
    }
    write_json(out / "transforms" / f"{key}.json", transform)
    if cohort.figures:
        draw(out / "figures" / f"{key}.png", t1w, log_jacobian, mask, plan)
