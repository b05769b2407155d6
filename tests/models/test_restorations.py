"""Robust projection: what a model cannot explain must not shape what it expects."""

from __future__ import annotations

import numpy as np
import torch

from gen3d.data.plan import GridPlan
from gen3d.models.base import Statistics, VolumeSet
from gen3d.models.pca import PCAConfig, PCAModel

SHAPE = (10, 10, 10)


def fitted(restorations: int) -> tuple[PCAModel, torch.Tensor]:
    """A PCA of volumes that vary in two smooth directions, and one volume nobody fitted."""
    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE], indexing="ij")
    patterns = np.stack([x, y])
    volumes = 1 + 0.2 * np.einsum("nk,kxyz->nxyz", rng.normal(size=(12, 2)), patterns)
    data = torch.as_tensor(volumes + 0.01 * rng.normal(size=volumes.shape), dtype=torch.float32)[:, None]
    rows = tuple(tuple(map(float, row)) for row in np.diag([4, 4, 4, 1]))
    statistics = Statistics(np.array([1.0], np.float32), np.array([0.15], np.float32), np.ones(SHAPE, bool))
    config = PCAConfig(num_components=2, restorations=restorations)
    model = config.build(GridPlan(spacing_mm=4.0, shape=SHAPE, affine=rows), ("t1w",), statistics, 1)
    model.fit(VolumeSet(11, lambda chosen: data[torch.from_numpy(chosen)]))
    return model, data[11:]


def test_a_lesion_bends_the_plain_projection_and_not_the_robust_one() -> None:
    plain, healthy = fitted(0)
    robust, _ = fitted(5)
    lesion = healthy.clone()
    lesion[:, :, :4, :4, :4] -= 0.8
    target = plain.expect(healthy).mean
    error = {
        name: float((model.expect(lesion).mean - target).abs().mean()) for name, model in (("p", plain), ("r", robust))
    }
    assert error["r"] < error["p"] / 3
    assert float((robust.expect(healthy).mean - target).abs().mean()) < 0.01  # the healthy stay as they were
