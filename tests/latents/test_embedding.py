"""Two-dimensional views of latents: exact for components, seeded for UMAP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.latents import embedding
from gen3d.latents.embedding import fit_umap, principal_components, umap_coordinates


def _two_clusters(num: int = 30, dimensions: int = 16) -> NDArray[np.float64]:
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((2 * num, dimensions))
    latents[:num, 0] += 25
    return latents


def test_components_are_those_of_the_covariance() -> None:
    latents = np.random.default_rng(1).standard_normal((40, 5)) * np.array([5, 3, 1, 1, 1])
    found = principal_components(latents, 3)
    values, vectors = np.linalg.eigh(np.cov(latents.T))
    np.testing.assert_allclose(found.share_of_variance, values[::-1][:3] / values.sum())
    expected = (latents - latents.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(found.coordinates), np.abs(expected), atol=1e-9)


def test_the_sign_of_a_component_does_not_depend_on_the_order_of_people() -> None:
    latents = np.random.default_rng(2).standard_normal((25, 6))
    order = np.random.default_rng(3).permutation(25)
    np.testing.assert_allclose(
        principal_components(latents).coordinates[order], principal_components(latents[order]).coordinates, atol=1e-9
    )


def test_spatial_latents_and_few_dimensions() -> None:
    assert principal_components(np.ones((4, 2, 2, 2))).share_of_variance.tolist() == [0, 0]
    found = principal_components(np.array([[0.0], [2.0]]))
    assert np.abs(found.coordinates[:, 0]).tolist() == [1, 1]
    assert found.coordinates[:, 1].tolist() == [0, 0]


def test_umap_is_seeded_and_keeps_clusters_apart() -> None:
    latents = _two_clusters()
    first, second = umap_coordinates(latents, seed=0), umap_coordinates(latents, seed=0)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)
    within = max(np.linalg.norm(part - part.mean(axis=0), axis=1).mean() for part in (first[:30], first[30:]))
    between = np.linalg.norm(first[:30].mean(axis=0) - first[30:].mean(axis=0))
    assert between > 3 * within


def test_too_few_people_get_no_umap() -> None:
    assert umap_coordinates(np.random.default_rng(0).standard_normal((11, 4)), seed=0) is None


@pytest.mark.parametrize("bad", [np.full((5, 3), np.nan), np.zeros((1, 3))])
def test_bad_latents_are_one_sentence(bad: NDArray[np.float64]) -> None:
    with pytest.raises(UserError):
        principal_components(bad)


def test_leading_components_of_many_are_those_of_the_whole_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((120, 80)) * np.arange(80, 0, -1.0) ** 0.5
    whole = embedding.fit_components(values, 4)
    monkeypatch.setattr(embedding, "SOLVED_WHOLE", 20)
    leading = embedding.fit_components(values, 4)
    for name in ("mean", "loadings", "coordinates", "share_of_variance"):
        np.testing.assert_allclose(getattr(leading, name), getattr(whole, name), rtol=1e-7, atol=1e-9)


def test_umap_leaves_the_number_of_threads_of_a_training_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit_umap(np.random.default_rng(0).standard_normal((30, 4)), seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
