"""Local volume against its surroundings: a shared change is removed, a change of the region alone stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.region_channels import ContrastReading, ShellMeans
from gen3d.cohort.folder import open_prepared

SHAPE = (24, 20, 20)
TABLE = pd.DataFrame({"label": [1, 2, 3], "name": ["left hippocampus", "right hippocampus", "third ventricle"]})


def labels_with_neighbours() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    labels[4:8, 8:12, 8:12] = 1
    labels[9:13, 8:12, 8:12] = 2  # one voxel from the other side: not its surroundings
    return labels


def test_a_shell_is_what_is_near_and_never_the_structure_itself() -> None:
    labels, mask = labels_with_neighbours(), np.ones(SHAPE, bool)
    mask[:, :, :7] = False
    around = ShellMeans(labels, mask, TABLE, spacing_mm=2.5)
    marked = np.zeros(SHAPE, np.float32)
    marked[labels > 0] = 100.0
    assert around(marked[mask])[:2].tolist() == [0.0, 0.0]
    distance = np.zeros(SHAPE, np.float32)
    distance[5, 10, 14] = 1.0  # 3 voxels above the left region's last voxel
    distance[5, 10, 15] = 100.0  # 4 voxels above: too far
    left, _, absent = around(distance[mask])
    assert 0 < left < 0.01  # one of several hundred voxels
    assert absent == 0.0


def test_only_what_the_surroundings_do_not_share_is_seen(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    region_table, mask = prepared.region_table, prepared.mask
    around = ShellMeans(prepared.regions, mask, region_table, prepared.plan.spacing_mm)
    shared = np.full(int(mask.sum()), -0.2, np.float32)
    own = np.where(prepared.regions[mask] == 1, -0.2, 0.0).astype(np.float32)
    inside = prepared.regions[mask] == 1
    assert shared[inside].mean() - around(shared)[0] == pytest.approx(0.0, abs=1e-6)
    assert own[inside].mean() - around(own)[0] == pytest.approx(-0.2, abs=1e-6)
    values = ContrastReading(prepared)(prepared.manifest.iloc[0])
    assert values.shape == (len(region_table),)
    assert np.isfinite(values).all()
