"""Samplers against distributions whose best denoiser is known, and against MONAI's schedulers step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from scipy import stats
from torch import Tensor

from gen3d.models.diffusion.noising import PREDICTIONS, Kind, Noising, Prediction, Spacing, clean, noise_of, target
from gen3d.models.diffusion.samplers import SAMPLERS, SPACING, Denoise

MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
FACTOR = torch.tensor([[1.2, 0.0, 0.0], [-0.6, 0.7, 0.0], [0.3, 0.2, 0.25]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T
NUM_SAMPLES = 4000
NUM_STEPS = {"ddpm": 1000, "ddim": 200, "euler": 200, "heun": 40, "dpm_solver": 60}
ODE_SAMPLERS = ("ddim", "euler", "heun", "dpm_solver")

TOLERANCE = {"ddim": 0.03, "euler": 0.03, "heun": 0.015, "dpm_solver": 0.015}
"""Largest error of a sample after NUM_STEPS steps; the narrowest direction of the data has a deviation of 0.22."""

SMALLEST_P = 1e-4
"""Of one Kolmogorov-Smirnov test. Of the 180 here, one fails by chance under at most one of fifty seeds."""

CASES = [
    (name, kind, prediction) for name in SAMPLERS for kind in get_args(Kind) for prediction in sorted(PREDICTIONS[kind])
]


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fresh_from(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(shape, dtype=dtype, generator=generator)


def no_fresh(step: int) -> Tensor:
    raise AssertionError(f"a deterministic sampler asked for fresh noise at step {step}")


def gaussian_denoiser(noising: Noising, prediction: Prediction) -> Denoise:
    """E[x0 | x_t] for x0 of N(MEAN, COVARIANCE), the way a network gives it: through what it predicts."""

    def denoise(x: Tensor, t: float) -> Tensor:
        alpha, sigma = noising.at(t)
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(3))
        x0 = MEAN.to(x) + (x - alpha * MEAN.to(x)) @ gain.T.to(x)
        output = target(prediction, x0, noise_of(x, x0, alpha, sigma), alpha, sigma)
        return clean(prediction, output, x, alpha, sigma)

    return denoise


def check_gaussian(samples: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Mean and covariance within 4.5 standard errors, and a Kolmogorov-Smirnov test of every marginal."""
    count, variances = len(samples), covariance.diagonal()
    assert bool(((samples.mean(0) - mean).abs() < 4.5 * (variances / count).sqrt()).all()), samples.mean(0)
    errors = ((variances[:, None] * variances + covariance.square()) / count).sqrt()
    assert bool(((samples.T.cov() - covariance).abs() < 4.5 * errors).all()), samples.T.cov()
    for axis in range(len(mean)):
        scale = (float(mean[axis]), math.sqrt(float(variances[axis])))
        assert stats.kstest(samples[:, axis].numpy(), "norm", scale).pvalue > SMALLEST_P


@pytest.mark.parametrize(("name", "kind", "prediction"), CASES)
def test_gaussian_data_from_noise(name: str, kind: Kind, prediction: Prediction) -> None:
    noising = Noising(kind)
    first = normals(NUM_SAMPLES, 3, seed=1)
    times = noising.times(NUM_STEPS[name], spacing=SPACING[name])
    fresh = fresh_from(2, (NUM_SAMPLES, 3)) if name == "ddpm" else no_fresh
    samples = SAMPLERS[name](gaussian_denoiser(noising, prediction), first, noising, times, fresh)
    check_gaussian(samples, MEAN, COVARIANCE)


@pytest.mark.parametrize(("name", "kind", "prediction"), CASES)
def test_partly_noised_gaussian_data_come_back(name: str, kind: Kind, prediction: Prediction) -> None:
    noising, start = Noising(kind), 0.35
    data = MEAN + normals(NUM_SAMPLES, 3, seed=3) @ FACTOR.T
    level = torch.full((NUM_SAMPLES,), start, dtype=torch.float64)
    noised = noising.add(data, normals(NUM_SAMPLES, 3, seed=4), level)
    times = noising.times(round(start * NUM_STEPS[name]), start, spacing=SPACING[name])
    fresh = fresh_from(5, (NUM_SAMPLES, 3)) if name == "ddpm" else no_fresh
    samples = SAMPLERS[name](gaussian_denoiser(noising, prediction), noised, noising, times, fresh)
    check_gaussian(samples, MEAN, COVARIANCE)
    # The same people, not only the same population: nearer to their own data than to the next person's.
    own, other = (samples - data).square().mean(), (samples - data.roll(1, 0)).square().mean()
    assert own < 0.8 * other


def exact_flow(noising: Noising, x: Tensor, start: float) -> Tensor:
    """Where the probability flow of the Gaussian takes x: x - alpha mean keeps its number of standard deviations along
    every eigenvector of the covariance."""
    alpha, sigma = noising.at(start)
    variances, axes = torch.linalg.eigh(COVARIANCE)
    kept = (variances / (alpha**2 * variances + sigma**2)).sqrt()
    return MEAN + (x - alpha * MEAN) @ axes @ torch.diag(kept) @ axes.T


@pytest.mark.parametrize("start", [0.3, 1.0])
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", ODE_SAMPLERS)
def test_ode_samplers_follow_the_exact_flow_of_a_gaussian(name: str, kind: Kind, start: float) -> None:
    noising = Noising(kind)
    x = MEAN * noising.at(start)[0] + normals(50, 3, seed=6)
    times = noising.times(NUM_STEPS[name], start, spacing=SPACING[name])
    samples = SAMPLERS[name](gaussian_denoiser(noising, min(PREDICTIONS[kind])), x, noising, times, no_fresh)
    torch.testing.assert_close(samples, exact_flow(noising, x, start), rtol=0, atol=TOLERANCE[name])


@pytest.mark.parametrize("kind", get_args(Kind))
def test_ancestral_sampling_draws_from_the_posterior(kind: Kind) -> None:
    """Everybody starts from one noised volume; the samples are those of x0 given x_t, in closed form."""
    noising, start = Noising(kind), 0.4
    alpha, sigma = noising.at(start)
    x = torch.tensor([0.9, -0.2, 0.8], dtype=torch.float64)
    gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(3))
    mean, covariance = MEAN + gain @ (x - alpha * MEAN), COVARIANCE - alpha * gain @ COVARIANCE
    denoise = gaussian_denoiser(noising, min(PREDICTIONS[kind]))
    fresh = fresh_from(7, (NUM_SAMPLES, 3))
    samples = SAMPLERS["ddpm"](denoise, x.expand(NUM_SAMPLES, 3), noising, noising.times(400, start), fresh)
    check_gaussian(samples, mean, covariance)


def mixture_denoiser(noising: Noising) -> Denoise:
    """E[x0 | x_t] when x0 is N(-1, 0.2^2) or N(1.5, 0.3^2) with probabilities 0.4 and 0.6, in each of two dimensions."""
    shares, means, deviations = (
        torch.tensor(values, dtype=torch.float64) for values in ((0.4, 0.6), (-1.0, 1.5), (0.2, 0.3))
    )

    def denoise(x: Tensor, t: float) -> Tensor:
        alpha, sigma = noising.at(t)
        variances = alpha**2 * deviations.square() + sigma**2
        away = x[..., None] - alpha * means
        belief = torch.softmax(shares.log() - 0.5 * variances.log() - 0.5 * away.square() / variances, dim=-1)
        return (belief * (means + alpha * deviations.square() / variances * away)).sum(-1)

    return denoise


def error_on_mixture(name: str, kind: Kind, num_steps: int, exact: Tensor, x: Tensor) -> float:
    """Root mean square distance to the exact samples, with the number of evaluations a sampler promises."""
    noising, evaluations = Noising(kind), 0
    best = mixture_denoiser(noising)

    def counted(x: Tensor, t: float) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return best(x, t)

    samples = SAMPLERS[name](counted, x, noising, noising.times(num_steps, spacing="straight"), no_fresh)
    assert evaluations == (2 * num_steps - 1 if name == "heun" else num_steps)
    return float((samples - exact).square().mean().sqrt())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_second_order_samplers_are_nearer_for_the_same_number_of_evaluations(kind: Kind) -> None:
    noising, x = Noising(kind), normals(300, 2, seed=8)
    exact = SAMPLERS["heun"](mixture_denoiser(noising), x, noising, noising.times(400, spacing="straight"), no_fresh)
    assert float(exact.min()) < -0.8
    assert float(exact.max()) > 1.3
    errors = {
        (name, budget): error_on_mixture(name, kind, budget // 2 if name == "heun" else budget, exact, x)
        for name in ODE_SAMPLERS
        for budget in (32, 128)
    }
    for budget in (32, 128):
        for first_order, second_order in itertools.product(("ddim", "euler"), ("dpm_solver", "heun")):
            assert errors[second_order, budget] < 0.4 * errors[first_order, budget]


@pytest.mark.parametrize(
    ("name", "lowest", "highest"), [("ddim", 0.9, 1.1), ("heun", 1.9, 2.1), ("dpm_solver", 1.6, 2.1)]
)
def test_order_of_convergence(name: str, lowest: float, highest: float) -> None:
    """Four times the steps: a quarter of the error at first order, a sixteenth at second. The multistep solver has
    N^-2 log N: near both ends the steps of the log signal-to-noise ratio shrink slower than 1 / N. With a table, the last
    step begins at its first level however many steps there are, and so only flow converges without end."""
    noising, x = Noising("flow"), normals(100, 3, seed=8)
    exact, denoise = exact_flow(noising, x, 1.0), gaussian_denoiser(noising, "flow")
    errors = []
    for num_steps in (160, 640):
        samples = SAMPLERS[name](denoise, x, noising, noising.times(num_steps), no_fresh)
        errors.append(float((samples - exact).square().mean().sqrt()))
    assert lowest < math.log(errors[0] / errors[1], 4) < highest, errors


def test_euler_is_ddim() -> None:
    x = normals(20, 2, seed=9)
    for kind in get_args(Kind):
        noising, denoise = Noising(kind), mixture_denoiser(Noising(kind))
        pair = [SAMPLERS[name](denoise, x, noising, noising.times(7), no_fresh) for name in ("euler", "ddim")]
        torch.testing.assert_close(*pair)


def test_spacing_along_the_straight_path_is_better_where_time_is_not_straight() -> None:
    x = normals(300, 2, seed=10)
    for kind in get_args(Kind):
        noising, denoise = Noising(kind), mixture_denoiser(Noising(kind))
        exact = SAMPLERS["heun"](denoise, x, noising, noising.times(400, spacing="straight"), no_fresh)
        errors = {}
        for spacing in get_args(Spacing):
            samples = SAMPLERS["dpm_solver"](denoise, x, noising, noising.times(25, spacing=spacing), no_fresh)
            errors[spacing] = float((samples - exact).square().mean().sqrt())
        if kind == "flow":
            assert errors["straight"] == errors["time"]
        else:
            assert errors["straight"] < 0.8 * errors["time"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_only_ddpm_takes_fresh_noise_and_none_for_the_last_step(kind: Kind) -> None:
    noising, x = Noising(kind), normals(4, 2, seed=11)
    denoise, times = mixture_denoiser(noising), noising.times(6)
    asked: list[int] = []

    def fresh(step: int) -> Tensor:
        asked.append(step)
        return normals(4, 2, seed=100 + step)

    for name in ODE_SAMPLERS:
        again = [SAMPLERS[name](denoise, x, noising, times, no_fresh) for _ in range(2)]
        assert torch.equal(*again)
    first = SAMPLERS["ddpm"](denoise, x, noising, times, fresh)
    assert asked == [0, 1, 2, 3, 4]
    assert torch.equal(SAMPLERS["ddpm"](denoise, x, noising, times, fresh), first)
    other = SAMPLERS["ddpm"](denoise, x, noising, times, lambda step: normals(4, 2, seed=200 + step))
    assert not torch.allclose(other, first, atol=1e-3)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_items_do_not_depend_on_their_batch_and_float32_stays(name: str, kind: Kind) -> None:
    noising, x = Noising(kind), normals(3, 2, 2, 2, seed=12).float()
    denoise, times = mixture_denoiser(noising), noising.times(3)

    def rounded(x: Tensor, t: float) -> Tensor:
        return denoise(x.double(), t).float()

    together = SAMPLERS[name](rounded, x, noising, times, lambda step: normals(3, 2, 2, 2, seed=step).float())
    alone = SAMPLERS[name](rounded, x[1:2], noising, times, lambda step: normals(3, 2, 2, 2, seed=step).float()[1:2])
    assert together.dtype == torch.float32
    assert torch.equal(together[1:2], alone)
    assert bool(torch.isfinite(together).all())


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_one_step_is_the_estimate_of_the_clean_data(name: str, kind: Kind) -> None:
    noising, x = Noising(kind), normals(5, 2, seed=13)
    denoise = mixture_denoiser(noising)
    one = SAMPLERS[name](denoise, x, noising, noising.times(1), no_fresh)
    torch.testing.assert_close(one, denoise(x, 1.0))


PREDICTED: tuple[Prediction, ...] = ("epsilon", "v")
MONAI_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
MONAI_SCHEDULE = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}


def network(prediction: Prediction, noising: Noising) -> Callable[[Tensor, float], Tensor]:
    """What a network that predicts `prediction` would give for the mixture."""
    best = mixture_denoiser(noising)

    def output(x: Tensor, t: float) -> Tensor:
        alpha, sigma = noising.at(t)
        x0 = best(x, t)
        return target(prediction, x0, noise_of(x, x0, alpha, sigma), alpha, sigma)

    return output


def denoiser_of(prediction: Prediction, noising: Noising) -> Denoise:
    output = network(prediction, noising)
    return lambda x, t: clean(prediction, output(x, t), x, *noising.at(t))


@pytest.mark.parametrize("prediction", PREDICTED)
def test_ddpm_is_that_of_monai(prediction: Prediction) -> None:
    noising, x = Noising("scaled_linear"), normals(6, 2, seed=14)
    scheduler = DDPMScheduler(1000, prediction_type=MONAI_PREDICTIONS[prediction], **MONAI_SCHEDULE)
    generator, theirs = torch.Generator().manual_seed(15), x
    for k in range(999, -1, -1):
        theirs, _ = scheduler.step(network(prediction, noising)(theirs, (k + 1) / 1000), k, theirs, generator=generator)
    ours = SAMPLERS["ddpm"](denoiser_of(prediction, noising), x, noising, noising.times(1000), fresh_from(15, (6, 2)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)  # their table is float32


@pytest.mark.parametrize("prediction", PREDICTED)
def test_ddim_is_that_of_monai(prediction: Prediction) -> None:
    noising, x = Noising("scaled_linear"), normals(6, 2, seed=16)
    scheduler = DDIMScheduler(1000, prediction_type=MONAI_PREDICTIONS[prediction], **MONAI_SCHEDULE)
    scheduler.set_timesteps(50)
    theirs = x
    for k in range(999, -1, -20):  # their own list begins at 999 too, but its spacing is not that of its steps
        theirs, _ = scheduler.step(network(prediction, noising)(theirs, (k + 1) / 1000), k, theirs)
    ours = SAMPLERS["ddim"](denoiser_of(prediction, noising), x, noising, noising.times(50), no_fresh)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_euler_of_flow_is_the_rectified_flow_of_monai() -> None:
    noising, x = Noising("flow"), normals(6, 2, seed=17)
    scheduler = RFlowScheduler(1000)
    scheduler.set_timesteps(25)
    following = [*scheduler.timesteps[1:].tolist(), 0]
    theirs = x
    for k, next_k in zip(scheduler.timesteps.tolist(), following, strict=True):
        velocity = -network("flow", noising)(theirs, k / 1000)  # theirs points from the noise to the data
        theirs, _ = scheduler.step(velocity, k, theirs, next_k)
    ours = SAMPLERS["euler"](denoiser_of("flow", noising), x, noising, noising.times(25), no_fresh)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
