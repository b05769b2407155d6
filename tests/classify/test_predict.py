"""`gen3d predict`: the head's own probabilities, the right neighbours, and warnings for those who are unlike its people."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gen3d.classify import predict
from gen3d.classify.classify import Classify
from gen3d.classify.head_folder import open_head
from gen3d.classify.predict import Predict
from gen3d.classify.prediction.tables import reliability_of
from gen3d.classify.study.features import open_features
from gen3d.cli import main
from gen3d.cohort.manifest import subject_hash
from gen3d.core.errors import UserError
from tests.latents_folder import cohort_table, write_latents
from tests.sealing import reseal

NUM, WIDTH = 160, 24
LOADINGS = np.random.default_rng(77).standard_normal((5, WIDTH))
QUICK = {"target": "diagnosis", "voxels": False, "permutations": 0, "bootstrap": 100, "repeats": 1, "folds": 3}


def people(num: int, seed: int, prefix: str = "p", **columns: Any) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Latents with five directions of variation and noise; AD lies elsewhere along the first direction."""
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    scores = generator.standard_normal((num, 5))
    scores[:, 0] += 1.5 * ill
    values = scores @ LOADINGS + 0.5 * generator.standard_normal((num, WIDTH))
    given = {
        "subject": [f"{prefix}{number:03d}" for number in range(num)],
        "diagnosis": np.where(ill, "AD", "CN"),
        "age_years": generator.uniform(60, 85, num),
        "sex": generator.choice(["F", "M"], num),
        "mmse": np.clip(29 - 3 * scores[:, 0] + generator.standard_normal(num), 0, 30),
    }
    return values, cohort_table(num, **(given | columns))


def run(root: Path, head: Path, latents: Path, name: str = "out", **settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    out = Predict.model_validate({"head": head, "latents": latents, "out": root / name} | settings).run()
    tables = [pd.read_csv(out / f"{table}.tsv", sep="\t", na_values=["n/a"], keep_default_na=False) for table in
              ("predictions", "neighbours")]  # fmt: skip
    return *tables, json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("head")
    latents = write_latents(root / "latents", *people(NUM, 0))
    return Classify.model_validate(QUICK | {"latents": latents, "out": root / "head"}).run()


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory, head: Path) -> tuple[Any, Any, dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("predicted")
    latents = write_latents(root / "new", *people(300, 1, "n"))
    return *run(root, head, latents), latents


def test_probabilities_are_those_of_the_head(head: Path, predicted: Any) -> None:
    table, _, metrics, latents = predicted
    opened = open_head(head / "head")
    features = open_features([latents])
    expected = opened.outputs(features.rows(0, np.arange(300)))
    assert table[["p_CN", "p_AD"]].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert table["y_score"].to_numpy() == pytest.approx(expected[:, 1], abs=1e-5)
    assert ((table["y_pred"] == "AD") == (table["y_score"] >= table["threshold"])).all()
    ill = np.arange(300) % 2 == 1
    assert ((table["y_pred"] == "AD") == ill).mean() > 0.65
    assert metrics["head"]["training"]["by_class"] == {"CN": 80, "AD": 80}
    assert list(table["key"]) == list(features.table["key"])
    assert metrics["tables"]["predictions"][0]["key"] == table["key"][0]


def test_people_like_those_learned_from_are_seldom_warned_of(predicted: Any) -> None:
    table, _, _, _ = predicted
    assert (table["out_of_distribution"] != "").mean() <= 0.03
    assert (table["typicality_p"] <= 0.1).mean() < 0.2  # 0.1, give or take the 160 people it is read from
    assert table["typicality_percentile"].mean() == pytest.approx(50, abs=8)
    assert (table["seen"] == "").all()


@pytest.mark.parametrize(
    ("shift", "words"),
    [(12.0 * LOADINGS[2], "along the components"), (np.resize([4.0, -4.0], WIDTH), "the components)")],
)
def test_shifted_people_are_warned_of(tmp_path: Path, head: Path, shift: NDArray[np.float64], words: str) -> None:
    values, table = people(20, 2, "s")
    found, _, metrics = run(tmp_path, head, write_latents(tmp_path / "new", values + shift, table))
    assert found["out_of_distribution"].str.contains("more unusual than").all()
    assert found["out_of_distribution"].str.contains(words, regex=False).all()
    assert any("20 of 20 scans come with a warning" in line for line in metrics["summary"])


def test_a_training_scan_under_another_id_has_itself_as_neighbour(tmp_path: Path, head: Path) -> None:
    values, table = people(NUM, 0)
    copied = cohort_table(2, subject=["x1", "x2"], diagnosis="CN", age_years=70.0, sex="F")
    latents = write_latents(tmp_path / "new", values[[7, 30]], copied)
    found, neighbours, _ = run(tmp_path, head, latents, neighbours=3)
    nearest = neighbours[neighbours["rank"] == 1]
    assert list(nearest["neighbour_key"]) == [table["key"][7], table["key"][30]]
    assert nearest["distance"].to_numpy() == pytest.approx([0, 0])
    assert list(nearest["neighbour_y"]) == ["AD", "CN"]
    assert nearest["age_years"].to_numpy() == pytest.approx(table["age_years"][[7, 30]], rel=1e-5)
    assert found["out_of_distribution"].str.contains("is the same as").all()
    assert (neighbours.groupby("key")["distance"].diff().dropna() >= 0).all()
    assert len(neighbours) == 6


def test_neighbours_of_ordinary_people_are_about_as_near_as_those_of_training_people(predicted: Any) -> None:
    _, neighbours, _, _ = predicted
    assert neighbours[neighbours["rank"] == 1]["distance"].median() == pytest.approx(1.0, abs=0.2)
    ill = neighbours["key"].str.extract(r"sub-n(\d+)_")[0].astype(int) % 2 == 1
    same = (neighbours["neighbour_y"] == "AD") == ill
    assert same.mean() > 0.55  # of overlapping classes


def test_reliability_is_that_of_the_nearest_bin(predicted: Any) -> None:
    table, _, metrics, _ = predicted
    bins = metrics["tables"]["reliability"]
    assert bins
    row = table.loc[table["y_score"].idxmax()]
    assert row["reliability_observed"] == pytest.approx(bins[-1]["observed"], abs=1e-5)
    assert row["reliability_low"] <= row["reliability_observed"] <= row["reliability_high"]
    given = [
        {"predicted": 0.2, "observed": 0.1, "low": 0.0, "high": 0.3, "num": 10},
        {"predicted": 0.8, "observed": 0.9, "low": None, "high": 1.0, "num": 12},
    ]
    found = reliability_of(np.array([0.0, 0.49, 0.51]), given)
    assert found["reliability_observed"].tolist() == [0.1, 0.1, 0.9]
    assert np.isnan(found["reliability_low"][2])
    assert np.isnan(reliability_of(np.array([0.3]), [])["reliability_num"]).all()


def test_people_the_head_learned_from_are_refused_or_left_out(tmp_path: Path, head: Path) -> None:
    values, table = people(10, 3, "n")
    table.loc[[2, 5], "subject"] = ["p003", "p004"]
    latents = write_latents(tmp_path / "new", values, cohort_table(10, subject=table["subject"].to_numpy()))
    with pytest.raises(UserError, match=r"2 of 10 people \(p003, p004\).*seen=leave_out"):
        run(tmp_path, head, latents)
    found, _, metrics = run(tmp_path, head, latents, "left", seen="leave_out")
    assert len(found) == 8
    assert not set(found["subject"]) & {"p003", "p004"}
    assert any("2 of 10 people (p003, p004)" in note for note in metrics["notes"])
    own = write_latents(tmp_path / "own", *people(10, 0))
    for policy in ("refuse", "leave_out"):
        with pytest.raises(UserError, match="nobody is left"):
            run(tmp_path, head, own, seen=policy)


def test_people_a_model_behind_the_latents_saw_are_named(tmp_path: Path, head: Path) -> None:
    seen = {subject_hash("n001"): "vae (train)"}
    found, _, metrics = run(tmp_path, head, write_latents(tmp_path / "new", *people(4, 4, "n"), seen=seen))
    assert found["seen"].tolist() == ["", "vae (train)", "", ""]
    assert any("1 of 4 scans is of people that a model behind the latents saw" in line for line in metrics["summary"])


def test_age_and_site_outside_of_training_are_told(tmp_path: Path, head: Path) -> None:
    values, _ = people(3, 5)
    table = cohort_table(3, subject=["a", "b", "c"], age_years=[40.0, 70.0, np.nan], site=["A", "B", "A"], sex="")
    found, _, _ = run(tmp_path, head, write_latents(tmp_path / "new", values, table))
    said = found["out_of_distribution"].tolist()
    assert "age 40 is outside of the 60 to 85 years" in said[0]
    assert "no training person is of the site B" in said[1]
    assert "missing" not in said[2]  # this head uses neither age nor sex


def test_what_a_head_with_confounds_needs_is_told(tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "latents", *people(60, 6))
    settings = QUICK | {"latents": latents, "out": tmp_path / "head", "confounds": ["age_years", "sex"]}
    head = Classify.model_validate(settings).run()
    values, _ = people(2, 7)
    table = cohort_table(2, subject=["a", "b"], age_years=[np.nan, 70.0], sex=["F", ""])
    found, _, metrics = run(tmp_path, head, write_latents(tmp_path / "new", values, table))
    assert "age is missing, and the head uses it" in found["out_of_distribution"][0]
    assert "sex is missing, and the head uses it" in found["out_of_distribution"][1]
    assert any("1 in 61" in line for line in metrics["summary"])  # of 60 people nothing rarer can be said


@dataclass(frozen=True)
class Placed:
    pcs: NDArray[np.float64]
    umap: NDArray[np.float64]
    cluster: list[str]
    certainty: NDArray[np.float64]


@dataclass
class Map:
    """Stands for an opened map."""

    run_key: str = "k"
    asked: list[NDArray[np.float64]] = field(default_factory=list)

    def project(self, values: NDArray[np.float64], table: pd.DataFrame) -> Placed:
        assert len(values) == len(table)
        return Placed(values[:, :2], values[:, 2:4], ["1"] * len(values), np.ones(len(values)))


def test_people_are_placed_in_a_map_of_the_same_latents(
    tmp_path: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, table = people(5, 8, "n")
    latents = write_latents(tmp_path / "new", values, table)
    (tmp_path / "strata").mkdir()
    monkeypatch.setattr(predict, "open_map", lambda folder: Map())
    found, _, _ = run(tmp_path, head, latents, strata=tmp_path / "strata")
    assert found[["umap1", "umap2"]].to_numpy() == pytest.approx(values[:, 2:4], rel=1e-4)
    assert found["cluster"].astype(str).tolist() == ["1"] * 5
    monkeypatch.setattr(predict, "open_map", lambda folder: Map("another"))
    with pytest.raises(UserError, match="made by the run another, but these are made by k"):
        run(tmp_path, head, latents, "other", strata=tmp_path / "strata")


@pytest.mark.parametrize(("target", "settings"), [("mmse", {}), ("grade", {"task": "ordered"})])
def test_numbers_and_grades(tmp_path: Path, target: str, settings: dict[str, Any]) -> None:
    values, table = people(90, 9)
    table["grade"] = np.digitize(table["mmse"], [24, 27]).astype(float)
    latents = write_latents(tmp_path / "latents", values, table)
    asked = QUICK | {"latents": latents, "out": tmp_path / "head", "target": target} | settings
    head = Classify.model_validate(asked).run()
    fresh, rows = people(60, 10, "n")
    found, neighbours, metrics = run(tmp_path, head, write_latents(tmp_path / "new", fresh, rows))
    truth = rows["mmse"].to_numpy()
    assert np.corrcoef(found["y_score"], truth)[0, 1] > 0.4
    if target == "mmse":
        assert "predicted" in found.columns
        assert "threshold" in found.columns
        assert found["threshold"].isna().all()
        assert neighbours["neighbour_y"].between(0, 30).all()
        assert any("off by" in line for line in metrics["summary"])
    else:
        assert found[["p_0", "p_1", "p_2"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(60), abs=1e-4)
        assert set(found["y_pred"].astype(str)) <= {"0", "1", "2"}


def test_a_residual_head_predicts_with_the_weights_that_were_kept(tmp_path: Path) -> None:
    values, table = people(60, 11)
    shape = (2, 3, 2, 2)
    latents = write_latents(tmp_path / "latents", values, table, shape)
    residual = {"kind": "residual", "channels": 4, "blocks": 1, "steps": 8, "learning_rate": 5e-3}
    asked = QUICK | {"latents": latents, "out": tmp_path / "head", "heads": [residual], "folds": 2}
    head = Classify.model_validate(asked).run()
    fresh, rows = people(20, 12, "n")
    new = write_latents(tmp_path / "new", fresh, rows, shape)
    found, _, metrics = run(tmp_path, head, new)
    opened = open_head(head / "head")
    expected = opened.outputs(open_features([new]).rows(0, np.arange(20)))
    assert found["p_AD"].to_numpy() == pytest.approx(expected[:, 1], abs=1e-5)
    assert metrics["head"]["kind"] == "residual"
    weights = head / "head" / "weights.safetensors"
    assert load_file(weights).keys() == opened.learned.state()["weights"].keys()  # type: ignore[attr-defined]
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"weights\.safetensors: missing, or not what the head was kept with"):
        open_head(head / "head")


def _another_run(root: Path) -> Path:
    return write_latents(root / "bad", *people(4, 13, "n"), run_key="other")


def _fewer_dimensions(root: Path) -> Path:
    values, table = people(4, 13, "n")
    return write_latents(root / "bad", values[:, :20], table)


def _family(root: Path) -> Path:
    values, table = people(4, 13, "n")
    return write_latents(root / "bad", np.stack([values, values]), table)


def _not_finite(root: Path) -> Path:
    values, table = people(4, 13, "n")
    values[2, 3] = np.nan
    return write_latents(root / "bad", values, table)


def _nobody(root: Path) -> Path:
    return write_latents(root / "bad", np.zeros((0, WIDTH)), cohort_table(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_another_run, "the run other is not the run k"),
        (_fewer_dimensions, "20 numbers per scan are not 24"),
        (_family, "each of its 2 members has a latent space of its own"),
        (_not_finite, r"sub-n002_ses-1 are NaN or infinite"),
        (_nobody, r"nobody to predict"),
    ],
)
def test_latents_that_cannot_be_predicted_are_refused(tmp_path: Path, head: Path, make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path, head, make(tmp_path))


def _say_harmonised(folder: Path) -> Path:
    return reseal(folder, verb="harmonise")


def test_harmonised_latents_do_not_mix_with_others(tmp_path: Path, head: Path) -> None:
    new = _say_harmonised(write_latents(tmp_path / "new", *people(6, 16, "n")))
    with pytest.raises(UserError, match=r"the former are harmonised, the others are not"):
        run(tmp_path, head, new)
    learned = _say_harmonised(write_latents(tmp_path / "latents", *people(40, 17)))
    other = Classify.model_validate(QUICK | {"latents": learned, "out": tmp_path / "head", "folds": 2}).run()
    with pytest.raises(UserError, match=r"the latter are harmonised, the others are not"):
        run(tmp_path, other, write_latents(tmp_path / "raw", *people(6, 16, "n")))
    _, _, metrics = run(tmp_path, other, new)
    assert any("harmonised apart from those that the head was trained on" in note for note in metrics["notes"])


def test_a_folder_without_a_head_is_refused(tmp_path: Path, head: Path) -> None:
    latents = write_latents(tmp_path / "new", *people(4, 14, "n"))
    with pytest.raises(UserError, match="gen3d classify"):
        run(tmp_path, latents, latents)
    (tmp_path / "copy").mkdir()
    for name in ("artefact.json", "metrics.json"):
        (tmp_path / "copy" / name).write_bytes((head / name).read_bytes())
    with pytest.raises(UserError, match="is missing, though `gen3d classify` wrote it"):
        run(tmp_path, tmp_path / "copy", latents)
    reseal(tmp_path / "copy")
    with pytest.raises(UserError, match="no fitted head"):
        run(tmp_path, tmp_path / "copy", latents)
    (tmp_path / "copy" / "metrics.json").write_text("{")
    reseal(tmp_path / "copy")
    with pytest.raises(UserError, match=r"metrics\.json: missing or damaged"):
        run(tmp_path, tmp_path / "copy", latents)


def test_the_command_line_prints_people_and_does_nothing_twice(
    tmp_path: Path, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = write_latents(tmp_path / "new", *people(3, 15, "n"))
    command = ["predict", f"head={head}", f"latents={latents}", f"out={tmp_path / 'out'}"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "sub-n002_ses-1" in shown
    assert "The head's own test: " in shown
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().out
