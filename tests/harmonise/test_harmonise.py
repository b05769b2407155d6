"""Harmonisation inside a fold and `gen3d harmonise`, on latents whose site effects are planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.target import Rows
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.tables import Row
from gen3d.harmonise.assessment import AFTER, BEFORE, DIFFERENCE, LINEAR, SQUARES, assess
from gen3d.harmonise.assessment import kept_effects as effects_of
from gen3d.harmonise.assessment import site_predictability as sites_of
from gen3d.harmonise.harmonise import Harmonise
from gen3d.harmonise.recipe import FittedHarmonisation, Harmonisation
from tests.latents_folder import cohort_table, write_latents


def cohort(
    num: int = 150,
    num_dimensions: int = 24,
    seed: int = 0,
    location: float = 1.0,
    scale: float = 0.3,
    num_sites: int = 3,
) -> Rows:
    """Latents with an effect of age and of diagnosis, and sites that shift and stretch every dimension."""
    generator = np.random.default_rng(seed)
    site = np.arange(num) % num_sites
    age, ill = generator.uniform(55, 90, num), generator.random(num) < 0.4
    sex = np.where(generator.random(num) < 0.5, "F", "M")
    shift = location * generator.normal(size=(num_sites, num_dimensions))
    stretch = np.exp(scale * generator.normal(size=(num_sites, num_dimensions)))
    values = generator.normal(size=(num, num_dimensions)) * stretch[site] + shift[site]
    values += np.outer((age - 72) / 10, 0.5 * generator.normal(size=num_dimensions))
    values += np.outer(ill, 0.5 * generator.normal(size=num_dimensions))
    diagnosis = np.where(ill, "AD", "CN")
    names = np.array(list("ABCDEF"))[site]
    return Rows(values, cohort_table(num, site=names, age_years=age, sex=sex, diagnosis=diagnosis))


def change(rows: Rows, values: NDArray[np.floating] | None = None, **columns: Any) -> Rows:
    return Rows(rows.values if values is None else values, rows.table.assign(**columns))


def arrays_equal(first: FittedHarmonisation, second: FittedHarmonisation) -> bool:
    one, other = first.to_arrays(), second.to_arrays()
    return all(np.array_equal(one[name], other[name]) for name in one)


# Inside a fold.


def test_the_fit_sees_training_people_only_and_applies_row_by_row() -> None:
    rows = cohort()
    train, test = rows.take(np.arange(100)), rows.take(np.arange(100, 150))
    fitted = Harmonisation().fit(train)
    after = fitted.apply(test)
    strange = change(test, test.values + 100.0 * (np.arange(50) == 7)[:, None])
    np.testing.assert_array_equal(np.delete(fitted.apply(strange), 7, axis=0), np.delete(after, 7, axis=0))
    assert arrays_equal(fitted, Harmonisation().fit(train))
    alone = fitted.apply(test.take(np.array([7])))
    np.testing.assert_allclose(alone, after[[7]], rtol=0, atol=1e-12)
    assert not arrays_equal(fitted, Harmonisation().fit(change(train, train.values + (np.arange(100) == 3)[:, None])))


def test_sites_lie_together_after_and_age_and_sex_are_kept() -> None:
    rows = cohort(num=600)
    fitted = Harmonisation().fit(rows)
    after, sites = fitted.apply(rows), rows.table["site"].to_numpy()
    rest = after - fitted.combat.expected(fitted.kept.matrix(rows.table))
    for site in "ABC":
        assert np.abs(rest[sites == site].mean(axis=0)).max() < 0.06
    slopes = [np.polyfit(rows.table["age_years"][sites == "A"], of[sites == "A"], 1)[0] for of in (rows.values, after)]
    assert np.corrcoef(*slopes)[0, 1] > 0.9


def test_arrays_bring_back_the_same_harmonisation(tmp_path: Path) -> None:
    rows = change(cohort(), group=np.array(["x", "y y", "z"])[np.arange(150) % 7 % 3])
    settings = Harmonisation(keep=("age_years", "group"), unknown="controls", empirical_bayes=False)
    fitted = settings.fit(rows)
    arrays: dict[str, Any] = dict(fitted.to_arrays())
    np.savez(tmp_path / "harmonisation.npz", **arrays)
    with np.load(tmp_path / "harmonisation.npz") as saved:  # without pickles, which is the default
        back = FittedHarmonisation.from_arrays(dict(saved))
    assert back.settings == settings
    np.testing.assert_array_equal(back.apply(rows), fitted.apply(rows))
    with pytest.raises(UserError, match="lacks 'gamma', so it is damaged"):
        FittedHarmonisation.from_arrays({name: array for name, array in arrays.items() if name != "gamma"})
    sources = Harmonisation().fit(Rows(rows.values, rows.table, (4, 20)))
    assert FittedHarmonisation.from_arrays(sources.to_arrays()).combat.blocks == (4, 20)
    assert not np.array_equal(sources.apply(rows), Harmonisation().fit(rows).apply(rows))
    nothing = Harmonisation(keep=()).fit(rows)
    np.testing.assert_array_equal(FittedHarmonisation.from_arrays(nothing.to_arrays()).apply(rows), nothing.apply(rows))


def test_a_missing_value_counts_as_the_mean_and_is_reported() -> None:
    rows = cohort()
    ages = rows.table["age_years"].to_numpy().copy()
    ages[[3, 4]] = np.nan
    fitted = Harmonisation(keep=("age_years", "sex")).fit(change(rows, age_years=ages))
    assert fitted.notes == ("2 of 150 people have no age_years; the mean was used for them.",)
    mean = np.where(np.isnan(ages), np.nanmean(ages), ages)
    np.testing.assert_allclose(
        fitted.apply(change(rows, age_years=ages)), fitted.apply(change(rows, age_years=mean)), atol=1e-12
    )
    unknown = fitted.kept.matrix(change(rows, sex="other").table)
    missing = fitted.kept.matrix(change(rows, sex="").table)
    np.testing.assert_array_equal(unknown, missing)
    assert np.array_equal(missing[:, 1], np.zeros(150))


def test_a_site_is_estimated_from_one_scan_of_each_real_person() -> None:
    rows = cohort()
    more = pd.concat([rows.table] + [rows.table.iloc[:5].assign(session=str(k)) for k in (2, 3)], ignore_index=True)
    more["base"] = np.where(np.arange(160) < 155, "", "sub-p0000_ses-1")
    more["generator"] = ["ldm" if index == 152 else None for index in range(160)]
    values = np.concatenate([rows.values, rows.values[:5] + 50.0, rows.values[:5] - 50.0])
    fitted = Harmonisation().fit(Rows(values, more))
    assert arrays_equal(fitted, Harmonisation().fit(rows))
    assert len(fitted.apply(Rows(values, more))) == 160
    with pytest.raises(UserError, match="only planted or synthetic scans"):
        Harmonisation().fit(Rows(values, more.assign(generator="ldm")))


def test_what_is_kept_cannot_be_predicted() -> None:
    settings = Harmonisation(keep=("age_years", "diagnosis"))
    assert settings.protects("diagnosis")
    assert not settings.protects("sex")
    assert "keeps diagnosis" in settings.protection_sentence("diagnosis")
    assert settings.protection_sentence("diagnosis").endswith("give keep=[age_years].")


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="cannot be taken away and kept"):
        Harmonisation(by="sex")
    with pytest.raises(ValidationError, match="names a column twice"):
        Harmonisation(keep=("sex", "sex"))
    assert Harmonisation.model_validate({"keep": "sex"}).keep == ("sex",)
    assert Harmonisation.model_validate({"keep": None}).keep == ()


# Sites that the fit has not seen.


def test_an_unknown_site_is_refused() -> None:
    rows = cohort()
    old = (rows.table["site"] != "C").to_numpy()
    fitted = Harmonisation().fit(rows.take(old))
    with pytest.raises(UserError, match=r"site C was not among those .* \(A, B\); .* unknown=controls"):
        fitted.apply(rows)


def test_an_unknown_site_is_estimated_from_its_controls_alone() -> None:
    rows = cohort(num=450)
    new = (rows.table["site"] == "C").to_numpy()
    control = (rows.table["diagnosis"] == "CN").to_numpy()
    fitted = Harmonisation(unknown="controls").fit(rows.take(~new))
    tested = rows.take(new)
    after = fitted.apply(tested)
    assert arrays_equal(fitted, Harmonisation(unknown="controls").fit(rows.take(~new)))  # applying changes nothing
    rest = after - fitted.combat.expected(fitted.kept.matrix(tested.table))
    assert np.abs(rest[control[new]].mean(axis=0)).max() < 0.15
    assert np.abs(rest[control[new]].mean(axis=0)).mean() < 0.1
    before = tested.values - fitted.combat.expected(fitted.kept.matrix(tested.table))
    assert np.abs(before[control[new]].mean(axis=0)).mean() > 0.5
    ill = ~control[new]
    moved = fitted.apply(change(tested, tested.values + 5.0 * ill[:, None]))
    np.testing.assert_array_equal(moved[~ill], after[~ill])  # the values of patients say nothing about the site
    np.testing.assert_array_equal(
        fitted.apply(change(tested, diagnosis="?"), ~ill), after
    )  # controls named by the caller


def test_too_few_controls_of_an_unknown_site_are_a_sentence() -> None:
    rows = cohort()
    new = (rows.table["site"] == "C").to_numpy()
    fitted = Harmonisation(unknown="controls").fit(rows.take(~new))
    few = np.arange(new.sum()) < 4
    with pytest.raises(UserError, match="has 4 controls here to estimate it from; 5 are needed"):
        fitted.apply(change(rows.take(new), diagnosis=np.where(few, "CN", "AD")))
    with pytest.raises(UserError, match="needs the column diagnosis"):
        fitted.apply(Rows(rows.values, rows.table.drop(columns="diagnosis")))


def test_one_site_can_be_the_reference_of_others_only_if_they_are_estimated() -> None:
    rows = cohort(num_sites=2)
    one = rows.take((rows.table["site"] == "A").to_numpy())
    with pytest.raises(UserError, match="everybody here has site A, and harmonising needs two"):
        Harmonisation().fit(one)
    after = Harmonisation(unknown="controls").fit(one).apply(rows)
    control = (rows.table["diagnosis"] == "CN").to_numpy()
    means = [after[control & (rows.table["site"] == site).to_numpy()].mean(axis=0) for site in "AB"]
    assert np.abs(means[0] - means[1]).mean() < 0.4


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ({}, {"by": "scanner"}, "no column scanner to harmonise by"),
        ({"site": ["", "A", "B"] * 50}, {}, r"50 scans have no site \(sub-p0000_ses-1, .* and others\)"),
        ({"site": ["Z"] + ["A", "B"] * 74 + ["A"]}, {}, "site Z has one person"),
        ({}, {"keep": ("iq",)}, "keep: the cohort table has no column iq"),
        ({"sex": ""}, {}, "sex is empty for everybody"),
        ({"sex": "F"}, {}, "sex is the same for everybody"),
        ({"diagnosis": ["CN", "AD", "AD"] * 50}, {"keep": ("diagnosis",)}, "diagnosis does not vary within any site"),
    ],
)
def test_bad_columns_are_a_sentence(columns: Row, settings: Row, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Harmonisation(**settings).fit(change(cohort(), **columns))


# What it did.


def found(rows: list[Row], **labels: str) -> Row:
    (row,) = [row for row in rows if all(row[name] == value for name, value in labels.items())]
    return row


def test_a_planted_site_effect_shows_before_and_not_after() -> None:
    rows = sites_of(assess(cohort(), Harmonisation(), 0), "site", 0)
    for classifier in (LINEAR, SQUARES):
        for measure in ("balanced_accuracy", "macro_auc"):
            before = found(rows, stage=BEFORE, classifier=classifier, measure=measure)
            after = found(rows, stage=AFTER, classifier=classifier, measure=measure)
            assert before["low"] > before["chance"] + 0.15, (classifier, measure)
            assert after["low"] < after["chance"], (classifier, measure)
            assert after["value"] < after["chance"] + 0.1
            difference = found(rows, stage=DIFFERENCE, classifier=classifier, measure=measure)
            assert difference["value"] == pytest.approx(after["value"] - before["value"])
            assert difference["high"] < 0
    assert found(rows, stage=BEFORE, classifier=LINEAR, measure="balanced_accuracy")["chance"] == pytest.approx(1 / 3)


def test_sites_that_differ_in_scatter_only_are_predicted_by_squares() -> None:
    rows = sites_of(assess(cohort(num=240, location=0.0, scale=0.8), Harmonisation(), 0), "site", 0)
    linear = found(rows, stage=BEFORE, classifier=LINEAR, measure="macro_auc")
    squares = found(rows, stage=BEFORE, classifier=SQUARES, measure="macro_auc")
    assert squares["low"] > 0.7 > linear["value"]
    assert found(rows, stage=AFTER, classifier=SQUARES, measure="macro_auc")["value"] < 0.6


def test_without_a_site_effect_the_site_stays_at_chance() -> None:
    covered, above, areas = 0, 0, []
    for seed in range(10):
        rows = sites_of(
            assess(cohort(num=90, num_dimensions=8, seed=seed, location=0.0, scale=0.0), Harmonisation(), seed),
            "site",
            seed,
        )
        before = found(rows, stage=BEFORE, classifier=LINEAR, measure="macro_auc")
        after = found(rows, stage=AFTER, classifier=LINEAR, measure="macro_auc")
        covered += before["low"] <= 0.5 <= before["high"]
        above += after["low"] > 0.5
        areas.append(before["value"])
    assert covered >= 8
    assert above <= 1
    assert abs(np.mean(areas) - 0.5) < 0.03


def test_effects_that_are_kept_are_not_lost() -> None:
    rows, sentences = effects_of(
        assess(cohort(num=300), Harmonisation(), 0), ["age_years", "diagnosis", "sex", "mmse", "iq"], 0
    )
    age = {row["stage"]: row for row in rows if row["column"] == "age_years" and row["measure"] == "r2"}
    assert age[AFTER]["value"] > 0.5
    assert age[DIFFERENCE]["high"] > 0  # not weaker
    ill = {row["stage"]: row for row in rows if row["column"] == "diagnosis" and row["measure"] == "macro_auc"}
    assert ill[BEFORE]["value"] > 0.75
    assert ill[AFTER]["low"] > 0.7
    sex = {row["stage"]: row for row in rows if row["column"] == "sex" and row["measure"] == "macro_auc"}
    assert sex[AFTER]["low"] < 0.5
    assert sentences == [
        "the effect of mmse could not be scored: fewer than two values of it have 5 people.",
        "iq is not a column of the table, so its effect could not be scored.",
    ]


def test_the_value_of_a_kept_column_does_not_help_to_predict_itself() -> None:
    rows = cohort(scale=0.8)
    person = 17
    ages = rows.table["age_years"].to_numpy().copy()
    ages[person] = 20.0
    first, second = (assess(given, Harmonisation(), 0) for given in (rows, change(rows, age_years=ages)))
    one, other = (next(fold for fold in found.folds if person in fold.test) for found in (first, second))
    assert one.after is not None
    assert other.after is not None
    place = one.test.tolist().index(person)
    assert np.abs(one.after[1][place] - other.after[1][place]).max() > 0.1  # it does enter the harmonised latent
    np.testing.assert_array_equal(one.hidden["age_years"], other.hidden["age_years"])
    assert not np.array_equal(one.hidden["sex"], other.hidden["sex"])


def test_folds_hold_every_person_once_and_the_fit_never_sees_the_tested() -> None:
    rows = cohort(num=60)
    assessment = assess(rows, Harmonisation(), 3)
    assert sorted(np.concatenate([fold.test for fold in assessment.folds]).tolist()) == list(range(60))
    for fold in assessment.folds:
        assert set(assessment.sites[fold.test].tolist()) == {"A", "B", "C"}
    tested = assessment.folds[2].test
    moved = rows.values.copy()
    moved[tested] += 30.0
    again = assess(change(rows, moved), Harmonisation(), 3).folds[2]
    assert again.after is not None
    assert assessment.folds[2].after is not None
    np.testing.assert_array_equal(again.after[0], assessment.folds[2].after[0])


def test_small_sites_are_left_out_and_named() -> None:
    rows = cohort()
    sites = rows.table["site"].to_numpy().copy()
    sites[:3] = "tiny"
    assessment = assess(change(rows, site=sites), Harmonisation(), 0)
    assert len(assessment.rows) == 147
    assert assessment.left_out == ("not assessed, with fewer than 5 people to fit on: site tiny.",)
    with pytest.raises(UserError, match="fewer than two values of site have 5 people"):
        assess(cohort(num=9), Harmonisation(), 0)


# The verb.


def write(folder: Path, rows: Rows, **options: Any) -> Path:
    return write_latents(folder, rows.values, rows.table, **options)


def metrics(folder: Path) -> Row:
    loaded: Row = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return loaded


def test_the_verb_writes_latents_that_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cohort()
    roles = np.where(np.arange(150) < 3, "train", "evaluation")
    rows = change(rows, role=roles)
    outsider, known = "f" * 16, subject_hash("p0001")
    latents = write(
        tmp_path / "latents", rows, shape=(6, 2, 2, 1), seen={outsider: "vae (train)", known: "vae (train)"}
    )
    verb = Harmonise(latents=(latents,), out=tmp_path / "harmonised")
    assert verb.plan()[:2] == [
        "harmonises 150 latents of 24 dimensions by site, keeping age_years, sex",
        "people used to estimate each site: A 50, B 50, C 50",
    ]
    assert not (tmp_path / "harmonised").exists()
    verb.run()
    made = open_latents_folder(tmp_path / "harmonised")
    assert (made.shape, made.kind, made.run_key) == ((6, 2, 2, 1), "vae", "k")
    assert made.table["key"].tolist() == rows.table["key"].tolist()
    record = json.loads((made.folder / "latent.json").read_text(encoding="utf-8"))
    assert record["channels"] == ["t1w"]
    assert record["harmonised"] == Harmonisation().settings()
    (seen,) = made.seen.members
    assert seen[outsider] == "vae (train)"
    assert seen[known] == "vae (train), harmonised by site"
    assert seen[subject_hash("p0100")] == "harmonised by site"
    assert len(seen) == 151
    with np.load(made.folder / "harmonisation.npz") as saved:
        fitted = FittedHarmonisation.from_arrays(dict(saved))
    as_read = Rows(rows.values.astype(np.float32), rows.table)
    np.testing.assert_allclose(made.values[0], fitted.apply(as_read), atol=1e-5)
    assert (made.folder / "figures" / "before_after.png").read_bytes()[:4] == b"\x89PNG"
    written = metrics(made.folder)
    assert set(written["tables"]) == {"sites", "kept", "people"}
    for name, table in written["tables"].items():
        assert len(pd.read_csv(made.folder / f"{name}.tsv", sep="\t")) == len(table)
    assert [row["num_fitted"] for row in written["tables"]["people"]] == [50, 50, 50]
    summary = written["summary"]
    assert summary[0] == (
        "The site could be predicted from the latents before harmonising, and not better than by chance after it."
    )
    assert "give the raw latents and harmonise.by=site instead" in summary[-1]
    assert summary[-1] in capsys.readouterr().out
    assert read(made.folder).summary["num_scans"] == 150
    verb.run()
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(keep was"):
        Harmonise(latents=(latents,), keep=("sex",), out=tmp_path / "harmonised").run()


def test_without_a_site_effect_the_verb_says_so(tmp_path: Path) -> None:
    latents = write(tmp_path / "latents", cohort(seed=1, location=0.0, scale=0.0))
    Harmonise(latents=(latents,), out=tmp_path / "harmonised").run()
    first = metrics(tmp_path / "harmonised")["summary"][0]
    assert first == "The site could not be predicted from the latents better than by chance, even before harmonising."


def test_fitted_on_training_people_or_controls_the_others_do_not_count(tmp_path: Path) -> None:
    rows = change(cohort(num=45), role=np.where(np.arange(45) % 5 < 3, "train", "evaluation"))
    training, control = (rows.table["role"] == "train").to_numpy(), (rows.table["diagnosis"] == "CN").to_numpy()
    for fit_on, used in (("train", training), ("controls", control)):
        values = []
        for move in (0.0, 40.0):
            given = change(rows, rows.values + move * ~used[:, None])
            latents = write(tmp_path / f"{fit_on}{move}", given)
            folder = Harmonise.model_validate(
                {"latents": latents, "fit_on": fit_on, "out": tmp_path / f"h{fit_on}{move}"}
            ).run()
            values.append(open_latents_folder(folder))
        np.testing.assert_array_equal(values[0].values[0][used], values[1].values[0][used])
        assert len(values[0].seen.members[0]) == used.sum()
        assert metrics(values[0].folder)["tables"]["people"][0]["estimated_from"] == fit_on


def test_a_site_that_is_not_in_the_fit_is_taken_from_its_controls(tmp_path: Path) -> None:
    rows = cohort()
    rows = change(rows, role=np.where(rows.table["site"] == "C", "evaluation", "train"))
    latents = write(tmp_path / "latents", rows)
    asked = {"latents": latents, "fit_on": "train", "out": tmp_path / "harmonised"}
    with pytest.raises(UserError, match="site C was not among those"):
        Harmonise.model_validate(asked).run()
    assert not (tmp_path / "harmonised").exists()
    made = open_latents_folder(Harmonise.model_validate({**asked, "unknown": "controls"}).run())
    people = metrics(made.folder)["tables"]["people"]
    assert [row["estimated_from"] for row in people] == ["train", "train", "its controls"]
    control = ((rows.table["site"] == "C") & (rows.table["diagnosis"] == "CN")).to_numpy()
    assert len(made.seen.members[0]) == 100 + control.sum()


def test_folders_of_one_run_are_harmonised_together(tmp_path: Path) -> None:
    rows = cohort(num=60)
    half = np.arange(60) < 25
    first = write(tmp_path / "first", rows.take(half), seen={"a" * 16: "vae (train)"})
    second = write(tmp_path / "second", rows.take(~half), seen={"b" * 16: "ldm (train)", "a" * 16: "vae (train)"})
    both = open_latents_folder(Harmonise(latents=(first, second), out=tmp_path / "both").run())
    whole = open_latents_folder(Harmonise(latents=(write(tmp_path / "all", rows),), out=tmp_path / "whole").run())
    np.testing.assert_allclose(both.values[0], whole.values[0], atol=1e-5)
    assert both.seen.members[0]["a" * 16] == "vae (train)"
    assert both.seen.members[0]["b" * 16] == "ldm (train)"


def test_too_few_people_to_assess_still_give_latents(tmp_path: Path) -> None:
    latents = write(tmp_path / "latents", cohort(num=8, num_sites=2))
    folder = Harmonise(latents=(latents,), keep=("age_years",), out=tmp_path / "harmonised").run()
    assert metrics(folder)["summary"][0].startswith(
        "The effect of harmonising could not be assessed: fewer than two values"
    )
    assert (folder / "sites.tsv").read_text(encoding="utf-8").startswith("stage\tclassifier")
    assert len(open_latents_folder(folder).table) == 8


def test_bad_latents_are_a_sentence(tmp_path: Path) -> None:
    rows = cohort(num=40)
    first = write(tmp_path / "first", rows)
    other = write(tmp_path / "other", change(rows, subject=[f"q{k}" for k in range(40)]), run_key="z", kind="pca")
    family = write_latents(tmp_path / "family", np.stack([rows.values] * 2), rows.table)
    single = write(tmp_path / "single", change(rows, site="A"))
    broken = write(tmp_path / "broken", change(rows, np.where(np.arange(40)[:, None] == 3, np.nan, rows.values)))
    done = Harmonise(latents=(first,), out=tmp_path / "done").run()
    for given, words in (
        (
            (first, other),
            r"pca of .*other and .*vae of .*first are not in one latent space: the run z is not the run k",
        ),
        ((family,), "each of its 2 members has a latent space of its own"),
        ((first, first), "sub-p0000_ses-1 is in the latents twice"),
        ((single,), "everybody here has site A"),
        ((broken,), "sub-p0003_ses-1: the latent is NaN or infinite"),
        ((done,), "was written by `gen3d harmonise`"),
        ((tmp_path / "nowhere",), "no such folder"),
    ):
        with pytest.raises(UserError, match=words):
            Harmonise(latents=given, out=tmp_path / "out").run()
    with pytest.raises(UserError, match="nobody has the role train"):
        Harmonise(latents=(first,), fit_on="train", out=tmp_path / "out").run()
    assert not (tmp_path / "out").exists()
