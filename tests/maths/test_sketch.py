"""Sketches keep inner products on average, with the variance that is stated."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.maths.sketch import Sketch


def test_inner_products_are_kept_on_average_within_the_stated_error() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal((2, 400, 3000))
    second += 0.5 * first
    sketch = Sketch.of(3000, 512)
    rows = [sketch.rows(vectors).astype(np.float64) for vectors in (first, second)]
    error = (rows[0] * rows[1]).sum(axis=1) - (first * second).sum(axis=1)
    bound = np.sqrt(2 * (first**2).sum(axis=1) * (second**2).sum(axis=1) / 512)
    assert abs((error / bound).mean()) < 0.2
    assert 0.4 < (error / bound).std() < 1.2


def test_a_sketch_is_linear_and_the_same_for_everybody() -> None:
    vectors = np.random.default_rng(1).standard_normal((2, 100))
    one, other = Sketch.of(100, 16), Sketch.of(100, 16)
    np.testing.assert_allclose(one(vectors[0] + vectors[1]), other(vectors[0]) + other(vectors[1]), atol=1e-5)
    assert one.rows(vectors).shape == (2, 16)
    assert one(np.eye(100)[3]) == pytest.approx(one.signs[3] * np.eye(16)[one.places[3]])
