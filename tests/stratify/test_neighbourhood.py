"""Trustworthiness and continuity against scikit-learn, closed cases and chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from gen3d.stratify.neighbourhood import neighbour_ranks, neighbourhood_quality, squared_distances


def test_equals_the_reference_and_continuity_is_the_same_turned_round() -> None:
    generator = np.random.default_rng(0)
    original, mapped = generator.standard_normal((50, 8)), generator.standard_normal((50, 2))
    mapped[:, 0] += original[:, 0]
    found = neighbourhood_quality(original, mapped, 7)
    assert found.trustworthiness == pytest.approx(trustworthiness(original, mapped, n_neighbors=7))
    assert found.continuity == pytest.approx(trustworthiness(mapped, original, n_neighbors=7))


def test_a_perfect_map_has_one_and_a_random_one_about_a_half() -> None:
    generator = np.random.default_rng(1)
    original = generator.standard_normal((60, 5))
    perfect = neighbourhood_quality(original, 3 * original + 1, 5)
    assert (perfect.trustworthiness, perfect.continuity) == (1, 1)
    random = neighbourhood_quality(original, generator.standard_normal((60, 2)), 5)
    assert random.trustworthiness == pytest.approx(0.5, abs=0.06)
    assert random.continuity == pytest.approx(0.5, abs=0.06)


def test_a_map_that_joins_what_was_apart_is_continuous_but_not_trustworthy() -> None:
    generator = np.random.default_rng(2)
    plane = generator.uniform(size=(80, 3)) * np.array([1.0, 1.0, 3.0])
    squashed = neighbourhood_quality(plane, plane[:, :2], 8)
    assert squashed.continuity > squashed.trustworthiness + 0.05


def test_ranks_and_distances() -> None:
    line = np.array([[0.0], [1.0], [3.0]])
    assert neighbour_ranks(line).tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    assert squared_distances(line, np.array([[1.0]])).ravel().tolist() == [1, 0, 4]


@pytest.mark.parametrize("k", [0, 5])
def test_neighbourhoods_must_be_smaller_than_half(k: int) -> None:
    with pytest.raises(ValueError, match="n / 2"):
        neighbourhood_quality(np.eye(10), np.eye(10), k)
