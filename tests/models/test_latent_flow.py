"""The latent flow: nothing changes before training or at 0 years, a change is learned from years, and draws differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gen3d.cohort.coding import Categorical, Coding, Numeric
from gen3d.cohort.regions import all_regions, regions_on
from gen3d.core.errors import UserError
from gen3d.imaging.template import template_on
from gen3d.models.base import Statistics
from gen3d.models.forecast import latent_flow
from gen3d.models.forecast.base import KnownVisits
from gen3d.models.forecast.latent_flow import LatentFlow, LatentFlowConfig
from gen3d.models.forecast.latent_flow_task import LatentFlowTask
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.task import Batch
from tests.visit_cohort import coarse_plan

CHANNELS = ("t1w", "log_jacobian")


PLAN = coarse_plan(8.0, CHANNELS)
CODING = Coding((Numeric("age_years", 70.0, 10.0, 50.0, 90.0), Categorical("diagnosis", ("AD", "CN"))))
AUTOENCODER = VAEConfig(latent="spatial", base_channels=8, max_channels=8, levels=1, latent_channels=2)
LATENT = (2, 4, 4, 4)


def config_of(**changes: Any) -> LatentFlowConfig:
    sizes = {"base_channels": 16, "max_channels": 16, "head_channels": 16, "levels": 1, "attention_levels": 0}
    fixed = {"autoencoder": AUTOENCODER, "coding": CODING.to_dict(), "latent_shape": LATENT, "longest_years": 5.0}
    return LatentFlowConfig.model_validate({"conditions": CODING.names, **sizes, **fixed, **changes})


def model_of(**changes: Any) -> LatentFlow:
    torch.manual_seed(0)
    mask = template_on(PLAN).mask
    statistics = Statistics(np.array([0.7, 0.0], np.float32), np.array([0.2, 0.1], np.float32), mask)
    return config_of(**changes).build(PLAN, CHANNELS, statistics, 1)


def whole_model(**changes: Any) -> LatentFlow:
    """One whose latents are those of its autoencoder on the plan's grid."""
    torch.manual_seed(0)
    shape = tuple(
        AUTOENCODER.build(PLAN, CHANNELS, model_statistics(), 1).encode(torch.zeros((1, 2, *PLAN.shape))).shape[1:]
    )
    model = model_of(latent_shape=shape, **changes)
    wake(model.autoencoder)
    return model


def model_statistics() -> Statistics:
    return Statistics(np.zeros(2, np.float32), np.ones(2, np.float32), template_on(PLAN).mask)


def known_person(num_visits: int = 1, **changes: Any) -> KnownVisits:
    rng = np.random.default_rng(3)
    template = template_on(PLAN)
    noise = rng.normal(0, 0.05, (num_visits, 2, *PLAN.shape)).astype(np.float32)
    noise[:, 0] += template.t1w
    years = tuple(float(visit - num_visits + 1) for visit in range(num_visits))
    values: dict[str, Any] = {
        "volumes": noise * template.mask,
        "channels": CHANNELS,
        "years": years,
        "columns": {"age_years": 72.0, "diagnosis": "AD"},
        "labels": regions_on(PLAN).copy(),
        "key": "sub-a_ses-1",
    }
    return KnownVisits(**{**values, **changes})


def awake(model: LatentFlow) -> LatentFlow:
    """The network's last layer is no longer zero, as after training."""
    wake(model.denoiser)
    return model


def wake(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim == 5 and not parameter.any():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("bridge_noise", [0.0, 1.0])
def test_before_training_nothing_changes(bridge_noise: float) -> None:
    known = known_person(2)
    (future,) = whole_model(past=1, bridge_noise=bridge_noise).futures(known, [3.0])
    assert np.array_equal(future.t1w, known.volume("t1w"))
    assert not future.log_change.any()
    voxels = np.bincount(known.labels.ravel(), minlength=len(all_regions()) + 1)[1:]
    assert np.array_equal(future.regions[voxels > 0], np.zeros((voxels > 0).sum()))
    assert np.isnan(future.regions[voxels == 0]).all()


@pytest.mark.parametrize("draw", [None, 0])
def test_at_zero_years_nothing_changes_whatever_was_learned(draw: int | None) -> None:
    known, model = known_person(), awake(whole_model())
    now, later = model.futures(known, [0.0, 2.0], draw)
    assert np.array_equal(now.t1w, known.volume("t1w"))
    assert not now.log_change.any()
    assert np.nanmax(np.abs(now.regions)) == 0
    assert np.nanmax(np.abs(later.regions)) > 0
    assert later.log_change.any()
    assert not later.t1w[~template_on(PLAN).mask].any()


def test_a_forecast_depends_on_its_own_horizon_key_and_draw_only() -> None:
    known, model = known_person(), awake(whole_model())
    one, two = model.futures(known, [1.0, 2.0], 3)
    (again,) = model.futures(known, [2.0], 3)
    assert np.array_equal(two.t1w, again.t1w)
    assert not np.array_equal(one.t1w, two.t1w)
    assert not np.array_equal(two.t1w, model.futures(known, [2.0], 4)[0].t1w)
    other = model.futures(known_person(key="sub-b_ses-1"), [2.0], 3)[0]
    assert not np.array_equal(two.t1w, other.t1w)
    assert np.array_equal(
        model.region_changes(known, [1.0, 2.0], 3), np.stack([one.regions, two.regions]), equal_nan=True
    )


def test_a_region_changes_by_the_volume_that_is_decoded() -> None:
    model, known = whole_model(), known_person()
    labels = regions_on(PLAN)
    place = int(np.bincount(labels.ravel())[1:].argmax())
    grown = np.zeros((2, *PLAN.shape), np.float32)
    grown[1] = -0.2 * (labels == place + 1)
    model.volume_gain.fill_(2.0)
    found = model._of_regions(known, grown / 2)
    np.testing.assert_allclose(found[place], -0.2, atol=1e-6)
    assert np.nanmax(np.abs(np.delete(found, place))) == 0


def test_an_absent_visit_is_as_zeros_and_an_earlier_one_counts() -> None:
    model = awake(model_of(past=1))
    generator = torch.Generator().manual_seed(2)
    start, past = torch.randn((1, *LATENT), generator=generator), torch.randn((1, 1, *LATENT), generator=generator)
    years = torch.tensor([2.0])
    absent, there = torch.tensor([[torch.nan, 0.1, 1.0]]), torch.tensor([[-1.0, 0.1, 1.0]])
    without = model.integrate(start, torch.zeros_like(past), years, absent)
    assert torch.equal(without, model.integrate(start, past, years, absent))
    assert not torch.equal(without, model.integrate(start, past, years, there))


def test_earlier_visits_reach_the_network_nearest_first_and_only_where_they_are_apart() -> None:
    model = whole_model(past=2, min_years=0.5)
    known = known_person(4, years=(-3.0, -1.0, -0.2, 0.0))
    latents = model._latents(known.volumes)
    past, row = model._context(latents, known)
    assert torch.equal(past[0], latents[[1, 0]])
    np.testing.assert_allclose(row[0, :2], [-1.0, -3.0])
    np.testing.assert_allclose(row[0, 2:], [0.2, 0.0], atol=1e-6)
    alone = model._context(latents[-1:], known_person(1, columns={"age_years": None}))[1]
    assert torch.isnan(alone).all()


def test_a_code_that_it_never_saw_is_refused() -> None:
    with pytest.raises(UserError, match="diagnosis=PD: the model knows AD, CN"):
        whole_model().futures(known_person(columns={"diagnosis": "PD"}), [1.0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_channels": 16, "base_channels": 32}, "max_channels must be at least base_channels"),
        ({"conditions": ("sex", "sex")}, "twice"),
        ({"head_channels": 3, "attention_levels": 1}, "head_channels=3 does not divide a width of 16"),
        (
            {"base_channels": 8},
            "base_channels=8 would normalise every channel on its own, and with it times and conditions away",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config_of(**changes)
    with pytest.raises(UserError, match="levels=3 is too many for latents"):
        config_of(levels=3).check(PLAN, 10)


# What it learns: people whose latents move by `rate` per year along one pattern, twice as fast with code 1.
RATES = (0.3, 0.6)
PATTERN = torch.randn(LATENT, generator=torch.Generator().manual_seed(7))


def people(num: int, seed: int, spread: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of scans and of later ones [n, C, ...], and rows of conditions with the years in front [n, 4]."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((num, *LATENT), generator=generator)
    years = 1 + 3 * torch.rand(num, generator=generator)
    code = torch.arange(num) % 2
    rate = torch.tensor(RATES)[code] + spread * torch.randn(num, generator=generator)
    change = (years * rate).view(-1, 1, 1, 1, 1) * PATTERN
    conditions = torch.stack([years, torch.full((num,), torch.nan), torch.zeros(num), code.float()], dim=1)
    return start, start + change, conditions


def trained(
    model: LatentFlow, start: Tensor, later: Tensor, conditions: Tensor, steps: int = 150
) -> list[dict[str, float]]:
    task = LatentFlowTask(model, model.config, steps)
    model.change_std.copy_((later - start).square().mean((0, 2, 3, 4)).sqrt())
    model.typical_years.fill_(float(conditions[:, 0].square().mean().sqrt()))
    optimiser = torch.optim.AdamW(task.weights("model").parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        rows = torch.arange(16 * step, 16 * (step + 1)) % len(start)
        volumes = torch.cat([start[rows], later[rows], torch.zeros_like(start[rows])], dim=1)
        batch = Batch(volumes, ("",) * 16, step, tuple(1000 * step + i for i in range(16)), conditions[rows])
        terms = task(batch, "model")
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    return losses


def skill(model: LatentFlow, start: Tensor, later: Tensor, conditions: Tensor) -> float:
    """1 - squared error / that of copying the scan."""
    past = torch.zeros((len(start), 1, *LATENT))
    expected = model.integrate(start, past, conditions[:, 0], conditions[:, 1:])
    return float(1 - (expected - (later - start)).square().mean() / (later - start).square().mean())


@pytest.fixture(scope="module")
def learned() -> tuple[LatentFlow, list[dict[str, float]]]:
    model = model_of(past=1, steps=4)
    return model, trained(model, *people(64, 0))


def test_a_change_is_learned_and_beats_copying_in_new_people(
    learned: tuple[LatentFlow, list[dict[str, float]]],
) -> None:
    model, losses = learned
    last = np.mean([terms["loss"] for terms in losses[-20:]])
    assert last < 0.2 * np.mean([terms["copy_forward"] for terms in losses[-20:]])
    new = people(32, 99)
    assert skill(model_of(past=1), *new) == 0
    assert skill(model, *new) > 0.8
    heun = model_of(past=1, steps=4, solver="heun")
    heun.load_state_dict(model.state_dict())
    assert skill(heun, *new) > 0.8


def test_who_changes_faster_is_forecast_to(learned: tuple[LatentFlow, list[dict[str, float]]]) -> None:
    start, _, conditions = people(16, 5)
    slopes = []
    for code in (0.0, 1.0):
        conditions[:, 0], conditions[:, 3] = 2.0, code
        change = learned[0].integrate(start, torch.zeros((16, 1, *LATENT)), conditions[:, 0], conditions[:, 1:])
        slopes.append(float((change * PATTERN).sum((1, 2, 3, 4)).mean() / PATTERN.square().sum() / 2.0))
    np.testing.assert_allclose(slopes, RATES, rtol=0.25)


@pytest.mark.parametrize(("permuted", "least", "most"), [(False, 0.5, 1.0), (True, -0.5, 0.15)])
def test_years_of_other_people_destroy_it(permuted: bool, least: float, most: float) -> None:
    """Courses there and back, from places that do not tell the direction: only the years do."""

    def courses(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        start, later, conditions = people(num, seed)
        shift = 4 * torch.randn(num, generator=torch.Generator().manual_seed(seed + 1)).view(-1, 1, 1, 1, 1) * PATTERN
        back = (torch.arange(num) % 4 < 2).view(-1, 1, 1, 1, 1)
        start, later = torch.where(back, later, start) + shift, torch.where(back, start, later) + shift
        conditions[:, 0] *= torch.where(back.flatten(), -1.0, 1.0)
        return start, later, conditions

    model = model_of(past=1, steps=4)
    start, later, conditions = courses(128, 0)
    if permuted:
        conditions[:, 0] = conditions[torch.randperm(128, generator=torch.Generator().manual_seed(1)), 0]
    trained(model, start, later, conditions, steps=120)
    assert least < skill(model, *courses(64, 99)) < most


def test_nobody_is_forecast_to_change_where_nobody_did() -> None:
    start, _, conditions = people(256, 0)
    model = model_of(past=1, steps=4)
    noise = 0.1 * torch.randn(start.shape, generator=torch.Generator().manual_seed(4))
    trained(model, start, start + noise, conditions, steps=80)
    new, _, rows = people(32, 99)
    change = model.integrate(new, torch.zeros((32, 1, *LATENT)), rows[:, 0], rows[:, 1:])
    assert float(change.mean(0).square().mean().sqrt()) < 0.3 * 0.1


def test_draws_that_are_made_together_are_those_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_person(key="sub-b_ses-1")
    person = whole_model().of(known)
    together = person.drawn_region_changes([1.0, 2.0], 3)
    alone = np.stack([person.region_changes([1.0, 2.0], draw) for draw in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert np.nanstd(alone, axis=0).max() > 1e-4
    for draw, futures in enumerate(person.drawn_futures([1.0, 2.0], 3)):
        for one, other in zip(futures, person.futures([1.0, 2.0], draw), strict=True):
            np.testing.assert_allclose(one.t1w, other.t1w, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(latent_flow, "LATENT_VOXELS_AT_ONCE", 1)
    np.testing.assert_array_equal(whole_model().of(known).drawn_region_changes([1.0, 2.0], 3), alone)


@pytest.mark.parametrize("field", ["bridge_noise"])
def test_without_noise_there_are_no_draws(field: str) -> None:
    assert model_of().draws_samples
    assert not model_of(**{field: 0.0}).draws_samples
