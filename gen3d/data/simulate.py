"""`gen3d simulate`: a cohort of brains whose truth is known, laid out like prepare's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from gen3d.artefact import begin, write_atomic
from gen3d.config import Folders, Verb, execution
from gen3d.data.anatomy import cohort_space
from gen3d.data.appearance import make_sites
from gen3d.data.cohort import CACHE, Cohort, Row, simulate_all
from gen3d.data.conditions import Condition, Name, default_conditions
from gen3d.data.manifest import Split, assign_roles, is_control, write_manifest
from gen3d.data.people import NONE, design
from gen3d.data.plan import GridPlan, plan_grid, write_plan
from gen3d.data.pool import num_workers
from gen3d.data.prepared import Prepared, open_prepared
from gen3d.data.regions import region_table, regions_on
from gen3d.data.registration import DeformationSettings
from gen3d.data.screening import judge
from gen3d.data.template import template_on
from gen3d.data.volume import write_nifti
from gen3d.errors import UserError
from gen3d.progress import duration, say, track

SECONDS_PER_SCAN, SECONDS_PER_MEGAVOXEL = 0.4, 6.0  # of one core
FIRST_COLUMNS = ("key", "source", "verdict", "reason")


class Simulate(Verb):
    """A cohort with known truth, in the layout of prepare's output.

    Every person is the MNI152 template under a diffeomorphism (anatomy, age, condition), scanned at one of several sites
    with noise of its own.
    truth/ says what the condition did: log-Jacobian maps, changed voxels, volume change by region.
    """

    subjects: int = Field(60, ge=1, le=100_000, description="number of people")
    spacing_mm: float = Field(3.0, ge=1, le=4, description="edge of a cubic voxel of the grid, mm (1 to 4)")
    seed: int = Field(0, ge=0, description="seed of everything random")
    conditions: dict[Name, Condition] = Field(
        default_factory=default_conditions, description="groups of people by name; everyone else is a healthy control"
    )
    sites: int = Field(2, ge=1, le=1000, description="number of scanner sites")
    site_strength: float = Field(
        1.0, ge=0, le=3, description="how much sites differ in contrast, resolution, bias and noise: 0 not at all"
    )
    age_years: tuple[float, float] = Field((45.0, 85.0), description="youngest and oldest person, years")
    longitudinal: float = Field(0.0, ge=0, le=1, description="share of people with a second session 1 to 3 years later")
    base: Folders | None = Field(
        None, description="prepared folders whose real control scans are the healthy brains; none: the template"
    )
    divisible_by: int = Field(
        8, ge=1, le=64, description="every side of the grid is a multiple of this: models halve it"
    )
    deformation: DeformationSettings = Field(
        default_factory=DeformationSettings, description="settings of the deformation channel, as in prepare"
    )
    split: Split = Field(default_factory=Split, description="how control subjects are shared out over the roles")
    figures: bool = execution(True, "draw a picture of each scan")
    workers: int = execution(0, "people at a time; 0 means one per core", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Simulate:
        low, high = self.age_years
        if not 18 <= low <= high <= 95:
            raise ValueError(
                f"age_years is the youngest and the oldest age, between 18 and 95 years; it is {low:g} to {high:g}."
            )
        if NONE in self.conditions:
            raise ValueError(f"`{NONE}` is the name of the healthy people; give the condition another name.")
        if self.base and self.longitudinal:
            raise ValueError("second sessions need simulated anatomy: give longitudinal=0 or no base.")
        return self

    def run(self) -> Path:
        """Simulate every person and write the cohort folder.

        Raises:
            UserError: conditions that do not fit the number of people, too few base scans, another folder's output.
        """
        bases = open_prepared(self.base) if self.base else None
        scans, plan = self.people(bases), self.grid(bases)
        work = begin(self, "simulate", {"base": list(self.base or ())})
        try:
            if work.finished:
                say(f"{self.out}: finished before, nothing to do")
                return self.out
            cohort = Cohort(
                self.out,
                self.seed,
                cohort_space(plan),
                make_sites(self.sites, self.site_strength, self.seed),
                self.conditions,
                self.figures,
                bases,
            )
            records: list[Row] = [{str(name): value for name, value in row.items()} for row in scans.to_dict("records")]
            done = track(simulate_all(cohort, records, self.workers), "simulating people", total=len(scans))
            rows = sorted(done, key=lambda row: str(row["key"]))
            summary = self._write_cohort(scans, rows, plan)
            shutil.rmtree(self.out / CACHE, ignore_errors=True)
            work.finish(summary)
        finally:
            work.release()
        roles = ", ".join(f"{role} {count}" for role, count in summary["roles"].items())
        people = scans["subject"].nunique()
        say(f"{self.out}: {len(scans)} scans of {people} people ({roles}); {summary['seconds_per_scan']} s per scan")
        return self.out

    def plan(self) -> list[str]:
        """What `run()` would do, how long it would take, and how much it would write."""
        bases = open_prepared(self.base) if self.base else None
        scans, grid = self.people(bases), self.grid(bases)
        megavoxels = float(np.prod(grid.shape)) / 1e6
        workers = num_workers(self.workers, len(scans))
        seconds = len(scans) * (SECONDS_PER_SCAN + SECONDS_PER_MEGAVOXEL * megavoxels) / workers
        counts = scans.drop_duplicates("subject")["condition"].value_counts()
        groups = ", ".join(f"{name} {count}" for name, count in counts.items())
        return [
            f"simulates {len(scans)} scans of {scans['subject'].nunique()} people ({groups})",
            f"the grid is {grid.describe()}",
            f"takes about {duration(seconds)} with {workers} workers",
            f"writes about {len(scans) * megavoxels * 4.2:.0f} MB to {self.out}",
        ]

    def grid(self, bases: Prepared | None = None) -> GridPlan:
        """The plan that these settings make; that of the base scans where there are any."""
        if bases is not None:
            return bases.plan
        return plan_grid(
            self.spacing_mm,
            self.divisible_by,
            channels=("t1w", "log_jacobian"),
            deformation=self.deformation.model_dump(mode="json"),
        )

    def people(self, bases: Prepared | None = None) -> pd.DataFrame:
        """The cohort table before any image, see `gen3d.data.people`; with bases, each person is one of their controls."""
        site_names = [site.name for site in make_sites(self.sites, self.site_strength, self.seed)]
        scans = design(self.subjects, self.conditions, site_names, self.age_years, self.longitudinal, self.seed)
        return scans if bases is None else _on_bases(scans, bases)

    def _write_cohort(self, scans: pd.DataFrame, rows: list[Row], plan: GridPlan) -> dict[str, Any]:
        """Write what belongs to the cohort as a whole, and return the summary of the artefact."""
        verdicts = pd.DataFrame([row["verdict"] for row in rows])
        verdicts = verdicts.join(judge(verdicts)).drop(columns="failure")
        manifest = assign_roles(scans.drop(columns="index"), self.split)
        truth = scans[["subject", "session", "key", "condition", "severity"]].merge(
            pd.DataFrame([row["truth"] for row in rows]), on="key"
        )
        template = template_on(plan)
        write_plan(self.out / "plan.json", plan)
        write_nifti(self.out / "mask.nii", template.mask, plan.matrix)
        write_nifti(self.out / "regions.nii", regions_on(plan), plan.matrix)
        _write_table(self.out / "regions.tsv", region_table())
        _write_table(
            self.out / "verdicts.tsv",
            verdicts[[*FIRST_COLUMNS, *(c for c in verdicts if c not in FIRST_COLUMNS)]],
        )
        _write_table(self.out / "truth" / "truth.tsv", truth)
        _write_table(self.out / "truth" / "truth_regions.tsv", _long(rows, "percent_change"))
        _write_table(self.out / "truth" / "truth_volumes.tsv", _long(rows, "volume_ml"))
        write_manifest(self.out, manifest)
        return {
            "num_scans": len(rows),
            "conditions": {str(name): int(count) for name, count in scans["condition"].value_counts().items()},
            "roles": {str(role): int(count) for role, count in manifest["role"].value_counts().items()},
            "seconds_per_scan": round(float(np.median([row["seconds"] for row in rows])), 2),
            "largest_volume_error_percent": round(
                max((float(row["volume_error_percent"]) for row in rows), default=0.0), 3
            ),
        }


def _on_bases(scans: pd.DataFrame, bases: Prepared) -> pd.DataFrame:
    """Give each simulated person the identity of one real control: subject, session, site, age, sex and all other columns
    of the base.
    """
    healthy = is_control(bases.manifest) & (bases.manifest["role"] != "excluded")
    usable = bases.manifest[healthy].drop_duplicates("subject")
    if len(usable) < len(scans):
        raise UserError(
            f"the base folders hold {len(usable)} usable control people but subjects={len(scans)}; "
            "lower subjects or add folders."
        )
    ours = scans[["index", "diagnosis", "condition", "severity", "cdr", "mmse"]].reset_index(drop=True)
    theirs = usable.iloc[: len(scans)].drop(columns=[*ours.columns, "role", "folder"], errors="ignore")
    chosen = theirs.reset_index(drop=True)
    return pd.concat([chosen, ours], axis=1)


def _long(rows: list[Row], name: str) -> pd.DataFrame:
    """One row per key and region of a quantity that rows hold by region."""
    return pd.DataFrame(
        [(row["key"], region, value) for row in rows for region, value in row[name].items()],
        columns=["key", "region", name],
    )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, table.to_csv(sep="\t", index=False, float_format="%.6g", na_rep="n/a"))
