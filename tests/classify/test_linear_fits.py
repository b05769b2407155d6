"""Batched linear fits against scikit-learn's, one problem at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from gen3d.classify.heads.linear_fits import balanced_weights, logistic_path, ridge_path


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_logistic_is_scikit_learns_with_balanced_classes(penalty: float) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((90, 6)) * np.array([3, 2, 1, 1, 0.5, 0.1])
    positive = values[:, 0] + generator.logistic(size=90) > 1.5
    weights = balanced_weights(positive[None], np.ones(90, dtype=bool))
    coefficients, intercepts = logistic_path(values, positive[None], weights, [penalty])
    model = LogisticRegression(C=1 / (90 * penalty), class_weight="balanced", tol=1e-10, max_iter=5000)
    model.fit(values, positive)
    np.testing.assert_allclose(coefficients[0, 0], model.coef_[0], atol=1e-5)
    np.testing.assert_allclose(intercepts[0, 0], model.intercept_[0], atol=1e-5)


def test_a_row_of_weight_zero_is_not_there_and_the_path_does_not_depend_on_where_it_starts() -> None:
    generator = np.random.default_rng(1)
    values = generator.standard_normal((60, 8))
    positive = values[:, :1].T + 0.5 * generator.standard_normal((3, 60)) > 0
    used = np.stack([np.arange(60) % 3 != fold for fold in range(3)])
    together = logistic_path(values, positive, balanced_weights(positive, used), [10, 0.1, 0.001])
    for fold in range(3):
        rows = used[fold]
        alone = positive[fold : fold + 1, rows]
        coefficients, intercepts = logistic_path(
            values[rows], alone, balanced_weights(alone, np.ones_like(alone)), [0.001]
        )
        np.testing.assert_allclose(together[0][2, fold], coefficients[0, 0], atol=1e-6)
        np.testing.assert_allclose(together[1][2, fold], intercepts[0, 0], atol=1e-6)


def test_classes_that_separate_and_values_of_any_size_converge() -> None:
    values = np.concatenate([np.full((10, 3), -1e4), np.full((15, 3), 1e4)])
    positive = (values[:, 0] > 0)[None]
    coefficients, intercepts = logistic_path(
        values, positive, balanced_weights(positive, np.ones_like(positive)), [1, 1e-6]
    )
    assert np.isfinite(coefficients).all()
    assert np.isfinite(intercepts).all()
    assert ((values @ coefficients[1, 0] + intercepts[1, 0] > 0) == positive[0]).all()


def test_ridge_is_scikit_learns() -> None:
    generator = np.random.default_rng(2)
    for shape in ((50, 5), (20, 40)):
        values = generator.standard_normal(shape)
        numbers = 70 + values[:, 0] + generator.standard_normal(shape[0])
        coefficients, intercepts = ridge_path(values, numbers, [0.1, 0.001])
        for row, penalty in enumerate((0.1, 0.001)):
            model = Ridge(alpha=penalty * shape[0], solver="svd").fit(values, numbers)
            np.testing.assert_allclose(coefficients[row], model.coef_, atol=1e-9)
            np.testing.assert_allclose(intercepts[row], model.intercept_, atol=1e-9)
