"""Structure volumes from the deformation channel, against volumes that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.regions import region_table, regions_on
from gen3d.cohort.structures import structure_names, structure_volumes
from gen3d.imaging.plan import plan_grid


def test_without_deformation_they_are_the_templates_and_a_change_shows_in_its_structure() -> None:
    plan, table = plan_grid(4.0), region_table()
    regions = regions_on(plan)
    log_jacobian = np.zeros(plan.shape, np.float32)
    before = structure_volumes(log_jacobian, regions, table, plan)
    assert list(before) == structure_names(table)
    for structure in ("hippocampus", "lateral ventricle"):
        labels = table.loc[table["structure"] == structure, "label"]
        name = structure.replace(" ", "_") + "_ml"
        assert before[name] == pytest.approx(np.isin(regions, labels).sum() * 0.064)
    left = int(table.loc[table["name"] == "left hippocampus", "label"].iloc[0])
    log_jacobian[regions == left] = np.log(0.7)
    after = structure_volumes(log_jacobian, regions, table, plan)
    lost = 0.3 * (regions == left).sum() * 0.064
    assert before["hippocampus_ml"] - after["hippocampus_ml"] == pytest.approx(lost, rel=1e-5)
    assert {name for name in before if abs(after[name] - before[name]) > 1e-6} == {"hippocampus_ml"}


def test_names_are_columns() -> None:
    table = pd.DataFrame({"label": [1, 2], "structure": ["brain-stem", "ventral diencephalon"]})
    assert structure_names(table) == ["brain_stem_ml", "ventral_diencephalon_ml"]
