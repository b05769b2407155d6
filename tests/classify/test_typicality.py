"""Typicality: ordinary people are seldom flagged, odd ones always, whichever way they are odd."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.classify.prediction.typicality import PARTS, fit_typicality, nearest_distances, pair_distances, typicality
from gen3d.core.errors import UserError
from gen3d.maths.deviation import held_out_deviation

LOADINGS = np.random.default_rng(99).standard_normal((8, 300))


def people(num: int, seed: int) -> NDArray[np.float64]:
    """Eight directions of variation in 300 dimensions, and noise."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((num, 8)) @ LOADINGS + generator.standard_normal((num, 300))


@pytest.fixture(scope="module")
def model():
    return fit_typicality(people(240, 0), np.arange(240))


def test_ordinary_people_are_flagged_as_often_as_the_tail_says() -> None:
    shares = []
    for seed in range(12):
        found = typicality(fit_typicality(people(120, 2 * seed), np.arange(120)), people(300, 2 * seed + 1))
        shares.append([found.beyond(tail).mean() for tail in (0.01, 0.1)] + [found.percentile.mean() / 100])
    rare, tenth, half = np.mean(shares, axis=0)
    assert 0.003 <= rare <= 0.02
    assert tenth == pytest.approx(0.1, abs=0.03)  # its SD over cohorts of 120 is 0.03, of a mean of 12 a third of that
    assert half == pytest.approx(0.5, abs=0.04)


def test_both_parts_rank_ordinary_people_evenly(model) -> None:
    found = typicality(model, people(1000, 1))
    assert found.part_percentiles.mean(axis=0) == pytest.approx([50, 50], abs=6)
    assert found.beyond(0.01).mean() <= 0.02


@pytest.mark.parametrize(
    ("shift", "part"), [(8.0 * LOADINGS[0], 0), (np.random.default_rng(5).standard_normal(300), 1)]
)
def test_a_shifted_person_is_flagged_and_told_which_way(model, shift, part: int) -> None:
    found = typicality(model, people(50, 2) + shift)
    assert found.beyond(0.01).all()
    assert np.median(found.widest()) == part, PARTS[part]


def test_references_are_held_out_where_everybody_can_be_left_out_alone() -> None:
    values = people(20, 3)
    model = fit_typicality(values, np.arange(20))
    assert model.reference[:, 0] == pytest.approx(held_out_deviation(values), rel=1e-6)
    in_sample = typicality(model, values).distances
    assert (in_sample[:, 1] < model.reference[:, 1]).all()  # what the components saw lies closer to them


def test_scans_of_one_person_are_left_out_together_and_count_once() -> None:
    values = people(60, 4)
    doubled = np.concatenate([values, values])
    model = fit_typicality(doubled, np.tile(np.arange(60), 2))
    assert model.num_people == pytest.approx(60)
    assert model.smallest_tail == pytest.approx(1 / 61)
    # Were a copy left in, the distance outside of the components would shrink.
    alone = fit_typicality(values, np.arange(60))
    assert np.median(model.reference[:, 1]) > 0.8 * np.median(alone.reference[:, 1])
    far = typicality(model, people(1, 5) + 1000.0)
    assert far.p == pytest.approx(1 / 61)
    assert far.percentile == pytest.approx(100)


def test_few_dimensions_have_nothing_outside_of_the_components() -> None:
    generator = np.random.default_rng(6)
    model = fit_typicality(generator.standard_normal((100, 3)), np.arange(100))
    found = typicality(model, np.concatenate([generator.standard_normal((300, 3)), np.full((1, 3), 9.0)]))
    assert (model.spread > 0).tolist() == [True, False]
    assert found.beyond(0.01)[:-1].mean() <= 0.03
    assert found.beyond(0.01)[-1]
    assert found.widest()[-1] == 0


def test_distances_to_the_nearest_other_person() -> None:
    values = np.array([[0.0, 0.0], [0.0, 1.0], [3.0, 4.0], [3.0, 4.0]])
    assert nearest_distances(values, np.array([0, 0, 1, 2])) == pytest.approx([5.0, np.sqrt(18.0), 0.0, 0.0])
    assert pair_distances(values[:1], values)[0] == pytest.approx([0.0, 1.0, 5.0, 5.0])
    assert np.isinf(nearest_distances(values[:2], np.array([0, 0]))).all()


def test_too_few_people_and_people_who_are_all_the_same() -> None:
    with pytest.raises(UserError, match="too few"):
        fit_typicality(people(5, 0), np.arange(5))
    with pytest.raises(UserError, match="all the same"):
        fit_typicality(np.ones((30, 4)), np.arange(30))
