"""What one call of `gen3d-bids` does, after its arguments were read; and where its intermediate folders lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.anomaly.norm.folder import NormFolder
from gen3d.bids_app.dataset import PersonScans, RawDataset
from gen3d.core.artefact import RECORD, digest, record_of
from gen3d.core.errors import UserError
from gen3d.core.pool import num_workers

MB_OF_A_PERSON = 1300
"""Memory of one participant at 2 mm: preparing takes 1 GiB, whatever comes after it less."""
FINEST_MM = 2.0
WORK = "work"


@dataclass(frozen=True)
class AppCall:
    """One call: what is read, what is written, and with how many processes.

    Attributes:
        dataset: the raw dataset.
        norm: the norm that judges.
        out: the derivatives dataset.
        work: folder of intermediate folders.
        site: of all scans; "" where the dataset tells it.
        native: whether maps in the scans' own space are written.
        n_cpus: processes at most; 0: one per core.
        mem_mb: memory to use, MB; 0: what there is.
    """

    dataset: RawDataset
    norm: NormFolder
    out: Path
    work: Path
    site: str
    native: bool
    n_cpus: int
    mem_mb: int

    @property
    def prepare(self) -> dict[str, Any]:
        """Settings of `gen3d prepare` with which scans are comparable with the norm's; nobody in a norm's cohort is trained on."""
        roles = {"train": 0.0, "calibration": 0.0, "test": 1.0}
        return self.norm.record.prepare | {"split": roles, "workers": 1}

    def workers(self, num_people: int) -> int:
        """Participants at a time, by processors and by memory."""
        finer = max(1.0, FINEST_MM / self.norm.plan.spacing_mm) ** 2
        by_memory = max(1, int(self.mem_mb // (MB_OF_A_PERSON * finer))) if self.mem_mb else num_people
        return min(num_workers(self.n_cpus, num_people), by_memory)

    def folder_of(self, person: PersonScans) -> Path:
        """Intermediate folders of a participant."""
        return self.work / person.name

    def group_folder(self, keys: list[str]) -> Path:
        """Intermediate folders of a group; another group has another one."""
        return self.work / f"group-{digest(keys)[:8]}"


def require_place(dataset: Path, out: Path, work: Path) -> None:
    """Refuse to write into the raw dataset, where a tool would read the results as scans.

    Raises:
        UserError: OUT or the folder of intermediate results is the dataset or in it, but not below `derivatives`.
    """
    raw = dataset.resolve()
    for path, what in ((out, "OUT"), (work, "--work-dir")):
        place = path.resolve()
        inside = place.relative_to(raw).parts if place.is_relative_to(raw) else None
        if inside is not None and inside[:1] != ("derivatives",):
            raise UserError(
                f"{what} {path} lies in the raw dataset {dataset}; give a folder outside it, or "
                f"{dataset / 'derivatives' / 'gen3d'}."
            )


def limit_memory(mem_mb: int) -> None:
    """Let every step of this call keep to `mem_mb` MB."""
    if mem_mb:
        os.environ["GEN3D_MEMORY_GIB"] = f"{mem_mb / 1024:.3f}"


def is_finished(folder: Path) -> bool:
    """Whether a verb finished this folder."""
    if not (folder / RECORD).is_file():
        return False
    record = record_of(folder)
    return record is not None and record.get("status") == "finished"
