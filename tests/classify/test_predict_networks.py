"""`gen3d predict` by the networks of a run: their calibrated mean, by what is known of a person, or a sentence why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from gen3d.classify.predict import Predict
from gen3d.classify.prediction.network_people import NewPeople, far_columns, open_network_request, remarks_of
from gen3d.classify.prediction.networks import calibrate_and_test, predict_by_network
from gen3d.classify.sections import predictions
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.genotypes_folder import open_genotypes
from gen3d.cohort.scores_folder import read_scores
from gen3d.core.errors import UserError
from gen3d.figures.blocks import Table
from gen3d.genotypes.genotypes import Genotypes
from gen3d.models.run import load_run
from gen3d.models.supervised import classifier as classifier_module
from gen3d.report.open import open_context
from gen3d.train.train import Train
from tests.cohorts import write_cohort
from tests.train.classifiers import classifier
from tests.train.classifiers import write_people as write_scans
from tests.train.fused_people import fusion, write_people
from tests.train.small_network import small_network

Folders = tuple[Path, Path]
LACKING = 5


def trained(people: Folders, out: Path, **changes: Any) -> Path:
    return Train.model_validate(fusion(*people, out, **changes)).run()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_people(tmp_path_factory.mktemp("people"), 90)


@pytest.fixture(scope="module")
def run(people: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(people, tmp_path_factory.mktemp("run") / "fusion")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """40 people of the same kind; the first five have no genotypes."""
    return write_people(tmp_path_factory.mktemp("new"), 40, seed=9, lacking=LACKING, prefix="n")


def predicted(out: Path, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    folder = Predict.model_validate({"out": out} | settings).run()
    text = {"subject": str, "out_of_distribution": str, "y_pred": str}
    table = pd.read_csv(folder / "predictions.tsv", sep="\t", dtype=text, keep_default_na=False, na_values=["n/a"])
    return table, json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def result(run: Path, new: Folders, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, Any]]:
    out = tmp_path_factory.mktemp("result") / "out"
    return predicted(out, head=run, prepared=new[0], genotypes=new[1])


def test_new_people_are_told_apart_as_the_held_out_ones_were(
    result: tuple[pd.DataFrame, dict[str, Any]], new: Folders
) -> None:
    table, metrics = result
    ill = table["key"].map(open_prepared(new[0]).manifest.set_index("key")["diagnosis"]) == "AD"
    assert roc_auc_score(ill, table["p_AD"]) > 0.7
    assert np.allclose(table["p_CN"] + table["p_AD"], 1, atol=1e-5)
    assert (table["member_low"] <= table["p_AD"]).all()
    assert (table["p_AD"] <= table["member_high"]).all()
    assert ((table["p_AD"] >= table["threshold"]) == (table["y_pred"] == "AD")).all()
    assert table["reliability_observed"].notna().all()
    assert metrics["head"]["members"] == 3
    assert metrics["tests"]["both"]["measure"] == "auc"
    assert metrics["tests"]["both"]["low"] > 0.5
    assert min(metrics["tests"]["both"]["calibrated_on"]) > 0


def test_who_lacks_genetics_is_predicted_by_the_scan_alone_and_by_its_calibration(
    result: tuple[pd.DataFrame, dict[str, Any]], run: Path, new: Folders
) -> None:
    table, metrics = result
    without = table["has_genetics"] == "no"
    assert table.loc[without, "subject"].tolist() == [f"n{number:03d}" for number in range(LACKING)]
    assert set(metrics["tests"]) == {"both", "images"}
    alone = open_network_request(run, NewPeople([new[0]]), "refuse")
    assert set(alone.subsets) == {"images"}
    by_scan = predict_by_network(alone, 0).table
    rows = np.flatnonzero(without)
    assert np.allclose(by_scan["p_AD"].to_numpy()[rows], table.loc[without, "p_AD"], atol=1e-5)
    test = calibrate_and_test(load_run(run), read_scores(run), "images", 0)
    logits = [alone.scored(member.index)[rows] for member in read_scores(run).of()]
    by_hand = np.mean([member.outputs(one)[:, 1] for member, one in zip(test.members, logits, strict=True)], axis=0)
    assert np.allclose(by_hand, table.loc[without, "p_AD"], atol=1e-5)


def test_people_without_a_scan_are_predicted_by_their_genes(run: Path, new: Folders, tmp_path: Path) -> None:
    table, metrics = predicted(tmp_path / "out", head=run, genotypes=new[1])
    assert table["subject"].tolist() == open_genotypes(new[1]).people["subject"].tolist()
    assert set(table["has_images"]) == {"no"}
    copies = open_genotypes(new[1]).people["apoe_e4"].to_numpy()
    assert np.corrcoef(table["p_AD"], copies)[0, 1] > 0.5
    assert any("as private as genotypes" in sentence for sentence in metrics["summary"])


def test_where_neither_is_known_nothing_is_predicted(run: Path, new: Folders) -> None:
    request = open_network_request(run, NewPeople([new[0]], genotypes=new[1]), "refuse")
    nobody = {side: flags & (np.arange(len(flags)) > 0) for side, flags in request.has.items()}
    found = predict_by_network(replace(request, has=nobody), 0)
    first = found.table.iloc[0]
    assert np.isnan(first[["p_CN", "p_AD", "y_score"]].astype(float)).all()
    assert first["y_pred"] == ""
    assert first["out_of_distribution"].startswith("not evaluable: neither genetics nor a scan")
    assert found.table["p_AD"].iloc[1:].notna().all()


def test_a_network_that_learned_nothing_is_called_not_evaluable(new: Folders, tmp_path: Path) -> None:
    null = write_people(tmp_path / "null", 90, effect=0.0, prefix="z")
    run = trained(null, tmp_path / "run", optim={"steps": 6})
    table, metrics = predicted(tmp_path / "out", head=run, prepared=new[0], genotypes=new[1])
    assert metrics["tests"]["both"]["low"] < 0.5
    both = table["has_genetics"] == "yes"
    assert (
        table.loc[both, "out_of_distribution"]
        .str.startswith("not evaluable: of people that the networks never saw")
        .all()
    )


def test_unusual_people_are_warned_of(run: Path, new: Folders) -> None:
    request = open_network_request(run, NewPeople([new[0]], genotypes=new[1]), "refuse")
    assert not any(request.remarks)
    people = request.people.assign(age_years=95.0, site="Z")
    reasons = remarks_of(request.run, people)[0]
    assert reasons == (
        "age 95 is outside of the 60 to 79 years of training people",
        "no training person is of the site Z",
    )
    model: Any = request.run.member(0)
    values = model.column_mean.repeat(2, 1).numpy()
    values[1, -1] += 7 * float(model.column_std[-1])
    usual, far = far_columns(model, values)
    assert usual == []
    assert far == ["1 of 6 measurements of the scan lie more than 6 SD from the training people"]


def test_people_that_the_run_saw_are_refused_or_left_out(
    run: Path, people: Folders, new: Folders, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"90 of 90 people .* were seen by the networks of .* nobody is left"):
        predicted(tmp_path / "out", head=run, prepared=people[0], genotypes=people[1])
    with pytest.raises(UserError, match="a prediction of them would look better than it is"):
        predicted(tmp_path / "out", head=run, prepared=[people[0], new[0]], genotypes=people[1])
    both = {"prepared": [people[0], new[0]], "genotypes": people[1], "seen": "leave_out"}
    table, _ = predicted(tmp_path / "out", head=run, **both)
    assert table["subject"].str.startswith("n").all()


def test_other_variants_are_refused_and_turned_alleles_put_right(run: Path, new: Folders, tmp_path: Path) -> None:
    dosages = pd.read_csv(new[1].parent / "dosages.tsv", sep="\t")
    first = str(dosages.columns[1])
    chromosome, position, counted, other = first.split(":")

    def genotypes(name: str, table: pd.DataFrame) -> Path:
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
        keys = {"source": tmp_path / f"{name}.tsv", "build": "GRCh38", "out": tmp_path / name}
        return Genotypes.model_validate({"table": new[0], "qc": {"frequency": 0.0, "hwe_p": 0.0}, **keys}).run()

    moved = dosages.rename(columns={first: f"{chromosome}:{int(position) + 1}:{counted}:{other}"})
    with pytest.raises(UserError, match=f"lacks the variant {chromosome}:{position}:"):
        predicted(tmp_path / "out", head=run, prepared=new[0], genotypes=genotypes("moved", moved))
    turned = dosages.assign(**{first: 2 - dosages[first]}).rename(
        columns={first: f"{chromosome}:{position}:{other}:{counted}"}
    )
    predicted(tmp_path / "turned_out", head=run, prepared=new[0], genotypes=genotypes("turned", turned))
    predicted(tmp_path / "usual_out", head=run, prepared=new[0], genotypes=genotypes("usual", dosages))
    told = [pd.read_csv(tmp_path / f"{name}_out" / "predictions.tsv", sep="\t") for name in ("turned", "usual")]
    pd.testing.assert_frame_equal(*told)


def test_what_a_run_does_not_take_is_refused_with_the_way_out(run: Path, new: Folders, tmp_path: Path) -> None:
    out = {"out": tmp_path / "out"}
    with pytest.raises(UserError, match="its networks read genetics and images; give genotypes= and prepared="):
        predicted(**out, head=run)
    with pytest.raises(UserError, match="do not take latents="):
        predicted(**out, head=run, prepared=new[0], latents=[new[0]])
    with pytest.raises(UserError, match="strata= places latents in a map"):
        predicted(**out, head=run, prepared=new[0], strata=new[0])


def test_the_report_shows_them_without_typicality_or_neighbours(run: Path, new: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predicted(out, head=run, prepared=new[0], genotypes=new[1])
    section = predictions.section(open_context([out], 1))
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert len(table.rows) == 30


def test_a_classifier_of_scans_predicts_new_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "build_network", small_network)
    prepared = write_scans(tmp_path / "prepared", -0.6)
    run = Train.model_validate(classifier(prepared, tmp_path / "cnn", model={"permuted": 1})).run()
    new = write_cohort(tmp_path / "new", 12, 12, seed=5, effect=-0.6, sites=("a", "b"), prefix="n")
    with pytest.raises(UserError, match="do not take genotypes="):
        predicted(tmp_path / "out", head=run, prepared=new, genotypes=new)
    table, metrics = predicted(tmp_path / "out", head=run, prepared=new)
    assert len(table) == 24
    assert "has_genetics" not in table
    ill = table["key"].map(open_prepared(new).manifest.set_index("key")["diagnosis"]) == "AD"
    assert roc_auc_score(ill, table["p_AD"]) > 0.6
    assert metrics["head"]["members"] == 3
