"""The residual head: it learns what a linear head cannot, finds nothing in noise, and its losses are those of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from gen3d.classify.heads.residual import TrainedHead, restore_head, train_heads
from gen3d.classify.heads.settings import ResidualSettings
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.maths.stats import auroc, correlation

SHAPE = (2, 5, 4, 4)
BINARY = Target("y", "categories", ("a", "b"))
CLASSES = Target("y", "categories", ("a", "b", "c"))
GRADES = Target("y", "ordered", ("a", "b", "c"))
NUMBER = Target("y", "number")


def settings_of(**changes: Any) -> ResidualSettings:
    small = {"channels": 8, "blocks": 1, "steps": 100, "batch_size": 16, "weight_decay": 0.3, "dropout": 0.3}
    return ResidualSettings.model_validate({**small, **changes})


def folds(num: int, count: int = 2) -> NDArray[np.int64]:
    return np.arange(num) % count


def contrast(codes: NDArray[np.floating], seed: int, strength: float = 3.0) -> NDArray[np.float64]:
    """Noise with a local contrast of the strength code x strength, whose sign is a coin's: its mean is 0 in every class."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((len(codes), *SHAPE))
    pattern = np.stack([np.ones((2, 2)), -np.ones((2, 2))])
    sign = generator.choice([-1.0, 1.0], len(codes))
    latents[:, 0, 1:3, 1:3, 1:3] += (strength * sign * codes)[:, None, None, None] * pattern
    return latents


def classes(num: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).integers(0, 2, num).astype(float)


@pytest.fixture(scope="module")
def learned():
    codes = classes(160, 1)
    return train_heads(contrast(codes, 2), codes, folds(160), BINARY, settings_of(), seed=0)


def area(head: TrainedHead, latents: NDArray[np.float64], codes: NDArray[np.float64]) -> float:
    scores = head.scores(latents)
    return auroc(scores[:, 1] - scores[:, 0], codes == 1)


def test_a_local_pattern_of_either_sign_is_learned_where_a_linear_head_is_blind(learned) -> None:
    train, fresh = classes(160, 1), classes(300, 3)
    components = PCA(20, random_state=0).fit(contrast(train, 2).reshape(160, -1))
    linear = LogisticRegression(class_weight="balanced", max_iter=1000)
    linear.fit(components.transform(contrast(train, 2).reshape(160, -1)), train)
    scores = linear.decision_function(components.transform(contrast(fresh, 4).reshape(300, -1)))
    assert abs(auroc(scores, fresh == 1) - 0.5) < 0.1
    assert area(learned, contrast(fresh, 4), fresh) > 0.9


def test_held_out_scores_are_as_good_as_those_of_fresh_people(learned) -> None:
    codes, fresh = classes(160, 1), classes(300, 3)
    own = auroc(learned.held_out[:, 1] - learned.held_out[:, 0], codes == 1)
    assert own == pytest.approx(area(learned, contrast(fresh, 4), fresh), abs=0.12)


def test_networks_are_put_on_one_zero_and_grades_stay_in_order(learned) -> None:
    for fold in (0, 1):
        assert learned.held_out[folds(160) == fold].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    codes = np.random.default_rng(30).integers(0, 3, 40).astype(float)
    head = train_heads(contrast(codes, 31), codes, folds(40), GRADES, settings_of(steps=4), seed=0)
    assert (head.held_out[:, 0] > head.held_out[:, 1]).all()
    assert head.held_out.mean() == pytest.approx(0, abs=1e-6)


def test_noise_teaches_nothing() -> None:
    codes, fresh = classes(100, 5), classes(400, 6)
    settings = settings_of(steps=60)
    head = train_heads(contrast(codes, 7, 0.0), codes, folds(100), BINARY, settings, seed=0)
    assert abs(area(head, contrast(fresh, 8, 0.0), fresh) - 0.5) < 0.09  # 3 SD of an AUC of 400 people
    assert abs(auroc(head.held_out[:, 1] - head.held_out[:, 0], codes == 1) - 0.5) < 0.18


def test_the_same_seed_gives_the_same_head_and_leaves_other_random_numbers_alone() -> None:
    codes = classes(40, 9)
    latents = contrast(codes, 10)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        train_heads(latents, codes, folds(40), BINARY, settings_of(steps=8), seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(first.scores(latents), again.scores(latents))
    assert np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.scores(latents), other.scores(latents))


def test_grades_share_one_score_and_rise_with_it() -> None:
    codes = np.random.default_rng(11).integers(0, 3, 150).astype(float)
    head = train_heads(contrast(codes, 12, 2.5), codes, folds(150), GRADES, settings_of(), seed=0)
    fresh = np.random.default_rng(13).integers(0, 3, 200).astype(float)
    scores = head.scores(contrast(fresh, 14, 2.5))
    assert scores.shape == (200, 2)
    assert (scores[:, 0] >= scores[:, 1]).all()
    assert correlation(expit(scores).sum(axis=1), fresh, "spearman").value > 0.5


def test_numbers_are_told_in_their_own_units() -> None:
    generator = np.random.default_rng(15)
    ages = generator.normal(70, 8, 160)
    size = np.abs((ages - 70) / 8)
    head = train_heads(contrast(size, 16), ages, folds(160), NUMBER, settings_of(steps=60), seed=0)
    assert head.scores(contrast(size, 17)).mean() == pytest.approx(70, abs=4)
    signal = contrast(np.zeros(160), 18) + ((ages - 70) / 8)[:, None, None, None, None]
    head = train_heads(signal, ages, folds(160), NUMBER, settings_of(steps=60), seed=0)
    fresh = generator.normal(70, 8, 100)
    latents = contrast(np.zeros(100), 19) + ((fresh - 70) / 8)[:, None, None, None, None]
    assert np.abs(head.scores(latents)[:, 0] - fresh).mean() < 3.5  # 6.4 for the mean of everybody


@pytest.mark.parametrize("target", [CLASSES, GRADES])
def test_a_class_of_two_people_gives_finite_weights(target: Target) -> None:
    codes = np.array([0.0] * 14 + [1.0] * 14 + [2.0] * 2)
    head = train_heads(contrast(codes, 20), codes, folds(30), target, settings_of(steps=10), seed=0)
    assert all(np.isfinite(array).all() for array in head.weights().values())
    assert np.isfinite(head.held_out).all()


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (3, 7, 5, 3), (4, 2, 9, 2)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    latents = np.random.default_rng(21).standard_normal((12, *shape))
    head = train_heads(latents, folds(12).astype(float), np.arange(12) // 6, BINARY, settings_of(steps=3), seed=0)
    assert head.scores(latents[:5]).shape == (5, 2)


@pytest.mark.parametrize("target", [BINARY, GRADES, NUMBER])
def test_weights_bring_the_head_back(target: Target) -> None:
    codes = np.random.default_rng(22).integers(0, max(2, len(target.classes)), 24).astype(float)
    latents, settings = contrast(codes, 23), settings_of(steps=4)
    head = train_heads(latents, codes, folds(24), target, settings, seed=0)
    numbers = (SHAPE, head.steps, head.offsets, head.centre, head.spread)
    back = restore_head(head.weights(), target, settings, *numbers)
    assert np.array_equal(back.scores(latents), head.scores(latents))
    with pytest.raises(UserError, match="not those of its settings"):
        restore_head(head.weights(), target, settings.model_copy(update={"channels": 4}), *numbers)


def test_what_cannot_be_learned_is_said() -> None:
    codes = classes(20, 24)
    with pytest.raises(UserError, match="at least two inner folds"):
        train_heads(contrast(codes, 25), codes, np.zeros(20, dtype=np.int64), BINARY, settings_of(), seed=0)
    broken = contrast(codes, 25)
    broken[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        train_heads(broken, codes, folds(20), BINARY, settings_of(steps=3), seed=0)
