"""What `gen3d anomaly` and `gen3d norm` share: how scans are compared with a model and calibrated on controls."""

from __future__ import annotations

import pandas as pd
from pydantic import Field, field_validator

from gen3d.anomaly.calibration.calibrate import CalibrationSettings
from gen3d.anomaly.calibration.controls import LEAST_ALLOWED, MIN_SITE_CONTROLS, FewSiteControls
from gen3d.anomaly.calibration.panel import Panel, make_panel
from gen3d.anomaly.channels import available
from gen3d.anomaly.compare import CompareSettings
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.cohort.channels import CHANNELS, CONTRAST, LOG_JACOBIAN, SIZE, T1W, VOLUME, Channel
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import ANOTHER_ID, OTHER_PEOPLE, Guard, PersonHashes, identities, named
from gen3d.core import words as spell
from gen3d.core.config import Folders, execution, waiver
from gen3d.core.errors import UserError
from gen3d.core.progress import warn
from gen3d.core.work import FolderVerb
from gen3d.models.run import Run


class CalibratingVerb(FolderVerb):
    """Settings of a comparison with a model and of its calibration on controls."""

    prepared: Folders | None = Field(None, description="prepared folders (prepare or simulate)")
    run_folders: Folders | None = Field(
        None, alias="run", description="run folder (train); several, [a,b]: the mean of their expectations is used"
    )
    channels: tuple[Channel, ...] = Field(CHANNELS, description="what to compare: T1w, local structure, volume change")
    samples: int = Field(4, ge=0, description="posterior draws averaged into the expectation; 0 decodes the mean")
    smoothing_mm: float = Field(4.0, ge=0, description="smoothing of residual and deformation maps, FWHM in mm")
    variance_smoothing_mm: float = Field(2.0, ge=0, description="smoothing of the variance map, FWHM in mm")
    variance_floor: float | None = Field(
        None, ge=0, description="least SD of a voxel, as a share of the brain's; default: what suits the model"
    )
    covariates: tuple[str, ...] = Field(
        ("age", "age2", "sex", "site"),
        description="terms of the per-voxel model; age_spline is a smooth curve in place of age2",
    )
    site_variance: bool = Field(True, description="estimate a factor of the residual SD for every site")
    age_variance: tuple[str, ...] = Field(
        (), description="channels whose residual SD is given a factor by age; residual gains by it, others do not"
    )
    min_site_controls: int = Field(
        MIN_SITE_CONTROLS,
        ge=LEAST_ALLOWED,
        description="calibration controls that a site needs for its scans to get a z",
    )
    few_site_controls: FewSiteControls = waiver(
        "refuse",
        "a site with fewer: refuse it, or allow it (from 2 controls) and flag every row",
        waives=("allow",),
    )
    empirical_null: bool = Field(
        True, description="map voxel z so that it is standard normal in held-out calibration controls"
    )
    cluster_z: float = Field(3.1, gt=0, description="clusters are neighbouring voxels with |z| above this")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate within a person's map")
    seed: int = Field(0, description="seed of the posterior draws")
    workers: int = execution(0, "processes and threads; 0: one per core", ge=0)

    @field_validator("age_variance")
    @classmethod
    def _are_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        known = (*CHANNELS, SIZE, CONTRAST, VOLUME)
        unknown = [channel for channel in channels if channel not in known]
        if unknown:
            raise ValueError(f"unknown channel {unknown[0]!r}: choose among {', '.join(known)}.")
        return channels

    def comparison(self, channels: list[Channel]) -> CompareSettings:
        """What the comparison of a scan depends on."""
        return CompareSettings(tuple(channels), self.samples, self.smoothing_mm, self.seed)

    def calibration(self, prepared: Prepared, run: Run | Ensemble, channel: Channel) -> CalibrationSettings:
        """How the voxels of a channel are calibrated.

        The variance floor is that of the model, and 0 for a channel that the model does not predict.
        """
        predicted = (LOG_JACOBIAN if channel == "deformation" else T1W) in run.channels
        of_model = run.variance_floor if predicted else 0.0
        return CalibrationSettings(
            self.variance_smoothing_mm / prepared.plan.spacing_mm,
            self.empirical_null,
            self.site_variance,
            of_model if self.variance_floor is None else self.variance_floor,
            channel in self.age_variance,
        )

    def by_region(self, channel: str) -> CalibrationSettings:
        """How region values of a channel are calibrated."""
        return CalibrationSettings(site_variance=self.site_variance, age_variance=channel in self.age_variance)

    def open_cohort(self) -> tuple[Prepared, Run | Ensemble, list[Channel]]:
        """The scans, the models, and the channels that both allow.

        Raises:
            UserError: a model trained on patients, or inputs that do not fit together.
        """
        if self.prepared is None or self.run_folders is None:
            missing = "prepared" if self.prepared is None else "run"
            raise UserError(f"`{missing}` is missing: give {missing}=FOLDER.")
        prepared, run = open_prepared(self.prepared), load_runs(self.run_folders)
        run.require(prepared)
        for each in run.runs if isinstance(run, Ensemble) else (run,):
            if each.learned_patients and not each.model_config.asks_for_healthy:
                raise UserError(
                    f"{each.folder}: was trained on patients too (patients= of train), so its expectation is not healthy; use "
                    "a run that was trained on controls alone."
                )
        return prepared, run, available(self.channels, run.channels, prepared.plan.channels)

    def panel_of(self, prepared: Prepared, run: Run | Ensemble) -> Panel:
        """The calibration controls and everybody else who can be judged.

        Cross-fitted residuals of a model that predicts from covariates already carry the uncertainty of that prediction.
        Fitting the same covariates again would count it twice and make z too small. The panel's spread holds the
        uncertainty of each person's prediction instead.
        """
        covered = run.predicts_out_of_sample
        table, only_new = _assessed(prepared, run)
        return make_panel(
            table,
            () if covered else self.covariates,
            self.min_site_controls,
            self.few_site_controls,
            run.design if covered else None,
            only_new,
        )


def joined(run: Run | Ensemble) -> str:
    """The folders of one or several runs, for a sentence."""
    return " and ".join(str(folder) for folder in run.folders)


def _assessed(prepared: Prepared, run: Run | Ensemble) -> tuple[pd.DataFrame, bool]:
    """Rows of every scan of a person who is held out from a member, and whether a model was trained on nobody that was given.

    The column `calibrates` marks the rows that may calibrate.
    """
    used = prepared.manifest[prepared.manifest["role"] != "excluded"]
    seen_by = _seen_by(run, used)
    table = used[_guard(run).clear(used, seen_by, "leave_out").testable].reset_index(drop=True)
    # Controls outside the test set calibrate if they are held out from a member: the calibration set of a single model,
    # or every train and calibration control of a cross-fitted family.
    table["calibrates"] = table["role"].isin(["calibration", "train"]) & ~is_twin(table)
    return table, not any(seen_by)


def _guard(run: Run | Ensemble) -> Guard:
    learners = " or of ".join(str(folder) for folder in run.folders)
    return Guard(
        f"every member of {learners}",
        "their expectation would resemble them",
        "use people that the model has not seen, or train with cross_fit=5",
    )


def _seen_by(run: Run | Ensemble, table: pd.DataFrame) -> list[str]:
    """The model that was trained on the person of each row, and whether it knows the scan alone; "" where none was."""
    runs = run.runs if isinstance(run, Ensemble) else (run,)

    def what(person: PersonHashes) -> str:
        reasons = [one.seen.reason(person) for one in runs if not one.can_judge(person)]
        by_scan = reasons and all(reason.endswith(ANOTHER_ID) for reason in reasons)
        return f"{run.kind}, {ANOTHER_ID}" if by_scan else run.kind if reasons else ""

    return [what(person) for person in identities(table)]


def warn_of_trained_on(prepared: Prepared, run: Run | Ensemble) -> None:
    """Warn of calibration people who cannot calibrate because the model was trained on them."""
    for one in run.runs if isinstance(run, Ensemble) else (run,):
        if remark := one.seen.remark(prepared.manifest, str(one.folder)):
            warn(f"{remark}.")
        if namesakes := one.seen.namesakes(prepared.manifest):
            warn(
                f"{spell.people(len(namesakes))} ({named(namesakes)}) have the ids of training people of {one.folder} and other "
                f"scans, and count as seen; {OTHER_PEOPLE}."
            )
    people = prepared.select(["calibration"]).drop_duplicates("subject")
    seen_by = _seen_by(run, people)
    if any(seen_by):
        what = _guard(run).sentence(people, seen_by)
        warn(f"role calibration: {what}; they neither calibrate nor get a z.")
