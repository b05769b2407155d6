"""When a map of attention may be believed: all three checks, each of which can fail alone."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.maths.attention_checks import LEAST_PERMUTED, Worth, check_maps, worth_of

TRUE = np.zeros((4, 5))
TRUE[1, 2] = 1.0


def noise(num: int, seed: int = 0, scale: float = 0.05) -> np.ndarray:
    return scale * np.abs(np.random.default_rng(seed).standard_normal((num, 4, 5)))


def worth(num: int, *told: int) -> Worth:
    """Of tokens of which some tell something."""
    p = np.full(num, 0.6)
    p[list(told)] = 0.001
    return Worth(np.zeros(num), p)


GENES, REGIONS = worth(4, 1), worth(5, 2, 3)


def test_a_map_that_is_stable_and_agrees_and_is_above_the_null_is_believed() -> None:
    checks = check_maps(TRUE + noise(3), TRUE + noise(3, 1), noise(LEAST_PERMUTED, 2), GENES, REGIONS)
    assert checks.believed
    assert checks.reasons == []
    assert checks.p == pytest.approx(1 / 20)
    assert np.argwhere(checks.cells <= 0.05).tolist() == [[1, 2]]
    assert checks.strongest == (1, 2)


@pytest.mark.parametrize(
    ("maps", "ablations", "permuted", "sentence"),
    [
        (np.stack([np.roll(TRUE, k) for k in range(3)]), TRUE + noise(3), noise(19), "members disagree"),
        (TRUE + noise(3), np.roll(TRUE, 7) + noise(3), noise(19), "another story"),
        (TRUE + noise(3), TRUE + noise(3), noise(18), "compared with 18 members with permuted labels, and 19 are"),
        (TRUE + noise(3), TRUE + noise(3), 2 * TRUE + noise(19), "maps as strong"),
        (np.zeros((3, 4, 5)), TRUE + noise(3), noise(19), "unknown"),
    ],
)
def test_each_check_can_fail(maps: np.ndarray, ablations: np.ndarray, permuted: np.ndarray, sentence: str) -> None:
    checks = check_maps(maps, ablations, permuted, GENES, REGIONS)
    assert not checks.believed
    assert any(sentence in reason for reason in checks.reasons)


@pytest.mark.parametrize(
    ("genes", "regions", "sentence"),
    [
        (worth(4), REGIONS, "no genetic token tells anything of people whom the networks never saw (least p of 4 0.6"),
        (GENES, worth(5), "no image token tells anything"),
    ],
)
def test_a_pair_with_a_token_that_tells_nothing_is_no_result(genes: Worth, regions: Worth, sentence: str) -> None:
    """A region that matters is read beside whichever gene: all members agree on it, and permuted labels lose it."""
    checks = check_maps(TRUE + noise(3), TRUE + noise(3, 1), noise(LEAST_PERMUTED, 2), genes, regions)
    assert checks.p == pytest.approx(1 / 20)
    assert not checks.believed
    assert any(sentence in reason for reason in checks.reasons)


def test_the_strongest_pair_is_one_that_counts() -> None:
    louder = TRUE.copy()
    louder[0, 2] = 3.0
    checks = check_maps(louder + noise(3), louder + noise(3, 1), noise(LEAST_PERMUTED, 2), GENES, REGIONS)
    assert checks.strongest == (1, 2)
    assert checks.believed
    assert np.argwhere(checks.counted).tolist() == [[1, 2], [1, 3]]


def test_what_a_token_tells_is_tested_over_people_and_corrected_for_the_number_of_tokens() -> None:
    generator = np.random.default_rng(0)
    added = generator.standard_normal((50, 6))
    added[:, 4] += 1.0
    found = worth_of(added)
    assert found.told.tolist() == [False, False, False, False, True, False]
    assert found.gain[4] == pytest.approx(added[:, 4].mean())
    chance = [worth_of(generator.standard_normal((50, 6))).told.any() for _ in range(400)]
    assert 0.02 < np.mean(chance) < 0.09, "some of six in one of twenty"
    assert worth_of(np.zeros((9, 2))).p.tolist() == [1.0, 1.0]
    assert worth_of(np.ones((1, 2))).p.tolist() == [1.0, 1.0]


def test_p_of_the_strongest_cell_is_that_of_chance() -> None:
    """One map among nineteen of its kind: its strongest cell is the strongest of all in one of twenty draws."""
    found = [
        check_maps(noise(1, seed), noise(1, seed), noise(19, 1000 + seed), worth(4), worth(5)).p for seed in range(400)
    ]
    assert 0.02 < float(np.mean(np.array(found) <= 0.05)) < 0.09


def test_maps_that_are_opposites_are_not_reliable() -> None:
    checks = check_maps(np.stack([TRUE, -TRUE]), TRUE + noise(2), noise(19), GENES, REGIONS)
    assert checks.reliability == pytest.approx(-1.0)
    assert not checks.believed


def test_the_mean_of_more_maps_is_more_reliable() -> None:
    """Maps that are half signal: two are not enough, five are; where there is no signal no number is."""
    generator = np.random.default_rng(5)
    signal, spread = generator.standard_normal((20, 30)), 1.2

    def reliability(num: int, size: float) -> float:
        maps = size * signal + spread * generator.standard_normal((num, 20, 30))
        return check_maps(maps, maps, np.abs(maps), worth(20), worth(30)).reliability

    assert reliability(2, 1.0) < 0.7 < reliability(5, 1.0)
    again = [size * signal + spread * generator.standard_normal((2, 5, 20, 30)).mean(axis=1) for size in (1.0, 0.0)]
    correlations = [np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] for maps in again]
    assert reliability(5, 1.0) == pytest.approx(correlations[0], abs=0.06)
    assert abs(reliability(5, 0.0)) < 0.3 > abs(correlations[1])
