"""The verb `train`: prepared scans in, a run folder with one member or a cross-fitted family of members out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import nn

from gen3d.core.artefact import Work, write_atomic
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.errors import UserError
from gen3d.core.progress import duration, say
from gen3d.core.work import Identity
from gen3d.models.base import ClosedFormModel, Model, VolumeSet
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from gen3d.models.registry import ModelConfig
from gen3d.models.weights import save_weights
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches, Source
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.processes import Processes, launched
from gen3d.train.engine.shared_work import SharedVerb
from gen3d.train.log import LOG, TrainLog, append, keep_until, memory_gib
from gen3d.train.loop import newest, run_loop
from gen3d.train.material import Material, Scans
from gen3d.train.optim import OptimConfig
from gen3d.train.pictures import draw_reconstructions
from gen3d.train.random_numbers import INITIAL_WEIGHTS, seed_of

Tensors = dict[str, torch.Tensor]
NUM_PICTURED = 2


class Train(SharedVerb):
    """Fit a normative model to healthy people, or a generative model to their latents.

    Learns from rows with the role `train` only; with cross_fit > 1 also from `calibration`, as cross_fit members each
    of which is blind to one fold of people; with patients > 0 also from a share of the others. Test people are never used.
    The run folder holds the averaged weights, the plan and covariate schema they need, and the hashes of everybody each
    member saw.
    """

    prepared: Folders | None = Field(None, description="folder or folders of `gen3d prepare` or `gen3d simulate`")
    latents: Folder | None = Field(
        None, description="kind latent_diffusion: folder of `gen3d encode`, instead of prepared"
    )
    autoencoder: Folder | None = Field(
        None,
        alias="vae",
        description="kind latent_diffusion: run of the autoencoder, with prepared, or when it was moved",
    )
    patients: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the people with role evaluation (patients) to learn from too: for latent_diffusion, and, with "
        "cross_fit, for latents that classify can test everybody on; such a run judges nobody's anomaly",
    )
    model: ModelConfig = Field(
        description="which model; `kind` is one of restorer, vae, pca, voxelwise, latent_diffusion"
    )
    channels: tuple[str, ...] = Field(("t1w", "log_jacobian"), min_length=1, description="volumes learned together")
    cross_fit: int = Field(1, ge=1, description="members; 1: one, on train controls; K: K folds of train + calibration")
    seed: int = Field(0, ge=0, description="seed of folds, initial weights, order and noise")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimiser (models trained in steps)")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="where and in which precision")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="changes to training volumes")
    log_every: int = execution(10, "steps between entries of log.jsonl", gt=0)
    picture_every: int = execution(500, "steps between pictures of sample reconstructions", gt=0)
    tensorboard: bool = execution(True, "also log to tensorboard/, if TensorBoard is installed")

    @field_validator("channels")
    @classmethod
    def _distinct(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(channels)) < len(channels):
            raise ValueError(f"a channel is named twice in {list(channels)}")
        return channels

    @field_validator("cross_fit")
    @classmethod
    def _enough_folds(cls, cross_fit: int) -> int:
        if cross_fit == 2:
            raise ValueError("2 members would learn from half of the people each; use 1, or 3 and more")
        return cross_fit

    @model_validator(mode="after")
    def _material(self) -> Train:
        if not isinstance(self.model, LatentDiffusionConfig):
            if self.prepared is None:
                raise ValueError("prepared=FOLDER is needed: scans to learn from")
            extra = [name for name in ("latents", "autoencoder") if getattr(self, name) is not None]
            if extra:
                raise ValueError(f"{extra[0]}= goes with model.kind=latent_diffusion only")
            return self
        if (self.prepared is None) == (self.latents is None):
            raise ValueError(
                "model.kind=latent_diffusion needs latents=FOLDER of `gen3d encode`, or prepared= and vae="
            )
        if self.prepared is not None and self.autoencoder is None:
            raise ValueError("model.kind=latent_diffusion with prepared= needs vae=FOLDER of a trained autoencoder")
        if self.cross_fit != 1:
            raise ValueError("model.kind=latent_diffusion has one member; use cross_fit=1")
        if self.augment.intensity:
            raise ValueError(
                "augment.intensity changes scans, not latents; leave it out for model.kind=latent_diffusion"
            )
        if self.model.autoencoder or self.model.coding or self.model.latent_shape or self.model.network:
            raise ValueError("model.autoencoder, coding, latent_shape and network are written by gen3d; leave them out")
        return self

    def settings(self) -> dict[str, Any]:
        """As of every verb, without inputs that are not given."""
        unused = {name for name in ("prepared", "latents", "autoencoder") if getattr(self, name) is None}
        left_out = (
            unused | (set() if self.patients else {"patients"}) | ({"channels"} if self._diffusion else {"autoencoder"})
        )
        return {name: value for name, value in super().settings().items() if name not in left_out}

    @property
    def _diffusion(self) -> bool:
        return isinstance(self.model, LatentDiffusionConfig)

    @property
    def longest_wait_s(self) -> float:
        """Seconds that a process waits for the others."""
        return self.engine.timeout_s

    def open_inputs(self) -> Material:
        """What is learned from, once it is clear that so many processes can learn."""
        self._check_launch(launched())
        return self._open()

    def notes(self, opened: Material) -> dict[str, str]:
        """The data, and how gradients are exchanged."""
        return {"data": opened.fingerprint(), "backend": self._check_launch(launched())}

    def identity(self, opened: Callable[[], Material]) -> Identity:
        """The folders that the material names."""
        return Identity(opened().inputs)

    def _check_launch(self, place: Processes) -> str:
        """Refuse what cannot work with so many processes or without a device; returns how they exchange gradients."""
        if self.model.closed_form:
            if place.num > 1:
                raise UserError(
                    f"model.kind={self.model.kind} is computed in one pass by one process, but {place.num} were started; "
                    "run it without torchrun."
                )
            return "gloo"
        self.engine.num_processes(place.num)
        self.engine.chosen_kind(place.num)
        self.engine.parts(self.optim.batch_size, place.num)
        return self.engine.chosen_backend(self.engine.chosen_device(place.local_rank))

    def share(self, opened: Material, processes: Processes) -> dict[str, Any]:
        """Train every member that is not finished yet."""
        began = time.monotonic()
        if self.engine.threads:
            torch.set_num_threads(self.engine.threads)
        opened.prepare(processes)
        for member in range(self.cross_fit):
            self._member(opened, member, processes)
        seconds = time.monotonic() - began
        say(f"{self.out}: {self.model.kind} with {self.cross_fit} member(s) in {duration(seconds)}.")
        return self._summary(opened, seconds) | {"processes": processes.num}

    def plan(self) -> list[str]:
        """What would be trained, on whom, and what it takes."""
        material = self._open()
        people = material.people
        counts = ", ".join(f"{role} {n}" for role, n in people.frame["role"].value_counts().items())
        sizes = sorted({len(rows) for rows in people.members})
        sentences = [
            f"people: {people.frame['subject'].nunique()} ({len(people.frame)} scans; {counts})",
            f"members: {self.cross_fit}, each learning from {' or '.join(map(str, sizes))} scans",
            *material.sentences(),
        ]
        if not self.model.closed_form:
            sentences += self._step_sentences(material, min(sizes))
        return [*sentences, f"writes {self.out}"]

    def _step_sentences(self, material: Material, num_scans: int) -> list[str]:
        from gen3d.train.plan.plan import plan_step, step_settings

        def build(config: Any) -> Any:
            config = material.completed(config)
            config.check(material.plan, num_scans)
            return config.task(config.build(material.plan, material.channels, material.blank, 1), self.optim.steps)

        step = step_settings(self.model, self.optim, self.engine, launched().num)
        return plan_step(step, build, num_scans, self.engine.memory_gib).sentences()

    def _open(self) -> Material:
        """What is learned from; everything is checked here."""
        material: Material
        if isinstance(self.model, LatentDiffusionConfig):
            from gen3d.train.material_latents import Latents

            material = Latents.open(
                self.prepared,
                self.latents,
                self.autoencoder,
                self.model.conditions,
                self.patients,
                self.augment.flip,
                self.out,
            )
        else:
            material = Scans.open(
                cast(tuple[Path, ...], self.prepared), self.channels, self.cross_fit, self.seed, self.patients
            )
        for rows in material.people.members:
            material.completed(self.model).check(material.plan, len(rows))
        return material

    def describe(self, work: Work, opened: Material) -> None:
        """Write config.yaml and what the material says of itself."""
        tree = self.model_dump(mode="json") | {
            "model": opened.completed(self.model).model_dump(mode="json"),
            "channels": list(opened.channels),
        }
        write_atomic(work.folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False))
        opened.describe(work)

    def _member(self, material: Material, member: int, processes: Processes) -> None:
        """Train or fit one member and write its weights; a member whose weights are there is finished."""
        weights = self.out / "members" / str(member) / "model.safetensors"
        if processes.from_first(weights.is_file()):
            return
        rows, covariates = material.people.members[member], material.covariates
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, INITIAL_WEIGHTS, member))
            config = material.completed(self.model)
            statistics = material.statistics(rows, processes)
            model = config.build(material.plan, material.channels, statistics, covariates.shape[1])
            material.endow(model, rows, processes)
            if isinstance(model, ClosedFormModel):
                tensors: Tensors | None = self._fit(model, material.source, rows, covariates, member)
            else:
                tensors = self._optimise(model, material, rows, member, processes)
        processes.on_first(lambda: save_weights(weights, cast(Tensors, tensors), material.plan.key, self.model.kind))
        if processes.first:
            shutil.rmtree(self._checkpoints(member), ignore_errors=True)

    def _fit(
        self,
        model: ClosedFormModel,
        source: Source,
        rows: NDArray[np.int64],
        covariates: NDArray[np.float64],
        member: int,
    ) -> Tensors:
        began = time.monotonic()
        volumes = VolumeSet(
            len(rows),
            lambda places: torch.from_numpy(source.load(rows[places])),
            covariates[rows] if model.uses_covariates else None,
        )
        model.fit(volumes)
        seconds = time.monotonic() - began
        self._painter(source, rows, covariates)(model, self.out / "pictures" / f"member_{member}.png")
        keep_until(self.out / LOG, member, -1)
        entry = {"member": member, "step": 0, "volumes": len(rows), "seconds": round(seconds, 2)}
        append(self.out / LOG, {**entry, "memory_gib": round(memory_gib(), 3)})
        say(
            f"train member {member + 1} of {self.cross_fit}: {self.model.kind} of {len(rows)} volumes in {seconds:.1f} s"
        )
        return model.state_dict()

    def _optimise(
        self, model: Model, material: Material, rows: NDArray[np.int64], member: int, processes: Processes
    ) -> Tensors | None:
        source = material.source
        optim, checkpoints = self.optim, self._checkpoints(member)
        first_step, state = newest(checkpoints, processes)
        task = self.model.task(model, optim.steps)
        engine = self.engine.build(task, optim, processes, state)
        batches = Batches(
            source,
            rows,
            optim.batch_size,
            self.engine.parts(optim.batch_size, processes.num),
            (self.seed, member),
            AugmentConfig() if self._diffusion else self.augment,  # latents are mirrored by their encoder
            engine.device,
            share=(processes.rank, processes.num),
        )
        log = TrainLog(
            self.out,
            member=member,
            num_members=self.cross_fit,
            steps=optim.steps,
            batch_size=optim.batch_size,
            every=self.log_every,
            picture_every=self.picture_every,
            rate_at=optim.rate_at,
            paint=self._paint(model, material, rows),
            tensorboard=self.tensorboard,
        )
        every = self.engine.checkpoint_every
        try:
            with log:
                run_loop(engine, batches, first_step, optim.steps, every, optim.skip_limit, checkpoints, log)
            exported = engine.export()
            return None if exported is None else task.complete(exported)
        finally:
            batches.close()
            engine.close()

    def _checkpoints(self, member: int) -> Path:
        return self.out / "checkpoint" / f"member_{member}"

    def _paint(self, model: Model, material: Material, rows: NDArray[np.int64]) -> Any:
        if isinstance(model, LatentDiffusion):
            from gen3d.train.material_latents import sample_painter

            return sample_painter(model, material, rows[:NUM_PICTURED], seed_of(self.seed, INITIAL_WEIGHTS, 0))
        return self._painter(material.source, rows, material.covariates)

    def _painter(self, source: Source, rows: NDArray[np.int64], covariates: NDArray[np.float64]) -> Any:
        """A function that draws what a model expects of the first training people."""
        shown = rows[:NUM_PICTURED]

        def paint(module: nn.Module, path: Path) -> None:
            assert isinstance(module, Model)
            volumes = source.load(shown)
            device = module.channel_mean.device
            rows_of = torch.from_numpy(covariates[shown]).to(device) if module.uses_covariates else None
            expected = module.expect(torch.from_numpy(volumes).to(device), rows_of).mean.cpu().numpy()
            draw_reconstructions(path, volumes, expected, source.channels, f"{self.model.kind}: {path.stem}")

        return paint

    def _summary(self, material: Material, seconds: float) -> dict[str, Any]:
        people = material.people
        return {
            "model": self.model.kind,
            "members": self.cross_fit,
            "channels": list(material.channels),
            "num_people": int(people.frame["subject"].nunique()),
            "num_scans": len(people.frame),
            "seconds": round(seconds, 1),
        }
