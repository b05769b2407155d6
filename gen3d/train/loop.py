"""The training loop."""

from __future__ import annotations

from pathlib import Path

import torch

from gen3d.errors import UserError
from gen3d.models.losses import all_finite
from gen3d.models.task import Batch, Losses
from gen3d.train.batches import Batches
from gen3d.train.checkpoint import latest_checkpoint, save_checkpoint
from gen3d.train.engine import Engine
from gen3d.train.log import TrainLog
from gen3d.train.stopping import StopSignal


def run_loop(
    engine: Engine, batches: Batches, steps: int, checkpoint_every: int, checkpoints: Path, log: TrainLog
) -> None:
    """Optimise a task for `steps` weight updates, going on from the newest checkpoint.

    Raises:
        UserError: a loss term is not finite; the sentence names it and the batch's subjects.
        Interrupted: SIGINT or SIGTERM came; the state after the step at hand is saved.
    """
    step = resume(engine, checkpoints)
    log.start(step)
    with StopSignal() as stop:
        while step < steps:
            updated = False
            for part in range(batches.parts):
                batch = batches.at(step, part)
                for player in engine.task.playing(step):
                    losses = engine.forward(batch, player)
                    refuse_non_finite(losses, batch, player)
                    try:
                        updated = engine.update(losses["loss"], player, step)
                    except FloatingPointError as error:
                        raise non_finite(str(error), batch) from None
                    log.collect(engine, losses, player)
            step += updated
            log.after(step, engine)
            stopping = stop.received is not None
            if stopping or (step % checkpoint_every == 0 and step < steps):
                save_checkpoint(checkpoints, step, engine.save)
            if stopping:
                raise stop.error(step, steps)


def resume(engine: Engine, checkpoints: Path) -> int:
    """Load the newest complete checkpoint and return its step, or 0."""
    found = latest_checkpoint(checkpoints)
    if found is None:
        return 0
    step, folder = found
    engine.load(folder)
    return step


def refuse_non_finite(losses: Losses, batch: Batch, player: str) -> None:
    """Raise a UserError that names the first terms that are NaN or infinite, the step and the subjects."""
    if bool(all_finite(losses)):
        return
    bad = [name for name, value in losses.items() if not bool(torch.isfinite(value).all())]
    terms = [name for name in bad if name != "loss"] or bad
    raise non_finite(f"the {player}'s {' and '.join(terms)}", batch)


def non_finite(what: str, batch: Batch) -> UserError:
    """The error that names what was not finite, the step and the subjects of the batch."""
    return UserError(
        f"{what} became NaN or infinite at step {batch.step} on the subjects {', '.join(batch.subjects)}; look at "
        "these scans, or lower optim.learning_rate, or use engine.precision=fp32."
    )
