"""`gen3d simulate`: a cohort of brains with known changes, in the layout that prepare writes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from gen3d.cohort.channels import LOG_JACOBIAN, MODULATED, T1W
from gen3d.cohort.folder import VERDICTS, Prepared, open_prepared, write_cohort
from gen3d.cohort.manifest import SCAN_HASH, Split, assign_roles
from gen3d.cohort.regions import region_table, regions_on
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.cohort.screening import judge
from gen3d.core.config import Folders, execution
from gen3d.core.disk import remove_folder
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.pool import num_workers
from gen3d.core.progress import duration, say, track, warn
from gen3d.core.tables import Row
from gen3d.core.work import FolderVerb, Inputs
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.registration import DeformationSettings
from gen3d.imaging.speed import slowness
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_stored
from gen3d.simulate.anatomy import cohort_space
from gen3d.simulate.appearance import Site, make_sites
from gen3d.simulate.conditions import Condition, Name, default_conditions
from gen3d.simulate.folder import PERCENT_CHANGE, VOLUME_ML, write_rates, write_truth
from gen3d.simulate.genes import CohortGenes, genes_of
from gen3d.simulate.genetics import Genetics
from gen3d.simulate.genotype_files import write_genotypes
from gen3d.simulate.lesion_masks import LesionMask, masks_of_size
from gen3d.simulate.making import CACHE, SimulatedCohort, simulate_all
from gen3d.simulate.people import NONE, design
from gen3d.simulate.planting import check_on_template
from gen3d.simulate.twins import short_name, twin_table
from gen3d.simulate.visit_table import INTERNAL, TRUTH_COLUMNS, design_visits
from gen3d.simulate.visits import Course

SECONDS_PER_SCAN, SECONDS_PER_MEGAVOXEL = 0.4, 6.0  # of one core
SECONDS_PER_MEGAVOXEL_OF_TWIN = 11.0
DEFAULT_SUBJECTS = 60
OF_VISITS = (
    "progression",
    "acceleration",
    "foreseeable",
    "repositioning_mm",
    "repositioning_degrees",
    "scanner_change",
)
SHORTEST_GAP_YEARS, OLDEST_YEARS = 0.02, 100.0
FIRST_COLUMNS = ("key", "source", "verdict", "reason")


Opened = tuple[Prepared | None, pd.DataFrame, GridPlan, dict[str, tuple[LesionMask, ...]]]


class Simulate(FolderVerb):
    """A cohort of brains with known changes, in the layout that prepare writes.

    Every person is the MNI152 template under a diffeomorphism (anatomy, age, condition), scanned at one of several sites
    with noise of its own.
    truth/ holds what the condition changed: log-Jacobian maps, changed voxels, volume change by region.

    With base=, changes are planted in real scans: every control of the base folders gets one twin per condition. A twin is
    a copy of the scan with the condition planted and new noise and bias field. It keeps the subject; its role is evaluation.
    """

    subjects: int | None = Field(
        None, ge=1, le=100_000, description="number of people (default 60); with base: of base scans (default all)"
    )
    spacing_mm: float = Field(3.0, ge=1, le=4, description="edge of a cubic voxel of the grid, mm (1 to 4)")
    seed: int = Field(0, ge=0, description="seed of all random choices")
    conditions: dict[Name, Condition] = Field(
        default_factory=default_conditions,
        description="groups of people with a planted change, by name; all others are healthy controls. "
        "--show prints the defaults",
    )
    sites: int = Field(2, ge=1, le=1000, description="number of scanner sites")
    site_seed: int | None = Field(
        None,
        ge=0,
        description="seed of the sites (default: seed); that of another cohort scans new people at its sites",
    )
    site_strength: float = Field(
        1.0,
        ge=0,
        le=3,
        description="how much sites differ in contrast, resolution, bias and noise; 0: not at all, 1: usual",
    )
    age_years: tuple[float, float] = Field((45.0, 85.0), description="youngest and oldest person, years")
    longitudinal: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of people with a second session 1 to 3 years later; with visits: with those visits (0: everybody)",
    )
    visits: tuple[float, ...] = Field(
        (),
        description="when people come, years after the first visit, for instance [0, 1.2, 3]; each comes at most 0.1 years early "
        "or late; every visit is a fresh scan; none: once, or as longitudinal says",
    )
    progression: float = Field(
        1.0,
        ge=0,
        le=3,
        description="with visits: factor on everybody's rates of change, 0 to 3 (1: as published; 0: nobody's anatomy changes, not "
        "even by age)",
    )
    acceleration: bool = Field(
        True, description="with visits: hippocampal loss of MCI, and ventricles of MCI and AD, grow faster every year"
    )
    foreseeable: float = Field(
        0.4,
        ge=0,
        le=1,
        description="with visits: correlation of a person's pace of change with how small the medial temporal structures are at "
        "the first visit (an assumption; 0: the first scan tells the pace of nobody within a group)",
    )
    repositioning_mm: float = Field(
        0.5,
        ge=0,
        le=5,
        description="with visits: SD of the head's shift along each axis at every visit, mm, after alignment",
    )
    repositioning_degrees: float = Field(
        0.5,
        ge=0,
        le=5,
        description="with visits: SD of the head's turn around each axis at every visit, degrees, after alignment",
    )
    scanner_change: float = Field(
        0.0, ge=0, le=1, description="with visits: share of those who come again whose later visits are at another site"
    )
    genotypes: Genetics | None = Field(
        None,
        description="linked genotypes (genotypes.bed) whose alleles change volumes and the risk of AD; none: nobody has any. "
        "`genotypes={variants: 2000, apoe_on_risk: 1.2}`; with all effects 0 the images are those without genotypes",
    )
    base: Folders | None = Field(
        None,
        description="prepared folders whose controls get planted twins; none: every person is made from the template",
    )
    base_roles: tuple[Literal["train", "calibration", "test"], ...] = Field(
        ("train", "calibration", "test"), min_length=1, description="with base: roles of the controls that get twins"
    )
    divisible_by: int = Field(
        8,
        ge=1,
        le=64,
        description="every side of the grid, in voxels, is a multiple of this; networks halve it several times",
    )
    deformation: DeformationSettings = Field(
        default_factory=DeformationSettings, description="settings of the deformation channel, as in prepare"
    )
    density_channel: bool = Field(
        False, description="store modulated_density too, as in prepare; with base: it is stored where the base has it"
    )
    split: Split = Field(
        default_factory=Split, description="shares of the control subjects for training, calibration and test"
    )
    figures: bool = execution(True, "draw a picture of each scan")
    workers: int = execution(0, "people simulated at a time; 0: one per core", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Simulate:
        low, high = self.age_years
        if not 18 <= low <= high <= 95:
            raise ValueError(
                f"age_years is the youngest and the oldest age, between 18 and 95 years; it is {low:g} to {high:g}."
            )
        if NONE in self.conditions:
            raise ValueError(f"`{NONE}` is the name of the healthy people; give the condition another name.")
        if self.base and (self.longitudinal or self.visits):
            raise ValueError("second sessions need simulated anatomy: give longitudinal=0 and no visits, or no base.")
        if self.base and self.density_channel:
            raise ValueError("twins have the channels of their base: leave density_channel out, or base.")
        if self.base and self.genotypes:
            raise ValueError("genotypes are those of simulated people: give genotypes, or base.")
        if self.genotypes and 2 * self.genotypes.siblings > (self.subjects or DEFAULT_SUBJECTS):
            raise ValueError(
                f"genotypes.siblings={self.genotypes.siblings} pairs are more people than the {self.subjects or DEFAULT_SUBJECTS} "
                "of subjects; lower it, or raise subjects."
            )
        self._check_visits()
        self._check_conditions()
        return self

    def _check_visits(self) -> None:
        given = [name for name in OF_VISITS if getattr(self, name) != type(self).model_fields[name].default]
        if not self.visits:
            if given:
                raise ValueError(f"{given[0]} is a setting of visits: give visits too, for instance visits=[0,1.2,3].")
            for name, condition in self.conditions.items():
                if condition.converting is not None:
                    raise ValueError(f"conditions.{name}.converting needs later visits: give visits=[0,1.2,3].")
            return
        gaps = [later - earlier for earlier, later in pairwise(self.visits)]
        if len(self.visits) < 2 or self.visits[0] != 0 or min(gaps) < SHORTEST_GAP_YEARS:
            raise ValueError(
                f"visits are years after the first visit: 0 first, then ascending by at least {SHORTEST_GAP_YEARS:g} years, for "
                f"instance [0, 1.2, 3]; they are {list(self.visits)}."
            )
        if self.age_years[1] + self.visits[-1] > OLDEST_YEARS:
            raise ValueError(
                f"the oldest person would be {self.age_years[1] + self.visits[-1]:g} years old at the last visit, more than "
                f"{OLDEST_YEARS:g}; lower age_years or visits."
            )
        if self.scanner_change and self.sites < 2:
            raise ValueError("scanner_change needs another site: give sites=2 or more.")

    def _check_conditions(self) -> None:
        for name, condition in self.conditions.items():
            if self.base is None and condition.labels is not None:
                raise ValueError(f"conditions.{name}.labels are of real scans: give base=, or no labels.")
            if self.base and "conditions" in self.model_fields_set and {"count", "share"} & condition.model_fields_set:
                raise ValueError(
                    f"conditions.{name}: with base every base has one twin of each condition; remove count and share "
                    "(subjects= limits the bases)."
                )
        short = [short_name(name) for name in self.conditions]
        if self.base and (len(set(short)) < len(short) or "" in short):
            raise ValueError("with base, names of conditions must differ in their letters and digits.")

    def settings(self) -> dict[str, Any]:
        """As of every verb; the channel that is not asked for is not named, as before there was one."""
        return {name: value for name, value in super().settings().items() if name != "density_channel" or value}

    def reads(self) -> Inputs:
        """The scans that conditions are planted in, if any."""
        return {"base": list(self.base or ())}

    def open_inputs(self) -> Opened:
        """The base scans if there are any, the cohort table, the grid and the lesion masks.

        Raises:
            UserError: conditions that do not fit the number of people or the grid, too few base scans.
        """
        bases = open_prepared(self.base) if self.base else None
        scans, plan, masks = self.people(bases), self.grid(bases), self.masks()
        if bases is not None:
            check_on_template(cohort_space(plan), self.conditions)
        return bases, scans, plan, masks

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Simulate every person and write the cohort folder."""
        bases, scans, plan, masks = opened
        genes = self.genes(scans)
        cohort = SimulatedCohort(
            self.out,
            self.seed,
            cohort_space(plan),
            self.scanners(),
            self.conditions,
            self.figures,
            bases,
            masks,
            self.course,
            genes.shifts if genes is not None else {},
        )
        records: list[Row] = [{str(name): value for name, value in row.items()} for row in scans.to_dict("records")]
        what = "planting conditions" if bases else "simulating people"
        done = track(simulate_all(cohort, records, self.workers), what, total=len(scans))
        rows = sorted(done, key=lambda row: str(row["key"]))
        finished = [row for row in rows if "left_out" not in row]
        _report_left_out([row for row in rows if "left_out" in row], {row["key"] for row in finished}, scans)
        scans = scans[scans["key"].isin([row["key"] for row in finished])].reset_index(drop=True)
        summary = self._write_cohort(scans, finished, plan)
        if genes is not None:
            write_genotypes(self.out, genes)
            summary["genotyped"] = int(genes.genotyped.sum())
        remove_folder(self.out / CACHE)
        roles = ", ".join(f"{role} {count}" for role, count in summary["roles"].items())
        people = scans["subject"].nunique()
        say(f"{self.out}: {len(scans)} scans of {people} people ({roles}); {summary['seconds_per_scan']} s per scan")
        return summary

    def plan(self) -> list[str]:
        """What `run()` would do, how long it would take, and how much it would write."""
        bases = open_prepared(self.base) if self.base else None
        scans, grid, _ = self.people(bases), self.grid(bases), self.masks()
        megavoxels = float(np.prod(grid.shape)) / 1e6
        workers = num_workers(self.workers, len(scans))
        per_megavoxel = SECONDS_PER_MEGAVOXEL_OF_TWIN if bases else SECONDS_PER_MEGAVOXEL
        seconds = len(scans) * (SECONDS_PER_SCAN + per_megavoxel * megavoxels) / workers * slowness()
        counts = (scans if bases else scans.drop_duplicates("subject"))["condition"].value_counts()
        groups = ", ".join(f"{name} {count}" for name, count in counts.items())
        genotypes = [] if self.genotypes is None else [f"writes genotypes of {self.genotypes.variants} variants"]
        return [
            f"simulates {len(scans)} scans of {scans['subject'].nunique()} people ({groups})",
            f"the grid is {grid.describe()}",
            *genotypes,
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
            channels=(T1W, LOG_JACOBIAN, MODULATED) if self.density_channel else (T1W, LOG_JACOBIAN),
            deformation=self.deformation.model_dump(mode="json"),
        )

    def people(self, bases: Prepared | None = None) -> pd.DataFrame:
        """The cohort table before any image: see `gen3d.simulate.people`, or `gen3d.simulate.twins` where there are bases."""
        if bases is not None:
            return twin_table(bases, self.conditions, self.base_roles, self.subjects, self.seed)
        site_names = [site.name for site in self.scanners()]
        number = self.subjects or DEFAULT_SUBJECTS
        if self.visits:
            return design_visits(
                number,
                self.conditions,
                site_names,
                self.age_years,
                self.visits,
                self.longitudinal or 1.0,
                self.scanner_change,
                self.progression,
                self.seed,
            )
        return design(number, self.conditions, site_names, self.age_years, self.longitudinal, self.seed)

    @property
    def course(self) -> Course | None:
        """How people change from visit to visit; None where nobody comes at `visits`."""
        if not self.visits:
            return None
        return Course(
            self.progression,
            self.acceleration,
            self.foreseeable,
            self.repositioning_mm,
            self.repositioning_degrees,
        )

    def genes(self, scans: pd.DataFrame) -> CohortGenes | None:
        """The genotypes of the people of a cohort table, see `gen3d.simulate.genes`; None where they have none."""
        return None if self.genotypes is None else genes_of(scans, self.conditions, self.genotypes, self.seed)

    def scanners(self) -> list[Site]:
        """The sites that people are scanned at."""
        return make_sites(self.sites, self.site_strength, self.seed if self.site_seed is None else self.site_seed)

    def masks(self) -> dict[str, tuple[LesionMask, ...]]:
        """The lesion masks of each condition that has any."""
        return {
            name: masks_of_size(condition.masks, condition.sizes_ml)
            for name, condition in self.conditions.items()
            if condition.masks is not None
        }

    def _write_cohort(self, scans: pd.DataFrame, rows: list[Row], plan: GridPlan) -> dict[str, Any]:
        """Write what belongs to the cohort as a whole, and return the summary of the artefact."""
        verdicts = pd.DataFrame([row["verdict"] for row in rows])
        verdicts = verdicts.join(judge(verdicts)).drop(columns="failure")
        also = scans.columns.intersection(["base", *TRUTH_COLUMNS])
        truth = scans[["subject", "session", "key", "condition", "severity", *also]]
        truth = truth.merge(pd.DataFrame([row["truth"] for row in rows]), on="key")
        # A mask that is planted as it is has the severity that it turned out to have.
        truth["severity"] = truth["severity"].where(
            (truth["severity"] > 0) | ~(truth["lesion_ml"] > 0), truth["lesion_ml"]
        )
        if "base" in scans:
            manifest = scans.drop(columns="severity").merge(truth[["key", "severity"]], on="key")
        else:
            internal = scans.columns.intersection(["index", *INTERNAL, *TRUTH_COLUMNS])
            manifest = assign_roles(scans.drop(columns=internal), self.split)
            manifest[SCAN_HASH] = [
                voxel_hash(read_stored(self.out / "volumes" / f"{key}_t1w.nii")) for key in manifest["key"]
            ]
        template = template_on(plan)
        write_cohort(self.out, plan, template.mask, regions_on(plan), region_table(), manifest)
        VERDICTS.write(self.out, verdicts[[*FIRST_COLUMNS, *(c for c in verdicts if c not in FIRST_COLUMNS)]])
        volumes = _long(rows, VOLUME_ML)
        write_truth(self.out, truth, _long(rows, PERCENT_CHANGE), volumes)
        if "base" not in scans:
            write_rates(self.out, scans, volumes)
        return {
            "num_scans": len(rows),
            "conditions": {str(name): int(count) for name, count in scans["condition"].value_counts().items()},
            "roles": {str(role): int(count) for role, count in manifest["role"].value_counts().items()},
            "seconds_per_scan": round(float(np.median([row["seconds"] for row in rows])), 2),
            "largest_volume_error_percent": round(
                max((float(row["volume_error_percent"]) for row in rows), default=0.0), 3
            ),
        }


def _report_left_out(left_out: list[Row], keys: set[str], scans: pd.DataFrame) -> None:
    """Warn of twins that could not be made; `UserError` when a condition could be made in no base at all."""
    done = set(scans.loc[scans["key"].isin(keys), "condition"])
    for row in left_out:
        if row["condition"] not in done:
            raise UserError(f"{row['left_out']}, nor in any other base; change conditions.{row['condition']}.")
        warn(f"{row['left_out']}; it is left out.")


def _long(rows: list[Row], name: str) -> pd.DataFrame:
    """One row per key and region of a quantity that rows hold by region."""
    return pd.DataFrame(
        [(row["key"], region, value) for row in rows for region, value in row[name].items()],
        columns=["key", "region", name],
    )
