"""From noise to volumes: a sample is the same whatever others are computed with it.

Each sample has random streams of its own, and samples are computed in fixed groups: how a sum is rounded depends on the
number of volumes in a call of the network (on CPUs, a convolution of one volume even takes another, slower path). Sample
k is in group k // size, and a group is always computed whole, so that the network gets the same numbers whatever the batch,
the number of processes, the order, or what was there already: the sample is the same to the last bit on the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d import __version__
from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_stored
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.run import Run
from gen3d.synthesis.folder import Atlas, SyntheticDataset, subject_of
from gen3d.synthesis.gate import Gate
from gen3d.synthesis.picture import draw_samples
from gen3d.synthesis.request import FIRST_NOISE, FRESH_NOISE, Request, stream

DECODED_PER_CALL = {"cpu": 2}
"""Latents decoded in one call, by kind of device; 1 on others, where memory is scarcer than time."""


@dataclass(frozen=True)
class Drawing:
    """The model and settings that, with seed, number and conditions, determine a sample."""

    model: LatentDiffusion
    seed: int
    sampler: str
    num_steps: int
    guidance: float
    per_call: int
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.latent_mean.device

    def group(self, sample: int) -> list[int]:
        """All samples that are computed together with this one, in their order."""
        first = sample - sample % self.per_call
        return list(range(first, first + self.per_call))

    @torch.no_grad()
    def latents(self, group: Sequence[int], coded: NDArray[np.float32]) -> Tensor:
        """Latents [samples, *latent_shape] of the samples of a group, for conditions [samples, p].

        Raises:
            UserError: the device has too little memory.
        """

        def normals(purpose: int, step: int = 0) -> Tensor:
            drawn = [
                stream(self.seed, sample, purpose, step).standard_normal(self.model.latent_shape, dtype=np.float32)
                for sample in group
            ]
            return torch.from_numpy(np.stack(drawn)).to(self.device)

        first, conditions = normals(FIRST_NOISE), torch.from_numpy(coded).to(self.device)
        with self._enough_memory(), self._precision():
            return self.model.generate(
                conditions,
                first,
                lambda step: normals(FRESH_NOISE, step),
                self.sampler,
                self.num_steps,
                self.guidance,
            )

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> NDArray[np.float32]:
        """Volumes [samples, C, X, Y, Z] of a group's latents, stored units; NaN where the network made NaN.

        Raises:
            UserError: the device has too little memory.
        """
        per_call, num = DECODED_PER_CALL.get(self.device.type, 1), len(latents)
        decoded = []
        for start in range(0, num, per_call):
            places = [min(start + place, num - 1) for place in range(per_call)]
            with self._enough_memory(), self._precision():
                volumes = self.model.decode(latents[places])
            decoded.append(volumes.float().cpu().numpy()[: num - start])
        return np.concatenate(decoded)

    def seconds_per_sample(self, coded: NDArray[np.float32]) -> float:
        """Time to draw one sample, from two samplings of few steps and one decoding of the group that `coded` is for."""
        group = range(len(coded))
        taken = []
        for num_steps in (1, 1, 2):  # the first call also waits for libraries to load
            began = time.perf_counter()
            latents = replace(self, num_steps=num_steps).latents(group, coded).cpu()
            taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        self.decoded(latents.to(self.device))
        decoding = time.perf_counter() - began
        step = max(taken[2] - taken[1], 0.0)
        return (taken[1] + (self.num_steps - 1) * step + decoding) / len(coded)

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device} has too little memory for {self.per_call} samples at a time ({str(error).split('. ')[0]}); "
                "use per_call=1, decode_tile=16 or precision=bf16."
            ) from None

    def _precision(self) -> AbstractContextManager[Any]:
        reduced = self.precision == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced)


PICTURE = "figures/samples.png"
NUM_PICTURED = 8
REQUEST_SETTINGS = ("count", "condition", "table", "unnamed", "extrapolate")
DRAWING_SETTINGS = ("seed", "sampler", "steps", "guidance", "per_call", "precision", "decode_tile")


@dataclass(frozen=True)
class SampleJob:
    """The run, the request, the dataset to write, and the gate that its scans have to pass."""

    run: Run
    request: Request
    dataset: SyntheticDataset
    gate: Gate

    @property
    def samples(self) -> range:
        """Numbers of the samples."""
        return range(self.request.count)

    @cached_property
    def requested(self) -> pd.DataFrame:
        """Conditions of all samples."""
        return self.request.draw(self.samples)

    @cached_property
    def atlas(self) -> Atlas:
        """The regions of the training cohort, so that synthetic and real structures are the same."""
        reference = self.gate.reference
        return Atlas.on(self.run.plan) if reference is None else Atlas(reference.regions, reference.region_table)

    def coded(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Conditions of some samples as inputs of the network, [samples, p]."""
        return self.request.coding.encode(self.request.draw(samples))

    def draw_picture(self) -> None:
        """Write the picture of the first scans."""
        shown = list(self.samples)[:NUM_PICTURED]
        volumes = [read_stored(self.dataset.path(sample, T1W)) for sample in shown]
        names = [f"{subject_of(sample)}  {_person(self.requested.iloc[sample])}" for sample in shown]
        title = f"{self.run.folder.name}: the first {len(shown)} of {self.request.count}"
        path = self.dataset.out / PICTURE
        with writing(self.dataset.out):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw_samples(volumes, names, title, self.dataset.plan))

    def provenance(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The origin of the scans for provenance.json; `settings` are those of the verb."""
        run = self.run
        drawn = "as the model drew it" if LOG_JACOBIAN in self.dataset.plan.channels else "none"
        return {
            "gen3d": __version__,
            "run": {
                "folder": str(run.folder),
                "key": run.artefact.key,
                "kind": run.kind,
                "gen3d": run.artefact.version,
            },
            "request": {name: settings[name] for name in REQUEST_SETTINGS if name in settings}
            | {"count": self.request.count},
            "conditions": self.request.coding.to_dict(),
            "outside_the_trained_range": self.request.outside,
            "training_people_who_fit": self.request.num_fitting(),
            "drawing": {name: settings[name] for name in DRAWING_SETTINGS} | {"device": run.device.type},
            "random_numbers": "numpy SeedSequence([seed, sample, purpose, step]); purpose 0 conditions, 1 first noise, "
            "2 fresh noise of ancestral samplers",
            "log_jacobian": "measured by registration of the scan" if settings["measure"] else drawn,
            "audit": self.gate.report(self.dataset),
            "waiver": self.gate.waiver,
        }


def _person(conditions: pd.Series) -> str:
    """A short description of the conditions of one sample."""
    known = conditions.dropna().items()
    parts = [f"{str(name).replace('_', ' ')} {v:.3g}" if isinstance(v, float) else str(v) for name, v in known]
    return ", ".join(parts)
