"""The folder of `gen3d anomaly`: maps, tables of scans, regions and clusters, and calibration records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, SIZE, VOLUME
from gen3d.cohort.manifest import NULL, is_control
from gen3d.core import words as spell
from gen3d.core.artefact import write_json
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import TableFile, read_record
from gen3d.imaging.volume import read_map, write_nifti
from gen3d.models.run_folder import TRAIN, copied_runs, learned_channels

AGAIN = "run `gen3d anomaly` again"
FEWEST_CONTROLS = 10  # for a range of controls
REGISTRATION_ALONE = "(registration alone)"
"""Suffix of the name of maps in channels that are measured by registration and calibrated, without a model."""

P_CONFORMAL = "p_conformal"
"""Rank of |z| among held-out |z| of the calibration controls: a p that assumes no normal distribution."""

P_MAX = "p_max"
"""Rank of |z| among the largest |z| of any region in each control, or their tail: family-wise over regions."""

SCORE, REGION_SCORE, LATENT_SCORE = "score_", "region_score_", "latent_d"
IDENTITY = ("key", "subject", "session", "role", "diagnosis", "age_years", "sex", "site")
SUBJECTS = TableFile("subjects.tsv", ("key", "subject", "role"), AGAIN)
REGIONS = TableFile(
    "regions.tsv", ("key", "channel", "region", "effect", "effect_percent", "z", "p", P_CONFORMAL, "q"), AGAIN
)
CLUSTERS = TableFile(
    "clusters.tsv", ("key", "channel", "region", "peak_z", "volume_ml", "x_mm", "y_mm", "z_mm", "p_cluster"), AGAIN
)
"""The columns are described in columns.json, which the BIDS export uses."""

CONTROL_RANGES = TableFile("control_ranges.tsv", ("channel", "region", "p05", "p95"), AGAIN)
"""Centiles of deviations of a norm's controls, in maps whose controls are not among their people."""

NORM = "norm"
PREPARED, PAGE = "prepared", "page"
"""Where a raw scan that a norm judged is prepared and shown, below the maps."""

CALIBRATION = "calibration.json"
ZMAP, SIGNIFICANT = "zmap", "significant"
BY_REGION = (SIZE, CONTRAST, VOLUME)
CHANNEL_ORDER = (VOLUME, "deformation", "residual", "structural", SIZE)


def map_path(folder: Path, key: str, channel: str, kind: str = ZMAP, native: bool = False) -> Path:
    """Path of a map of a scan, on the template's grid or on the voxels of the scan."""
    return folder / ("native" if native else "maps") / f"{key}_desc-{channel}_{kind}.nii.gz"


def map_paths(folder: Path, key: str) -> dict[str, Path]:
    """Channel -> z map of a scan, "*" for any scan's; by name."""
    name = key if key == "*" else escape(key)
    paths = sorted((folder / "maps").glob(f"{name}_desc-*_{ZMAP}.nii.gz"))
    return {path.name.split("_desc-")[-1].removesuffix(f"_{ZMAP}.nii.gz"): path for path in paths}


def write_map(
    folder: Path, key: str, channel: str, z: NDArray[np.float32], significant: NDArray[Any], affine: NDArray[np.float64]
) -> None:
    """Write a z map [X, Y, Z] and the voxels that survive the false discovery rate."""
    write_nifti(map_path(folder, key, channel), z, affine)
    write_nifti(map_path(folder, key, channel, SIGNIFICANT), significant.astype(np.uint8), affine)


def write_maps_tables(
    folder: Path, subjects: pd.DataFrame, regions: pd.DataFrame, clusters: pd.DataFrame, calibration: dict[str, Any]
) -> None:
    """Write the tables and the calibration record of each channel."""
    REGIONS.write(folder, regions)
    SUBJECTS.write(folder, subjects)
    CLUSTERS.write(folder, clusters)
    write_json(folder / CALIBRATION, calibration)


@dataclass(frozen=True)
class Score:
    """One number per person: its channel, its kind (regions, voxels or distance), and its columns of subjects.tsv."""

    channel: str
    kind: str
    column: str
    percentile_column: str


@dataclass(frozen=True)
class MapsFolder(ResultFolder):
    """Anomaly maps of one model, or of several models used together."""

    named_by: ClassVar = "model"

    @cached_property
    def model_folders(self) -> tuple[Path, ...]:
        """The runs behind the maps that are found: inputs of their own, or copies in the norm that they were judged by."""
        copies = (run for norm in self.input_folders(NORM) for run in copied_runs(norm))
        return (*self.input_folders(TRAIN), *copies)

    @property
    def by_norm(self) -> bool:
        """Whether a norm judged the people, whose controls are not among them."""
        return (self.folder / CONTROL_RANGES.file).is_file()

    @property
    def prepared_below(self) -> Path | None:
        """The raw scan as it was prepared for a norm, None for maps of scans that were prepared before."""
        below = self.folder / PREPARED
        return below if below.is_dir() else None

    @property
    def is_one_scan(self) -> bool:
        """Whether a single scan is all there is, so that there are no groups."""
        return len(self.subjects) == 1

    @property
    def judged_by(self) -> str:
        """Whom people are compared with: `123 controls of a norm`, or the controls of the cohort."""
        num = int(self.calibrated_on.get("num_controls", 0))
        return spell.count(num, "control") + (" of a norm" if self.by_norm else "")

    @cached_property
    def learned(self) -> tuple[str, ...] | None:
        """Channels that the runs of the maps learned; None if no run can be read."""
        for folder in self.model_folders:
            channels = learned_channels(folder)
            if channels is not None:
                return channels
        return None

    def is_modelled(self, channel: str) -> bool:
        """Whether a channel is compared with the model's expectation.

        Channels of whole regions are not, nor is local volume if the model learned only T1w.
        """
        if channel in BY_REGION:
            return False
        return channel != "deformation" or self.learned is None or LOG_JACOBIAN in self.learned

    def title(self, channel: str) -> str:
        """The name of the maps in one channel, with a suffix for channels without a model."""
        return self.name if self.is_modelled(channel) else f"{self.name} {REGISTRATION_ALONE}"

    @cached_property
    def subjects(self) -> pd.DataFrame:
        """A row per scan."""
        return SUBJECTS.read(self.folder, "diagnosis")

    @property
    def cohort_rows(self) -> pd.DataFrame:
        """Rows of the cohort table that the maps hold."""
        return self.subjects

    @property
    def example_map(self) -> Path | None:
        """The first z map."""
        return next(iter(sorted((self.folder / "maps").glob(f"*_{ZMAP}.nii.gz"))), None)

    @cached_property
    def regions(self) -> pd.DataFrame:
        """A row per scan, channel and region."""
        return REGIONS.read_if_there(self.folder)

    def region_channel(self, channel: str) -> str:
        """The channel whose region rows stand for a channel: `volume` for the deformation, where the maps have it."""
        measured = channel == "deformation" and bool((self.regions["channel"] == VOLUME).any())
        return VOLUME if measured else channel

    def by_region(self, channel: str, value: str) -> pd.DataFrame:
        """One column of the region table of a channel: a row per key and a column per region."""
        table = self.regions[self.regions["channel"] == channel]
        return table.pivot_table(index="key", columns="region", values=value, aggfunc="first", sort=False)

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """The calibration record of each channel."""
        return read_record(self.folder / CALIBRATION, AGAIN)

    @property
    def calibrated_on(self) -> dict[str, Any]:
        """The part of the record that all channels share: age_range_years, sites, num_controls; {} if unknown."""
        return next((record for record in self.calibration.values() if isinstance(record, dict)), {})

    @property
    def num_flagged(self) -> int:
        """Scans outside the range of the calibration, or with missing covariates."""
        return int((self.subjects["flags"].astype(str) != "").sum()) if "flags" in self.subjects else 0

    @property
    def num_without_map(self) -> int:
        """Scans of a site with too few calibration controls."""
        columns = [score.column for score in self.scores if score.kind == "voxels"]
        return int(self.subjects[columns].isna().all(axis=1).sum())

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channels with a score, local volume first."""
        names = [column.removeprefix(SCORE) for column in self.subjects.columns if column.startswith(SCORE)]
        rank = {name: index for index, name in enumerate(CHANNEL_ORDER)}
        return tuple(sorted(names, key=lambda name: rank.get(name, len(rank))))

    @cached_property
    def mapped_channels(self) -> frozenset[str]:
        """Channels with at least one z map."""
        return frozenset(map_paths(self.folder, "*"))

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """Every score that the table holds: of regions and voxels per channel, and the distance in latent space."""
        columns = self.subjects.columns
        candidates = [
            Score(name, kind, f"{prefix}score_{name}", f"{prefix}percentile_{name}")
            for name in self.channels
            for kind, prefix in (("regions", "region_"), ("voxels", ""))
        ]
        candidates.append(Score("latent", "distance", LATENT_SCORE, "percentile_latent"))
        return tuple(
            score for score in candidates if score.column in columns and self.subjects[score.column].notna().any()
        )

    @property
    def score_columns(self) -> list[str]:
        """Columns of the scores, in the order of the table."""
        names = self.subjects.columns
        return [name for name in names if name.startswith((SCORE, REGION_SCORE)) or name == LATENT_SCORE]

    @property
    def headline_scores(self) -> tuple[Score, ...]:
        """One score per channel: regions for local volume, voxels for the others, and the latent distance."""
        chosen: dict[str, Score] = {}
        for score in self.scores:
            preferred = "regions" if score.channel == "deformation" else "voxels"
            if score.channel not in chosen or score.kind == preferred:
                chosen[score.channel] = score
        return tuple(chosen.values())

    @cached_property
    def clusters(self) -> pd.DataFrame:
        """A row per cluster of a scan's map."""
        return CLUSTERS.read_if_there(self.folder)

    @property
    def cluster_z(self) -> float:
        """|z| beyond which neighbouring voxels are a cluster."""
        return float(self._setting("cluster_z") or 3.1)

    @property
    def smoothing_mm(self) -> float | None:
        """Smoothing of intensity and volume maps, FWHM; None where it is not recorded."""
        value = self._setting("smoothing_mm")
        return None if value is None else float(value)

    def _setting(self, name: str) -> Any:
        """A setting of the comparison: of the verb, or of the norm that judged, in the calibration record."""
        return self.calibrated_on.get(name, self.artefact.config.get(name))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Diagnoses of the evaluated people, the largest first, the null condition last."""
        counts = self.evaluated["diagnosis"].astype(str).value_counts()
        return tuple(sorted(counts.index, key=lambda name: (name == NULL, -counts[name], name)))

    def row(self, key: str) -> pd.Series:
        """A person's row of subjects.tsv, named by its key."""
        row = self.subjects[self.subjects["key"] == key].iloc[0]
        return row.rename(key)

    def path(self, key: str, channel: str, kind: str = ZMAP) -> Path:
        """Path of a map of a scan."""
        return map_path(self.folder, key, channel, kind)

    def z(self, key: str, channel: str) -> NDArray[np.float32] | None:
        """z map [X, Y, Z], or None if the person has none."""
        path = self.path(key, channel)
        return read_map(path) if path.is_file() else None

    def significant(self, key: str, channel: str) -> NDArray[np.bool_] | None:
        """Voxels that survive FDR [X, Y, Z], or None."""
        path = self.path(key, channel, SIGNIFICANT)
        return read_map(path) != 0 if path.is_file() else None

    @cached_property
    def controls(self) -> pd.Series:
        """Whether each row is a healthy control."""
        return is_control(self.subjects)

    @cached_property
    def control_effects(self) -> pd.DataFrame:
        """Region effects of controls of the calibration and test set, with their `subject`."""
        people = self.subjects[self.controls & self.subjects["role"].isin(["train", "calibration", "test"])]
        return self.regions[self.regions["effect"].notna()].merge(people[["key", "subject"]], on="key")

    def control_range(self, subject: str, channel: str, region: str) -> tuple[float, float] | None:
        """5th and 95th percentile of the effect in controls other than this person; None with fewer than 10."""
        if (self.folder / CONTROL_RANGES.file).is_file():
            return self._ranges.get((channel, region))
        frame = self.control_effects
        chosen = (frame["channel"] == channel) & (frame["region"] == region) & (frame["subject"] != subject)
        values = frame.loc[chosen, "effect"].to_numpy(float)
        if len(values) < FEWEST_CONTROLS:
            return None
        low, high = np.percentile(values, [5, 95])
        return float(low), float(high)

    @cached_property
    def _ranges(self) -> dict[tuple[str, str], tuple[float, float]]:
        rows = CONTROL_RANGES.read(self.folder)[["channel", "region", "p05", "p95"]].to_numpy()
        return {(str(channel), str(region)): (float(low), float(high)) for channel, region, low, high in rows}

    @cached_property
    def reference(self) -> pd.DataFrame:
        """Held-out controls, which neither the model nor the calibration has seen (role test)."""
        frame = self.subjects
        return frame[(frame["role"] == "test") & self.controls]

    @property
    def evaluated(self) -> pd.DataFrame:
        """People who are not controls for training, calibration or test."""
        return self.subjects[self.subjects["role"] == "evaluation"]
