"""The estimate of a step's memory against numbers that can be counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen3d.data.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.task import Task
from gen3d.models.vae import VAEConfig
from gen3d.train.budget import estimate


def task_of(shape: tuple[int, int, int], **settings: object) -> Task:
    plan = GridPlan(spacing_mm=4.0, shape=shape, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    with torch.device("meta"):
        config = VAEConfig(base_channels=8, levels=2, latent_size=4, **settings)
        statistics = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
        return config.task(config.build(plan, ("t1w",), statistics, 1), 10)


def test_parameters_are_counted() -> None:
    task = task_of((8, 8, 8), adversarial_weight=0.1)
    budget = estimate(task, (1, 8, 8, 8), 1, 4)
    assert budget.parameters == sum(parameter.numel() for parameter in task.parameters())
    assert budget.weights == budget.gradients == 4 * budget.parameters


def test_activations_grow_with_batch_and_volume_and_shrink_with_checkpointing() -> None:
    def activations(shape: tuple[int, int, int], count: int, width: int = 4, **settings: object) -> int:
        return estimate(task_of(shape, **settings), (1, *shape), count, width).activations

    small = activations((16, 16, 16), 1)
    assert activations((16, 16, 16), 3) == pytest.approx(3 * small, rel=0.1)
    assert activations((32, 16, 16), 1) == pytest.approx(2 * small, rel=0.1)
    assert activations((16, 16, 16), 1, width=2) < 0.6 * small
    assert activations((16, 16, 16), 1, gradient_checkpointing=True) < 0.6 * small
