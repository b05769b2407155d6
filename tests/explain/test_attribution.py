"""Gradient methods on a network whose reasons are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.explain.attribution import gradients, integrated_gradients, smoothgrad
from tests.explain.small import BRAIN, TARGET, reading, scans


def test_the_gradient_of_a_linear_network_is_its_kernel_whatever_the_noise_and_the_batch() -> None:
    answering = reading()
    person = torch.from_numpy(scans()[0])
    expected = torch.from_numpy(-(TARGET / TARGET.sum())).float()[None]
    assert torch.allclose(gradients(answering.of_view, person[None])[0], expected, atol=1e-7)
    for batch in (1, 3):
        found = smoothgrad(
            answering.of_view,
            person,
            torch.tensor([0.2]),
            torch.from_numpy(BRAIN).float(),
            4,
            torch.Generator().manual_seed(1),
            batch,
        )
        assert torch.allclose(found, expected, atol=1e-7)


def squared(views: Tensor) -> Tensor:
    return views.square().flatten(1).sum(1)


def test_smoothgrad_adds_noise_in_the_brain_alone_and_averages_it_away() -> None:
    view, where = torch.zeros(1, 4, 4, 4), torch.zeros(4, 4, 4)
    where[:2] = 1.0
    generator = torch.Generator().manual_seed(0)
    one = smoothgrad(squared, view, torch.tensor([0.5]), where, 1, generator, 1)
    assert bool((one[:, 2:] == 0).all())
    assert float(one[:, :2].std()) == pytest.approx(1.0, rel=0.3)
    many = smoothgrad(squared, view, torch.tensor([0.5]), where, 400, generator, 50)
    assert float(many.abs().max()) < 0.25
    alike = [
        smoothgrad(squared, view, torch.tensor([0.5]), where, 7, torch.Generator().manual_seed(3), size)
        for size in (2, 7)
    ]
    assert torch.allclose(*alike)


def test_integrated_gradients_add_up_to_the_change_of_the_answer() -> None:
    answering = reading()
    person, controls = (torch.from_numpy(volume) for volume in scans())
    parts, missed = integrated_gradients(answering.of_view, person, controls, 2, 1)
    change = float(answering.of_volumes(person[None], 1) - answering.of_volumes(controls[None], 1))
    assert float(parts.sum()) == pytest.approx(change, rel=1e-5)
    assert missed < 1e-5
    assert not parts[0].numpy()[~TARGET].any()
    rough = integrated_gradients(lambda views: views.pow(4).flatten(1).sum(1), person, 0 * controls, 2, 2)[1]
    fine = integrated_gradients(lambda views: views.pow(4).flatten(1).sum(1), person, 0 * controls, 64, 16)[1]
    assert fine < 1e-3 < rough


def test_gradients_leave_the_weights_alone() -> None:
    network = nn.Conv3d(1, 1, 3, padding=1)
    gradients(lambda views: network(views).flatten(1).sum(1), torch.ones(2, 1, 4, 4, 4))
    assert all(weights.grad is None for weights in network.parameters())
    assert np.isfinite(network.weight.detach().numpy()).all()
