"""The models that are compared: heads and networks of the settings, and the baselines that are always run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen3d.classify.heads.network_recipe import NetworkRecipe
from gen3d.classify.heads.settings import ResidualSettings, RunSettings, Threshold
from gen3d.classify.study import mta_rules
from gen3d.classify.study.baselines import MOST_WHOLE, ChanceNumber, TableRecipe, Voxels, default_volumes
from gen3d.classify.study.crossvalidation import Contestant, Index, Kind
from gen3d.classify.study.features import Features
from gen3d.classify.study.networks import Network
from gen3d.classify.study.question import Question
from gen3d.classify.study.recipes import FeatureRecipe, head_recipe, wide_recipe
from gen3d.classify.study.selection import column_of
from gen3d.classify.study.untrained import NAME, UntrainedFeatures
from gen3d.cohort.scores_folder import MAIN, TWIN, ScoredMember
from gen3d.cohort.target import Rows
from gen3d.core.errors import UserError
from gen3d.maths.sketch import SKETCHED
from gen3d.nets.untrained import NUM_FEATURES

SITE = "site"
SPATIAL = 4


def contestants(question: Question) -> list[Contestant]:
    """Heads and networks, the primary one first, then the baselines; names are those of tables.

    Raises:
        UserError: a network that is called like a baseline.
    """
    models = [*heads(question), *baselines(question)]
    names = [model.name for model in models]
    for network in question.networks:
        if names.count(network.name) > 1:
            raise UserError(
                f"{network.folder}: is called {network.name} as a baseline is; give it another name: heads=[{{kind: run, run: "
                f"{network.folder}, name: NAME}}]."
            )
    return models


def heads(question: Question) -> list[Contestant]:
    """One model per head or run of the settings; with external= only heads, as a run has scores of its own people alone.

    Raises:
        UserError: the residual head on latents that are no volume.
    """
    settings, models = question.settings, []
    networks = iter(question.networks)
    for head in settings.heads:
        if isinstance(head, RunSettings):
            if (network := next(networks, None)) is not None:
                models.append(network_contestant(network, settings.threshold))
            continue
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


def network_contestant(network: Network, threshold: Threshold) -> Contestant:
    """A network by its scores of the people that each member never saw."""
    return _by_members(network, network.name, "head", network.run.of(MAIN), threshold)


def twin_contestant(network: Network, threshold: Threshold) -> Contestant:
    """The same network trained from random weights instead of learned ones: a baseline."""
    return _by_members(network, network.twin_name, "baseline", network.run.of(TWIN), threshold)


def permuted_contestants(network: Network) -> dict[int, tuple[Contestant, tuple[ScoredMember, ...]]]:
    """Networks that were trained with permuted labels, by the number of the permutation, with their members."""
    return {
        number: (_by_members(network, f"permuted {number}", "head", members, "prevalence", calibrated=False), members)
        for number, members in network.permuted.items()
    }


def _by_members(
    network: Network,
    name: str,
    kind: Kind,
    members: Sequence[ScoredMember],
    threshold: Threshold,
    calibrated: bool = True,
) -> Contestant:
    index_of = {member.fold: member.index for member in members}

    def rows(features: Features, member: int, chosen: Index) -> Rows:
        return network.rows(index_of[member], features.table.iloc[chosen].reset_index(drop=True))

    words = f"{network.description}, {'random weights' if kind == 'baseline' else network.run.form}"
    recipe = NetworkRecipe(name, words, threshold, calibrated)
    return Contestant(name, kind, recipe, rows, words)


def _latents(features: Features, member: int, chosen: Index) -> Rows:
    return features.rows(member, chosen)


def _synthetic(question: Question) -> tuple[Any, ...]:
    if question.synthetic is None:
        return ()
    everybody = np.arange(len(question.synthetic))
    return question.synthetic.rows(0, everybody), question.synthetic_codes


def baselines(question: Question) -> list[Contestant]:
    """Models without latents: covariates, site, volumes, both, voxels; the mean of the training people for a number.

    Where they are known, the rule of medial temporal atrophy by age; and of a network that started from learned weights, the same
    with random ones.
    """
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
    if mta_rules.is_possible(table, question.codes, target, settings.mta_rule):
        rule = mta_rules.MtaRecipe(settings.mta_rule)
        models.append(Contestant(rule.name, "baseline", rule, _table_only, rule.features_description))
    twins = [network for network in question.networks if network.has_twin]
    models += [twin_contestant(network, settings.threshold) for network in twins]
    if question.untrained is not None:
        models.append(_of_untrained(question.untrained, settings.threshold))
    return [*models, *(_of_voxels(voxels, settings.threshold) for voxels in question.voxels)]


def _table_only(features: Features, member: int, chosen: Index) -> Rows:
    return Rows(np.empty((len(chosen), 0)), features.table.iloc[chosen].reset_index(drop=True))


def _of_untrained(untrained: UntrainedFeatures, threshold: Threshold) -> Contestant:
    def rows(features: Features, member: int, chosen: Index) -> Rows:
        table = features.table.iloc[chosen].reset_index(drop=True)
        return Rows(untrained.of(table["key"]), table, blocks=(1,) * NUM_FEATURES)  # each feature in its own unit

    recipe = wide_recipe(NAME, f"{NUM_FEATURES} features", threshold, len(untrained.keys) > MOST_WHOLE)
    return Contestant(NAME, "baseline", recipe, rows, f"{NUM_FEATURES} features of a 3D network with random weights")


def _of_voxels(voxels: Voxels, threshold: Threshold) -> Contestant:
    def rows(features: Features, member: int, chosen: Index) -> Rows:
        table = features.table.iloc[chosen].reset_index(drop=True)
        return Rows(voxels.of(table["key"]), table)

    words = "sketched voxels" if voxels.sketched else "voxels"
    recipe = wide_recipe(voxels.name, words, threshold, voxels.sketched)
    description = f"{voxels.num_voxels} voxels of the brain"
    if voxels.sketched:
        description = recipe.reduction.describe(f"{SKETCHED} random projections of {description}")
    return Contestant(voxels.name, "baseline", recipe, rows, description)
