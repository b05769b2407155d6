"""The residual head as a recipe: what a fold gives it, calibrated answers, and the same head from its state."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.classify.heads.residual_recipe import ResidualRecipe
from gen3d.classify.heads.settings import ResidualSettings
from gen3d.cohort.target import Rows, Target
from gen3d.core.errors import UserError
from gen3d.maths.stats import auroc

SHAPE = (2, 4, 3, 3)
BINARY = Target("diagnosis", "categories", ("CN", "AD"))
QUICK = ResidualSettings(channels=8, blocks=1, steps=30, learning_rate=5e-3, weight_decay=0.1)


def rows(codes: NDArray[np.floating], seed: int) -> Rows:
    """Latents on scales of their own per channel; the code is a blob in the first."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((len(codes), *SHAPE))
    values[:, 0, 1:3, :2, :2] += np.asarray(codes)[:, None, None, None]
    values = values * np.array([100.0, 0.01])[:, None, None, None] + 7
    table = pd.DataFrame({"subject": [f"s{number}" for number in range(len(codes))]})
    return Rows(values.reshape(len(codes), -1), table, (), SHAPE)


def classes(num: int, share: float, seed: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(num) < share).astype(float)


def learned(codes: NDArray[np.float64], target: Target, settings: ResidualSettings = QUICK):
    recipe = ResidualRecipe(settings, device="cpu")
    train = rows(codes, 1)
    reducer = recipe.reduce(train)
    return recipe, reducer, recipe.learn(reducer.apply(train), codes, np.arange(len(codes)), target, 0)


@pytest.fixture(scope="module")
def binary():
    return learned(classes(120, 0.25, 0), BINARY)


def test_channels_are_standardised_by_training_people() -> None:
    train, new = rows(np.zeros(50), 2), rows(np.zeros(3), 3)
    reducer = ResidualRecipe(QUICK).reduce(train)
    values = reducer.apply(train).reshape(50, 2, -1)
    assert values.mean(axis=(0, 2)) == pytest.approx([0, 0], abs=1e-9)
    assert values.std(axis=(0, 2)) == pytest.approx([1, 1])
    assert reducer.apply(new)[1] == pytest.approx(reducer.apply(new.take(np.array([1])))[0])


def test_probabilities_refer_to_the_shares_in_training(binary) -> None:
    _, reducer, found = binary
    share = classes(120, 0.25, 0).mean()
    fresh = classes(400, 0.25, 5)
    outputs = found.outputs(reducer.apply(rows(fresh, 6)))
    assert outputs.sum(axis=1) == pytest.approx(np.ones(400))
    assert outputs[:, 1].mean() == pytest.approx(share, abs=0.07)  # balanced weights alone would give about 0.5
    assert auroc(outputs[:, 1], fresh == 1) > 0.85
    assert found.threshold == pytest.approx(share)
    assert found.settings["steps"] <= 30


def test_its_state_is_plain_text_and_arrays_and_gives_it_back_exactly(binary) -> None:
    recipe, reducer, found = binary
    codes = classes(120, 0.25, 0)
    values = reducer.apply(rows(codes, 1))
    state = found.state()
    weights = state.pop("weights")
    state = json.loads(json.dumps(state)) | {"weights": weights}
    again = pickle.loads(pickle.dumps(recipe))  # as a worker process gets it
    back = again.relearn(values, codes, np.arange(120), BINARY, 0, state)
    assert np.array_equal(back.outputs(values), found.outputs(values))
    assert (back.threshold, back.settings) == (found.threshold, found.settings)
    with pytest.raises(UserError, match="weights of the residual head are missing"):
        recipe.relearn(values, codes, np.arange(120), BINARY, 0, state | {"weights": {}})
    other = ResidualRecipe(ResidualSettings(channels=4), shape=SHAPE)
    with pytest.raises(UserError, match="not those of its settings"):
        other.relearn(values, codes, np.arange(120), BINARY, 0, state)


def test_three_classes_grades_and_numbers() -> None:
    codes = np.random.default_rng(7).integers(0, 3, 90).astype(float)
    fresh = np.random.default_rng(8).integers(0, 3, 150).astype(float)
    for target, outputs in [
        (Target("stage", "categories", ("a", "b", "c")), 3),
        (Target("stage", "ordered", ("a", "b", "c")), 3),
        (Target("stage", "number"), 1),
    ]:
        _, reducer, found = learned(codes, target, ResidualSettings(channels=4, blocks=1, steps=20, learning_rate=5e-3))
        told = found.outputs(reducer.apply(rows(fresh, 9)))
        assert told.shape == (150, outputs)
        expected = told[:, 0] if outputs == 1 else told @ np.arange(3)
        assert np.corrcoef(expected, fresh)[0, 1] > 0.5, target.task
        assert np.isnan(found.threshold)
        if outputs == 3:
            assert told.min() >= 0
            assert told.sum(axis=1) == pytest.approx(np.ones(150))


def test_what_it_cannot_take_is_said() -> None:
    flat = Rows(np.random.default_rng(0).standard_normal((30, 72)), pd.DataFrame({"subject": range(30)}), (), (72,))
    with pytest.raises(UserError, match="needs spatial latents"):
        ResidualRecipe(QUICK).reduce(flat)
    same = rows(np.zeros(30), 1)
    with pytest.raises(UserError, match="identical for every training person"):
        ResidualRecipe(QUICK).reduce(Rows(np.full_like(same.values, 3.0), same.table, (), SHAPE))
    few = np.array([0.0] * 20 + [1.0] * 3)
    with pytest.raises(UserError, match="3 people have diagnosis AD"):
        learned(few, BINARY)


def test_a_channel_that_does_not_vary_is_left_out() -> None:
    train = rows(np.zeros(20), 4)
    values = train.values.reshape(20, 2, -1).copy()
    values[:, 1] = 5.0
    reducer = ResidualRecipe(QUICK).reduce(Rows(values.reshape(20, -1), train.table, (), SHAPE))
    assert (reducer.apply(train).reshape(20, 2, -1)[:, 1] == 0).all()
