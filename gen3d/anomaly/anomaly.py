"""`gen3d anomaly`: calibrated z maps, region tables and one score per person and channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from gen3d.anomaly.calibration.calibrate import Calibrated, calibrate, describe_calibration
from gen3d.anomaly.calibration.outlying import (
    HEAVIEST_CLUSTER,
    LARGEST_REGION,
    allowed_sentence,
    describe_reference,
    outlying_sentences,
)
from gen3d.anomaly.calibration.panel import LEAST_ALLOWED, MIN_SITE_CONTROLS, FewSiteControls, Panel, make_panel
from gen3d.anomaly.channels import available
from gen3d.anomaly.compare import compare
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.anomaly.folder import CLUSTERS, map_path, write_map, write_maps_tables
from gen3d.anomaly.native import read_native_space, write_native
from gen3d.anomaly.region_channels import contrast_values, size_names, size_values
from gen3d.anomaly.region_readings import volume_values
from gen3d.anomaly.tables import (
    VoxelScores,
    cluster_rows,
    heaviest_clusters,
    largest_regions,
    latent_scores,
    region_table,
    subject_table,
    unmask,
)
from gen3d.cohort.channels import CHANNELS, CONTRAST, LOG_JACOBIAN, ON_TEMPLATE, SIZE, T1W, VOLUME, Channel
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import ANOTHER_ID, OTHER_PEOPLE, Guard, PersonHashes, identities, named
from gen3d.core import words as spell
from gen3d.core.config import Folders, waiver
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track, warn
from gen3d.core.work import FolderVerb, Inputs
from gen3d.maths.reference import Reference
from gen3d.maths.significance import fdr, p_values
from gen3d.models.run import Run

Opened = tuple[Prepared, Run | Ensemble, Panel, list[Channel]]


class Anomaly(FolderVerb):
    """Compare every person with what the model expects of a healthy one, and calibrate the difference.

    Per voxel, region and person: z against calibration controls of the same age, sex and site (a linear model with
    leverage, moderated variance and a variance factor per site), p, BH-FDR, and clusters with a p family-wise over the
    brain; per region also a conformal p and one family-wise over regions. A person is never compared with a model that
    was trained on that person, nor calibrated on any scan of that person. Several runs are used together through the mean
    of their expectations, for people who are held out from each of them.
    """

    prepared: Folders = Field(description="prepared folders (prepare or simulate)")
    run_folders: Folders = Field(
        alias="run", description="run folder (train); several, [a,b]: the mean of their expectations is used"
    )
    channels: tuple[Channel, ...] = Field(CHANNELS, description="what to compare: T1w, local structure, volume change")
    samples: int = Field(4, ge=0, description="posterior draws averaged into the expectation; 0 decodes the mean")
    smoothing_mm: float = Field(4.0, ge=0, description="smoothing of residual and deformation maps, FWHM in mm")
    variance_smoothing_mm: float = Field(2.0, ge=0, description="smoothing of the variance map, FWHM in mm")
    variance_floor: float | None = Field(
        None, ge=0, description="least SD of a voxel, as a share of the brain's; default: what suits the model"
    )
    covariates: tuple[str, ...] = Field(("age", "age2", "sex", "site"), description="terms of the per-voxel model")
    site_variance: bool = Field(True, description="estimate a factor of the residual SD for every site")
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
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate within a person's map")
    cluster_z: float = Field(3.1, gt=0, description="clusters are neighbouring voxels with |z| above this")
    min_cluster_ml: float = Field(0.1, ge=0, description="smallest cluster listed, ml")
    native: bool = Field(
        True,
        description="also write maps in each scan's own space (deformation: by `gen3d export`)",
    )
    seed: int = Field(0, description="seed of the posterior draws")

    def plan(self) -> list[str]:
        """The scans, models and channels that would be compared."""
        prepared, run, panel, channels = self.open_inputs()
        gated = (
            f"; {len(panel.gated)} scans of a site with too few calibration controls get no z"
            if len(panel.gated)
            else ""
        )
        return [
            f"compares {len(panel.table)} scans with the {run.kind} of {_joined(run)} in {', '.join(channels)}{gated}",
            f"calibrates on {len(panel.calibration)} controls that the model has not seen ({', '.join(panel.design.columns)})",
            *filter(None, [panel.unknown_sentence()]),
            f"grid {prepared.plan.describe()}",
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The scans and the models."""
        return {"prepared": self.prepared, "run": self.run_folders}

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Write the maps folder: subjects.tsv, regions.tsv, clusters.tsv, calibration.json, maps/, native/."""
        prepared, run, panel, channels = opened
        _announce(panel)
        _warn_of_trained_on(prepared, run)
        values = compare(self.out, prepared, run, panel.table, channels, self.samples, self.smoothing_mm, self.seed)
        calibrations: dict[str, Any] = {}
        scores: dict[Channel, VoxelScores] = {}
        regions: list[pd.DataFrame] = []
        clusters: list[dict[str, Any]] = []
        for channel in channels:  # z of one channel at a time: it is as large as all scans
            say(f"calibrating {channel}")
            calibrated = self._calibrated(prepared, run, panel, channel, values.voxels[channel])
            regional = calibrate(values.regions[channel], panel, site_variance=self.site_variance)
            regions.append(region_table(panel, channel, values.regions[channel], regional, prepared.region_table))
            masses = heaviest_clusters(panel, calibrated.z, prepared.mask, self.cluster_z)
            references = {
                LARGEST_REGION: describe_reference(panel, largest_regions(regional)),
                HEAVIEST_CLUSTER: describe_reference(panel, masses),
            }
            _warn_of_outlying(channel, references)
            calibrations[channel] = describe_calibration(panel, calibrated, self.q) | {"references": references}
            scores[channel] = VoxelScores.of(calibrated.z, self.q)
            clusters += self._write_maps(prepared, panel, channel, calibrated.z, masses)
            del calibrated
        measured = self._measured(prepared, panel) if "deformation" in channels else {}
        regions += [rows for rows, _ in measured.values()]
        calibrations |= {name: record for name, (_, record) in measured.items()}
        region_frame = pd.concat(regions, ignore_index=True)
        subjects = subject_table(panel, scores, region_frame, latent_scores(panel, values.latents))
        write_maps_tables(self.out, subjects, region_frame, _by_scan(clusters, panel), calibrations)
        values.discard()
        return _summary(panel, {channel: calibrations[channel] for channel in channels})

    def open_inputs(self) -> Opened:
        """The scans, the models, the panel of calibration and scored people, and the available channels.

        Raises:
            UserError: a model trained on patients, or inputs that do not fit together.
        """
        prepared, run = open_prepared(self.prepared), load_runs(self.run_folders)
        run.require(prepared)
        for each in run.runs if isinstance(run, Ensemble) else (run,):
            if each.learned_patients and not each.model_config.asks_for_healthy:
                raise UserError(
                    f"{each.folder}: was trained on patients too (patients= of train), so its expectation is not healthy; use "
                    "a run that was trained on controls alone."
                )
        channels = available(self.channels, run.channels, prepared.plan.channels)
        # Cross-fitted residuals of a model that predicts from covariates already carry the uncertainty of that
        # prediction. Fitting the same covariates again would count it twice and make z too small. The panel's spread
        # holds the uncertainty of each person's prediction instead.
        covered = run.predicts_out_of_sample
        table, only_new = _assessed(prepared, run)
        panel = make_panel(
            table,
            () if covered else self.covariates,
            self.min_site_controls,
            self.few_site_controls,
            run.design if covered else None,
            only_new,
        )
        return prepared, run, panel, channels

    def _floor(self, run: Run | Ensemble, channel: Channel) -> float:
        """The variance floor of a channel: that of the model, and 0 for a channel that the model does not predict."""
        if self.variance_floor is not None:
            return self.variance_floor
        predicted = (LOG_JACOBIAN if channel == "deformation" else T1W) in run.channels
        return run.variance_floor if predicted else 0.0

    def _measured(self, prepared: Prepared, panel: Panel) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
        """Rows of the channels that exist by region only, `size`, `contrast` and `volume`, and their calibration records."""
        # No model has removed the effect of the covariates from these values, so the covariates always enter here.
        with_covariates = panel.with_terms(self.covariates)
        channels = {
            SIZE: (size_values(prepared, panel.table), size_names(prepared)),
            CONTRAST: (contrast_values(prepared, panel.table), prepared.region_table),
            VOLUME: (volume_values(prepared, panel.table), prepared.region_table),
        }
        rows = {}
        for name, (values, names) in channels.items():
            if values is not None:
                calibrated = calibrate(values, with_covariates, site_variance=self.site_variance)
                table = region_table(with_covariates, name, values, calibrated, names)
                references = {LARGEST_REGION: describe_reference(panel, largest_regions(calibrated))}
                _warn_of_outlying(name, references)
                record = describe_calibration(with_covariates, calibrated, self.q) | {"references": references}
                rows[name] = (table, record)
        return rows

    def _calibrated(
        self, prepared: Prepared, run: Run | Ensemble, panel: Panel, channel: Channel, values: NDArray[np.float32]
    ) -> Calibrated:
        """z of every scan in a channel."""
        return calibrate(
            values,
            panel,
            prepared.mask,
            self.variance_smoothing_mm / prepared.plan.spacing_mm,
            self.empirical_null,
            self.site_variance,
            self._floor(run, channel),
        )

    def _write_maps(
        self,
        prepared: Prepared,
        panel: Panel,
        channel: Channel,
        all_z: NDArray[np.float32],
        heaviest: NDArray[np.float64],
    ) -> list[dict[str, Any]]:
        """Write the maps of a channel; returns the clusters, scan by scan."""
        min_voxels = max(1, round(self.min_cluster_ml * 1000 / prepared.plan.spacing_mm**3))
        mask, affine = prepared.mask, prepared.plan.matrix
        rows: list[dict[str, Any]] = []
        wanted = np.setdiff1d(np.arange(len(panel.table)), panel.gated)
        for i in track(wanted.tolist(), f"writing maps of {channel}"):
            key = str(panel.table.at[i, "key"])
            z = unmask(all_z[i], mask)
            write_map(self.out, key, channel, z, unmask(fdr(p_values(all_z[i]), self.q), mask), affine)
            if self.native and channel not in ON_TEMPLATE:
                native = read_native_space(Path(str(panel.table.at[i, "folder"])), key)
                if native is not None:
                    write_native(map_path(self.out, key, channel, native=True), native, z, affine)
            reference = Reference.of(heaviest[panel.reference(i)])
            rows += cluster_rows(key, channel, z, self.cluster_z, min_voxels, reference, prepared)
        return rows


def _warn_of_outlying(channel: str, references: dict[str, dict[str, Any]]) -> None:
    for sentence in outlying_sentences(channel, references):
        warn(f"{sentence}.")


def _by_scan(clusters: list[dict[str, Any]], panel: Panel) -> pd.DataFrame:
    """The clusters of all channels, scan by scan in the order of the panel."""
    place = {str(key): row for row, key in enumerate(panel.table["key"])}
    ordered: list[dict[str, Any]] = sorted(clusters, key=lambda row: place[row["key"]])
    return pd.DataFrame(ordered, columns=list(CLUSTERS.columns))


def _joined(run: Run | Ensemble) -> str:
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


def _warn_of_trained_on(prepared: Prepared, run: Run | Ensemble) -> None:
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


def _announce(panel: Panel) -> None:
    design = panel.design
    say(
        f"{len(panel.table)} scans; calibrating on {len(panel.calibration)} controls that the model has not seen, "
        f"aged {' to '.join(spell.number(age, 0) for age in design.age_range_years)}; terms: {', '.join(design.columns)}; "
        f"{allowed_sentence(len(panel.calibration))}"
    )
    if unknown := panel.unknown_sentence():
        warn(f"{unknown}.")
    for term, reason in design.dropped.items():
        say(f"  covariate {term} left out: {reason}")
    for site, scans in panel.table.iloc[panel.gated].groupby("site"):
        warn(f"{spell.count(len(scans), 'scan')} get no z map: {panel.gate.refusal(str(site))}.")
    scored_sites = panel.table.drop(panel.gated)["site"].unique() if len(design.site_counts) > 1 else ()
    for remark in filter(None, (panel.gate.remark(str(site)) for site in sorted(scored_sites))):
        say(f"  {remark}")


def _summary(panel: Panel, calibrations: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {"num_scans": len(panel.table), "num_calibration": len(panel.calibration)}
    for channel, record in calibrations.items():
        test = record["test"]
        if test["num_people"]:
            summary[channel] = {name: test[name] for name in ("num_people", "mean", "sd", "share_beyond_1.96")}
            summary[channel]["share_people_fdr_positive"] = test["share_people_fdr_positive"]
            say(
                f"{channel}: in {test['num_people']} held-out controls z has mean {spell.number(test['mean'], signed=True)}, "
                f"SD {spell.number(test['sd'])}; |z| > 1.96 in {spell.percent(test['share_beyond_1.96'])} of voxels; "
                f"{spell.percent(test['share_people_fdr_positive'], 0)} have an FDR-positive voxel"
            )
    return summary
