"""Maps against planted truth, and the map that needs no network."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.explain.enrichment import RoundBrain
from gen3d.explain.truth import against_truth, edges, region_agreement
from tests.explain.small import BRAIN, SHAPE, TARGET, quarters


def test_a_perfect_map_reaches_1_and_a_random_one_the_prevalence() -> None:
    brain, generator = RoundBrain(BRAIN), np.random.default_rng(0)
    perfect = against_truth(np.where(TARGET, -1.0, 0.0), TARGET, brain, generator)
    assert perfect["auprc"] == 1.0
    assert perfect["prevalence"] == pytest.approx(TARGET.sum() / BRAIN.sum())
    assert perfect["auprc_turned"] < 0.3
    noise = against_truth(generator.standard_normal(SHAPE), TARGET, brain, generator)
    assert noise["auprc"] == pytest.approx(noise["prevalence"], abs=0.02)
    assert noise["auroc"] == pytest.approx(0.5, abs=0.12)


def test_regions_are_ranked_by_what_was_planted() -> None:
    table = pd.DataFrame({"label": range(1, 10), "name": [f"r{k}" for k in range(1, 10)]})
    percent = -np.arange(9.0)
    volume = np.zeros(SHAPE)
    for label, value in zip(table["label"], percent, strict=True):
        volume[quarters() == label] = value
    assert region_agreement(volume, BRAIN, quarters(), table, percent) == pytest.approx(1.0)
    assert region_agreement(volume, BRAIN, quarters(), table, percent[::-1].copy()) == pytest.approx(-1.0)


def test_edges_are_where_the_scan_changes() -> None:
    scan = np.where(BRAIN, 1.0, 0.0) + 3.0 * TARGET
    drawn = edges(scan[None], BRAIN)
    surface = TARGET & ~np.roll(TARGET, 1, axis=0)
    inside = np.zeros(SHAPE, bool)
    inside[12:14, 10:13, 10:13] = True
    assert drawn[surface].mean() > 10 * drawn[inside].mean()
    assert not drawn[~BRAIN].any()
    assert drawn[BRAIN].mean() == pytest.approx(1.0, rel=1e-4)
