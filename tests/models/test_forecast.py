"""Forecasters of closed form against planted rates: what they learn, how they realise it, and that nothing stays nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gen3d.cohort.coding import Coding
from gen3d.cohort.regions import all_regions, find, regions_on
from gen3d.imaging.deformation import exponential, warp
from gen3d.imaging.person_space import PersonSpace
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.maths.slopes import Slopes
from gen3d.models.base import Statistics
from gen3d.models.forecast import lessons as lessons_module
from gen3d.models.forecast.base import KnownVisits
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons, Past
from gen3d.models.forecast.realise import velocity_of_rates
from gen3d.models.registry import read_config
from gen3d.models.weights import fill, read_weights, save_weights, statistics_in
from tests.visit_cohort import coarse_plan

NUM_PEOPLE = 40
CHANNELS = ("t1w", "log_jacobian")
VENTRICLES = np.array(find("lateral ventricle")) - 1
KINDS = ("copy_forward", "population_rate", "region_rate", "deformation_rate")
LEARNERS = KINDS[1:]


@pytest.fixture(scope="module")
def plan() -> GridPlan:
    return coarse_plan(5.0)


def regions_of(plan: GridPlan) -> np.ndarray:
    return np.array(regions_on(plan))


def planted(
    plan: GridPlan, effect: float = 0.05, own: float = 0.0, noise: float = 0.002, seed: int = 0, visible: bool = True
) -> tuple[Lessons, np.ndarray]:
    """Lessons of people whose ventricles grow by 0.01 a year, with AD `effect` more.

    `own` is the SD of a further part, which the scan shows if it is `visible`.
    """
    generator = np.random.default_rng(seed)
    labels, mask = regions_of(plan), template_on(plan).mask
    num_regions = len(all_regions())
    disease, shown = np.arange(NUM_PEOPLE) % 2, generator.standard_normal(NUM_PEOPLE)
    rate = (0.01 if effect or own else 0.0) + effect * disease + own * shown
    inside = np.isin(labels, VENTRICLES + 1)[mask]
    maps = rate[:, None] * inside + noise * generator.standard_normal((NUM_PEOPLE, int(mask.sum())))
    regions = noise * generator.standard_normal((NUM_PEOPLE, num_regions))
    regions[:, VENTRICLES] += rate[:, None]
    regions[:, np.bincount(labels.ravel(), minlength=num_regions + 1)[1:] == 0] = np.nan
    frame = pd.DataFrame(
        {
            "age_years": generator.uniform(60, 80, NUM_PEOPLE),
            "sex": np.array(["F", "M"])[generator.integers(0, 2, NUM_PEOPLE)],
            "diagnosis": np.array(["CN", "AD"])[disease],
        }
    )
    scans = generator.normal(1, 0.02, (NUM_PEOPLE, 2, *plan.shape)).astype(np.float32)
    scans[:, 1] += (
        0.5 * (shown if visible else generator.standard_normal(NUM_PEOPLE))[:, None, None, None] * template_on(plan).csf
    )
    information = np.full(NUM_PEOPLE, 2.0)
    return (
        Lessons(
            frame,
            np.arange(NUM_PEOPLE),
            Slopes(maps.astype(np.float32), information, np.zeros(maps.shape[1]), 0),
            Slopes(regions, information, np.zeros(num_regions), 0),
            lambda rows: scans[rows],
        ),
        shown,
    )


def model_of(kind: str, plan: GridPlan, lessons: Lessons, **settings: Any) -> LearnedForecaster:
    """A fitted model."""
    names = [name for name in ("age_years", "sex", "diagnosis") if lessons.frame[name].nunique() > 1]
    given = {"coding": Coding.fit(lessons.frame, names).to_dict(), "longest_years": 3.0}
    small = {"components": 4, "modes": 4} if kind == "deformation_rate" else {}
    config = read_config({"kind": kind, **small, **settings}).model_copy(update=given)
    scans = lessons.load(np.arange(len(lessons.frame)))
    mask = template_on(plan).mask
    spread = scans[:, :, mask]
    statistics = Statistics(spread.mean((0, 2)), spread.std((0, 2)), mask)
    model: LearnedForecaster = config.build(plan, CHANNELS, statistics, 1)
    model.learn(lessons)
    return model.eval()


def somebody(
    plan: GridPlan, diagnosis: str = "AD", shown: float = 0.0, years: tuple[float, ...] = (0.0,)
) -> KnownVisits:
    """A person whose brain is the template, so that nothing need be registered."""
    template = template_on(plan)
    scan = np.stack([template.t1w, 1 + 0.5 * shown * template.csf]).astype(np.float32)
    nowhere = np.zeros((3, *plan.shape), np.float32)
    return KnownVisits(
        np.stack([scan] * len(years)),
        CHANNELS,
        years,
        {"age_years": 70.0, "sex": "F", "diagnosis": diagnosis},
        regions_of(plan).astype(np.int16),
        f"somebody {diagnosis} {shown}",
        PersonSpace(nowhere, nowhere, nowhere[0]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_at_zero_years(kind: str, plan: GridPlan) -> None:
    model, known = model_of(kind, plan, planted(plan)[0]), somebody(plan)
    future = model.futures(known, [0.0])[0]
    assert np.array_equal(future.t1w, known.volume("t1w") * model.mask)
    assert not future.log_change.any()
    assert np.nanmax(np.abs(future.regions)) == 0
    assert np.nanmax(np.abs(model.region_changes(known, [0.0]))) == 0


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_planted_rate_is_forecast_and_depends_on_the_diagnosis(kind: str, plan: GridPlan) -> None:
    model = model_of(kind, plan, planted(plan)[0])
    for diagnosis, rate in (("AD", 0.06), ("CN", 0.01)):
        future = model.futures(somebody(plan, diagnosis), [2.0])[0]
        assert np.allclose(future.regions[VENTRICLES], 2 * rate, atol=0.01)
        others = np.delete(future.regions, VENTRICLES)
        assert np.nanmean(np.abs(others)) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_without_change_none_is_forecast(kind: str, plan: GridPlan) -> None:
    model = model_of(kind, plan, planted(plan, effect=0.0, noise=1e-3)[0])
    assert np.nanmax(np.abs(model.region_changes(somebody(plan), [3.0]))) < 3e-3


@pytest.mark.parametrize("kind", LEARNERS)
def test_image_and_volumes_agree(kind: str, plan: GridPlan) -> None:
    model, known = model_of(kind, plan, planted(plan)[0]), somebody(plan)
    future = model.futures(known, [2.0])[0]
    told = model.region_changes(known, [2.0])[0]
    assert np.nanmax(np.abs(told - future.regions)) < 0.02
    assert np.nanmax(np.abs((told - future.regions)[VENTRICLES])) < 0.006
    assert np.array_equal(np.isnan(told), np.isnan(future.regions))
    inside = np.isin(known.labels, VENTRICLES + 1)
    assert future.log_change[inside].mean() > 0.05
    assert np.abs(future.t1w - known.volume("t1w"))[model.mask].max() > 0.01


def test_two_years_are_one_year_twice(plan: GridPlan) -> None:
    model, known = model_of("deformation_rate", plan, planted(plan)[0]), somebody(plan)
    voxels, regions = model.rates(known)  # type: ignore[operator]
    velocity = model._velocity(known, model._as_map(voxels), model._with_voxels(known, regions))
    once, twice = (future.t1w for future in model.futures(known, [1.0, 2.0]))
    again = warp(once, exponential(-velocity)) * model.mask
    moved = np.abs(twice - known.volume("t1w") * model.mask)
    assert moved.mean() > 0
    assert np.abs(again - twice).mean() < 0.35 * moved.mean()


def test_what_the_scan_shows_is_used_where_it_tells_something(plan: GridPlan) -> None:
    lessons, _ = planted(plan, effect=0.0, own=0.03)
    model = model_of("deformation_rate", plan, lessons)
    slow, fast = (
        np.nanmean(model.region_changes(somebody(plan, shown=shown), [1.0])[0, VENTRICLES]) for shown in (-1, 1)
    )
    assert fast - slow > 0.03
    floor = model_of("population_rate", plan, lessons)
    slow, fast = (
        np.nanmean(floor.region_changes(somebody(plan, shown=shown), [1.0])[0, VENTRICLES]) for shown in (-1, 1)
    )
    assert abs(fast - slow) < 1e-6


@pytest.mark.parametrize("kind", ["region_rate", "deformation_rate"])
def test_an_own_past_moves_the_forecast_towards_it(kind: str, plan: GridPlan) -> None:
    lessons, _ = planted(plan, effect=0.0, own=0.03, seed=5, visible=False)
    model = model_of(kind, plan, lessons)
    known = somebody(plan, years=(-2.0, 0.0))
    inside = np.isin(regions_of(plan), VENTRICLES + 1)[model.mask]
    regions = np.zeros(len(all_regions()))
    regions[VENTRICLES] = 0.08
    lessons_module._pasts[known] = Past(0.08 * inside, regions, 2.0)
    alone = model.region_changes(somebody(plan), [1.0])[0, VENTRICLES].mean()
    with_past = model.region_changes(known, [1.0])[0, VENTRICLES].mean()
    assert alone < 0.03
    assert alone + 0.25 * (0.08 - alone) < with_past < 0.08


def test_draws_show_what_is_not_known_and_less_of_it_with_a_past(plan: GridPlan) -> None:
    lessons, _ = planted(plan, effect=0.0, own=0.03, seed=6, visible=False)
    model, one = model_of("deformation_rate", plan, lessons, components=1), somebody(plan)
    two = somebody(plan, years=(-2.0, 0.0))
    lessons_module._pasts[two] = Past(np.zeros(model.num_voxels), np.zeros(len(all_regions())), 2.0)

    def spread(known: KnownVisits, years: float) -> float:
        drawn = [model.region_changes(known, [years], draw)[0, VENTRICLES[0]] for draw in range(40)]
        return float(np.std(drawn))

    assert np.array_equal(model.region_changes(one, [1.0], 3), model.region_changes(one, [1.0], 3), equal_nan=True)
    assert spread(one, 1.0) > 0.005
    assert np.isclose(spread(one, 3.0), 3 * spread(one, 1.0))
    assert spread(two, 1.0) < 0.95 * spread(one, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_as_they_were(kind: str, plan: GridPlan, tmp_path: Path) -> None:
    model, known = model_of(kind, plan, planted(plan)[0]), somebody(plan)
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), plan.key, kind)
    tensors = read_weights(path, plan.key, kind)
    again = model.config.build(plan, CHANNELS, statistics_in(path, tensors), 1)
    fill(path, again, tensors)
    expected = model.region_changes(known, [1.0, 2.0])
    assert np.array_equal(again.eval().region_changes(known, [1.0, 2.0]), expected, equal_nan=True)
    assert read_config(model.config.model_dump(mode="json")) == model.config


def test_an_untrained_network_adds_nothing_to_the_ridge(plan: GridPlan) -> None:
    lessons, _ = planted(plan)
    ridge = model_of("deformation_rate", plan, lessons)
    with torch.random.fork_rng():
        network = model_of("deformation_rate", plan, lessons, predictor="network", widths=(8, 16), stem=1)
    known = somebody(plan)
    assert np.array_equal(ridge.region_changes(known, [1.0]), network.region_changes(known, [1.0]), equal_nan=True)


def test_a_velocity_has_the_wanted_volumes(plan: GridPlan) -> None:
    labels, mask = regions_of(plan), template_on(plan).mask
    wanted = np.where(np.bincount(labels.ravel(), minlength=len(all_regions()) + 1)[1:] > 3, 0.02, np.nan)
    wanted[VENTRICLES] = -0.05
    velocity = velocity_of_rates(np.zeros(plan.shape, np.float32), labels, wanted, mask)
    divergence = sum(np.gradient(velocity[axis], axis=axis) for axis in range(3))
    means = np.array(
        [
            divergence[labels == label].mean()
            for label in range(1, len(all_regions()) + 1)
            if wanted[label - 1] == wanted[label - 1]
        ]
    )
    assert np.abs(means - wanted[~np.isnan(wanted)]).max() < 0.01
