"""Regions replaced by those of controls: what a known network loses, and in which order it loses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen3d.explain.occlusion import Replacing, SoftRegions, painted
from tests.explain.small import BRAIN, SHAPE, TARGET, Window, quarters, reading, scans


def replacing(edge_voxels: float = 0.0, batch: int = 3) -> Replacing:
    person, controls = (torch.from_numpy(volume) for volume in scans())
    return Replacing(reading(), person, controls, SoftRegions(quarters(), BRAIN, edge_voxels), batch)


@pytest.mark.parametrize("edge", [0.0, 1.5])
def test_soft_regions_add_up_to_the_brain(edge: float) -> None:
    regions = SoftRegions(quarters(), BRAIN, edge)
    assert regions.present == list(range(10))
    total = np.sum([regions.weight([label]) for label in regions.present], axis=0)
    assert np.allclose(total[BRAIN], 1.0, atol=1e-5)
    assert not total[~BRAIN].any()
    assert np.allclose(regions.weight([1, 4]), regions.weight([1]) + regions.weight([4]), atol=1e-5)
    assert np.allclose(regions.weight(regions.present), BRAIN, atol=1e-5)


def test_only_the_region_that_the_network_reads_makes_the_answer_fall() -> None:
    replaced = replacing()
    labels = replaced.regions.present
    start, end = replaced.ends
    drops = replaced.drops(labels)
    assert drops[labels.index(1)] == pytest.approx(start - end, rel=1e-5)
    assert start - end > 0.3
    assert np.abs(np.delete(drops, labels.index(1))).max() < 1e-6
    volume = painted(drops, labels, replaced.regions)
    assert volume[TARGET].sum() == pytest.approx(start - end, rel=1e-4)
    assert np.allclose(replacing(batch=7).drops(labels), drops, atol=1e-6)


def test_the_right_order_moves_the_answer_first_and_the_wrong_one_last() -> None:
    replaced = replacing()
    others = [label for label in replaced.regions.present if label != 1]
    change = replaced.ends[0] - replaced.ends[1]
    for area in replaced.curves([1, *others]):
        assert area == pytest.approx(0.95 * change, rel=1e-4)  # of 10 steps, the half of the first is lost
    for area in replaced.curves([*others, 1]):
        assert area == pytest.approx(0.05 * change, rel=1e-4)


def test_what_the_network_does_not_see_is_left_as_it_is() -> None:
    person, _controls = (torch.from_numpy(volume) for volume in scans())
    answering = reading()
    window = Window((-2, 4, 0), (12, 8, 22))
    seen = torch.ones(1, *window.size)
    moved = type(answering)(type(answering.model)(answering.model.network, window), answering.question, 70.0)  # type: ignore[call-arg]
    placed = moved.on_grid(seen, SHAPE)
    assert placed.shape == (1, *SHAPE)
    assert placed.sum() == 10 * 8 * 22
    assert bool(placed[0, :10, 4:12].all())
    assert torch.equal(
        moved.model.view(moved.on_grid(moved.model.view(person[None]), SHAPE)), moved.model.view(person[None])
    )
