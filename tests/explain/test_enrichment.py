"""Enrichment is 1 by chance, and its null knows how smooth and central a map is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gen3d.explain.enrichment import RoundBrain, by_region, enrichment, normalised
from tests.explain.small import BRAIN, SHAPE, TARGET, ball, quarters

ROUND = RoundBrain(BRAIN)


def test_a_map_inside_one_region_is_enriched_there_by_its_share_of_the_brain() -> None:
    volume = np.where(TARGET, -2.0, 0.0)
    found = enrichment(volume, TARGET, ROUND, 99, np.random.default_rng(0))
    assert found.value == pytest.approx(BRAIN.sum() / TARGET.sum())
    assert found.rank_accuracy == 1.0
    assert found.auroc == 1.0
    assert found.p <= 0.05
    values = by_region(volume, BRAIN, quarters(), 11)
    assert values[1] == pytest.approx(found.value)
    assert np.nanmax(values[2:10]) == 0.0
    assert np.isnan(values[10:]).all()


def test_a_flat_map_and_an_empty_one_are_enriched_nowhere() -> None:
    flat = enrichment(np.where(BRAIN, 3.0, 9.0), TARGET, ROUND, 99, np.random.default_rng(0))
    assert flat.value == pytest.approx(1.0)
    assert flat.null_mean == pytest.approx(1.0)
    assert flat.p == 1.0
    assert np.isnan(enrichment(np.zeros(SHAPE), TARGET, ROUND, 99, np.random.default_rng(0)).value)
    assert not normalised(np.zeros(SHAPE), BRAIN).any()


def test_p_is_uniform_for_smooth_maps_without_a_place() -> None:
    generator = np.random.default_rng(5)
    p = []
    for _ in range(60):
        volume = gaussian_filter(generator.standard_normal(SHAPE), 2.0)
        p.append(enrichment(volume, TARGET, ROUND, 99, generator).p)
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_a_broad_map_overlaps_a_central_region_no_more_than_when_it_is_turned() -> None:
    distance = np.sqrt(sum((np.indices(SHAPE)[axis] - (9.5, 11.5, 10.5)[axis]) ** 2 for axis in range(3)))
    broad = np.where(BRAIN, 10.0 - distance, 0.0)
    central = ball((9.5, 11.5, 10.5), 2.5)
    found = enrichment(broad, central, ROUND, 199, np.random.default_rng(0))
    assert found.value > 2.0
    assert found.p > 0.05
    assert found.value == pytest.approx(found.null_mean, rel=0.03)


def test_turns_keep_voxels_in_the_brain_and_leave_no_two_maps_alike() -> None:
    places = np.argwhere(TARGET)
    generator = np.random.default_rng(0)
    turned = [ROUND.turned(places, generator) for _ in range(20)]
    assert all(BRAIN[tuple(moved.T)].all() and len(moved) >= len(places) / 2 for moved in turned)
    centres = np.array([moved.mean(axis=0) for moved in turned])
    assert centres.std(axis=0).min() > 1.5
    volume = np.where(TARGET, 1.0, 0.0)
    mass = [ROUND.turned_map(volume, generator).sum() / TARGET.sum() for _ in range(10)]
    assert 0.6 < np.mean(mass) < 1.3
