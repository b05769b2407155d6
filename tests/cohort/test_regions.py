"""The named regions: complete, symmetric, and still there on coarse grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gen3d.cohort.regions import all_regions, find, full_regions, region_table, regions_on
from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import full_template, template_on


def volumes_ml(spacing_mm: float) -> np.ndarray:
    labels = regions_on(plan_grid(spacing_mm))
    return np.bincount(labels.ravel(), minlength=len(all_regions()) + 1)[1:] * spacing_mm**3 / 1000


def test_every_brain_voxel_belongs_to_one_region_and_no_other_voxel_does() -> None:
    np.testing.assert_array_equal(full_regions() > 0, full_template().mask)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.0, 4.0])
def test_regions_survive_on_every_grid_with_their_volumes(spacing_mm: float) -> None:
    full = np.bincount(full_regions().ravel(), minlength=len(all_regions()) + 1)[1:] / 1000
    found = volumes_ml(spacing_mm)
    assert found.min() > 0
    np.testing.assert_allclose(found, full, rtol=0.25)


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0, 4.0])
def test_left_and_right_have_the_same_volume(spacing_mm: float) -> None:
    found = volumes_ml(spacing_mm)
    for region in all_regions():
        if region.hemisphere == "left":
            right = found[find(f"right {region.structure}")[0] - 1]
            assert found[region.label - 1] == pytest.approx(right, rel=0.2), region.name


def test_hemispheres_are_where_they_should_be() -> None:
    plan = plan_grid(3.0)
    labels = regions_on(plan)
    for region in all_regions():
        place = plan.matrix[:3, :3] @ np.array(ndimage.center_of_mass(labels == region.label)) + plan.matrix[:3, 3]
        side = {"left": place[0] < -2, "right": place[0] > 2, "midline": abs(place[0]) < 3}
        assert side[region.hemisphere], (region.name, place)


def test_some_volumes_and_places_are_those_of_a_human_brain() -> None:
    found = {region.name: volumes_ml(2.0)[region.label - 1] for region in all_regions()}
    assert 4 < found["left hippocampus"] < 7  # the template is about a fifth larger than most brains
    assert 8 < found["left thalamus"] < 14
    assert 120 < found["left cerebellar cortex"] + found["right cerebellar cortex"] < 200
    assert found["left cerebral white matter"] > 200
    plan = plan_grid(2.0)
    voxel = np.rint(np.linalg.inv(plan.matrix) @ [-27, -20, -16, 1]).astype(int)
    assert regions_on(plan)[tuple(voxel[:3])] == find("left hippocampus")[0]


def test_tissue_of_the_table_agrees_with_the_tissue_maps() -> None:
    plan = plan_grid(3.0)
    labels, template = regions_on(plan), template_on(plan)
    for region in all_regions():
        inside = labels == region.label
        if region.name in ("left cerebral white matter", "right cerebral white matter"):
            assert template.wm[inside].mean() > 0.7
        if region.structure in ("hippocampus", "caudate", "precuneus", "cerebellar cortex"):
            assert template.gm[inside].mean() > 0.6, region.name
        if region.structure in ("lateral ventricle",):
            assert template.csf[inside].mean() > 0.5


def test_the_table_lists_labels_in_order() -> None:
    table = region_table()
    assert table["label"].tolist() == list(range(1, len(table) + 1))
    assert table["name"].is_unique
    assert set(table["hemisphere"]) == {"left", "right", "midline"}
    assert set(table["tissue"]) == {"GM", "WM", "CSF"}


def test_regions_are_found_by_name_and_a_typing_error_names_the_nearest() -> None:
    assert len(find("hippocampus")) == 2
    assert find("Left_Hippocampus") == [find("hippocampus")[0]]
    with pytest.raises(UserError, match="nearest name is 'hippocampus'"):
        find("hipocampus")
    with pytest.raises(UserError, match="the regions are hippocampus"):
        find("xyzzy")
