"""Thresholds inside the brain."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.explain.thresholds import kept_ml, threshold


def test_a_percentile_keeps_its_share_and_sd_counts_from_the_mean() -> None:
    values = np.arange(1000.0)
    limit = threshold(values, "percentile", 10.0, 0.0)
    assert np.count_nonzero(values >= limit) == 100
    assert threshold(values, "sd", 10.0, 0.5) == pytest.approx(values.mean() + 0.5 * values.std())
    assert kept_ml(values, limit, 2.0) == pytest.approx(0.8)


def test_otsu_splits_two_groups_between_them() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(1.0, 0.1, 900), generator.normal(5.0, 0.3, 100)])
    limit = threshold(values, "otsu", 10.0, 0.0)
    assert 1.5 < limit < 4.2
    splits = np.linspace(values.min(), values.max(), 2000)[1:-1]
    between = [
        np.mean(values < t) * np.mean(values >= t) * (values[values < t].mean() - values[values >= t].mean()) ** 2
        for t in splits
    ]
    best = np.mean(values < limit) * np.mean(values >= limit)
    best *= (values[values < limit].mean() - values[values >= limit].mean()) ** 2
    assert best >= 0.999 * max(between)


def test_a_map_without_differences_shows_nothing() -> None:
    for rule in ("percentile", "otsu", "sd"):
        assert threshold(np.ones(50), rule, 10.0, 1.0) == float("inf")  # type: ignore[arg-type]
    assert kept_ml(np.ones(50), float("inf"), 1.0) == 0.0
