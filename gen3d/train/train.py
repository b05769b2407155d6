"""`gen3d train`: from prepared scans to a run folder with one model, or a cross-fitted family of models (members)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import PrivateAttr, model_validator

from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import duration, say
from gen3d.core.words import listed
from gen3d.core.work import Identity
from gen3d.models.run_folder import write_settings
from gen3d.train.engine.processes import Processes, launched
from gen3d.train.material import ScanMaterial, TrainingMaterial
from gen3d.train.material_fusion import FusionMaterial
from gen3d.train.material_labels import LabelledMaterial
from gen3d.train.material_latent_visits import LatentVisitsMaterial
from gen3d.train.material_latents import LatentMaterial
from gen3d.train.material_stages import StageMaterial
from gen3d.train.material_visits import VisitMaterial
from gen3d.train.member import Member
from gen3d.train.settings import TrainSettings
from gen3d.train.tracking.recording import begin_tracking, recorded
from gen3d.train.tracking.sinks import Tracking

MATERIALS: dict[str, type[TrainingMaterial]] = {
    "scans": ScanMaterial,
    "latents": LatentMaterial,
    "labels": LabelledMaterial,
    "modalities": FusionMaterial,
    "stages": StageMaterial,
    "latent_visits": LatentVisitsMaterial,
    "visits": VisitMaterial,
}
"""What models are trained on, by the `material` of their settings."""


class Train(TrainSettings):
    """Train a normative model on healthy people, a generative model on their latents, a classifier or a forecaster.

    Training uses people with the role `train` only. cross_fit > 1 also uses `calibration`: it trains that many members, each
    without one fold of the people, so that every person can be scored by a member that never saw them. patients > 0 also
    uses a share of the patients. Test people are never used.
    A classifier (model.kind=classifier) learns from everybody with a label, whatever the role: with cross_fit=K each member is
    blind to a fold of the people and scores them; scores.tsv holds these scores, and `gen3d classify` compares them with others.
    A fusion network (model.kind=fusion) does the same from genotypes= and the scans or latents= of the same people, joined by
    subject; relatives lie in one fold, and modalities.tsv holds what each of the two says alone. No genotype is kept in the run.
    A forecaster (model.kind=deformation_rate) learns from everybody with two visits, whatever the role; members are blind to people
    in the same way, and forecast_errors.tsv holds what each one and the floors beside it forecast for people it never saw.
    With start=RUN a VAE or a restorer goes on from the weights of another run instead of random ones (fine-tuning). The people
    of that run count as seen by every member that began with it.
    The run folder holds the averaged weights, the plan and covariate schema they need, and hashes of the people that each
    member was trained on.
    """

    _tracking: Tracking = PrivateAttr(default_factory=Tracking)
    """Filled in the first process when the folder is described."""

    @model_validator(mode="after")
    def _fits_its_material(self) -> Train:
        written = [name for name in self.model.written_by_train if getattr(self.model, name)]
        if written:
            raise ValueError(f"model.{listed(self.model.written_by_train)} are written by gen3d; leave them out")
        if self.genotypes is not None and self.model.material != "modalities":
            raise ValueError("genotypes= goes with model.kind=fusion only")
        if self.model.material not in ("labels", "modalities"):
            if self.folds is not None:
                raise ValueError("folds= goes with model.kind=classifier or fusion only")
            if self.optim.plateau < 1:
                raise ValueError("optim.plateau waits for the validation loss of a classifier; leave it out")
        if self.start is not None and (self.model.material != "scans" or self.model.closed_form):
            raise ValueError(
                f"start= goes with models that learn from scans in steps, such as vae and restorer, not with {self.model.kind}"
            )
        self._material.refuse(self)
        return self

    @property
    def _material(self) -> type[TrainingMaterial]:
        return MATERIALS[self.model.material]

    def settings(self) -> dict[str, Any]:
        """As of every verb, without inputs that are not set and settings that the material does not use."""
        unused = {
            name for name in ("prepared", "latents", "genotypes", "folds", "start") if getattr(self, name) is None
        } | self._material.unused
        left_out = unused | {"vae"} | (set() if self.patients else {"patients"})
        return {name: value for name, value in super().settings().items() if name not in left_out}

    @property
    def longest_wait_s(self) -> float:
        """Seconds that a process waits for the others."""
        return self.engine.timeout_s

    def open_inputs(self) -> TrainingMaterial:
        """The training material, after a check that so many processes can train."""
        self._check_launch(launched())
        return self._open()

    def open_to_plan(self) -> TrainingMaterial:
        """The training material; a plan may be for more processes or another device than there are here."""
        return self._open()

    def notes(self, opened: TrainingMaterial) -> dict[str, str]:
        """The data, and how gradients are exchanged."""
        return {"data": opened.fingerprint(), "backend": self._check_launch(launched())}

    def identity(self, opened: Callable[[], TrainingMaterial]) -> Identity:
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

    def share(self, opened: TrainingMaterial, processes: Processes) -> dict[str, Any]:
        """Train every member that is not finished yet."""
        began = time.monotonic()
        if self.engine.threads:
            torch.set_num_threads(self.engine.threads)
        for sentence in opened.calibration():
            say(f"  {sentence}")
        opened.prepare(processes)
        with recorded(self._tracking, self.out):
            for member in range(opened.num_members):
                Member(self, opened, member, processes, self._tracking).train()
                opened.after(member, processes)
            opened.finish(processes)
        seconds = time.monotonic() - began
        say(f"{self.out}: {self.model.kind} with {opened.num_members} member(s) in {duration(seconds)}.")
        return self._summary(opened, seconds) | {"processes": processes.num}

    def plan(self) -> list[str]:
        """What would be trained, on which people, and the time and memory it needs."""
        material = self._open()
        people = material.people
        counts = ", ".join(f"{role} {n}" for role, n in people.frame["role"].value_counts().items())
        sizes = sorted({len(rows) for rows in people.members})
        sentences = [
            f"people: {people.frame['subject'].nunique()} ({len(people.frame)} scans; {counts})",
            f"members: {material.num_members}, each trained on {' or '.join(map(str, sizes))} scans",
            *material.sentences(),
            *material.calibration(),
        ]
        if not self.model.closed_form:
            sentences += self._step_sentences(material, min(sizes))
        return [*sentences, f"writes {self.out}"]

    def _step_sentences(self, material: TrainingMaterial, num_scans: int) -> list[str]:
        from gen3d.train.plan.plan import plan_step, step_settings

        def build(config: Any) -> Any:
            config = material.completed(config)
            config.check(material.plan, num_scans)
            model = material.planned(config.build(material.plan, material.channels, material.blank, 1))
            return config.task_of(model, self.optim.steps)

        step = step_settings(self.model, self.optim, self.engine, launched().num)
        return plan_step(step, build, num_scans, self.engine.memory_gib).sentences()

    def _open(self) -> TrainingMaterial:
        """The training material; all of it is checked here."""
        material = self._material.open(self)
        for rows in material.people.members:
            material.completed(self.model).check(material.plan, len(rows))
        return material

    def describe(self, work: Work, opened: TrainingMaterial) -> None:
        """Write config.yaml and the description of the material."""
        tree = self.model_dump(mode="json") | {
            "model": opened.completed(self.model).model_dump(mode="json"),
            "channels": list(opened.channels),
        }
        write_settings(work.folder, tree)
        opened.describe(work)
        self._tracking = begin_tracking(self.track, work, opened.seen().record(), opened.num_members)

    def _summary(self, material: TrainingMaterial, seconds: float) -> dict[str, Any]:
        people = material.people
        return {
            "model": self.model.kind,
            "form": material.completed(self.model).form,
            "members": material.num_members,
            "channels": list(material.channels),
            "num_people": int(people.frame["subject"].nunique()),
            "num_scans": len(people.frame),
            "seconds": round(seconds, 1),
        }
