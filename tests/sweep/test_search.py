"""Points, pruning and importance against functions whose answer is known."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.sweep.search import ask, corners, grid, importance, spread, worse_than_median
from gen3d.sweep.settings import Prune, Range, Vary
from gen3d.sweep.trial import DONE, FAILED, RUNNING, Trial

SPACE: Vary = {
    "train.model.beta": Range(low=0.01, high=100.0, log=True),
    "train.model.levels": Range(low=2, high=5),
    "train.channels": (["t1w"], ["t1w", "log_jacobian"]),
}


def trial(number: int, values: dict[str, object], objective: float | None = None, status: str = DONE) -> Trial:
    return Trial(number, Path("nowhere"), dict(values), status=status, objective=objective)


def test_a_grid_is_every_combination_once() -> None:
    points = grid({"a.x": (1, 2), "b.y": ("u", "v", "w")})
    assert len(points) == 6
    assert points[:3] == [{"a.x": 1, "b.y": "u"}, {"a.x": 1, "b.y": "v"}, {"a.x": 1, "b.y": "w"}]
    assert len({tuple(point.values()) for point in points}) == 6


def test_corners_hold_every_end_and_every_value() -> None:
    points = corners(SPACE)
    assert {point["train.model.beta"] for point in points} == {0.01, 100.0}
    assert {point["train.model.levels"] for point in points} == {2, 5}
    assert [points[0]["train.channels"], points[-1]["train.channels"]] == [["t1w"], ["t1w", "log_jacobian"]]


def test_spread_points_fill_the_space_and_do_not_depend_on_history() -> None:
    points = [spread(SPACE, number, seed=3) for number in range(32)]
    assert points == [spread(SPACE, number, seed=3) for number in range(32)]
    assert points != [spread(SPACE, number, seed=4) for number in range(32)]
    decades = [math.floor(math.log10(point["train.model.beta"])) for point in points]
    assert {decade: decades.count(decade) for decade in (-2, -1, 0, 1)} == dict.fromkeys((-2, -1, 0, 1), 8)
    levels = [point["train.model.levels"] for point in points]
    assert {level: levels.count(level) for level in (2, 3, 4, 5)} == dict.fromkeys((2, 3, 4, 5), 8)
    assert sum(point["train.channels"] == ["t1w"] for point in points) == 16


def test_tpe_looks_where_it_was_good_and_keeps_to_the_space() -> None:
    near: list[bool] = []
    for seed in range(3):
        history: list[Trial] = []
        for number in range(40):
            values = ask(SPACE, history, number, seed, sign=-1.0)
            decade = math.log10(values["train.model.beta"])
            assert -2 <= decade <= 2
            assert values["train.model.levels"] in (2, 3, 4, 5)
            if number % 10 == 3:
                history.append(trial(number, values, status=FAILED))
                continue
            history.append(trial(number, values, -((decade - 1) ** 2) - (values["train.channels"] != ["t1w"])))
            if number >= 20:
                near.append(abs(decade - 1) < 0.5)
    assert sum(near) / len(near) > 0.4  # that is a quarter of the space


def test_tpe_counts_trials_at_work_and_is_the_same_when_asked_again() -> None:
    done = [trial(number, spread(SPACE, number, 0), float(number)) for number in range(8)]
    at_work = [*done, trial(8, spread(SPACE, 8, 0), status=RUNNING)]
    assert ask(SPACE, at_work, 9, 0, 1.0) == ask(SPACE, at_work, 9, 0, 1.0)


def test_the_median_rule_gives_up_what_is_worse_and_nothing_too_early() -> None:
    prune = Prune(after_steps=20, after_trials=3)
    others = [{10: 1.0, 20: 0.5 + offset, 30: 0.4} for offset in (0.0, 0.1, 0.2)]
    assert worse_than_median(prune, {10: 1.0, 20: 0.7}, others)
    assert not worse_than_median(prune, {10: 1.0, 20: 0.5}, others)
    assert not worse_than_median(prune, {10: 9.0}, others), "before after_steps"
    assert not worse_than_median(prune, {10: 1.0, 20: 0.7}, others[:2]), "before after_trials"


def test_importance_is_that_of_the_key_that_matters() -> None:
    points = grid({"train.a": (1, 2, 3, 4), "train.b": (1, 2, 3, 4)})
    vary: Vary = {"train.a": (1, 2, 3, 4), "train.b": (1, 2, 3, 4)}
    trials = [trial(n, point, float(point["train.b"] ** 2)) for n, point in enumerate(points)]
    shares = importance(vary, trials, 1.0)
    assert shares["train.b"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(vary, [trial(n, point, 1.0) for n, point in enumerate(points)], 1.0) == {}
    assert importance({"train.a": (1, 2, 3, 4)}, trials, 1.0) == {}


def test_without_optuna_grids_and_spread_points_work_and_tpe_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert len(grid({"a.x": (1, 2)})) == 2
    assert spread(SPACE, 0, 0)["train.model.levels"] in (2, 3, 4, 5)
    trials = [trial(n, {"a.x": n, "a.y": n}, float(n)) for n in range(6)]
    assert importance({"a.x": tuple(range(6)), "a.y": tuple(range(6))}, trials, 1.0) == {}
    with pytest.raises(UserError, match=r'pip install "gen3d\[sweep\]"'):
        ask(SPACE, [], 0, 0, 1.0)
    with pytest.raises(UserError, match=r"prune needs Optuna"):
        worse_than_median(Prune(), {1: 1.0}, [{1: 1.0}])
