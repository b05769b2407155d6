"""The verb `train`: prepared scans in, a run folder with one member or a cross-fitted family of members out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import model_validator

from gen3d.core.artefact import RECORD, Work, begin, digest, write_atomic
from gen3d.core.errors import UserError
from gen3d.core.progress import duration, say
from gen3d.figures.names import listed
from gen3d.train.engine.preflight import meet, report_failure
from gen3d.train.engine.processes import Processes, launched
from gen3d.train.material import Material, Scans
from gen3d.train.material_latents import Latents
from gen3d.train.member import Member
from gen3d.train.settings import TrainSettings

MATERIALS: dict[str, type[Material]] = {"scans": Scans, "latents": Latents}
"""What models learn from, by the `material` of their settings."""


class Train(TrainSettings):
    """Fit a normative model to healthy people, or a generative model to their latents.

    Learns from rows with the role `train` only; with cross_fit > 1 also from `calibration`, as cross_fit members each
    of which is blind to one fold of people; with patients > 0 also from a share of the others. Test people are never used.
    The run folder holds the averaged weights, the plan and covariate schema they need, and the hashes of everybody each
    member saw.
    """

    @model_validator(mode="after")
    def _fits_its_material(self) -> Train:
        given = [name for name in self.model.written_by_train if getattr(self.model, name)]
        if given:
            raise ValueError(f"model.{listed(self.model.written_by_train)} are written by gen3d; leave them out")
        self._material.refuse(self)
        return self

    @property
    def _material(self) -> type[Material]:
        return MATERIALS[self.model.material]

    def settings(self) -> dict[str, Any]:
        """As of every verb, without inputs that are not given, and what is of no use to the material."""
        unused = {name for name in ("prepared", "latents") if getattr(self, name) is None} | self._material.unused
        left_out = unused | {"vae"} | (set() if self.patients else {"patients"})
        return {name: value for name, value in super().settings().items() if name not in left_out}

    @classmethod
    def check_processes(cls, num_processes: int) -> None:
        """Any number of processes can share a training."""

    @classmethod
    def cannot_begin(cls, error: UserError, num_processes: int) -> UserError:
        """The other processes wait for this one: tell them."""
        return report_failure(str(error)) if num_processes > 1 else error

    def run(self) -> Path:
        """Train every member that is not finished yet; returns the run folder."""
        place = launched()
        opened: list[Material] = []

        def inspect() -> dict[str, str]:
            backend = self._check_launch(place)
            opened.append(self._open())
            return {"settings": digest(self.settings()), "data": opened[0].fingerprint(), "backend": backend}

        processes = meet(place, inspect, self.engine.timeout_s)
        self._train(opened[0], processes)
        processes.part()
        return self.out

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

    def _train(self, material: Material, processes: Processes) -> None:
        work: Work | None = None

        def open_folder() -> bool:
            nonlocal work
            work = begin(self, "train", material.inputs)
            if not work.finished:
                self._describe(work, material)
            return work.finished

        if processes.on_first(open_folder):
            say(f"{self.out}: finished before, nothing to do.")
            return
        began = time.monotonic()
        if self.engine.threads:
            torch.set_num_threads(self.engine.threads)
        try:
            processes.together(self._see_folder)
            material.prepare(processes)
            for member in range(self.cross_fit):
                Member(self, material, member, processes).train()
        except BaseException:
            if work is not None:
                work.release()
            raise
        if work is not None:
            work.finish(self._summary(material, time.monotonic() - began) | {"processes": processes.num})
        say(f"{self.out}: {self.model.kind} with {self.cross_fit} member(s) in {duration(time.monotonic() - began)}.")

    def _see_folder(self) -> None:
        """Every process must see the folder that the first one writes: checkpoints are read from it."""
        if not (self.out / RECORD).is_file():
            raise UserError(
                f"{self.out}: not visible from here, though rank 0 writes there; out= must be on a file system that all "
                "nodes share."
            )

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
        from gen3d.train.plan.budget import plan_step
        from gen3d.train.plan.estimate import StepSettings, planned_device, planned_precision

        started = launched().num
        num_processes = self.engine.num_processes(started)
        self.engine.parts(self.optim.batch_size, num_processes)
        # A GPU is planned for without having one, so `chosen_device`, which refuses that, is not asked.
        device = torch.device(planned_device(self.engine.device, num_processes, started))
        precision = planned_precision(self.engine.precision, device.type) or self.engine.chosen_precision(device)

        def build(config: Any) -> Any:
            config = material.completed(config)
            config.check(material.plan, num_scans)
            return config.task(config.build(material.plan, material.channels, material.blank, 1), self.optim.steps)

        settings = StepSettings(
            device=device.type,
            precision=precision,
            channels_last=self.engine.layout(device) is torch.channels_last_3d,
            zero=self.engine.zero if self.engine.chosen_kind(num_processes) == "deepspeed" else 0,
            num_processes=num_processes,
            volumes_at_once=self.engine.volumes_at_once,
            memory_gib=self.engine.memory_gib,
        )
        return plan_step(self.model, build, self.optim, settings, num_scans).sentences()

    def _open(self) -> Material:
        """What is learned from; everything is checked here."""
        material = self._material.open(self)
        for rows in material.people.members:
            material.completed(self.model).check(material.plan, len(rows))
        return material

    def _describe(self, work: Work, material: Material) -> None:
        tree = self.model_dump(mode="json") | {
            "model": material.completed(self.model).model_dump(mode="json"),
            "channels": list(material.channels),
        }
        write_atomic(work.folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False))
        material.describe(work)

    def _summary(self, material: Material, seconds: float) -> dict[str, Any]:
        people = material.people
        return {
            "model": self.model.kind,
            "form": material.completed(self.model).form,
            "members": self.cross_fit,
            "channels": list(material.channels),
            "num_people": int(people.frame["subject"].nunique()),
            "num_scans": len(people.frame),
            "seconds": round(seconds, 1),
        }
