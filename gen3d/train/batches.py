"""From memory-mapped volumes to batches: a pure function of the step, read one batch ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.cohort.folder import Prepared
from gen3d.models.task import Batch
from gen3d.train.augment import AugmentConfig, augment
from gen3d.train.random_numbers import VOLUME, rows_at, seed_of


class BatchSource(Protocol):
    """What a model is trained on: numbered volumes with the subject each one shows."""

    @property
    def subjects(self) -> Sequence[str]:
        """Subject of every row."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of every channel."""

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Volumes [n, C, X, Y, Z] of these rows, in stored units."""

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Coded conditions [n, p] of these rows, for models that have any."""

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Labels [n] of these rows, for supervised tasks: class numbers or values."""


@dataclass(frozen=True)
class PreparedSource:
    """Scans of prepared folders, read through the memory map."""

    prepared: Prepared
    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    channels: tuple[str, ...]

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.prepared.load([self.keys[row] for row in rows], self.channels)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None


class StepBatches(Protocol):
    """The batches of every step of a training."""

    @property
    def parts(self) -> int:
        """Equal parts in which a step's batch comes."""

    def at(self, step: int, part: int) -> Batch:
        """One part of a step's batch."""


class MemoryBatches:
    """Labelled volumes that are in memory, shuffled round by round; steps are taken one after the other, in one part.

    The order is drawn from torch's own generator when a round begins. So the training of one network is reproducible
    within a seed, though not from its middle: it is not made for checkpoints.
    """

    parts = 1

    def __init__(self, volumes: Tensor, labels: Tensor, batch_size: int) -> None:
        """Volumes [n, C, X, Y, Z] and labels [n], on the device; at most `batch_size` of them make a step."""
        self.volumes, self.labels = volumes, labels
        self.batch_size = min(batch_size, len(volumes))
        self._order = torch.empty(0, dtype=torch.int64)

    def at(self, step: int, part: int) -> Batch:
        """The next volumes; a new round through all of them begins where the old one ends."""
        if len(self._order) < self.batch_size:
            self._order = torch.cat([self._order, torch.randperm(len(self.volumes))])
        rows, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        names = tuple(f"scan {row}" for row in rows.tolist())
        chosen = rows.to(self.volumes.device)
        return Batch(self.volumes[chosen], names, step, seeds=(), labels=self.labels[chosen])


class Batches:
    """One process's batches of one member's training.

    `at(step, part)` depends on nothing but its arguments, the seeds and the process's share, and every volume meets the
    same noise in whichever process it is computed.
    """

    def __init__(
        self,
        source: BatchSource,
        rows: NDArray[np.int64],
        batch_size: int,
        parts: int,
        seeds: tuple[int, int],
        augmentation: AugmentConfig,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """`rows` are the member's; `batch_size` volumes make a step, over all processes; this process's come in `parts`
        equal batches; `seeds` are those of the run and the member; `share` is (rank, number of processes)."""
        self.source, self.rows, self.batch_size, self.parts = source, rows, batch_size, parts
        self.seed, self.member = seeds
        self.rank, self.num_processes = share
        self.augmentation, self.device = augmentation, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="volumes")
        self._ahead: tuple[tuple[int, int], Future[Tensor]] | None = None

    def at(self, step: int, part: int) -> Batch:
        """One part of a step's global batch, on the device; the next part is read meanwhile."""
        place = (step, part)
        if self._ahead is not None and self._ahead[0] == place:
            volumes = self._ahead[1].result()
        else:
            volumes = self._read(*place)
        following = (step, part + 1) if part + 1 < self.parts else (step + 1, 0)
        self._ahead = (following, self._reader.submit(self._read, *following))
        seeds = tuple(seed_of(self.seed, VOLUME, self.member, step, position) for position in self._positions(part))
        rows = self._rows(step, part)
        conditions, labels = self.source.conditions(rows), self.source.labels(rows)
        batch = Batch(
            volumes.to(self.device, non_blocking=True),
            tuple(self.source.subjects[row] for row in rows),
            step,
            seeds,
            None if conditions is None else torch.from_numpy(conditions).to(self.device),
            None if labels is None else torch.from_numpy(labels).to(self.device),
        )
        return augment(batch, self.source.channels, self.augmentation)

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _positions(self, part: int) -> range:
        """Places in the step's global batch; the parts of all processes are disjoint and together the whole of it."""
        size = self.batch_size // (self.parts * self.num_processes)
        first = (part * self.num_processes + self.rank) * size
        return range(first, first + size)

    def _rows(self, step: int, part: int) -> NDArray[np.int64]:
        chosen = rows_at(step, self.batch_size, len(self.rows), self.seed, self.member)
        return self.rows[chosen[self._positions(part)]]

    def _read(self, step: int, part: int) -> Tensor:
        volumes = torch.from_numpy(self.source.load(self._rows(step, part)))
        return volumes.pin_memory() if self.device.type == "cuda" else volumes
