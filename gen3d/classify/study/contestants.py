"""Who competes: the heads that were asked for, and the baselines that are always there."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen3d.classify.heads.settings import ResidualSettings, Threshold
from gen3d.classify.study.baselines import ChanceNumber, TableRecipe, Voxels, default_volumes
from gen3d.classify.study.crossvalidation import Index, Model
from gen3d.classify.study.features import Features
from gen3d.classify.study.question import Question
from gen3d.classify.study.recipes import FeatureRecipe, head_recipe, voxel_recipe
from gen3d.classify.study.selection import column_of
from gen3d.cohort.target import Rows
from gen3d.core.errors import UserError

SITE = "site"
SPATIAL = 4


def contestants(question: Question) -> list[Model]:
    """The heads, the first of them first, then the baselines."""
    return [*heads(question), *baselines(question)]


def heads(question: Question) -> list[Model]:
    """A model per head that was asked for.

    Raises:
        UserError: the residual head on latents that are no volume.
    """
    asked, found = question.settings, []
    for head in asked.heads:
        words = question.features.words
        if isinstance(head, ResidualSettings) and len(question.features.shape) != SPATIAL:
            raise UserError(
                f"the residual head needs spatial latents (channels and three sides), but these are {words}; train a vae with "
                "model.latent=spatial, or leave residual out of heads."
            )
        recipe = head_recipe(head, asked.components, asked.confounds, asked.harmonise, asked.threshold)
        if isinstance(recipe, FeatureRecipe):
            words = recipe.reduction.in_words(words)
        found.append(Model(head.kind, "head", recipe, _latents, words, True, *_synthetic(question)))
    return found


def _latents(features: Features, member: int, chosen: Index) -> Rows:
    return features.rows(member, chosen)


def _synthetic(question: Question) -> tuple[Any, ...]:
    if question.synthetic is None:
        return ()
    everybody = np.arange(len(question.synthetic))
    return question.synthetic.rows(0, everybody), question.synthetic_codes


def baselines(question: Question) -> list[Model]:
    """What is told without the latents: covariates, site, volumes, both, voxels; the training mean of a number."""
    asked, table, target = question.settings, question.features.table, question.target
    covariates = [name for name in asked.covariates if name != target.name]
    volumes = list(asked.volumes) if asked.volumes is not None else default_volumes(table)
    volumes = [name for name in volumes if name != target.name]
    for name in (*covariates, *volumes):
        column_of(table, name)
    columns: dict[str, list[str]] = {}
    if covariates:
        columns["covariates"] = covariates
    if target.name != SITE and table[SITE].astype(str).nunique() > 1 and asked.split != "sites":
        columns["site"] = [SITE]
    columns |= {name: [name] for name in volumes}
    if covariates and volumes:
        columns["covariates and volumes"] = [*covariates, *volumes]
    found = [
        Model(name, "baseline", TableRecipe(name, tuple(listed), asked.threshold), _table_only, ", ".join(listed))
        for name, listed in columns.items()
    ]
    if target.task == "number":
        chance = ChanceNumber()
        found.insert(0, Model(chance.name, "baseline", chance, _table_only, chance.features_in_words))
    return [*found, *(_of_voxels(voxels, asked.threshold) for voxels in question.voxels)]


def _table_only(features: Features, member: int, chosen: Index) -> Rows:
    return Rows(np.empty((len(chosen), 0)), features.table.iloc[chosen].reset_index(drop=True))


def _of_voxels(voxels: Voxels, threshold: Threshold) -> Model:
    def rows(features: Features, member: int, chosen: Index) -> Rows:
        return Rows(voxels.values[chosen], features.table.iloc[chosen].reset_index(drop=True))

    words = f"{voxels.num_voxels} voxels of the brain"
    return Model(voxels.name, "baseline", voxel_recipe(voxels.name, threshold), rows, words, elsewhere=False)
