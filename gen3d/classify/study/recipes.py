"""Heads on one vector per scan, as recipes: reduce without labels, then learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.heads.learning import FittedHead, Learner
from gen3d.classify.heads.residual_recipe import ResidualRecipe
from gen3d.classify.heads.settings import (
    HeadSettings,
    LinearSettings,
    ResidualSettings,
    SvmSettings,
    TableHead,
    Threshold,
)
from gen3d.classify.study.baselines import SKETCH_COMPONENTS
from gen3d.classify.study.recipe import HeadRecipe
from gen3d.classify.study.reducing import FeatureReducer, Reduction
from gen3d.cohort.target import Rows, Target, Values
from gen3d.harmonise.recipe import Harmonisation


@dataclass(frozen=True)
class FeatureRecipe:
    """A head on features: `Reduction`, then `Learner`. `features`: what they are called in words."""

    name: str
    reduction: Reduction
    learner: Learner
    features: str = "latents"

    @property
    def settings(self) -> HeadSettings:
        """The head's own settings."""
        return self.learner.head

    @property
    def threshold(self) -> Threshold:
        """The rule of the threshold."""
        return self.learner.threshold

    @property
    def features_description(self) -> str:
        """What the head is given."""
        return self.reduction.describe(self.features)

    def reduce(self, train: Rows) -> FeatureReducer:
        """Fit what needs no labels."""
        return self.reduction.fit(train)

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FittedHead:
        """Fit what needs labels."""
        return self.learner.learn(values, codes, groups, target, seed)

    def relearn(
        self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int, state: dict[str, Any]
    ) -> FittedHead:
        """Fit again as `state` says, without an inner cross-validation."""
        return self.learner.relearn(values, codes, groups, target, seed, state)


def head_recipe(
    settings: HeadSettings,
    components: int,
    confounds: Sequence[str],
    harmonisation: Harmonisation | None,
    threshold: Threshold,
) -> HeadRecipe:
    """The recipe of any head; the residual head takes latents as they are, without components, confounds and harmonisation."""
    if isinstance(settings, ResidualSettings):
        return ResidualRecipe(settings, threshold)
    return recipe_of(settings, components, confounds, harmonisation, threshold)


def recipe_of(
    settings: TableHead,
    components: int = 30,
    confounds: Sequence[str] = (),
    harmonisation: Harmonisation | None = None,
    threshold: Threshold = "prevalence",
) -> FeatureRecipe:
    """The recipe of a head on one vector per scan."""
    reduction = Reduction(components, tuple(confounds), harmonisation)
    return FeatureRecipe(settings.kind, reduction, Learner(settings, threshold))


def wide_recipe(
    name: str, features: str, threshold: Threshold = "prevalence", many_scans: bool = False
) -> FeatureRecipe:
    """A baseline on more features than people: voxels, or those of a network that never learned.

    A linear support vector machine on all of them, centred. Its time grows with the square of people and more, so that `many_scans`
    have logistic or ridge regression on principal components.
    """
    if many_scans:
        return FeatureRecipe(
            name, Reduction(components=SKETCH_COMPONENTS), Learner(LinearSettings(), threshold), features
        )
    return FeatureRecipe(name, Reduction(components=None), Learner(SvmSettings(), threshold), features)
