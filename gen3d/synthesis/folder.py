"""The scans that `gen3d sample` writes, and their measurement. See `gen3d.synthesis.tables` for the tables of the dataset.

Until the dataset is released, its volumes lie in quarantine/, which no reader opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.cohort.bids_names import TEMPLATE_SPACE
from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.regions import region_table, regions_on
from gen3d.cohort.structures import structure_volumes
from gen3d.core.disk import remove_folder, remove_partial, writing
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.result_folder import ResultFolder, picture_path
from gen3d.core.tables import Row, read_record, read_table
from gen3d.imaging.intensity import LIMITS
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.registration import deformation_channel
from gen3d.imaging.volume import read_stored, store

QUARANTINE, VOLUMES, CACHE = "quarantine", "volumes", ".samples"
SESSION = "1"
GENERATED = "generated_"
REGISTERED = "registration_correlation"
ENTITIES = f"space-{TEMPLATE_SPACE}_desc-synthetic_T1w"

REGISTRATION_S_PER_MEGAVOXEL = 8.0
"""Of one core; measured at 2 to 4 mm."""

WORKER_START_S = 10.0
"""What a worker process takes to load libraries, the template and its regions."""

Floats = NDArray[np.float32]


def subject_of(sample: int) -> str:
    """The id of a synthetic person: syn00042."""
    return f"syn{sample:05d}"


def key_of(sample: int) -> str:
    """The name of a synthetic scan in every folder."""
    return scan_key(subject_of(sample), SESSION)


@dataclass(frozen=True)
class Atlas:
    """The regions that structures are measured in: labels [X, Y, Z], and their names as `regions.tsv` has them."""

    labels: NDArray[np.int16]
    table: pd.DataFrame

    @classmethod
    def on(cls, plan: GridPlan) -> Atlas:
        """The platform's own regions on a grid, which every prepared cohort has."""
        return cls(regions_on(plan), region_table())


@dataclass(frozen=True)
class SyntheticDataset:
    """A synthetic dataset in the folder `out`, on `plan`, whose channels are those that are stored."""

    out: Path
    plan: GridPlan

    @property
    def released(self) -> bool:
        """Whether the volumes have left quarantine."""
        return (self.out / VOLUMES).is_dir()

    def path(self, sample: int, channel: str) -> Path:
        """Where a volume is stored."""
        folder = self.out if self.released else self.quarantine
        return folder / VOLUMES / f"{key_of(sample)}_{channel}.nii"

    def drawn(self, sample: int, channel: str) -> Path:
        """Where a channel is as the model drew it; the name of a drawn log-Jacobian leaves the usual name to the measured one."""
        generated = self.path(sample, GENERATED + channel)
        return generated if generated.is_file() else self.path(sample, channel)

    @property
    def quarantine(self) -> Path:
        """Where scans lie that are not released."""
        return self.out / QUARANTINE

    def image(self, sample: int) -> Path:
        """Where a scan's BIDS image is."""
        subject = f"sub-{subject_of(sample)}"
        return self.out / subject / "anat" / f"{subject}_{ENTITIES}.nii.gz"

    @property
    def rows(self) -> KeptRows:
        """The measures of the scans, kept until the tables are written."""
        return KeptRows(self.out / CACHE)

    def missing(self, samples: Sequence[int]) -> list[int]:
        """Those of the samples that are not made yet."""
        return [sample for sample in samples if not self.path(sample, T1W).is_file()]

    def keep(self, sample: int, volumes: Mapping[str, Floats], measured: bool) -> None:
        """Store the channels [X, Y, Z] of a sample; the T1w scan comes last, so that its presence means that all are there.

        Args:
            measured: a log-Jacobian will be measured on the scan, so that one that the model drew gets another name.

        Raises:
            UserError: the folder cannot be written.
        """
        with writing(self.out):
            for channel in sorted(volumes, key=lambda channel: channel == T1W):
                values = np.clip(volumes[channel], *LIMITS) if channel == T1W else volumes[channel]
                name = GENERATED + channel if measured and channel == LOG_JACOBIAN else channel
                store(self.path(sample, name), values, self.plan.matrix)

    def release(self) -> None:
        """Move the volumes out of quarantine, all at once."""
        with writing(self.out):
            if not self.released:
                remove_partial(self.quarantine)  # of another process that was killed while it wrote
                (self.quarantine / VOLUMES).rename(self.out / VOLUMES)
            remove_folder(self.quarantine)


# ------------------------------------------------------------------------------------------------------ measuring


def measure_all(dataset: SyntheticDataset, atlas: Atlas, samples: Sequence[int], workers: int) -> Iterator[Row]:
    """Register every T1w scan to the template and measure its structures; yields one row per sample as it is done.

    The log-Jacobian is stored as a channel. It is measured on the scan alone, as `gen3d prepare` measures it on real ones:
    the log-Jacobian that a model may draw is not used. Rows of an earlier, interrupted run come first.

    Raises:
        UserError: the folder cannot be written, or a worker process was killed.
    """
    seconds_each = REGISTRATION_S_PER_MEGAVOXEL * float(np.prod(dataset.plan.shape)) / 1e6
    return kept_or_made(
        samples,
        lambda sample: _kept(dataset, sample),
        _measure_group,
        (dataset, atlas),
        lambda num_samples: num_workers(workers, 1 + int(seconds_each * num_samples / WORKER_START_S)),
    )


def _measure_group(shared: tuple[SyntheticDataset, Atlas], samples: list[int]) -> list[Row]:
    return [measure(*shared, sample) for sample in samples]


def measure(dataset: SyntheticDataset, atlas: Atlas, sample: int) -> Row:
    """Register one scan, store its log-Jacobian, and measure the volumes (ml) of the structures that the atlas names."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    plan = dataset.plan
    log_jacobian, quality = deformation_channel(read_stored(dataset.path(sample, T1W)), plan)
    row: Row = {"sample": sample, REGISTERED: round(quality["correlation_after"], 4)}
    if "structure" in atlas.table.columns:
        row |= structure_volumes(log_jacobian, atlas.labels, atlas.table, plan)
    with writing(dataset.out):
        if LOG_JACOBIAN in plan.channels:
            store(dataset.path(sample, LOG_JACOBIAN), log_jacobian, plan.matrix)
        dataset.rows.keep(key_of(sample), row)
    return row


def _kept(dataset: SyntheticDataset, sample: int) -> Row | None:
    row = dataset.rows.get(key_of(sample))
    there = LOG_JACOBIAN not in dataset.plan.channels or dataset.path(sample, LOG_JACOBIAN).is_file()
    return row if there else None


MANIFEST, PROVENANCE, AUDIT, PICTURE = "manifest.tsv", "provenance.json", "audit.json", "samples"


@dataclass(frozen=True)
class SyntheticFolder(ResultFolder):
    """A dataset of synthetic scans: its table, its picture, its provenance and its audit."""

    @cached_property
    def scan_table(self) -> pd.DataFrame:
        """One row per scan."""
        return read_table(self.folder / MANIFEST)

    @property
    def samples(self) -> bytes:
        """PNG of the first scans."""
        path = picture_path(self.folder, PICTURE)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); run `gen3d sample` again.") from None

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the scans were made."""
        return read_record(self.folder / PROVENANCE)

    @cached_property
    def audit(self) -> dict[str, Any]:
        """The audit for copies."""
        return read_record(self.folder / AUDIT)
