"""Noise of known level and correlation, added to the template: found, taken away, and made anew."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.simulate.scan_noise import Noise, neighbour_correlation, pseudo_residual, split_noise, white_matter

PLAN = plan_grid(2.5)


def noisy(level: float, correlation: float) -> np.ndarray:
    template = template_on(PLAN)
    field = Noise(level, (correlation,) * 3).draw(PLAN.shape, np.random.default_rng(1))
    return np.where(template.mask, np.maximum(template.t1w + field, 0), 0).astype(np.float32)


def test_drawn_noise_has_its_level_and_correlation() -> None:
    field = Noise(0.03, (0.0, 0.2, 0.45)).draw((50, 60, 55), np.random.default_rng(0))
    assert field.std() == pytest.approx(0.03, rel=0.02)
    assert neighbour_correlation(field, np.ones(field.shape, bool)) == pytest.approx((0.0, 0.2, 0.45), abs=0.02)
    white = pseudo_residual(np.random.default_rng(0).standard_normal((50, 50, 50)))
    assert white[1:-1, 1:-1, 1:-1].std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("level", "correlation"), [(0.015, 0.3), (0.03, 0.3), (0.03, 0.0)])
def test_the_noise_that_was_added_is_found_and_taken_away(level: float, correlation: float) -> None:
    template, scan = template_on(PLAN), noisy(level, correlation)
    clean, noise = split_noise(scan, template)
    core = white_matter(scan, template)
    assert noise.level == pytest.approx(level, rel=0.2)
    assert np.mean(noise.correlation) == pytest.approx(correlation, abs=0.12)
    left = (clean - template.t1w)[core].std()
    assert left < 0.65 * (scan - template.t1w)[core].std()
    grey = (template.gm > 0.8) & (template.t1w > 0.3)
    assert (clean - template.t1w)[grey].std() < 1.1 * (scan - template.t1w)[grey].std(), "edges were blurred"
    again = clean + noise.draw(scan.shape, np.random.default_rng(2))
    assert pseudo_residual(again)[core].std() == pytest.approx(pseudo_residual(scan)[core].std(), rel=0.08)


def test_a_scan_without_noise_gets_none() -> None:
    template = template_on(PLAN)
    _, noise = split_noise(template.t1w, template)
    assert noise.level < 0.006
    with pytest.raises(ValueError, match="hardly any white matter was found"):
        split_noise(np.zeros_like(template.t1w), template)
