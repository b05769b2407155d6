"""Modulated density: what grey matter there is, where the template has it, and as much as there is of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.cohort.regions import find, regions_on
from gen3d.imaging.deformation import exponential, reach_volumes, warp
from gen3d.imaging.density import grey_shares, modulated_density
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.registration import deform
from gen3d.imaging.template import template_on

PLAN = plan_grid(3.0)


def density_of(t1w: NDArray[np.float32]) -> NDArray[np.float32]:
    return modulated_density(t1w, deform(t1w, PLAN), template_on(PLAN))


def shrunken(percent: float) -> NDArray[np.float32]:
    """The template with smaller hippocampi, which gave their room to the fluid around them."""
    template, labels = template_on(PLAN), regions_on(PLAN)
    around = template.csf * ~np.isin(labels, find("hippocampus"))
    change = reach_volumes(labels, dict.fromkeys(find("hippocampus"), float(np.log(1 + percent / 100))), around)
    return np.asarray(warp(template.t1w, exponential(-change.velocity)), np.float32)


def test_the_template_has_the_grey_matter_of_its_own_map() -> None:
    template = template_on(PLAN)
    found = density_of(template.t1w)
    assert np.corrcoef(found[template.mask], template.gm[template.mask])[0, 1] > 0.85
    assert found.sum() == pytest.approx(template.gm.sum(), rel=0.1)
    assert (found[~template.mask] == 0).all()


def test_a_smaller_hippocampus_has_less_and_nothing_else_has() -> None:
    labels = regions_on(PLAN)
    before, after = density_of(template_on(PLAN).t1w), density_of(shrunken(-30))
    own, others = np.isin(labels, find("hippocampus")), np.isin(labels, find("putamen") + find("cerebellar cortex"))
    assert after[own].sum() < 0.85 * before[own].sum()
    assert after[others].sum() == pytest.approx(before[others].sum(), rel=0.02)


def test_noise_and_contrast_leave_the_amount_as_it_is() -> None:
    template, generator = template_on(PLAN), np.random.default_rng(0)
    noise = generator.normal(0, 0.03, template.t1w.shape).astype(np.float32)
    flatter = np.where(template.mask, 1 - 0.8 * (1 - template.t1w) + noise, 0).astype(np.float32)
    assert grey_shares(flatter, template).sum() == pytest.approx(grey_shares(template.t1w, template).sum(), rel=0.1)


def test_a_flat_scan_has_shares_all_the_same() -> None:
    template = template_on(PLAN)
    shares = grey_shares(template.mask.astype(np.float32), template)
    assert np.isfinite(shares).all()
    assert shares.min() >= 0
    assert shares.max() <= 1
