from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from gen3d.classify.heads.settings import LinearSettings
from gen3d.classify.study.crossvalidation import ClassifyStudy, Contestant
from gen3d.classify.study.features import Features
from gen3d.classify.study.folds import Layout, make_folds
from gen3d.classify.study.permutation import null_values, observed, prepare
from gen3d.classify.study.recipes import recipe_of
from gen3d.cohort.target import Target
from gen3d.maths.cross_validated import permutation_p
from tests.latents_folder import cohort_table

NUM = 48


def study(seed: int, shift: float = 0.0, sites: bool = False) -> tuple[Contestant, ClassifyStudy]:
    generator = np.random.default_rng(seed)
    codes = np.arange(NUM, dtype=float) % 2
    values = generator.standard_normal((NUM, 6))
    values[:, 0] += shift * codes
    table = cohort_table(NUM, site=np.where(np.arange(NUM) < NUM // 2, "A", "B") if sites else "A")
    everybody = np.ones(NUM, dtype=bool)
    features = Features(table, values[None], everybody[None], (6,), (6,), ("k",), "latents", {})
    groups = np.arange(NUM)
    target = Target("diagnosis", "categories", ("CN", "AD"))
    layout = Layout(codes, groups, everybody, everybody, everybody[None], table["site"].tolist())
    folds = make_folds(layout, target, 4, 1, seed)
    recipe = recipe_of(LinearSettings(penalties=(1.0, 0.1)), components=5)
    model = Contestant("linear", "head", recipe, lambda given, member, chosen: given.rows(member, chosen), "latents")
    return model, ClassifyStudy(features, codes, groups, target, tuple(folds), seed)


def p_of(seed: int, num: int, **planted: float) -> float:
    job = prepare(*study(seed, **planted))
    return permutation_p(observed(job), np.concatenate(list(null_values(job, num, workers=1))))


def test_p_is_uniform_where_nothing_is_planted() -> None:
    found = [p_of(seed, 19) for seed in range(40)]
    assert np.mean(np.array(found) <= 0.1) <= 0.225  # 4 expected, 9 in one of a hundred such tests
    assert kstest(found, "uniform").pvalue > 0.005


def test_p_is_small_where_something_is_planted() -> None:
    assert p_of(0, 39, shift=2.5) == pytest.approx(1 / 40)


def test_labels_stay_within_site_and_fold() -> None:
    model, there = study(1, sites=True)
    job = prepare(model, there)
    site = there.features.table["site"].to_numpy()
    for stratum in np.unique(job.strata):
        assert len(set(site[job.strata == stratum])) == 1
    assert len(np.unique(job.strata)) == 8


def test_any_number_of_processes_gives_the_same() -> None:
    job = prepare(*study(2))
    alone, shared = (np.sort(np.concatenate(list(null_values(job, 45, workers)))) for workers in (1, 2))
    np.testing.assert_array_equal(alone, shared)
