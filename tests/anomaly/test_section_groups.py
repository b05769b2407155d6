"""Groups against held-out controls: planted differences are detected, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.sections.groups import Moments, moments_of, regions_that_differ, significant_difference
from gen3d.anomaly.sections.people import choose
from gen3d.report.open import open_context
from tests.world import PATIENTS, World


@pytest.fixture(scope="module")
def maps(world: World) -> MapsFolder:
    return open_context([world["maps/vae"]]).all(MapsFolder)[0]


def test_moments_are_those_of_the_stack(maps: MapsFolder) -> None:
    keys = [str(key) for key in maps.reference["key"]]
    found = moments_of(maps, keys, "residual")
    assert found is not None
    stack = np.stack([z for key in keys if (z := maps.z(key, "residual")) is not None])
    assert found.num_people == len(stack) == 8
    np.testing.assert_allclose(found.mean, stack.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.variance, stack.var(axis=0, ddof=1, dtype=np.float64), atol=1e-6)


def _moments(generator: np.random.Generator, shift: np.ndarray, num: int) -> Moments:
    values = generator.standard_normal((num, *shift.shape)) + shift
    return Moments(np.full(shift.shape, float(num)), values.mean(axis=0), values.var(axis=0, ddof=1), num)


def test_voxels_that_differ_are_found_and_equal_groups_give_none() -> None:
    generator = np.random.default_rng(0)
    mask = np.ones((20, 20, 10), dtype=bool)
    shift = np.zeros(mask.shape)
    shift[:5, :5, :5] = 3.0
    reference = _moments(generator, np.zeros(mask.shape), 15)
    found = significant_difference(_moments(generator, shift, 15), reference, mask)
    assert found is not None
    assert found[:5, :5, :5].mean() > 0.95
    assert found[shift == 0].mean() < 0.01
    null = significant_difference(_moments(generator, np.zeros(mask.shape), 15), reference, mask)
    assert null is not None
    assert not null.any()


def test_groups_of_four_are_not_tested() -> None:
    generator = np.random.default_rng(0)
    mask = np.ones((4, 4, 4), dtype=bool)
    few, many = (_moments(generator, np.zeros(mask.shape), num) for num in (4, 10))
    assert significant_difference(few, many, mask) is None
    assert significant_difference(many, few, mask) is None


def test_planted_regions_differ_and_the_null_group_has_none(maps: MapsFolder) -> None:
    rows = regions_that_differ(maps, "deformation")
    found = {(row["group"], row["region"]) for row in rows if row["q"] < 0.05}
    assert {("AD", "left hippocampus"), ("AD", "right hippocampus")} <= found
    assert not {group for group, _ in found} & {"null", "lesion"}
    left = next(row for row in rows if (row["group"], row["region"]) == ("AD", "left hippocampus"))
    table = maps.regions[(maps.regions["region"] == "left hippocampus") & (maps.regions["channel"] == "deformation")]
    ill, well = (
        table.loc[table["key"].isin(people["key"]), "z"].to_numpy()
        for people in (maps.evaluated[maps.evaluated["diagnosis"] == "AD"], maps.reference)
    )
    parts = [values.var(ddof=1) / len(values) for values in (ill, well)]
    dof = sum(parts) ** 2 / (parts[0] ** 2 / (len(ill) - 1) + parts[1] ** 2 / (len(well) - 1))
    difference, half = ill.mean() - well.mean(), t.ppf(0.975, dof) * np.sqrt(sum(parts))
    found_interval = (left["difference"].low, left["difference"].value, left["difference"].high)
    assert found_interval == pytest.approx((difference - half, difference, difference + half))
    assert left["num_people"] == PATIENTS["AD"]


def test_the_most_deviating_person_of_each_diagnosis_comes_first(maps: MapsFolder) -> None:
    diagnosis = maps.subjects.set_index("key")["diagnosis"]
    role = maps.subjects.set_index("key")["role"]
    chosen = choose(maps, 6)
    assert len(set(chosen)) == 6
    assert set(diagnosis[chosen[:3]]) == set(PATIENTS)
    assert list(role[chosen]) == ["evaluation"] * 4 + ["test"] * 2
    scores = maps.subjects.set_index("key")["region_score_deformation"]
    first_ad = next(key for key in chosen if diagnosis[key] == "AD")
    assert scores[first_ad] >= scores[diagnosis.index[diagnosis == "AD"]].median()
    assert len(choose(maps, 200)) == sum(PATIENTS.values()) + 8
