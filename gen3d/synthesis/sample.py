"""`gen3d sample`: synthetic scans on request, measured, audited, and written as a dataset that the other verbs read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field, model_validator

from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.cohort.folder import GENERATOR_SUBJECTS
from gen3d.core.artefact import file_digest, write_json
from gen3d.core.config import Folders, execution, waiver
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.launcher import environment_number
from gen3d.core.pool import num_workers
from gen3d.core.progress import duration, say, track, warn
from gen3d.core.tables import Row
from gen3d.core.work import Inputs
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, SamplerName
from gen3d.models.run import OneRun, load_expecting
from gen3d.nets.device import device_of, precision_of
from gen3d.synthesis.audit import AuditSettings
from gen3d.synthesis.drawing import PICTURE, Drawing, SampleJob
from gen3d.synthesis.folder import PROVENANCE, REGISTRATION_S_PER_MEGAVOXEL, SyntheticDataset, measure_all
from gen3d.synthesis.gate import Gate
from gen3d.synthesis.request import LARGEST_COUNT, Conditions, Request, Unnamed, read_people, read_trained
from gen3d.synthesis.tables import cohort_table, write_bids, write_image, write_prepared
from gen3d.synthesis.tiling import SMALLEST_TILE, decode_in_tiles
from gen3d.train.engine.processes import Processes, launched
from gen3d.train.engine.shared_work import SharedVerb

NUM_NAMED = 8
TRAINED = "conditions.tsv"


class Sample(SharedVerb):
    """Draw synthetic scans from a latent diffusion model, for requested conditions, a number of scans and a seed.

    Sample k of a seed is the same scan whatever batch_size, the number of processes, the order or an interruption; on
    another device, or with another number of threads, it may differ by one step of what is stored. Every
    scan is registered to the template, which measures its structures. All scans are then audited for copies of training
    people. Scans that pass are released: volumes/, BIDS images and the tables. Otherwise they stay in quarantine/ and the verb
    ends with an error, unless waiver= gives a reason, which is written into provenance.json.
    """

    run_folder: OneRun = Field(alias="run", description="run folder of `gen3d train`, model.kind=latent_diffusion")
    count: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="scans to draw; with table=, one per row")
    seed: int = Field(0, ge=0, description="seed; with the sample's number it determines the scan")
    condition: Conditions = Field(
        default_factory=dict,
        description="requested conditions, name: value. A number or a code is fixed; [low, high] of a number and a list of codes "
        "are drawn from uniformly; unknown leaves it open",
    )
    table: Path | None = Field(
        None, description="instead of condition: TSV with a column per condition and a row per requested person"
    )
    unnamed: Unnamed = Field(
        "unknown",
        description="conditions not named: unknown, or as_trained: near those of a training person who has the named ones",
    )
    extrapolate: bool = waiver(False, "allow conditions outside the range of the training people", waives=(True,))
    sampler: SamplerName = Field("dpm_solver", description="how noise becomes a latent")
    steps: int = Field(25, ge=1, le=1000, description="denoising steps; ddpm needs 1000")
    guidance: float = Field(
        1.0, ge=0, description="1: conditions as trained; larger values exaggerate them; 0 ignores them"
    )
    per_call: int = Field(
        2,
        ge=1,
        description="samples in a call of the network; another number rounds differently, by about 1e-5 of white matter",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32", description="of the networks; auto is bf16 where the processor computes in it"
    )
    decode_tile: int = Field(
        0, ge=0, description="decode in tiles of so many latent voxels a side, when memory is short; 0: whole volumes"
    )
    measure: bool = Field(
        True, description="register every scan to the template: volumes of structures and the channel log_jacobian"
    )
    audit: AuditSettings = Field(
        default_factory=AuditSettings,
        description="when scans count as copies of training people, and how many are too many",
    )
    waiver: str | None = waiver(
        None,
        "a reason to release the scans although the audit failed or was not possible; kept in provenance.json",
        execution=True,
    )
    audit_against: Folders | None = Field(
        None,
        description="prepared folders with training and held-out people; none: those recorded in the run",
    )
    batch_size: int = execution(
        4,
        "samples in memory at a time; the result does not depend on it, the speed hardly: see per_call",
        ge=1,
        le=1024,
    )
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where to compute; auto takes a GPU if there is one")
    workers: int = execution(0, "registrations at a time; 0: one per core", ge=0)
    timeout_s: float = execution(21600.0, "seconds that a process waits for the others", gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Sample:
        if self.table is not None and (self.count is not None or self.condition):
            raise ValueError("table= sets conditions and count; leave out condition= and count=")
        if self.table is None and self.count is None:
            raise ValueError("count= is missing: how many scans to draw")
        if 0 < self.decode_tile < SMALLEST_TILE:
            raise ValueError(f"decode_tile={self.decode_tile} is mostly border; use {SMALLEST_TILE} or more, or 0")
        if self.waiver is not None and not self.waiver.strip():
            raise ValueError("waiver= needs a reason in words")
        return self

    @property
    def longest_wait_s(self) -> float:
        """Seconds that a process waits for the others."""
        return self.timeout_s

    def reads(self) -> Inputs:
        """The run, and the tables and folders that are named."""
        named = {name: value for name in ("table", "audit_against") if (value := getattr(self, name)) is not None}
        return {"run": self.run_folder, **named}

    def open_inputs(self) -> SampleJob:
        """The run, the request and the dataset, on this process's device.

        Raises:
            UserError: a request that the model cannot follow, or no people to audit against.
        """
        return self._open(str(device_of(self.device, launched().local_rank, "device")))

    def notes(self, opened: SampleJob) -> dict[str, str]:
        """The run, and the table of requested people."""
        notes = {"run": opened.run.artefact.key, "backend": "gloo"}
        return notes | ({"table": file_digest(self.table)} if self.table is not None else {})

    def check_finished(self, opened: SampleJob) -> None:
        """A dataset that was released with a waiver needs the waiver again."""
        opened.gate.still_stands(opened.dataset)

    def plan(self) -> list[str]:
        """What would be drawn, how long it would take and how much it would write."""
        job = self.open_inputs()
        request, missing = job.request, job.dataset.missing(job.samples)
        megavoxels = float(np.prod(job.run.plan.shape)) / 1e6
        megabytes = request.count * megavoxels * (2 * len(job.dataset.plan.channels) + 1)
        drawing = self._drawing(job)
        parts = {"drawing": drawing.seconds_per_sample(job.coded(drawing.group(0))) * len(missing)}
        if self.measure:
            workers = num_workers(self.workers, max(1, len(missing)))
            parts["registration"] = REGISTRATION_S_PER_MEGAVOXEL * megavoxels * len(missing) / workers
        shown = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
        done = f" ({request.count - len(missing)} of them are there)" if len(missing) < request.count else ""
        return [
            f"draws {request.count} scans{done} with {self.sampler}, {self.steps} steps, seed {self.seed}",
            f"conditions: {request.describe()}",
            *request.remarks(),
            f"takes about {duration(sum(parts.values()))} in one process ({shown}), and the audit",
            f"writes about {megabytes:.0f} MB to {self.out}",
        ]

    def _open(self, device: str) -> SampleJob:
        """The run, the request and the dataset, checked."""
        run = load_expecting(self.run_folder, device)
        config = run.model_config
        if not isinstance(config, LatentDiffusionConfig):
            raise UserError(
                f"{self.run_folder}: a {run.kind} run does not draw scans; give a run of model.kind=latent_diffusion."
            )
        if T1W not in run.channels:
            raise UserError(f"{self.run_folder}: its model makes {', '.join(run.channels)}, and no T1w scans.")
        coding = config.coded
        people = read_people(self.table, coding) if self.table is not None else None
        request = Request(
            coding,
            self.condition,
            len(people) if people is not None else cast(int, self.count),
            self.seed,
            self.unnamed,
            self.extrapolate,
            people,
            read_trained(run.folder / TRAINED, coding),
        )
        if config.network is not None and (len(request.named) < len(coding.names) or self.guidance != 1.0):
            raise UserError(
                f"{self.run_folder}: its network was trained without unknown conditions; name all of "
                f"{', '.join(coding.names)}, with guidance=1."
            )
        kept = [c for c in run.plan.channels if c in run.channels or (self.measure and c == LOG_JACOBIAN)]
        plan = (
            run.plan if len(kept) == len(run.plan.channels) else run.plan.model_copy(update={"channels": tuple(kept)})
        )
        gate = Gate.open(run, self.audit, self.audit_against, self.waiver)
        return SampleJob(run, request, SyntheticDataset(self.out, plan), gate)

    def _drawing(self, job: SampleJob) -> Drawing:
        model = cast(LatentDiffusion, job.run.member(0))
        if self.decode_tile:
            decode_in_tiles(model, self.decode_tile)
        precision = precision_of(self.precision, job.run.device)
        return Drawing(model, self.seed, self.sampler, self.steps, self.guidance, self.per_call, precision)

    def share(self, opened: SampleJob, processes: Processes) -> dict[str, Any]:
        """Draw, measure, audit and release; an interrupted call continues with what is missing.

        Raises:
            UserError: scans that are not finite, or too many copies.
        """
        job, began = opened, time.monotonic()
        for remark in job.request.remarks():
            warn(remark)
        self._draw(job, processes)
        measured = self._measure(job, processes)
        processes.on_first(job.draw_picture)
        copies = processes.on_first(lambda: job.gate.pass_through(job.dataset, job.samples))
        self._release(job, measured, copies, processes)
        audit, seconds = processes.on_first(lambda: job.gate.summary(job.dataset)), time.monotonic() - began
        say(f"{self.out}: {job.request.count} scans in {duration(seconds)}; look at {PICTURE}.")
        return {"num_scans": job.request.count, "seconds": round(seconds, 1), "audit": audit}

    def _draw(self, job: SampleJob, processes: Processes) -> None:
        """Draw what is missing, each process whole groups of samples; every scan is stored as soon as it is decoded.

        Raises:
            UserError: naming the samples of which the network made NaN or infinite values; the others are kept.
        """
        missing = processes.from_first(job.dataset.missing(job.samples))
        if not missing:
            return
        drawing = self._drawing(job)
        groups = list(dict.fromkeys(tuple(drawing.group(sample)) for sample in missing))
        mine = groups[processes.rank :: processes.num]
        wanted = set(missing)

        def draw_mine() -> list[int]:
            drawn = self._drawn(job, drawing, mine, wanted)
            num = sum(sample in wanted for group in mine for sample in group)
            return [sample for sample, finite in track(drawn, "drawing", total=num) if not finite]

        bad = sorted(sample for part in processes.gather(processes.together(draw_mine)) for sample in part)
        if bad:
            named = ", ".join(map(str, bad[:NUM_NAMED])) + (" and others" if len(bad) > NUM_NAMED else "")
            error = UserError(
                f"{self.run_folder}: the network made NaN or infinite values of {len(bad)} of {job.request.count} samples "
                f"({named}), the others are kept; use precision=fp32, more steps or less guidance, or train the run again."
            )
            error.shared = not processes.first
            raise error

    def _drawn(
        self, job: SampleJob, drawing: Drawing, groups: list[tuple[int, ...]], wanted: set[int]
    ) -> Iterator[tuple[int, bool]]:
        """Draw groups and keep those of their samples that are wanted; yields each with whether it is finite."""
        at_once = max(1, self.batch_size // self.per_call)
        for start in range(0, len(groups), at_once):
            block = groups[start : start + at_once]
            latents = [drawing.latents(group, job.coded(group)) for group in block]
            for group, of_group in zip(block, latents, strict=True):
                volumes = drawing.decoded(of_group)
                for sample, channels in zip(group, volumes, strict=True):
                    if sample in wanted:
                        finite = bool(np.isfinite(channels).all())
                        if finite:
                            job.dataset.keep(sample, dict(zip(job.run.channels, channels, strict=True)), self.measure)
                        yield sample, finite

    def _measure(self, job: SampleJob, processes: Processes) -> list[Row]:
        """Register every scan, each process its share; the rows of all, in every process."""
        if not self.measure:
            return []
        mine = list(job.samples)[processes.rank :: processes.num]
        here = environment_number("LOCAL_WORLD_SIZE", 1, least=1)  # processes that share this node's cores
        workers = self.workers or max(1, num_workers(0, len(job.samples)) // here)

        def measure_mine() -> list[Row]:
            return list(track(measure_all(job.dataset, job.atlas, mine, workers), "measuring", total=len(mine)))

        rows = [row for part in processes.gather(processes.together(measure_mine)) for row in part]
        return sorted(rows, key=lambda row: int(row["sample"]))

    def _release(self, job: SampleJob, measured: list[Row], copies: list[bool | None], processes: Processes) -> None:
        """Move the scans out of quarantine and write the tables and images around them."""
        dataset = job.dataset
        processes.on_first(dataset.release)
        mine = list(job.samples)[processes.rank :: processes.num]

        def write_mine() -> None:
            for sample in track(mine, "writing images"):
                write_image(dataset, sample)

        processes.together(write_mine)

        def write_tables() -> None:
            table = cohort_table(job.requested, measured, copies, job.run.artefact.key)
            mask = cast(LatentDiffusion, job.run.member(0)).brain_mask.cpu().numpy()
            write_prepared(dataset, job.atlas, table, mask)
            write_bids(dataset, table, job.run.kind)
            with writing(self.out):
                write_json(self.out / PROVENANCE, job.provenance(self.settings()))
                write_json(self.out / GENERATOR_SUBJECTS, dict(job.run.seen.members[0]))

        processes.on_first(write_tables)
