"""The models that are compared: the heads of the settings, and the baselines that are always run."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen3d.classify.heads.settings import ResidualSettings, Threshold
from gen3d.classify.study.baselines import ChanceNumber, TableRecipe, Voxels, default_volumes
from gen3d.classify.study.crossvalidation import Contestant, Index
from gen3d.classify.study.features import Features
from gen3d.classify.study.question import Question
from gen3d.classify.study.recipes import FeatureRecipe, head_recipe, voxel_recipe
from gen3d.classify.study.selection import column_of
from gen3d.cohort.target import Rows
from gen3d.core.errors import UserError
from gen3d.maths.sketch import SKETCHED

SITE = "site"
SPATIAL = 4


def contestants(question: Question) -> list[Contestant]:
    """The heads, the primary one first, then the baselines."""
    return [*heads(question), *baselines(question)]


def heads(question: Question) -> list[Contestant]:
    """One model per head of the settings.

    Raises:
        UserError: the residual head on latents that are no volume.
    """
    settings, models = question.settings, []
    for head in settings.heads:
        description = question.features.words
        if isinstance(head, ResidualSettings) and len(question.features.shape) != SPATIAL:
            raise UserError(
                f"the residual head needs spatial latents (channels and three sides), but these are {description}; train a vae "
                "with model.latent=spatial, or leave residual out of heads."
            )
        recipe = head_recipe(head, settings.components, settings.confounds, settings.harmonise, settings.threshold)
        if isinstance(recipe, FeatureRecipe):
            description = recipe.reduction.describe(description)
        models.append(Contestant(head.kind, "head", recipe, _latents, description, *_synthetic(question)))
    return models


def _latents(features: Features, member: int, chosen: Index) -> Rows:
    return features.rows(member, chosen)


def _synthetic(question: Question) -> tuple[Any, ...]:
    if question.synthetic is None:
        return ()
    everybody = np.arange(len(question.synthetic))
    return question.synthetic.rows(0, everybody), question.synthetic_codes


def baselines(question: Question) -> list[Contestant]:
    """Models without latents: covariates, site, volumes, both, voxels; the mean of the training people for a number."""
    settings, table, target = question.settings, question.features.table, question.target
    covariates = [name for name in settings.covariates if name != target.name]
    volumes = list(settings.volumes) if settings.volumes is not None else default_volumes(table)
    volumes = [name for name in volumes if name != target.name]
    for name in (*covariates, *volumes):
        column_of(table, name)
    columns: dict[str, list[str]] = {}
    if covariates:
        columns["covariates"] = covariates
    if target.name != SITE and table[SITE].astype(str).nunique() > 1 and settings.split != "sites":
        columns["site"] = [SITE]
    columns |= {name: [name] for name in volumes}
    if covariates and volumes:
        columns["covariates and volumes"] = [*covariates, *volumes]
    models = [
        Contestant(
            name, "baseline", TableRecipe(name, tuple(listed), settings.threshold), _table_only, ", ".join(listed)
        )
        for name, listed in columns.items()
    ]
    if target.task == "number":
        chance = ChanceNumber()
        models.insert(0, Contestant(chance.name, "baseline", chance, _table_only, chance.features_description))
    return [*models, *(_of_voxels(voxels, settings.threshold) for voxels in question.voxels)]


def _table_only(features: Features, member: int, chosen: Index) -> Rows:
    return Rows(np.empty((len(chosen), 0)), features.table.iloc[chosen].reset_index(drop=True))


def _of_voxels(voxels: Voxels, threshold: Threshold) -> Contestant:
    def rows(features: Features, member: int, chosen: Index) -> Rows:
        table = features.table.iloc[chosen].reset_index(drop=True)
        return Rows(voxels.of(table["key"]), table)

    recipe = voxel_recipe(voxels.name, threshold, voxels.sketched)
    description = f"{voxels.num_voxels} voxels of the brain"
    if voxels.sketched:
        description = recipe.reduction.describe(f"{SKETCHED} random projections of {description}")
    return Contestant(voxels.name, "baseline", recipe, rows, description)
