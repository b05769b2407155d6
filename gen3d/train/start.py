"""`start=`: the weights of a finished run as the initial weights of another training (fine-tuning)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.run import Run, load_run
from gen3d.models.run_folder import TRAIN

PATIENT = "evaluation"
"""Role of people who are no healthy controls."""


@dataclass(frozen=True)
class InitialRun:
    """The run that a training begins with."""

    run: Run

    @classmethod
    def open(
        cls,
        folder: Path,
        prepared: Prepared,
        channels: tuple[str, ...],
        model: BaseModelConfig,
        blank: Statistics,
        num_covariates: int,
        own: SeenBy,
    ) -> InitialRun:
        """Open the run and check that its weights are those of the model to be trained.

        Args:
            folder: of the run.
            prepared: the scans to train on.
            channels: that the model is trained on, in their order.
            model: its settings.
            blank: statistics of the right shapes.
            num_covariates: columns of the design of the training people.
            own: the people of each member to be trained.

        Raises:
            UserError: no finished run of `gen3d train`; one that does not say enough of whom it saw; or one of another kind, grid,
                version, channels, size or number of members.
        """
        run = load_run(folder)
        if run.kind != model.kind:
            raise UserError(
                f"start={folder}: weights of a {run.kind}, and a {model.kind} cannot begin with them; give a run of the same "
                "model.kind."
            )
        if run.artefact.verb != TRAIN:
            raise UserError(
                f"start={folder}: imported weights, and whom they have seen is not known, so nobody could be judged by what began "
                "with them; give a run of gen3d train."
            )
        if any(run.seen.ids_only) and not all(own.ids_only):
            raise UserError(
                f"start={folder}: recorded the ids of its training people but not their scans, as earlier versions did, so not all "
                "of them would be recognised; train it again."
            )
        run.require_plan(prepared.plan, prepared.folders[0])
        if run.channels != channels:
            raise UserError(
                f"start={folder}: learned channels {', '.join(run.channels)}, and this training has {', '.join(channels)}; set "
                f"'channels=[{','.join(run.channels)}]'."
            )
        num_members = len(own.members)
        if run.num_members not in (1, num_members):
            raise UserError(
                f"start={folder}: has {run.num_members} members, and {num_members} would be trained; set "
                f"cross_fit={run.num_members}, or start with a run of one member."
            )
        with torch.device("meta"):
            expected = model.build(prepared.plan, channels, blank, num_covariates).state_dict()
        for member in range(run.num_members):
            _require_same(folder, expected, run.member(member).state_dict())
        return cls(run)

    def fill(self, model: Model, member: int) -> None:
        """Give a new model the weights that a member begins with: all of the state, the normalisation of volumes included."""
        model.load_state_dict(self.run.member(self._member(member)).state_dict(), strict=True)

    def joined(self, own: SeenBy) -> SeenBy:
        """The people of each new member, with those of the member that it begins with.

        Whoever was a patient in one of the two trainings stays one, so that no map is made with what was learned from patients.
        """
        before = [self.run.seen.members[self._member(index)] for index in range(len(own.members))]
        return SeenBy(
            tuple(
                {**earlier, **{who: PATIENT if earlier.get(who) == PATIENT else role for who, role in people.items()}}
                for earlier, people in zip(before, own.members, strict=True)
            )
        )

    def _member(self, index: int) -> int:
        return index if self.run.num_members > 1 else 0


def _require_same(folder: Path, expected: dict[str, torch.Tensor], there: dict[str, torch.Tensor]) -> None:
    """Refuse weights of other names or shapes than the model has."""
    here = {name: tuple(value.shape) for name, value in expected.items()}
    theirs = {name: tuple(value.shape) for name, value in there.items()}
    other = [name for name in {**here, **theirs} if here.get(name) != theirs.get(name)]
    if other:
        sides = [str(list(found[other[0]])) if other[0] in found else "not there" for found in (theirs, here)]
        raise UserError(
            f"start={folder}: weights of a model with other settings ({len(other)} tensors differ, such as {other[0]}: {sides[0]} "
            f"in the run, {sides[1]} here); take model: from {folder / 'config.yaml'}."
        )
