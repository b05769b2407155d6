"""p among controls: a rank where no control is outlying, the tail of the others where one is, with both error rates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from gen3d.maths.reference import ReferenceScores, most_outlying
from gen3d.maths.significance import conformal_p

LEVEL = 0.05 + 1e-9
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
LOG_SCORES: dict[str, Draw] = {
    "log-normal": lambda generator, num: generator.normal(size=num),
    "Pareto": lambda generator, num: generator.exponential(size=num),
    "exponential": lambda generator, num: np.log(generator.exponential(size=num)),
    "log of Student's t, 3 degrees": lambda generator, num: generator.standard_t(3, size=num),
}


def quantiles(num: int) -> NDArray[np.float64]:
    """Log-normal scores of `num` controls without chance."""
    return np.exp(norm.ppf((np.arange(1, num + 1) - 0.375) / (num + 0.25)))


def test_without_an_outlying_control_p_is_the_rank() -> None:
    controls, asked = quantiles(35), np.linspace(0, 30, 50)
    reference = ReferenceScores.of(controls)
    assert reference.num_outlying == 0
    np.testing.assert_array_equal(reference.p(asked), conformal_p(controls, asked))
    assert reference.p([1e9])[0] == reference.smallest_p == 1 / 36


def test_one_control_of_31_ml_does_not_hide_the_patients() -> None:
    """34 controls up to 3.8 ml and one of 31 ml: a cluster of 8 ml is found, and one of 3 ml is not."""
    controls = np.append(quantiles(34) * 3.8 / quantiles(34).max(), 31.0)
    assert (conformal_p(controls, [8.0, 20.0]) > 0.05).all(), "by rank nobody below 31 ml is found"
    reference = ReferenceScores.of(controls)
    assert (reference.num_outlying, reference.next_score) == (1, pytest.approx(3.8))
    assert (reference.p([8.0, 20.0]) < 0.05).all()
    assert reference.p([3.0])[0] > 0.05
    assert np.all(np.diff(reference.p(np.linspace(0.01, 40, 400))) <= 1e-12)


def test_two_alike_outlying_controls_do_not_hide_each_other() -> None:
    controls = np.append(quantiles(33), [60.0, 65.0])
    assert list(ReferenceScores.of(controls).outlying) == [65.0, 60.0]


@pytest.mark.parametrize(("scores", "why"), [([], "none"), ([1.0, 2, 90], "3"), ([0.0] * 30 + [5.0], "mostly zero")])
def test_too_few_scores_for_a_tail_leave_ranks(scores: list[float], why: str) -> None:
    reference = ReferenceScores.of(scores)
    assert reference.num_outlying == 0, why
    assert reference.p([1e6])[0] == 1 / (len(scores) + 1)


def test_equal_scores_and_missing_ones_leave_ranks() -> None:
    reference = ReferenceScores.of([2.0] * 20 + [np.nan])
    assert reference.p([2.0, 3.0, np.nan])[:2].tolist() == [1.0, 1 / 21]
    assert np.isnan(reference.p([np.nan])[0])


def rates(draw: Draw, num: int, num_outliers: int, repeats: int = 400) -> tuple[float, float]:
    """Share of healthy people with p of at most 5 %, and the power for the one in a thousand highest score."""
    generator = np.random.default_rng(num + num_outliers)
    far, seen, found = float(np.quantile(draw(generator, 100_000), 0.999)), 0.0, 0
    for _ in range(repeats):
        logs = draw(generator, num)
        logs[:num_outliers] = logs[num_outliers:].max() + np.log(8.0)
        p = ReferenceScores.of(np.exp(logs)).p(np.exp([*draw(generator, 60), far]))
        seen += float((p[:-1] <= LEVEL).mean()) / repeats
        found += int(p[-1] <= LEVEL)
    return seen, found / repeats


@pytest.mark.parametrize("shape", LOG_SCORES)
@pytest.mark.parametrize("num", [30, 100])
def test_false_positives_stay_near_five_percent_whatever_the_tail(shape: str, num: int) -> None:
    for num_outliers in range(3):
        false_positives, power = rates(LOG_SCORES[shape], num, num_outliers, repeats=150)
        assert false_positives <= 0.085, f"{num_outliers} outliers"
        assert power >= 0.5, f"{num_outliers} outliers"


def test_with_ten_controls_no_rank_is_below_one_in_eleven() -> None:
    assert ReferenceScores.of(quantiles(10)).p([1e9])[0] == pytest.approx(1 / 11)
    assert [most_outlying(num) for num in (8, 29, 30, 44, 45, 1000)] == [1, 1, 2, 2, 3, 3]
