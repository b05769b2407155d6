"""`gen3d quality`: two samples of one population agree, damaged ones do not, and people that the generator saw are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gen3d.cohort.manifest import read_manifest, subject_hash, write_manifest
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.imaging.plan import read_plan, write_plan
from gen3d.quality.evaluation import Evaluation
from gen3d.quality.quality import Quality
from tests.cohorts import write_cohort
from tests.runs import fit
from tests.synthetic_folder import blurred, named_regions, people_of, write_synthetic

QUICK: dict[str, Any] = {
    "repeats": 40,
    "pairs": 100,
    "bootstrap": 100,
    "pictured": 3,
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named_regions(write_cohort(tmp_path_factory.mktemp("real"), repeats=3))


@pytest.fixture(scope="module")
def generator(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose decoder blurs: four components."""
    return fit(real, tmp_path_factory.mktemp("runs") / "pca", kind="pca", num_components=4)


@pytest.fixture(scope="module")
def synthetic(real: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = people_of(real, "train")
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), run=generator, known=known)


@pytest.fixture(scope="module")
def good(real: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic scans of the population of the real ones."""
    return Quality(synthetic=synthetic, reference=(real,), out=tmp_path_factory.mktemp("q") / "good", **QUICK).run()


@pytest.fixture(scope="module")
def blurred_scans(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred synthetic scans, whose run is gone."""
    return write_synthetic(tmp_path_factory.mktemp("blurred"), known=people_of(real, "train"), change=blurred)


@pytest.fixture(scope="module")
def bad(real: Path, blurred_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred synthetic scans compared with real ones."""
    return Quality(synthetic=blurred_scans, reference=(real,), out=tmp_path_factory.mktemp("q") / "bad", **QUICK).run()


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def distances_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "distances.tsv", sep="\t", na_values=["n/a"]).set_index(["extractor", "metric", "set"])


def test_scans_of_the_same_population_are_at_the_floor(good: Path) -> None:
    rows = distances_of(good)
    for metric in ("fid", "kid", "mmd"):
        row = rows.loc[("random", metric, "synthetic")]
        assert row["excess_low"] < 0 < row["excess_high"]
    assert rows.loc[("random", "fid", "synthetic"), "ratio"] == pytest.approx(1, abs=0.15)
    assert rows.loc[("random", "mmd", "synthetic"), "p"] > 0.05
    assert "do not differ detectably from" in metrics_of(good)["summary"][0]


def test_blurred_scans_are_above_the_floor(bad: Path) -> None:
    rows = distances_of(bad)
    for metric in ("fid", "kid", "mmd"):
        row = rows.loc[("random", metric, "synthetic")]
        assert row["excess_low"] > 0
        assert row["value"] > row["floor_high"]
    assert rows.loc[("random", "mmd", "synthetic"), "p"] == pytest.approx(0.001)
    summary = metrics_of(bad)["summary"]
    assert " differ detectably from" in summary[0]
    assert any("more alike than real people: MS-SSIM" in sentence for sentence in summary)


def test_synthetic_scans_are_compared_with_reconstructed_and_smoothed_ones(good: Path, bad: Path) -> None:
    rows = distances_of(good)
    for name in ("reconstructed", "smoothed"):
        assert rows.loc[("random", "mmd", name), "excess_low"] > 0.1
    assert rows.loc[("random", "fid", "smoothed"), "ratio"] > 1.5
    assert set(pd.read_csv(good / "diversity.tsv", sep="\t")["set"]) == {
        "real",
        "synthetic",
        "reconstructed",
        "smoothed",
    }
    assert "reconstructed" not in distances_of(bad).index.get_level_values("set")
    assert any(
        note.startswith("reconstructions: the generator's run is not where") for note in metrics_of(bad)["not_included"]
    )


def test_what_is_missing_does_not_depend_on_which_table_is_read_first(
    bad: Path, real: Path, blurred_scans: Path, tmp_path: Path
) -> None:
    verb = Quality(synthetic=blurred_scans, reference=(real,), out=tmp_path / "out", **QUICK)
    opened = verb.open_inputs()
    for first in ("utility", "structures"):
        evaluation = Evaluation(settings=verb, device="cpu", synthetic=opened[0], real=opened[1], people=opened[2])
        getattr(evaluation, first)
        assert evaluation.notes == metrics_of(bad)["not_included"]


def test_every_distance_says_extractor_n_and_normalisation(good: Path) -> None:
    table = distances_of(good).reset_index()
    assert set(table["name"]) >= {"FID-random(n=12, z-scored brain)", "MMD-random(n=12, z-scored brain)"}
    assert (table["n"] == 12).all()
    assert table[["floor", "floor_low", "floor_high", "value_low", "value_high"]].notna().all().all()


def test_the_reference_are_people_the_generator_never_saw(good: Path, real: Path) -> None:
    table = pd.read_csv(good / "reference.tsv", sep="\t")
    manifest = read_manifest(real)
    assert not set(table["subject"]) & set(people_of(real, "train"))
    assert table["subject"].is_unique
    assert metrics_of(good)["num_real"] == len(table)
    assert set(table["subject"]) <= set(manifest.loc[manifest["role"] != "train", "subject"])


def test_the_age_that_was_requested_is_seen_in_the_scans(good: Path) -> None:
    """write_cohort lets brightness fall with age; sex shows in nothing."""
    rows = pd.read_csv(good / "fidelity.tsv", sep="\t", na_values=["n/a"]).set_index(["covariate", "people"])
    for people in ("synthetic", "real"):
        assert rows.loc[("age_years", people), "r_low"] > 0.3
        assert rows.loc[("sex", people), "auc_low"] < 0.6
    useful = pd.read_csv(good / "utility.tsv", sep="\t", na_values=["n/a"])
    assert set(useful["target"]) == {"sex"}
    assert (useful["auc_low"] < 0.6).all()


def test_pictures_and_the_key_of_the_shuffled_one(good: Path) -> None:
    key = pd.read_csv(good / "figures" / "shuffled_key.tsv", sep="\t")
    assert key["kind"].value_counts().to_dict() == {"real": 3, "synthetic": 3}
    assert key["kind"].tolist() != sorted(key["kind"])
    for name in ("shuffled", "labelled", "structures", "fidelity"):
        assert (good / "figures" / f"{name}.png").stat().st_size > 5000


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(
    good: Path, synthetic: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Quality(synthetic=synthetic, reference=(real,), out=good, **QUICK).run()
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a result of other settings"):
        Quality(synthetic=synthetic, reference=(real,), out=good, **(QUICK | {"seed": 1})).run()


def asked(synthetic: Path, real: Path, out: Path, **settings: Any) -> Quality:
    return Quality.model_validate({"synthetic": synthetic, "reference": real, "out": out, **QUICK, **settings})


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_people_whom_the_generator_saw_are_refused_by_name(synthetic: Path, real: Path, tmp_path: Path) -> None:
    leaky = copied(synthetic, tmp_path / "leaky")
    seen = people_of(real, "calibration")[:2]
    write_json(leaky / "generator_subjects.json", {subject_hash(subject): "train" for subject in seen})
    words = rf"2 of 39 people \({seen[0]}, {seen[1]}\) were seen by the generator \(train\)"
    with pytest.raises(UserError, match=words):
        asked(leaky, real, tmp_path / "out").run()
    lines = asked(leaky, real, tmp_path / "out", seen="leave_out").plan()
    assert any("2 of 39 people" in line and "left out" in line for line in lines)


def test_people_that_the_generator_saw_are_read_from_its_run_or_unknown(
    synthetic: Path, generator: Path, real: Path, tmp_path: Path
) -> None:
    without = copied(synthetic, tmp_path / "without")
    (without / "generator_subjects.json").unlink()
    assert asked(without, real, tmp_path / "out").plan()
    write_json(without / "provenance.json", {"run": {"folder": "gone", "key": "gone"}})
    with pytest.raises(UserError, match="the people that the generator saw are not known"):
        asked(without, real, tmp_path / "out").run()


def test_the_reference_is_narrowed_to_what_was_requested(synthetic: Path, real: Path, tmp_path: Path) -> None:
    asking = copied(synthetic, tmp_path / "asking")
    table = read_manifest(asking)
    write_manifest(asking, table.assign(requested_diagnosis="AD", requested_age_years=55.0))
    lines = asked(asking, real, tmp_path / "out").plan()
    assert any("with 6 real people" in line for line in lines)
    assert "narrowed to diagnosis AD" in lines
    assert any(line.startswith("not narrowed to age_years 55 to 55: only 0 people") for line in lines)
    write_manifest(asking, table.assign(requested_diagnosis="Niemann-Pick"))
    with pytest.raises(UserError, match=r"only 0 real people to compare with .narrowed to diagnosis Niemann-Pick"):
        asked(asking, real, tmp_path / "out").run()


def test_too_few_scans_and_other_plans(synthetic: Path, real: Path, tmp_path: Path) -> None:
    empty = copied(synthetic, tmp_path / "empty")
    write_manifest(empty, read_manifest(empty).iloc[:0])
    with pytest.raises(UserError, match="0 synthetic scans; at least 4 are needed"):
        asked(empty, real, tmp_path / "out").run()
    few = copied(real, tmp_path / "few")
    table = read_manifest(few)
    write_manifest(few, table[(table["role"] == "train") | table["subject"].isin(people_of(real, "test")[:3])])
    with pytest.raises(UserError, match="only 3 real people to compare with; at least 4 are needed"):
        asked(synthetic, few, tmp_path / "out").run()
    other = copied(real, tmp_path / "other")
    write_plan(other / "plan.json", read_plan(other / "plan.json").model_copy(update={"intensity": "other"}))
    with pytest.raises(UserError, match=r"its plan differs from that of .*intensity tissue against other"):
        asked(synthetic, other, tmp_path / "out").run()


def test_weights_that_are_not_there(synthetic: Path, real: Path, tmp_path: Path) -> None:
    extractors = ({"kind": "med3d", "weights": tmp_path / "resnet_50.pth"},)
    with pytest.raises(UserError, match=r"resnet_50\.pth: no such file of weights for the extractor Med3D ResNet-50"):
        asked(synthetic, real, tmp_path / "out", extractors=extractors).run()
    assert not (tmp_path / "out").exists()


def test_another_run_than_the_generator(synthetic: Path, real: Path, tmp_path: Path) -> None:
    other = fit(real, tmp_path / "run", kind="pca", num_components=3)
    with pytest.raises(UserError, match="but the synthetic scans were drawn from run"):
        asked(synthetic, real, tmp_path / "out", run=other).run()


def test_an_extractor_is_named_once(synthetic: Path, real: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extractors names random twice"):
        asked(synthetic, real, tmp_path / "out", extractors=("random", {"kind": "random", "seed": 1}))
