"""The tissue rule: equal numbers for equal tissue, whatever the scanner's units."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.imaging.conform import levels_under
from gen3d.imaging.deformation import exponential, random_velocity, warp
from gen3d.imaging.intensity import apply_tissue_rule, tissue_levels
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.registration import deform
from gen3d.imaging.template import template_on

PLAN = plan_grid(4.0)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (730.0, 0.0), (0.004, 0.0), (250.0, 40.0)])
def test_linear_changes_of_intensity_vanish(gain: float, offset: float) -> None:
    template = template_on(PLAN)
    scaled, levels = apply_tissue_rule(gain * template.t1w + offset, template, template.mask)
    plain, _ = apply_tissue_rule(template.t1w, template, template.mask)
    assert np.abs(scaled - plain).max() < 1e-4
    assert np.abs(plain - template.t1w).max() < 0.01
    assert levels.white == pytest.approx(
        gain * tissue_levels(template.t1w, template, template.mask).white + offset, rel=1e-4
    )


def test_contrast_between_grey_and_white_is_brought_to_the_templates() -> None:
    template = template_on(PLAN)
    flat = np.where(template.mask, 1 - 0.5 * (1 - template.t1w), 0).astype(np.float32)
    scaled, _ = apply_tissue_rule(flat, template, template.mask)
    wanted, found = (tissue_levels(volume, template, template.mask) for volume in (template.t1w, scaled))
    assert found.white == pytest.approx(1.0, abs=0.01)
    assert found.grey == pytest.approx(wanted.grey, abs=0.01)


def test_fluid_in_a_shrunken_cortex_does_not_pull_the_grey_level() -> None:
    template = template_on(PLAN)
    cortex = np.argwhere((template.gm > 0.8) & template.mask)
    atrophied = template.t1w.copy()
    gone = cortex[np.random.default_rng(0).random(len(cortex)) < 0.25]
    atrophied[tuple(gone.T)] = 0.2
    found, wanted = (tissue_levels(volume, template, template.mask).grey for volume in (atrophied, template.t1w))
    assert found == pytest.approx(wanted, abs=0.02)


def test_background_is_zero_and_bright_vessels_are_clipped() -> None:
    template = template_on(PLAN)
    volume = template.t1w.copy()
    volume[20, 20, 20] = 50.0
    brain = template.mask.copy()
    brain[20, 20, 20] = True
    scaled, _ = apply_tissue_rule(volume + 5.0, template, brain)
    assert scaled.max() == 2.0
    assert (scaled[~brain] == 0).all()


def test_a_t2_weighted_scan_is_refused() -> None:
    template = template_on(PLAN)
    with pytest.raises(UserError, match="no T1-weighted"):
        apply_tissue_rule(2.0 - template.t1w, template, template.mask)


def test_an_empty_brain_is_refused() -> None:
    template = template_on(PLAN)
    with pytest.raises(UserError, match="registration failed"):
        apply_tissue_rule(template.t1w, template, np.zeros_like(template.mask))


def test_levels_under_the_deformation_ignore_where_tissue_lies() -> None:
    template = template_on(PLAN)
    true = tissue_levels(template.t1w, template, template.mask).grey
    velocity = random_velocity(PLAN.shape, 4.0, 1.2, np.random.default_rng(2), template.mask)
    person = warp(template.t1w, exponential(-velocity)).astype(np.float32)
    brain = person > 0.1
    misplaced = abs(tissue_levels(person, template, brain).grey - true)
    found = abs(levels_under(person, brain, deform(person, PLAN), template).grey - true)
    assert found < 0.02
    assert found < 0.6 * misplaced
