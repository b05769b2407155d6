"""Latent deviation against the chi distribution and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.maths.deviation import deviation, fit_deviation, held_out_deviation


def test_distance_approaches_the_true_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 4))
    model = fit_deviation(rng.standard_normal((4000, 4)) @ mixing + 7, max_components=4)
    white = rng.standard_normal((200, 4))
    distances = deviation(model, white @ mixing + 7)
    np.testing.assert_allclose(distances, np.linalg.norm(white, axis=1), rtol=0.1)


def test_number_of_components_is_limited_by_people() -> None:
    rng = np.random.default_rng(1)
    assert fit_deviation(rng.standard_normal((40, 300)), max_components=50).num_components == 8
    assert fit_deviation(rng.standard_normal((40, 300)), max_components=3).num_components == 3
    assert fit_deviation(rng.standard_normal((400, 2))).num_components == 2


@pytest.mark.parametrize("num_latents", [6, 500])
def test_held_out_distances_equal_refits(num_latents: int) -> None:
    latents = np.random.default_rng(2).standard_normal((30, num_latents)) + 3
    fast = held_out_deviation(latents)
    slow = [deviation(fit_deviation(np.delete(latents, i, axis=0)), latents[[i]])[0] for i in range(30)]
    np.testing.assert_allclose(fast, slow, rtol=1e-8)


def test_held_out_distances_are_larger_than_those_of_the_fit_and_match_new_people() -> None:
    rng = np.random.default_rng(3)
    latents, new = rng.standard_normal((60, 200)), rng.standard_normal((200, 200))
    own, held_out, others = (
        deviation(fit_deviation(latents), latents).mean(),
        held_out_deviation(latents).mean(),
        deviation(fit_deviation(latents), new).mean(),
    )
    assert held_out == pytest.approx(others, rel=0.1)
    assert own > 1.3 * held_out  # principal axes are drawn to the people that they are fitted on


def test_an_outlier_stands_out() -> None:
    rng = np.random.default_rng(4)
    latents = rng.standard_normal((60, 10))
    model = fit_deviation(latents)
    assert deviation(model, np.full((1, 10), 4.0))[0] > held_out_deviation(latents).max()


def test_collapsed_or_too_few_latents_are_refused() -> None:
    with pytest.raises(UserError, match="all the same"):
        fit_deviation(np.full((30, 8), 0.3, dtype=np.float32))
    with pytest.raises(UserError, match="too few"):
        fit_deviation(np.zeros((3, 8)))
