"""What a transition optimises: cross-entropy of a critic of whole pictures, and of one that sees the brain alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gen3d.models.task import Batch, Losses, Task
from gen3d.models.transition.transition import Transition, TransitionConfig
from gen3d.nets.critic import frozen
from gen3d.nets.precision import without_autocast
from gen3d.nets.transition import StageCritic

BEFORE, AFTER, BRAIN_BEFORE, BRAIN_AFTER = range(4)
"""Channels of a batch: a picture of the stage before, one of another person at the stage after, and the brain of each."""

WHOLE, REGION = "whole", "region"


class TransitionTask(Task):
    """Players: `model`, the generator G, and `critic`, D of whole pictures with D_r of the brain where `region` is set.

    Of a picture x at the stage before with the brain M(x), and a picture y of another person at the stage after:
    L_G = BCE(D(G(x)), 1) + w_r BCE(D_r(G(x) M(x)), 1) + w_i |G(y) - y|. The brain is that of the input x: a generator cannot
    change what the region critic looks at by changing the outline. Batches hold [B, 4, ...] in the order of `BEFORE` ....
    """

    def __init__(self, model: Transition, config: TransitionConfig, num_steps: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        critics = {WHOLE: StageCritic(config.widths, config.dimensions)}
        if config.region:
            critics[REGION] = StageCritic(config.widths, config.dimensions)
        self.critics = nn.ModuleDict(critics)
        self.players = ("model", "critic")

    @property
    def input_shape(self) -> tuple[int, ...]:
        sides = self.model.frame.padded
        return (4, *((1, *sides) if self.config.dimensions == 2 else sides))

    def weights(self, player: str) -> nn.Module:
        return self.model if player == "model" else self.critics

    def forward(self, batch: Batch, player: str) -> Losses:
        before, after, brain, brain_after = self._pictures(batch)
        if player == "critic":
            made = batch.shared.get("made")
            if made is None:
                with torch.no_grad():
                    made = self.model.generator(before)
            return self._critic_losses(made.to(before.dtype), after, brain, brain_after)
        made = self.model.generator(before)
        batch.shared["made"] = made.detach()
        return self._generator_losses(made, after, brain)

    def _pictures(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x and y scaled to -1 to 1, and their brains, each [B, 1, ...]."""
        volumes = batch.volumes.squeeze(2) if self.config.dimensions == 2 else batch.volumes
        before, after = (self.model.scaled(volumes[:, place : place + 1]) for place in (BEFORE, AFTER))
        return before, after, volumes[:, BRAIN_BEFORE, None], volumes[:, BRAIN_AFTER, None]

    def _generator_losses(self, made: Tensor, after: Tensor, brain: Tensor) -> Losses:
        config = self.config
        with frozen(self.critics):
            scores = {WHOLE: self.critics[WHOLE](made)}
            if config.region:
                scores[REGION] = self.critics[REGION](in_region(made, brain))
        kept = self.model.generator(after) if config.identity > 0 else None
        with without_autocast(made.device):
            terms = {f"adversarial_{name}": _told(score, 1.0) for name, score in scores.items()}
            loss = terms["adversarial_whole"]
            if config.region:
                loss = loss + config.region_weight * terms["adversarial_region"]
            if kept is not None:
                terms["identity"] = (kept.float() - after.float()).abs().mean()
                loss = loss + config.identity * terms["identity"]
        return {"loss": loss, **terms}

    def _critic_losses(self, made: Tensor, after: Tensor, brain: Tensor, brain_after: Tensor) -> Losses:
        """Half the sum of both cross-entropies of each critic; what is made is seen inside the brain it was made from."""
        seen = {WHOLE: (after, made)}
        if self.config.region:
            seen[REGION] = (in_region(after, brain_after), in_region(made, brain))
        terms: Losses = {}
        loss = torch.zeros((), device=made.device)
        for name, (real, fake) in seen.items():
            scores = self.critics[name](real), self.critics[name](fake)
            with without_autocast(made.device):
                terms[f"real_{name}"] = _told(scores[0], self.config.real_label)
                terms[f"made_{name}"] = _told(scores[1], 0.0)
                loss = loss + 0.5 * (terms[f"real_{name}"] + terms[f"made_{name}"])
        return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


def in_region(pictures: Tensor, brain: Tensor) -> Tensor:
    """Pictures in -1 to 1 with black (-1) outside the brain; both [B, 1, ...]."""
    return (pictures + 1.0) * brain - 1.0


def _told(logits: Tensor, label: float) -> Tensor:
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
