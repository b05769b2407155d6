"""`gen3d evaluate forecasts=` on forecasts whose errors are known: none, those of copying, noise, intervals of known coverage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.evaluate.evaluate import Evaluate
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.evaluate.forecasts.changes import Expected, at_time
from gen3d.evaluate.forecasts.measures import (
    PerPerson,
    Resampling,
    crps_of_intervals,
    in_one_direction,
    noise_of,
    right_sign,
)
from gen3d.evaluate.forecasts.tables import by_horizon
from gen3d.models.run_folder import SUBJECTS
from tests.forecast_folder import (
    LEVEL_OF,
    REGIONS,
    Guess,
    People,
    by_diagnosis,
    noisy,
    nothing,
    write_guesses,
    write_visits,
)
from tests.world import write_record

DRAW = Resampling(400)


@pytest.fixture(scope="module")
def people() -> People:
    return People()


@pytest.fixture(scope="module")
def cohort(people: People, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_visits(tmp_path_factory.mktemp("visits") / "cohort", people)


@pytest.fixture(scope="module")
def tables_only(people: People, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_visits(tmp_path_factory.mktemp("tables") / "cohort", people, volumes=False)


def evaluate(folder: Path, cohort: Path, *forecasts: Path, **keys: Any) -> dict[str, Any]:
    chosen = {"forecasts": list(forecasts), "truth": cohort, "out": folder, "bootstrap": 200, "workers": 1} | keys
    Evaluate.model_validate(chosen).run()
    return load_object(folder / "metrics.json")


def row(
    metrics: dict[str, Any], model: str, by: str = "all", group: str = "all", table: str = "skill"
) -> dict[str, Any]:
    found = [row for row in metrics["tables"][table] if (row["model"], row["by"], row["group"]) == (model, by, group)]
    assert len(found) == 1, found
    return dict(found[0])


@pytest.fixture(scope="module")
def known(people: People, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An oracle beside both floors, and a forecast that is equal to copying."""
    root = tmp_path_factory.mktemp("known")
    floors: dict[str, Guess] = {"copy_forward": nothing, "population_rate": by_diagnosis(people)}
    oracle = write_guesses(root / "oracle", cohort, people, {"oracle": people.change, **floors}, images="oracle")
    copying = write_guesses(root / "copying", cohort, people, {"copying": nothing, **floors}, images="copy")
    return evaluate(root / "evaluation", cohort, oracle, copying)


def test_an_oracle_has_skill_1_against_both_floors(known: dict[str, Any]) -> None:
    for by, group in (
        ("all", "all"),
        ("horizon", "up to 1.5 years"),
        ("horizon", "2.5 to 4 years"),
        ("diagnosis", "AD"),
    ):
        of = row(known, "oracle", by, group)
        assert of["region_error"] == pytest.approx(0, abs=1e-5)
        assert of["region_skill_copy"] == pytest.approx(1, abs=1e-4)
        assert of["region_skill_population"] == pytest.approx(1, abs=1e-3)
        assert of["image_skill_copy"] == of["image_skill_copy_low"] == 1
        assert of["slope"] == pytest.approx(1, abs=1e-3)
        assert of["sign_accuracy"] == 1
        assert (of["rank_1"], of["difference_r"]) == (1, pytest.approx(1))
        assert of["num"] == (12 if group == "AD" else 24)
    regions = {r["region"]: r for r in known["tables"]["skill_by_region"] if (r["model"], r["by"]) == ("oracle", "all")}
    assert regions["hippocampus (both)"]["spearman"] > 0.999
    assert regions["hippocampus (both)"]["true_percent"] < -3


def test_what_equals_copying_has_skill_exactly_0(known: dict[str, Any]) -> None:
    for model in ("copying", "copy_forward"):
        rows = [r for r in known["tables"]["skill"] if r["model"] == model and r["forecasts"] == "copying"]
        assert len(rows) == 5
        for of in rows:
            assert of["region_skill_copy"] == of["region_skill_copy_low"] == of["region_skill_copy_high"] == 0
            assert of["image_skill_copy"] == of["image_skill_copy_low"] == of["image_skill_copy_high"] == 0
            assert (of["ssim"], of["psnr"], of["rank_1"]) == (of["ssim_copy"], of["psnr_copy"], of["rank_1_copy"])
            assert of["sign_accuracy"] == 0.5
            assert of["slope"] is None
            assert of["crps"] == pytest.approx(of["region_error"])


def test_the_verdict_names_both_floors_and_people(known: dict[str, Any]) -> None:
    first = known["summary"][0]
    better = "oracle: oracle forecasts the change of regions better than copying the scan forward and the rate of the population:"
    assert first.startswith(better)
    assert "100 [100, 100] % against copying the scan forward" in first
    assert "in 24 people with 48 later visits." in first
    copying = next(text for text in known["summary"] if text.startswith("copying: copying"))
    assert "is worse than the rate of the population at the change of regions" in copying
    assert any("known exactly" in text for text in known["summary"])


def test_the_second_folder_is_compared_with_the_first(known: dict[str, Any]) -> None:
    (difference,) = known["tables"]["skill_differences"]
    assert (difference["forecasts"], difference["over"], difference["num"]) == ("copying", "oracle", 24)
    assert difference["region_skill"] < -100


def test_a_simulated_cohort_can_be_measured_as_real_people_are(people: People, tmp_path: Path) -> None:
    """Regions whose intensity alone changes have no change that can be measured, so the oracle is no oracle there."""
    few = People(num=4)
    cohort = write_visits(tmp_path / "cohort", few)
    floors: dict[str, Guess] = {"copy_forward": nothing, "population_rate": by_diagnosis(few)}
    guesses = write_guesses(tmp_path / "oracle", cohort, few, {"oracle": few.change, **floors})
    exact, measured = (evaluate(tmp_path / f"measured_{how}", cohort, guesses, measured=how) for how in (False, True))
    assert row(exact, "oracle")["region_error"] == pytest.approx(0, abs=1e-5)
    assert row(measured, "oracle")["region_error"] > 0.005
    assert any("measured by registering" in text for text in measured["summary"])
    with pytest.raises(ValueError, match="measured= is about later visits, and there are none with maps="):
        Evaluate.model_validate({"maps": [guesses], "truth": cohort, "out": tmp_path / "o", "measured": True})


def test_noise_has_negative_skill_and_no_rank(people: People, tables_only: Path, tmp_path: Path) -> None:
    def noise(subject: str, years: float) -> np.ndarray:
        generator = np.random.default_rng([people.subjects.index(subject), round(100 * years)])
        return 0.5 * generator.standard_normal(len(REGIONS))

    folder = write_guesses(tmp_path / "noise", tables_only, people, {"noise": noise})
    metrics = evaluate(tmp_path / "evaluation", tables_only, folder)
    of = row(metrics, "noise")
    assert of["region_skill_copy_high"] < 0
    assert of["region_skill_population"] is None if "region_skill_population" in of else True
    assert "is worse than copying the scan forward" in metrics["summary"][0]
    assert "has no population rate" in metrics["summary"][0]
    regions = [r for r in metrics["tables"]["skill_by_region"] if r["model"] == "noise" and r["by"] == "all"]
    assert all(r["spearman_low"] < 0.3 for r in regions)


def test_coverage_of_gaussian_intervals_is_what_they_promise(tmp_path: Path) -> None:
    crowd = People(200, seed=3)
    cohort = write_visits(tmp_path / "cohort", crowd, visits=(0.0, 1.0), volumes=False)
    sd = 0.02
    honest = write_guesses(tmp_path / "honest", cohort, crowd, {"honest": noisy(crowd, sd)}, (1.0,), sd)
    bold = write_guesses(tmp_path / "bold", cohort, crowd, {"bold": noisy(crowd, 2 * sd, 1)}, (1.0,), sd)
    metrics = evaluate(tmp_path / "evaluation", cohort, honest, bold)
    for of in metrics["tables"]["coverage"]:
        if of["model"] not in ("honest", "bold") or of["by"] != "all":
            continue
        share = of["level"] / 100 if of["model"] == "honest" else 2 * norm.cdf(LEVEL_OF[of["level"]] / 2) - 1
        assert of["coverage_low"] - 0.02 < share < of["coverage_high"] + 0.02
        assert of["coverage"] == pytest.approx(share, abs=0.05)
        assert of["width"] == pytest.approx(2 * sd * LEVEL_OF[of["level"]], rel=1e-3)
        assert of["num"] == 200
    crps = [row(metrics, model)["crps"] for model in ("honest", "bold")]
    assert crps[0] < crps[1]
    assert metrics["summary"][1].startswith("honest: Intervals and the true changes: those of 50 % hold ")
    assert metrics["summary"][1].endswith("; the last are 6.6 % of volume wide in the mean.")


def test_permuted_people_lose_rank_slope_and_skill(people: People, tables_only: Path, tmp_path: Path) -> None:
    turned = dict(zip(people.subjects, np.random.default_rng(5).permutation(people.subjects), strict=True))

    def other(subject: str, years: float) -> np.ndarray:
        return people.change(str(turned[subject]), years)

    def named(metrics: dict[str, Any], model: str) -> dict[str, Any]:
        rows = metrics["tables"]["skill_by_region"]
        return next(dict(r) for r in rows if (r["model"], r["by"], r["region"]) == (model, "all", "hippocampus (both)"))

    folder = write_guesses(tmp_path / "other", tables_only, people, {"other": other})
    own = write_guesses(tmp_path / "own", tables_only, people, {"own": people.change})
    metrics = evaluate(tmp_path / "evaluation", tables_only, own, folder)
    assert named(metrics, "own")["spearman"] > 0.999
    assert named(metrics, "other")["spearman_low"] < 0 < named(metrics, "other")["spearman_high"]
    assert abs(named(metrics, "other")["slope"]) < 0.5
    assert named(metrics, "other")["skill_copy"] < 0.5


def test_where_nothing_changes_every_forecast_of_change_is_an_error(tmp_path: Path) -> None:
    still = People(12, progression=1e-6)
    cohort = write_visits(tmp_path / "cohort", still, volumes=False)
    changing = People(12)
    folder = write_guesses(tmp_path / "f", cohort, still, {"restless": changing.change, "copy_forward": nothing})
    metrics = evaluate(tmp_path / "evaluation", cohort, folder)
    of = row(metrics, "restless")
    assert of["region_skill_copy"] is None
    assert of["region_error"] == pytest.approx(of["forecast_size"], rel=1e-3)
    assert of["region_error"] > 0.01
    assert metrics["summary"][0].startswith("Nothing changed in the regions of 12 people")


def test_direction_is_kept_by_the_truth_and_not_by_a_forecast_that_returns(
    people: People, tables_only: Path, tmp_path: Path
) -> None:
    def returning(subject: str, years: float) -> np.ndarray:
        return people.change(subject, 1.0 if years < 2 else 0.5)

    guesses: dict[str, Guess] = {"own": people.change, "returning": returning}
    metrics = evaluate(
        tmp_path / "evaluation", tables_only, write_guesses(tmp_path / "f", tables_only, people, guesses)
    )
    found = {(r["model"], r["region"]): r for r in metrics["tables"]["direction"]}
    assert found["own", "hippocampus (both)"]["share"] == found["own", "lateral ventricle (both)"]["share"] == 1
    assert found["returning", "hippocampus (both)"]["share"] == 0
    assert found["own", "hippocampus (both)"]["num"] >= 20


def test_forecasts_from_the_second_visit_know_two(people: People, tables_only: Path, tmp_path: Path) -> None:
    folder = write_guesses(tmp_path / "f", tables_only, people, {"own": people.change}, (1.0, 2.0), start=2)
    metrics = evaluate(tmp_path / "evaluation", tables_only, folder)
    assert row(metrics, "own")["num_pairs"] == 24
    changes = pd.read_csv(tmp_path / "evaluation" / "changes.tsv", sep="\t")
    assert set(changes["known"]) == {2}
    assert set(changes["years"]) == {2.0}


def test_real_visits_are_measured_by_registration(tmp_path: Path) -> None:
    few = People(3)
    cohort = write_visits(tmp_path / "cohort", few, verb="prepare", visits=(0.0, 1.0))
    folder = write_guesses(tmp_path / "f", cohort, few, {"own": few.change, "copy_forward": nothing}, (1.0,))
    metrics = evaluate(tmp_path / "evaluation", cohort, folder)
    assert any("measured by registering" in text for text in metrics["summary"])
    changes = pd.read_csv(tmp_path / "evaluation" / "changes.tsv", sep="\t")
    assert np.isfinite(changes["true"]).all()
    assert changes["true"].abs().max() < 0.5


@pytest.mark.parametrize(
    ("years", "visit", "expected"),
    [
        ((1.0, 3.0), 0.5, -0.02), ((1.0, 3.0), 1.0, -0.04), ((1.0, 3.0), 2.0, -0.06), ((1.0, 3.0), 3.05, -0.081),
        ((1.0, 3.0), 3.2, np.nan), ((0.0, 1.0), 0.5, -0.02), ((2.0,), 1.0, -0.02),
    ],
)  # fmt: skip
def test_changes_are_interpolated_in_time(years: tuple[float, ...], visit: float, expected: float) -> None:
    of = {0.0: 0.0, 1.0: -0.04, 2.0: -0.04, 3.0: -0.08}
    half = {0.0: 0.01, 1.0: 0.02, 2.0: 0.02, 3.0: 0.06}
    values = np.array([[[of[t], of[t] - half[t], of[t] + half[t]]] for t in years])
    found = at_time(np.array(years), values, visit, 0.1)[0]
    assert found[0] == pytest.approx(expected, nan_ok=True)
    if np.isfinite(expected):
        width = {0.5: 0.03 if years[0] == 0 else 0.04, 1.0: 0.04, 2.0: 0.08, 3.05: 0.12}[visit]
        assert found[2] - found[1] == pytest.approx(width)


def test_intervals_of_a_mean_cover_it_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    hits = [
        interval.low <= 0.5 <= interval.high
        for interval in (
            DRAW.skill(0.5 * generator.exponential(1, 40), generator.exponential(1, 40)) for _ in range(300)
        )
    ]
    assert 0.88 < np.mean(hits) < 0.98


def test_the_score_of_intervals_approaches_the_crps_of_a_gaussian() -> None:
    generator = np.random.default_rng(0)
    true, sd = generator.normal(0, 1, (4000, 1)), 1.0
    ends = {level: np.full_like(true, quantile * sd) for level, quantile in LEVEL_OF.items()}
    expected = Expected(np.zeros_like(true), {k: -v for k, v in ends.items()}, ends)
    crps = true * (2 * norm.cdf(true) - 1) + 2 * norm.pdf(true) - 1 / np.sqrt(np.pi)
    assert crps_of_intervals(expected, true).mean() == pytest.approx(crps.mean(), rel=0.05)
    nothing_known = {level: np.full_like(true, np.nan) for level in LEVEL_OF}
    assert np.allclose(
        crps_of_intervals(Expected(np.zeros_like(true), nothing_known, nothing_known), true), np.abs(true)
    )


def test_slope_sign_direction_and_noise_of_small_examples() -> None:
    generator = np.random.default_rng(0)
    forecast = generator.normal(0, 1, (50, 3))
    assert DRAW.slope(forecast, 0.4 * forecast + 2).value == pytest.approx(0.4)
    assert np.isnan(DRAW.slope(np.ones(50), generator.normal(0, 1, 50)).value)
    signs = right_sign(np.array([[-1.0, 0.0, 1.0, 1.0]]), np.array([[-2.0, -2.0, -2.0, 0.001]]), np.full(4, 0.01))
    assert np.array_equal(signs, [[1, 0.5, 0, np.nan]], equal_nan=True)
    assert np.array_equal(
        in_one_direction(np.array([[0, 1, 2.0], [0, 1, 0.5], [0, np.nan, 1]]), 1), [1, 0, np.nan], equal_nan=True
    )
    subjects = [str(number) for number in range(400)]
    years = np.full(400, 2.0)
    true = 0.1 + 0.05 * generator.standard_normal((400, 1))
    assert noise_of(true, years, np.ones(400, bool), subjects, 0.01)[0] == pytest.approx(0.05, rel=0.15)
    assert noise_of(true[:5], years[:5], np.ones(5, bool), subjects[:5], 0.01)[0] == 0.01


def test_a_person_with_many_visits_counts_once() -> None:
    people = PerPerson(["b", "a", "a", "a"])
    assert people.mean(np.array([1.0, 2.0, 4.0, np.nan])).tolist() == [3.0, 1.0]
    assert people.longest(np.array([1.0, 1.0, 3.0, 2.0])).tolist() == [2, 0]
    assert DRAW.mean(people.mean(np.array([1.0, 2.0, 4.0, 6.0]))).num == 2


def test_bins_of_time_are_named_and_one_bin_is_none() -> None:
    assert [name for name, _ in by_horizon(np.array([1.0, 3.0, 9.0]))] == [
        "up to 1.5 years",
        "2.5 to 4 years",
        "over 6 years",
    ]
    assert by_horizon(np.array([1.0, 1.2])) == []


def refused(match: str, folder: Path, cohort: Path, *forecasts: Path) -> None:
    with pytest.raises(UserError, match=match):
        evaluate(folder, cohort, *forecasts)
    assert not folder.exists()


def test_what_cannot_be_compared_is_a_sentence(people: People, tables_only: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    folder = write_guesses(tmp_path / "f", tables_only, people, {"own": people.change})
    refused("given twice in forecasts=", out, tables_only, folder, folder)
    refused(
        "was written by `gen3d simulate`; an output folder of `gen3d forecast` is needed", out, tables_only, tables_only
    )
    late = write_guesses(tmp_path / "late", tables_only, people, {"own": people.change}, start=3)
    refused(
        r"no scan in it is later than those that .*late starts from; forecast from an earlier visit",
        out,
        tables_only,
        late,
    )
    short = write_guesses(tmp_path / "short", tables_only, people, {"own": people.change}, (0.5,))
    refused(
        r"looks 0\.50 years ahead, and the first later visit in .* is after 1\.00 years; forecast further",
        out,
        tables_only,
        short,
    )
    others = People(6)
    others.subjects = [f"q{number}" for number in range(6)]
    strangers = write_visits(tmp_path / "strangers", others, volumes=False)
    refused(
        r"none of its scans \(sub-p000_ses-1, sub-p001_ses-1\) is in .*strangers; give as truth=",
        out,
        strangers,
        folder,
    )
    once = write_visits(tmp_path / "once", people, visits=(0.0,), volumes=False)
    refused("no person has two visits", out, once, folder)
    with pytest.raises(ValueError, match=r"either maps= .* or forecasts="):
        Evaluate.model_validate({"truth": tables_only, "out": out})


def test_evaluate_refuses_forecasts_of_people_whom_every_member_saw(
    people: People, tables_only: Path, tmp_path: Path
) -> None:
    table = open_prepared(tables_only).manifest
    run = tmp_path / "run"
    write_record(run, "train")
    seen = SeenBy((SeenBy.rows(table, "train").members[0], SeenBy.rows(table.iloc[:6], "train").members[0]))
    (run / SUBJECTS).write_text(json.dumps(seen.record()))
    folder = write_guesses(tmp_path / "f", tables_only, people, {"own": people.change}, run=run)
    refused(
        r"2 of 24 people \(p000, p001\) were seen by every member of the forecaster",
        tmp_path / "e",
        tables_only,
        folder,
    )
    blind = SeenBy((seen.members[0], {}))
    (run / SUBJECTS).write_text(json.dumps(blind.record()))
    assert row(evaluate(tmp_path / "e", tables_only, folder), "own")["num"] == 24


def test_the_plan_and_the_reader(people: People, tables_only: Path, tmp_path: Path) -> None:
    folder = write_guesses(tmp_path / "f", tables_only, people, {"own": people.change, "copy_forward": nothing})
    verb = Evaluate.model_validate({"forecasts": folder, "truth": tables_only, "out": tmp_path / "e", "bootstrap": 100})
    assert verb.plan()[0] == "measures f (own, copy_forward) in 24 people with 48 later visits, 1.00 to 3.00 years on"
    assert "known from the simulation" in verb.plan()[1]
    opened = EvaluationFolder(read(verb.run()), "e")
    assert opened.of_forecasts
    assert opened.forecasts["f"]["forecaster"] == "own"
    assert opened.planted == ()
