"""The residual head on spatial latents as a recipe: standardised channels, networks, calibration and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.inner_folds import inner_folds
from gen3d.classify.heads.learning import (
    calibration_state,
    kept_calibration,
    probabilities,
    problem_rows,
    scalings_of,
    threshold_of,
)
from gen3d.classify.heads.probability_calibration import Scaling
from gen3d.classify.heads.settings import ResidualSettings, Threshold
from gen3d.cohort.target import Rows, Target, Values
from gen3d.core.errors import UserError

if TYPE_CHECKING:
    from gen3d.classify.heads.residual import TrainedHead

SPATIAL = 4


@dataclass(frozen=True)
class ChannelReducer:
    """Mean and standard deviation of every channel over training people and positions, [C] each."""

    mean: Values
    spread: Values
    shape: tuple[int, ...]

    def apply(self, rows: Rows) -> Values:
        """[n, C X Y Z]; a channel that did not vary becomes 0."""
        values = np.asarray(rows.values, dtype=np.float64).reshape(len(rows), len(self.mean), -1)
        return np.asarray(((values - self.mean[:, None]) / self.spread[:, None]).reshape(len(rows), -1))


@dataclass(frozen=True)
class ResidualLearned:
    """Networks, calibrated and with a threshold; see `Learned`."""

    head: TrainedHead
    target: Target
    scalings: tuple[Scaling, ...]
    threshold: float

    @property
    def settings(self) -> dict[str, Any]:
        """What the inner cross-validation chose: the steps after which held-out people are predicted best."""
        return {"steps": self.head.steps}

    def outputs(self, values: Values) -> Values:
        """Calibrated probabilities of the classes [n, classes], or predicted numbers [n, 1]."""
        scores = self.head.scores(np.asarray(values))
        if self.target.task == "number":
            return scores
        return probabilities(problem_rows(scores, self.target), self.scalings, self.target)

    def state(self) -> dict[str, Any]:
        """All that is needed to have the head again without training; JSON-ready but for `weights`, arrays by name."""
        return {
            "settings": self.settings,
            **calibration_state(self.scalings, self.threshold),
            "offsets": self.head.offsets.tolist(),
            "centre": self.head.centre,
            "spread": self.head.spread,
            "weights": self.head.weights(),
        }


@dataclass
class ResidualRecipe:
    """Reduce: standardise channels. Learn: one network per inner fold, stopped and calibrated by people it did not see.

    A study has one space: the shape of a latent is remembered from the rows that were reduced.
    """

    settings: ResidualSettings
    threshold: Threshold = "prevalence"
    shape: tuple[int, ...] = ()
    device: str = "cpu"
    features: str = "latents"

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.settings.kind

    @property
    def features_description(self) -> str:
        """The features of the head."""
        return f"{self.features}, as volumes"

    def reduce(self, train: Rows) -> ChannelReducer:
        """Fit the mean and standard deviation of the channels.

        Raises:
            UserError: latents that are no volume, or the same for everybody.
        """
        if len(train.shape) != SPATIAL:
            raise UserError(
                "the residual head needs spatial latents (channels and three sides), but these are vectors; train a vae with "
                "model.latent=spatial, or use another head."
            )
        self.shape = tuple(train.shape)
        values = np.asarray(train.values, dtype=np.float64).reshape(len(train), self.shape[0], -1)
        mean, spread = values.mean(axis=(0, 2)), values.std(axis=(0, 2))
        varies = spread > 1e-8 * np.abs(values).max(initial=0.0)
        if not varies.any():
            raise UserError(
                "the latents are identical for every training person, so they predict nothing; check whether the VAE has "
                "collapsed, and train it with a lower model.beta."
            )
        return ChannelReducer(mean, np.where(varies, spread, np.inf), self.shape)

    def learn(
        self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int
    ) -> ResidualLearned:
        """Train, calibrate, and set the threshold; see `Recipe.learn`.

        Raises:
            UserError: too few people of a class for inner folds.
        """
        from gen3d.classify.heads.residual import train_heads  # torch is loaded only to train a network

        assert self.shape, "a recipe reduces before it learns"
        folds = inner_folds(codes, groups, target, seed)
        volumes = values.reshape(len(values), *self.shape)
        head = train_heads(volumes, codes, folds, target, self.settings, seed, self.device)
        scalings = scalings_of(problem_rows(head.held_out, target), codes, target)
        return ResidualLearned(head, target, scalings, threshold_of(self.threshold, codes, target))

    def relearn(
        self,
        values: Values,
        codes: Values,
        groups: NDArray[np.int64],
        target: Target,
        seed: int,
        state: Mapping[str, Any],
    ) -> ResidualLearned:
        """The head of `ResidualLearned.state()`: its weights are taken as they are, and nothing is trained.

        Raises:
            UserError: no weights, or those of another network.
        """
        from gen3d.classify.heads.residual import restore_head

        assert self.shape, "a recipe reduces before it learns"
        if not state.get("weights"):
            raise UserError("the weights of the residual head are missing; make the head again with `gen3d classify`.")
        head = restore_head(
            state["weights"],
            target,
            self.settings,
            self.shape,
            int(state["settings"]["steps"]),
            np.array(state["offsets"], dtype=np.float64),
            float(state["centre"]),
            float(state["spread"]),
        )
        return ResidualLearned(head, target, *kept_calibration(state))
