"""The order of volumes is a pure function of the seed and the step."""

from __future__ import annotations

import numpy as np

from gen3d.train.random_numbers import rows_at, seed_of


def test_every_row_comes_once_per_epoch() -> None:
    places = np.concatenate([rows_at(step, 4, 10, seed=3, member=0) for step in range(5)])
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert list(places[:10]) != list(places[10:])


def test_a_batch_does_not_depend_on_what_was_drawn_before() -> None:
    straight = [rows_at(step, 3, 7, 1, 0).tolist() for step in range(20)]
    assert [rows_at(step, 3, 7, 1, 0).tolist() for step in reversed(range(20))] == straight[::-1]
    assert [rows_at(step, 3, 7, 2, 0).tolist() for step in range(20)] != straight
    assert [rows_at(step, 3, 7, 1, 1).tolist() for step in range(20)] != straight


def test_a_batch_larger_than_the_cohort() -> None:
    assert len(rows_at(0, 10, 3, 0, 0)) == 10


def test_seeds_differ_by_every_part_of_the_place() -> None:
    seeds = {seed_of(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
