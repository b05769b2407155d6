"""Points, pruning, importance and what a study remembers, against functions whose answer is known."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gen3d.core.errors import UserError
from gen3d.sweep.search import JOURNAL, SweepStudy, open_journal
from gen3d.sweep.settings import DONE, FAILED, PRUNED, STOPPED, SweepSettings

SPACE = {
    "train.model.beta": {"low": 0.01, "high": 100.0, "log": True},
    "train.model.levels": {"low": 2, "high": 5},
    "train.channels": [["t1w"], ["t1w", "log_jacobian"]],
}
SQUARES = {"train.a": [1, 2, 3, 4], "train.b": [1, 2, 3, 4]}


def settings(out: Path, **keys: Any) -> SweepSettings:
    return SweepSettings.model_validate({"out": out, "steps": {"train": {}}, "vary": SPACE} | keys)


def work_off(study: SweepStudy, objective: Callable[[Mapping[str, Any]], float]) -> list[Mapping[str, Any]]:
    """Give every pending trial its objective; the values of all."""
    for number in study.prepare():
        attempt = study.begin(number)
        assert attempt is not None
        attempt.end(DONE, 1.0, objective(attempt.values))
    return [trial.values for trial in study.trials()]


def test_a_grid_is_every_combination_once_and_in_order(tmp_path: Path) -> None:
    values = work_off(SweepStudy(settings(tmp_path, vary={"a.x": [1, 2], "b.y": ["u", ["v"], None]})), lambda _: 0.0)
    assert values == [{"a.x": x, "b.y": y} for x in (1, 2) for y in ("u", ["v"], None)]


def test_random_points_fill_the_space_and_more_of_them_begin_with_the_same(tmp_path: Path) -> None:
    points = work_off(SweepStudy(settings(tmp_path, search="random", trials=32)), lambda _: 0.0)
    decades = [math.floor(math.log10(point["train.model.beta"])) for point in points]
    assert {decade: decades.count(decade) for decade in (-2, -1, 0, 1)} == dict.fromkeys((-2, -1, 0, 1), 8)
    levels = [point["train.model.levels"] for point in points]
    assert {level: levels.count(level) for level in (2, 3, 4, 5)} == dict.fromkeys((2, 3, 4, 5), 8)
    assert sum(point["train.channels"] == ["t1w"] for point in points) == 16
    assert all(f"{point['train.model.beta']:.4g}" == f"{point['train.model.beta']:g}" for point in points)
    more = SweepStudy(settings(tmp_path, search="random", trials=34))
    assert more.prepare() == [32, 33]
    assert work_off(more, lambda _: 0.0)[:32] == points
    (tmp_path / "other").mkdir()
    other = SweepStudy(settings(tmp_path / "other", search="random", trials=2, seed=1))
    assert work_off(other, lambda _: 0.0) != points[:2]


def test_tpe_looks_where_it_was_good_and_keeps_to_the_space(tmp_path: Path) -> None:
    def objective(values: Mapping[str, Any]) -> float:
        assert values["train.model.levels"] in (2, 3, 4, 5)
        decade = math.log10(values["train.model.beta"])
        assert -2 <= decade <= 2
        return -((decade - 1) ** 2) - (values["train.channels"] != ["t1w"])

    points = work_off(SweepStudy(settings(tmp_path, search="tpe", trials=40)), objective)
    near = [abs(math.log10(point["train.model.beta"]) - 1) < 0.5 for point in points[15:]]
    assert sum(near) / len(near) > 0.45  # that is a quarter of the space


def test_an_interrupted_trial_keeps_its_number_and_its_values(tmp_path: Path) -> None:
    sweep = settings(tmp_path, search="tpe", trials=9)
    study = SweepStudy(sweep)
    for number in study.prepare()[:8]:
        attempt = study.begin(number)
        assert attempt is not None
        attempt.end(*((DONE, 2.0, float(number)) if number != 7 else (STOPPED, 2.0)))
    again = SweepStudy(sweep)  # what another process finds
    assert again.prepare() == [7, 8]
    before = again.trials()[7]
    assert (before.status, before.objective, before.seconds) == (STOPPED, None, 2.0)
    attempt = again.begin(7)
    assert attempt is not None
    assert attempt.values == before.values
    attempt.end(DONE, 3.0, 0.0)
    assert again.trials()[7].seconds == 5.0
    assert again.begin(7) is None
    with pytest.raises(UserError, match="task=9: the sweep has 9 trials, 0 to 8"):
        again.begin(9)


def test_failed_trials_are_kept_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    study = SweepStudy(settings(tmp_path, vary=SQUARES))
    for number in study.prepare():
        attempt = study.begin(number)
        assert attempt is not None
        if number == 3:
            attempt.end(FAILED, 1.0, error="train: no memory")
        else:
            attempt.end(DONE, 1.0, float(number))
    assert SweepStudy(settings(tmp_path, vary=SQUARES)).prepare() == []
    again = SweepStudy(settings(tmp_path, vary=SQUARES, retry_failed=True))
    assert again.trials()[3].error == "train: no memory"
    assert again.prepare() == [3]
    assert [trial.objective for trial in again.trials()] == [None if n == 3 else float(n) for n in range(16)]
    attempt = again.begin(3)
    assert attempt is not None
    assert attempt.values == {"train.a": 1, "train.b": 4}
    attempt.end(DONE, 1.0, 3.0)
    assert (again.trials()[3].error, again.trials()[3].objective) == ("", 3.0)


def test_another_objective_is_measured_for_all_trials_that_were_done(tmp_path: Path) -> None:
    work_off(SweepStudy(settings(tmp_path, vary=SQUARES)), lambda values: values["train.a"])
    best = SweepStudy(settings(tmp_path, vary=SQUARES)).best()
    assert best is not None
    assert best.number == 12, "the earliest of the highest"
    other = settings(tmp_path, vary=SQUARES, objective={"key": "mse", "direction": "minimise"})
    study = SweepStudy(other)
    assert study.prepare() == list(range(16))
    work_off(study, lambda values: values["train.b"])
    best = SweepStudy(other).best()
    assert best is not None
    assert (best.number, best.objective) == (0, 1.0)
    renamed = settings(tmp_path, vary=SQUARES, objective={"key": "mse", "direction": "minimise", "name": "error"})
    assert SweepStudy(renamed).prepare() == []


def test_trials_without_their_journal_are_not_taken_for_those_of_this_sweep(tmp_path: Path) -> None:
    sweep = settings(tmp_path, vary=SQUARES)
    sweep.folder_of(0).mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds trials but no study\.journal; give another out="):
        SweepStudy(sweep).prepare()


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
def test_the_median_rule_gives_up_what_is_worse_and_nothing_too_early(tmp_path: Path, direction: str) -> None:
    """The term of the log is one where less is better, whatever the objective."""
    log = tmp_path / "log.jsonl"
    prune = {"term": "loss", "after_steps": 20, "after_trials": 3}
    sweep = settings(tmp_path, vary={"train.a": [0, 1, 2, 3]}, prune=prune, objective={"direction": direction})
    study = SweepStudy(sweep)

    def hopeless(curve: dict[int, float]) -> bool:
        entries = [
            {"member": member, "step": s, "loss": loss + member} for s, loss in curve.items() for member in (0, 1)
        ]
        log.write_text("\n".join(json.dumps(entry) for entry in entries) + '\n{"member": 0, "st')
        return attempt.is_hopeless(log)

    for number in study.prepare():
        attempt = study.begin(number)
        assert attempt is not None
        if number < 3:
            assert not hopeless({10: 1.0, 20: 0.5 + number / 10, 30: 0.4}), "before after_trials"
            attempt.end(DONE, 1.0, 1.0)
    assert not hopeless({10: 9.0}), "before after_steps"
    assert not hopeless({10: 9.0, 20: 0.55})
    assert hopeless({10: 9.0, 20: 0.55, 30: 0.55})
    attempt.end(PRUNED, 1.0)
    assert (study.trials()[3].status, study.trials()[3].objective) == (PRUNED, None)
    assert study.prepare() == []


def test_a_term_that_the_log_does_not_have_is_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"member": 0, "step": 1, "loss": 2.0}\n')
    study = SweepStudy(settings(tmp_path, vary=SQUARES, prune={"term": "kl"}))
    attempt = study.begin(study.prepare()[0])
    assert attempt is not None
    with pytest.raises(UserError, match="has no `kl`; its entries have member, step, loss"):
        attempt.is_hopeless(log)


def test_importance_is_that_of_the_key_that_matters(tmp_path: Path) -> None:
    study = SweepStudy(settings(tmp_path, vary=SQUARES))
    work_off(study, lambda values: values["train.b"] ** 2)
    shares = study.importance()
    assert shares["train.b"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    (tmp_path / "null").mkdir()
    null = SweepStudy(settings(tmp_path / "null", vary=SQUARES))
    work_off(null, lambda values: 1.0)
    assert null.importance() == {}


def test_without_optuna_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "gen3d.sweep.search")
    with pytest.raises(UserError, match=r'needs Optuna, which is not installed here: pip install "gen3d\[sweep\]"'):
        import gen3d.sweep.search  # noqa: F401


@pytest.mark.parametrize("left", [1, 20])
def test_a_journal_cut_within_its_last_line_goes_on(left: int, tmp_path: Path) -> None:
    expected = work_off(SweepStudy(settings(tmp_path, vary=SQUARES)), lambda _: 0.0)
    journal = tmp_path / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in (1, 2, len(lines) // 2, len(lines) - 1):
        journal.write_bytes(b"".join(lines[:cut]) + lines[cut][:left])
        for _ in range(2):  # also what is written after the cut can be read
            assert work_off(SweepStudy(settings(tmp_path, vary=SQUARES)), lambda _: 0.0) == expected


def test_the_lock_of_a_journal_leads_to_it_wherever_the_command_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna tells by the journal's age that who locked it is gone; behind a link that leads nowhere it waits for ever."""
    monkeypatch.chdir(tmp_path)
    out = Path("sweeps") / "first"
    out.mkdir(parents=True)
    lock = open_journal(out / JOURNAL)._backend._lock
    assert lock.acquire()
    (link,) = out.glob(f"{JOURNAL}.*")
    assert link.is_symlink()
    assert link.samefile(out / JOURNAL)
    lock.release()
