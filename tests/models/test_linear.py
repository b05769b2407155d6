"""The closed-form models against scikit-learn and ordinary least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics, VolumeSet
from gen3d.models.normative import linear
from gen3d.models.normative.pca import PCAConfig, PCAModel
from gen3d.models.normative.voxelwise import VoxelwiseConfig, VoxelwiseModel

SHAPE = (7, 6, 5)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.random.default_rng(5).random(SHAPE) > 0.3
    return mask


@pytest.fixture
def volumes() -> np.ndarray:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((14, 4)) * [5, 3, 2, 1]
    axes = rng.standard_normal((4, 2 * np.prod(SHAPE)))
    data = scores @ axes + 0.2 * rng.standard_normal((14, 2 * np.prod(SHAPE)))
    return (0.1 * data + 0.5).reshape(14, 2, *SHAPE).astype(np.float32)


@pytest.fixture
def statistics(mask: np.ndarray) -> Statistics:
    return Statistics(np.array([0.5, 0.4], np.float32), np.array([0.3, 0.7], np.float32), mask)


def set_of(volumes: np.ndarray, covariates: np.ndarray | None = None) -> VolumeSet:
    return VolumeSet(len(volumes), lambda rows: torch.from_numpy(volumes[rows]), covariates)


def flat(volumes: np.ndarray, statistics: Statistics) -> np.ndarray:
    scaled = (volumes - statistics.channel_mean[:, None, None, None]) / statistics.channel_std[:, None, None, None]
    return scaled[:, :, statistics.mask].reshape(len(volumes), -1).astype(np.float64)


@pytest.mark.parametrize("block_bytes", [1 << 29, 4 * 2 * 210 * 3])
def test_pca_equals_scikit_learn(
    volumes: np.ndarray, statistics: Statistics, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(linear, "MAX_BLOCK_BYTES", block_bytes)
    model = PCAModel(statistics, 3, 0)
    model.fit(set_of(volumes))
    vectors = flat(volumes, statistics)
    reference = PCA(3).fit(vectors)
    expected = reference.inverse_transform(reference.transform(vectors))
    expectation = model.expect(torch.from_numpy(volumes)).mean.numpy()
    assert np.allclose(flat(expectation, statistics), expected, atol=2e-4)
    scores = model.encode(torch.from_numpy(volumes)).numpy()
    signs = np.sign((scores * reference.transform(vectors)).sum(0))
    assert np.allclose(scores * signs, reference.transform(vectors), atol=2e-3)
    assert np.allclose(model.component_std.numpy(), np.sqrt(reference.explained_variance_), rtol=1e-4)
    assert (expectation[:, :, ~statistics.mask] == 0).all()


def test_pca_after_covariates_equals_pca_of_the_residuals(volumes: np.ndarray, statistics: Statistics) -> None:
    rng = np.random.default_rng(2)
    design = np.column_stack([np.ones(14), rng.standard_normal(14), rng.integers(0, 2, 14)])
    model = PCAModel(statistics, 3, 3)
    model.fit(set_of(volumes, design))
    vectors = flat(volumes, statistics)
    fitted = design @ np.linalg.lstsq(design, vectors, rcond=None)[0]
    residuals = vectors - fitted
    axes = np.linalg.svd(residuals, full_matrices=False)[2][:3]
    expected = fitted + residuals @ axes.T @ axes
    expectation = model.expect(torch.from_numpy(volumes), torch.from_numpy(design)).mean.numpy()
    assert np.allclose(flat(expectation, statistics), expected, atol=2e-4)


def test_pca_with_all_components_returns_the_training_volumes(volumes: np.ndarray, statistics: Statistics) -> None:
    model = PCAModel(statistics, 13, 0)
    model.fit(set_of(volumes))
    expectation = model.expect(torch.from_numpy(volumes)).mean.numpy()
    assert np.allclose(expectation[:, :, statistics.mask], volumes[:, :, statistics.mask], atol=1e-4)


def test_voxelwise_equals_least_squares(volumes: np.ndarray, statistics: Statistics) -> None:
    design = np.column_stack([np.ones(14), np.linspace(-1, 1, 14)])
    model = VoxelwiseModel(statistics, 2)
    model.fit(set_of(volumes, design))
    coefficients = np.linalg.lstsq(design, volumes.reshape(14, -1).astype(np.float64), rcond=None)[0]
    new = np.array([[1.0, 0.3], [1.0, -2.0]])
    expectation = model.expect(torch.zeros(2, 2, *SHAPE), torch.from_numpy(new)).mean.numpy()
    expected = (new @ coefficients).reshape(2, 2, *SHAPE) * statistics.mask
    assert np.allclose(expectation, expected, atol=1e-5)


def test_voxelwise_gives_a_column_without_variation_no_weight(volumes: np.ndarray, statistics: Statistics) -> None:
    design = np.column_stack([np.ones(14), np.zeros(14)])
    model = VoxelwiseModel(statistics, 2)
    model.fit(set_of(volumes, design))
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    first, second = model.expect(torch.zeros(2, 2, *SHAPE), rows).mean
    assert torch.equal(first, second)
    assert torch.allclose(first, torch.from_numpy(volumes.mean(0) * statistics.mask), atol=1e-5)


def test_voxelwise_without_covariates_is_the_mean(volumes: np.ndarray, statistics: Statistics) -> None:
    plan = GridPlan(spacing_mm=2.0, shape=SHAPE, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    model = VoxelwiseConfig(covariates=False).build(plan, ("t1w", "log_jacobian"), statistics, 3)
    model.fit(set_of(volumes))
    mean = model.expect(torch.zeros(1, 2, *SHAPE)).mean[0].numpy()
    assert np.allclose(mean, volumes.mean(0) * statistics.mask, atol=1e-5)
    assert not model.has_latent


def test_too_many_components() -> None:
    plan = GridPlan(spacing_mm=2.0, shape=SHAPE, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    with pytest.raises(UserError, match="num_components=20 needs more than 20 training volumes, a member has 12"):
        PCAConfig().check(plan, 12)


def test_volumes_without_enough_dimensions(volumes: np.ndarray, statistics: Statistics) -> None:
    twins = np.repeat(volumes[:3], 4, axis=0)
    with pytest.raises(UserError, match="span fewer than"):
        PCAModel(statistics, 5, 0).fit(set_of(twins))
