"""When a map of attention may be believed: all three checks, each of which can fail alone."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.maths.attention_checks import LEAST_PERMUTED, check_maps

TRUE = np.zeros((4, 5))
TRUE[1, 2] = 1.0


def noise(num: int, seed: int = 0, scale: float = 0.05) -> np.ndarray:
    return scale * np.abs(np.random.default_rng(seed).standard_normal((num, 4, 5)))


def test_a_map_that_is_stable_and_agrees_and_is_above_the_null_is_believed() -> None:
    checks = check_maps(TRUE + noise(3), TRUE + noise(3, 1), noise(LEAST_PERMUTED, 2))
    assert checks.believed
    assert checks.reasons == []
    assert checks.p == pytest.approx(1 / 20)
    assert np.argwhere(checks.cells <= 0.05).tolist() == [[1, 2]]


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
    checks = check_maps(maps, ablations, permuted)
    assert not checks.believed
    assert any(sentence in reason for reason in checks.reasons)


def test_p_of_the_strongest_cell_is_that_of_chance() -> None:
    """One map among nineteen of its kind: its strongest cell is the strongest of all in one of twenty draws."""
    found = [check_maps(noise(1, seed), noise(1, seed), noise(19, 1000 + seed)).p for seed in range(400)]
    assert 0.02 < float(np.mean(np.array(found) <= 0.05)) < 0.09
