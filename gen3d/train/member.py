"""One member of a run: built, trained in steps or computed in closed form, and its weights stored."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.core.disk import remove_folder
from gen3d.core.progress import say
from gen3d.models.base import BaseModelConfig, Model
from gen3d.models.run_folder import LOG, weights_path
from gen3d.models.weights import save_weights
from gen3d.train.batches import Batches
from gen3d.train.engine.interface import Engine
from gen3d.train.engine.processes import Processes
from gen3d.train.engine.start import start_engine
from gen3d.train.log import TrainLog, append, figures_of, keep_until, memory_gib
from gen3d.train.looks import Keeping, Looks
from gen3d.train.loop import Checkpoints, run_loop
from gen3d.train.material import TrainingMaterial
from gen3d.train.random_numbers import INITIAL_WEIGHTS, seed_of
from gen3d.train.settings import TrainSettings
from gen3d.train.tracking.recording import hashes_of
from gen3d.train.tracking.sinks import Tracking

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Member:
    """Member number `index` of the run."""

    settings: TrainSettings
    material: TrainingMaterial
    index: int
    processes: Processes
    tracking: Tracking = field(default_factory=Tracking)

    def train(self) -> None:
        """Train or fit it and write its weights; a member whose weights are there is finished."""
        weights = weights_path(self.settings.out, self.index)
        if self.processes.from_first(weights.is_file()):
            self._forget_checkpoints()
            return
        material = self.material
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.settings.seed, INITIAL_WEIGHTS, material.initial(self.index)))
            config: BaseModelConfig = material.completed(self.settings.model)
            statistics = material.statistics(self.rows, self.processes)
            model = config.build(material.plan, material.channels, statistics, material.covariates.shape[1])
            material.set_initial_weights(model, self.index)
            material.set_frozen_parts(model, self.index, self.processes)
            tensors = self._fit(model) if config.closed_form else self._optimise(model)
        plan_key, kind = material.plan.key, self.settings.model.kind
        self.processes.on_first(lambda: save_weights(weights, cast(Tensors, tensors), plan_key, kind))
        if self.processes.first:
            self.tracking.end_member(self.index, hashes_of(self.settings.out, (weights,)))
        self._forget_checkpoints()

    def _forget_checkpoints(self) -> None:
        if self.processes.first:
            remove_folder(self._checkpoints.folder)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the material that it is trained on."""
        return self.material.rows_of(self.index)

    @property
    def _checkpoints(self) -> Checkpoints:
        folder = self.settings.out / "checkpoint" / f"member_{self.index}"
        return Checkpoints(folder, self.settings.engine.checkpoint_every)

    def _fit(self, model: Model) -> Tensors:
        out, kind, rows = self.settings.out, self.settings.model.kind, self.rows
        began = time.monotonic()
        num = self.material.fit(model, self.index)
        seconds = time.monotonic() - began
        paint, picture = (
            self.material.painter(model, rows, kind, self.settings.seed),
            out / "pictures" / f"member_{self.index}.png",
        )
        if paint is not None:
            paint(model, picture)
        keep_until(out / LOG, self.index, -1)
        entry = {"member": self.index, "step": 0, "volumes": num, "seconds": round(seconds, 2)}
        entry["memory_gib"] = round(memory_gib(), 3)
        append(out / LOG, entry)
        self.tracking.begin_member(self.index, -1)
        self.tracking.losses(self.index, 0, figures_of(entry))
        self.tracking.picture(self.index, 0, picture)
        say(
            f"train member {self.index + 1} of {self.material.num_members}: {kind} of {num} {self.material.counted} "
            f"in {seconds:.1f} s"
        )
        return model.state_dict()

    def _optimise(self, model: Model) -> Tensors | None:
        settings, material, processes, checkpoints = self.settings, self.material, self.processes, self._checkpoints
        optim = settings.optim
        first_step, state = checkpoints.newest(processes)
        task = settings.model.task_of(model, optim.steps)
        engine = start_engine(settings.engine, task, optim, processes, state)
        batches = Batches(
            material.source_of(self.index),
            self.rows,
            optim.batch_size,
            settings.engine.parts(optim.batch_size, processes.num),
            (settings.seed, self.index),
            material.augmentation(settings.augment),
            engine.device,
            share=(processes.rank, processes.num),
        )
        try:
            with self._log(model, engine) as log:
                looks = self._looks(log, engine)
                run_loop(engine, batches, first_step, optim.steps, optim.skip_limit, looks or log, checkpoints)
            exported = looks.best_weights() if looks is not None else engine.export()
            return None if exported is None else task.complete(exported)
        finally:
            batches.close()
            engine.close()

    def _looks(self, log: TrainLog, engine: Engine) -> Looks | None:
        """The looks that choose the weights, where there are any."""
        judge, settings = self.material.judge(self.index), self.settings
        if judge is None:
            return None
        folder = weights_path(settings.out, self.index).parent
        keeping = Keeping(folder, self._checkpoints.folder, self.material.plan.key, settings.model.kind)
        return Looks(log, self.material.look_steps(self.index, settings.optim.steps), judge, keeping, engine)

    def _log(self, model: Model, engine: Engine) -> TrainLog:
        settings = self.settings
        return TrainLog(
            settings.out,
            member=self.index,
            num_members=self.material.num_members,
            steps=settings.optim.steps,
            batch_size=settings.optim.batch_size,
            every=settings.log_every,
            picture_every=settings.picture_every,
            rate_at=engine.rate_at,
            paint=self.material.painter(model, self.rows, settings.model.kind, settings.seed),
            tracking=self.tracking,
        )
