"""The forward process and the predictions against closed forms and against MONAI's schedulers."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from scipy import stats
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.models.diffusion import noising as diffusion
from gen3d.models.diffusion.noising import PREDICTIONS, Kind, Noising, Prediction

KINDS: tuple[Kind, ...] = get_args(Kind)
TABLE_KINDS = tuple(kind for kind in KINDS if kind != "flow")
PAIRS = [(kind, prediction) for kind in KINDS for prediction in sorted(PREDICTIONS[kind])]
LEVELS = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
MONAI_SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"schedule": "linear_beta"},
    "scaled_linear": {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195},
    "cosine": {"schedule": "cosine"},
}


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_the_table_is_that_of_monai(kind: Kind) -> None:
    theirs = DDPMScheduler(1000, **MONAI_SCHEDULES[kind]).alphas_cumprod
    # MONAI computes in float32: a cumulative product of 1000 factors.
    torch.testing.assert_close(Noising(kind).alpha(LEVELS).square(), theirs, rtol=1e-4, atol=1e-7)


def test_the_table_of_ho_et_al_to_double_precision() -> None:
    betas = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]
    remaining = 1.0
    for k, beta in enumerate(betas):
        remaining *= 1 - beta
        if k in (0, 1, 10, 500, 999):
            alpha, sigma = Noising("linear").at((k + 1) / 1000)
            assert alpha == pytest.approx(math.sqrt(remaining), rel=1e-12)
            assert sigma == pytest.approx(math.sqrt(1 - remaining), rel=1e-10)


def test_betas_can_be_given() -> None:
    noising = Noising("scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert noising.at(0.001)[1] ** 2 == pytest.approx(0.00085)
    assert noising.at(1.0)[0] ** 2 == pytest.approx(0.0047, abs=2e-4)  # Stable Diffusion's last level
    only_first = Noising("linear", beta_start=1e-3)
    assert only_first.betas == (1e-3, 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_between_clean_data_and_noise(kind: Kind) -> None:
    noising = Noising(kind)
    times = torch.linspace(0, 1, 4321, dtype=torch.float64)
    alpha, sigma = noising.alpha(times), noising.sigma(times)
    assert alpha.dtype == sigma.dtype == torch.float32
    assert (float(alpha[0]), float(sigma[0])) == (1.0, 0.0)
    assert bool((alpha.diff() <= 0).all() and (sigma.diff() >= 0).all())
    assert float(alpha[-1]) < 0.013
    assert float(sigma[-1]) > 0.9999
    if kind == "flow":
        torch.testing.assert_close(alpha + sigma, torch.ones_like(alpha))
    else:
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(alpha))


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_log_snr_is_linear_between_levels(kind: Kind) -> None:
    def log_snr(time: float) -> float:
        alpha, sigma = Noising(kind).at(time)
        return 2 * math.log(alpha / sigma)

    for k in (0, 17, 500, 997):
        quarter = log_snr((k + 1.25) / 1000)
        assert quarter == pytest.approx(0.75 * log_snr((k + 1) / 1000) + 0.25 * log_snr((k + 2) / 1000), rel=1e-9)
    assert Noising(kind).at(0.0003)[1] ** 2 == pytest.approx(0.3 * Noising(kind).at(0.001)[1] ** 2, rel=1e-9)


def test_position_is_the_level_of_the_table() -> None:
    times = torch.tensor([0.0, 0.0005, 0.001, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Noising("linear").position(times), torch.tensor([0.0, 0.0, 0.0, 499.0, 999.0]))
    torch.testing.assert_close(Noising("flow").position(times), torch.tensor([0.0, 0.5, 1.0, 500.0, 1000.0]))


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_noise_is_added_as_monai_adds_it(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 2, 2, 2, generator=generator)
    steps = torch.tensor([0, 10, 500, 999])
    theirs = DDPMScheduler(1000, **MONAI_SCHEDULES[kind]).add_noise(x0, noise, steps)
    torch.testing.assert_close(Noising(kind).add(x0, noise, (steps + 1) / 1000), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_times_fall_evenly_from_the_start_to_clean_data(kind: Kind) -> None:
    times = Noising(kind).times(4, start=0.3)
    assert times.dtype == torch.float64
    assert times.tolist() == pytest.approx([0.3, 0.225, 0.15, 0.075, 0.0], abs=1e-15)
    assert times[0] == 0.3
    positions = Noising("linear").position(Noising("linear").times(1000)[:-1])
    torch.testing.assert_close(positions, torch.arange(999, -1, -1).float())


@pytest.mark.parametrize("num_steps", [1, 2, 7, 25, 1000])
@pytest.mark.parametrize("start", [0.0004, 0.0012, 0.35, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_straight_times_are_even_along_the_straight_path(kind: Kind, start: float, num_steps: int) -> None:
    noising = Noising(kind)
    times = noising.times(num_steps, start, spacing="straight")
    assert len(times) == num_steps + 1
    assert (float(times[0]), float(times[-1])) == (start, 0.0)
    assert bool((times.diff() < 0).all())
    levels = [noising.at(time) for time in times.tolist()]
    places = torch.tensor([sigma / (alpha + sigma) for alpha, sigma in levels], dtype=torch.float64)
    inner = places[:-1].diff()
    torch.testing.assert_close(inner, inner[:1].expand_as(inner) if num_steps > 1 else inner, rtol=1e-6, atol=1e-12)
    if kind != "flow" and start > 0.001:
        assert float(times[-2]) >= 0.001 * (1 - 1e-9)  # the first level that a network of these kinds knows
    elif num_steps > 1:
        assert float(places.diff()[-1]) == pytest.approx(float(inner[0]), rel=1e-6)


def test_a_shift_spends_more_steps_at_high_noise() -> None:
    noising = Noising("flow")
    # Esser et al. 2024, equation 23, for evenly spaced u: 1, 3/4, 1/2, 1/4, 0 and a shift of 3.
    assert noising.times(4, shift=3.0).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    partial = noising.times(10, start=0.6, shift=3.0)
    assert (float(partial[0]), float(partial[-1])) == (0.6, 0.0)
    assert bool((partial.diff() < 0).all())
    assert -float(partial.diff()[0]) < -float(partial.diff()[-1])
    unshifted = torch.arange(10, -1, -1, dtype=torch.float64) / 30  # the start 0.6 is the shifted 1/3
    torch.testing.assert_close(partial, 3 * unshifted / (1 + 2 * unshifted))


@pytest.mark.parametrize(("kind", "prediction"), PAIRS)
def test_target_and_clean_and_noise_are_inverses(kind: Kind, prediction: Prediction) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 5, 2, 3, 3, 3, dtype=torch.float64, generator=generator)
    noising, times = Noising(kind), torch.tensor([0.001, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    alpha, sigma = noising.alpha(times), noising.sigma(times)
    x = noising.add(x0, noise, times)
    output = diffusion.target(prediction, x0, noise, alpha, sigma)
    torch.testing.assert_close(diffusion.clean(prediction, output, x, alpha, sigma), x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(diffusion.noise_of(x, x0, alpha, sigma), noise, rtol=0, atol=1e-5)
    one_level = diffusion.target(prediction, x0[2:3], noise[2:3], float(alpha[2]), float(sigma[2]))
    torch.testing.assert_close(one_level, output[2:3])


def test_v_is_that_of_monai() -> None:
    generator = torch.Generator().manual_seed(2)
    x0, noise = torch.randn(2, 3, 2, 2, 2, 2, generator=generator)
    steps, noising = torch.tensor([3, 400, 999]), Noising("linear")
    times = (steps + 1) / 1000
    theirs = DDPMScheduler(1000).get_velocity(x0, noise, steps)
    ours = diffusion.target("v", x0, noise, noising.alpha(times), noising.sigma(times))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_drawn_times_have_the_distributions_they_are_named_after() -> None:
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(3))
    drawn: dict[str, Tensor] = {
        "uniform": diffusion.draw_times("uniform", noise),
        "logit_normal": diffusion.draw_times("logit_normal", noise, location=0.5, scale=1.5),
        "shifted": diffusion.draw_times("shifted", noise, shift=3.0),
    }
    for times in drawn.values():
        assert times.dtype == torch.float32
        assert bool(((times > 0) & (times <= 1)).all())

    def uniform_of_shifted(t: Any) -> Any:
        return t / (3 - 2 * t)

    # With a p threshold of 0.001 and a fixed seed.
    assert stats.kstest(drawn["uniform"].numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(torch.logit(drawn["logit_normal"].double()).numpy(), "norm", (0.5, 1.5)).pvalue > 1e-3
    assert stats.kstest(uniform_of_shifted(drawn["shifted"].double().numpy()), "uniform").pvalue > 1e-3
    far = diffusion.draw_times("uniform", torch.tensor([-9.0, 9.0]))
    assert float(far[0]) > 0
    assert float(far[1]) == 1


def test_min_snr_weights_are_those_of_hang_et_al() -> None:
    snr = torch.tensor([1e-4, 1.0, 5.0, 20.0, 1e6], dtype=torch.float64)
    alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    capped = snr.clamp(max=5.0)
    torch.testing.assert_close(diffusion.snr_weight("epsilon", alpha, sigma, 5.0), capped / snr)
    torch.testing.assert_close(diffusion.snr_weight("v", alpha, sigma, 5.0), capped / (snr + 1))
    torch.testing.assert_close(diffusion.snr_weight("flow", alpha, sigma, 5.0), torch.ones_like(snr))
    ends = torch.tensor([0.0, 1.0])
    for prediction in get_args(Prediction):
        assert bool(torch.isfinite(diffusion.snr_weight(prediction, ends, 1 - ends, 5.0)).all())


def test_shapes_alone_are_enough_on_the_meta_device() -> None:
    times = torch.empty(3, device="meta")
    x0 = torch.empty(3, 2, 4, 4, 4, device="meta")
    for kind in KINDS:
        assert Noising(kind).add(x0, x0, times).shape == x0.shape


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match="unknown"):
        Noising("sigmoid")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="betas"):
        Noising("flow", beta_start=0.1)
    with pytest.raises(UserError, match="beta_start <= beta_end"):
        Noising("linear", beta_start=0.1, beta_end=0.01)
    with pytest.raises(UserError, match="beta_start"):
        Noising("linear", beta_start=0.0)
    for steps, start in ((0, 1.0), (10, 0.0), (10, 1.1), (10, float("nan"))):
        with pytest.raises(UserError, match="steps from time"):
            Noising("flow").times(steps, start)
    for kind, shift in (("flow", 0.0), ("flow", float("nan")), ("linear", 3.0)):
        with pytest.raises(UserError, match="shift"):
            Noising(kind).times(10, shift=shift)  # type: ignore[arg-type]
