"""The verb, on a cohort whose truth is exact and a network whose reasons are known."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.core.errors import UserError
from gen3d.core.tables import read_table
from gen3d.explain.explain import Explain
from gen3d.explain.folder import ExplainedFolder, map_path, native_path
from gen3d.explain.one_scan import ROWS, opened
from gen3d.report.open import open_context
from gen3d.report.report import Report
from tests.explain.world import CLASSES, PER_CLASS, QUICK, known_networks, named, write_classifier, write_people
from tests.sealing import reseal

METHODS = ("smoothgrad", "grad_cam", "integrated_gradients", "occlusion")


def verb(world: Path, out: Path, **settings: Any) -> Explain:
    keys = {"run": world / "run", "prepared": world / "cohort", "out": out, **QUICK, **settings}
    return Explain.model_validate(keys)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    reseal(write_people(root / "cohort"))
    reseal(write_classifier(root / "run", root / "cohort"))
    return root


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    known_networks(monkeypatch)
    opened.cache_clear()


@pytest.fixture(scope="module")
def explained(world: Path) -> ExplainedFolder:
    with pytest.MonkeyPatch.context() as patch:
        known_networks(patch)
        opened.cache_clear()
        verb(world, world / "explained").run()
    return open_context([world / "explained"]).first(ExplainedFolder)  # type: ignore[return-value]


def test_a_network_that_reads_the_hippocampus_is_found_to_do_so(explained: ExplainedFolder) -> None:
    rows = {(row["method"], row["group"], row["region"]): row for row in explained.rows("group_enrichment")}
    for method in METHODS:
        found = rows[method, "AD", "hippocampus"]
        assert found["enrichment"] > 5, method
        assert found["p"] <= 0.02, method
        assert found["rank"] == 1, method
        assert found["num_regions"] > 30
    assert rows["occlusion", "AD", "pericalcarine"]["enrichment"] < 0.5


def test_judges_believe_what_is_true_and_no_picture_of_the_scan(explained: ExplainedFolder) -> None:
    passed = {(row["method"], row["judge"]): row["passed"] for row in explained.judges}
    for method in METHODS:
        assert passed[method, "truth"] is True, method
        assert passed[method, "retest"] is True, method
        # With one feature, Grad-CAM is that feature times a number: the scan, wherever the head looks. It must be caught.
        for judge in ("labels", "faithfulness"):
            assert passed[method, judge] is (method != "grad_cam"), (method, judge)
    assert passed["smoothgrad", "weights"] is True
    truth = pd.DataFrame(explained.rows("truth")).groupby("method")[["auprc", "prevalence", "auprc_turned"]].mean()
    assert (truth.loc[list(METHODS), "auprc"] > 0.3).all()
    assert truth["prevalence"].max() < 0.02
    assert truth.loc["edges", "auprc"] < truth.loc["grad_cam", "auprc"]
    assert explained.summary[0].startswith("SmoothGrad")
    assert "Grad-CAM fails" in explained.summary[0]


def test_maps_are_zero_where_the_network_does_not_look_and_add_up_to_its_answer(explained: ExplainedFolder) -> None:
    scans = explained.explained.set_index("key")
    looks = named("hippocampus")
    for key in scans.index[~scans["retest"].astype(bool)][:2]:
        change = scans.at[key, "answer"] - scans.at[key, "answer_controls"]
        image: Any = nib.load(map_path(explained.folder, key, "integrated_gradients"))
        volume = np.asarray(image.dataobj)
        assert volume.sum() == pytest.approx(change, rel=2e-3)
        assert np.abs(volume[looks]).sum() > 0.4 * np.abs(volume).sum()
        assert scans.at[key, "incomplete"] < 1e-3
    ill = scans[scans["label"] == "AD"]
    assert (ill["answer"] - ill["answer_controls"] > 2).all()


def test_everybody_is_explained_by_the_member_that_never_saw_them(explained: ExplainedFolder) -> None:
    scans = explained.explained
    assert set(scans["members"].astype(str)) <= {"0", "1", "2"}
    for row in scans.to_dict("records"):
        assert int(row["members"]) == int(str(row["subject"])[1:]) % 3
    first = scans[~scans["retest"].astype(bool)]
    assert first["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 3)
    assert scans["retest"].astype(bool).sum() == 5


def test_the_picture_plays_and_the_page_shows_the_verdict_first(
    explained: ExplainedFolder, world: Path, tmp_path: Path
) -> None:
    animations = explained.animations()
    assert len(animations) == len(METHODS) * (2 + 2)
    for path in animations[:2]:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            assert image.n_frames > 20
            assert image.width > image.height
        assert len(content) < 3_000_000
    page = (
        Report.model_validate({"inputs": [world / "cohort", explained.folder], "out": tmp_path / "page"}).run()
    ) / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "Where the classifier looks" in text
    assert text.index(explained.summary[0][:40]) < text.index("Judges of each method")
    assert "Grad-CAM: " in text or "stem, cells every 8 mm, each seeing 12 mm" in text


def test_people_who_are_shown_have_their_maps_in_the_space_of_their_scan(explained: ExplainedFolder) -> None:
    for key in explained.shown:
        native: Any = nib.load(native_path(explained.folder, key, "integrated_gradients"))
        own: Any = nib.load(map_path(explained.folder, key, "integrated_gradients"))
        assert native.shape == (41, 48, 40)
        assert native.affine[0, 3] == own.affine[0, 3] - 4.0
        # The T1w is the template's, so nothing is deformed.
        moved, still = np.asarray(native.dataobj)[1:].ravel(), np.asarray(own.dataobj).ravel()
        assert np.corrcoef(moved, still)[0, 1] > 0.99
    assert len(list((explained.folder / "native").glob("*"))) == len(METHODS) * len(explained.shown)


def test_tables_hold_what_their_names_say(explained: ExplainedFolder) -> None:
    slices = read_table(explained.folder / "slices.tsv")
    assert slices.groupby(["key", "method"])["share"].sum().to_numpy() == pytest.approx(1.0, abs=1e-4)
    peak = slices[slices["method"] == "occlusion"].groupby("y_mm")["share"].mean().idxmax()
    assert -45 < peak < 0  # where hippocampi are
    thresholds = read_table(explained.folder / "thresholds.tsv")
    assert set(thresholds["rule"]) == {"percentile", "otsu", "sd"}
    assert not (explained.folder / ROWS).exists()
    assert not list(explained.folder.glob("*.npy"))


def test_a_run_that_is_stopped_goes_on_to_the_same_result(
    explained: ExplainedFolder, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"methods": ["grad_cam", "occlusion"], "people": 1, "judged": 0, "animation": "none"}
    whole = verb(world, tmp_path / "whole", **settings).run()
    made = []

    def stop(job: Any, tasks: list[Any]) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(tasks)
        return explain_scans(job, tasks)

    from gen3d.explain.one_scan import explain_scans

    monkeypatch.setattr("gen3d.explain.explain.explain_scans", stop)
    with pytest.raises(KeyboardInterrupt):
        verb(world, tmp_path / "stopped", **settings).run()
    monkeypatch.undo()
    known_networks(monkeypatch)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "maps").glob("*")}
    assert len(kept) == 4
    stopped = verb(world, tmp_path / "stopped", **settings).run()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for table in ("regions", "enrichment", "truth", "group_enrichment", "judges", "explained"):
        assert (whole / f"{table}.tsv").read_text() == (stopped / f"{table}.tsv").read_text()
    for path in (whole / "groups").glob("*"):
        assert np.array_equal(
            np.asarray(nib.load(path).dataobj), np.asarray(nib.load(stopped / "groups" / path.name).dataobj)
        )  # type: ignore[attr-defined]


def test_a_plan_says_who_and_how_much_and_writes_nothing(world: Path, tmp_path: Path) -> None:
    lines = verb(world, tmp_path / "out").plan()
    assert lines[0].startswith(
        "explains 6 people (11 scans) by SmoothGrad, Grad-CAM, integrated gradients and region occlusion"
    )
    assert "logit of AD less that of CN" in lines[0]
    assert any("stem, cells every 8 mm, each seeing 12 mm" in line for line in lines)
    assert any("passes through the network" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"answer": "MCI"}, r"answer=MCI: no such class; give contrast or one of CN, AD\.$"),
        ({"regions": ["hippocampos"]}, r"has no region hippocampos; the nearest name is .*hippocampus\.$"),
        (
            {"layer": "block9"},
            r"layer=block9: is no map of the volume in this network; its stages with one are stem\.$",
        ),
        (
            {"subjects": ["p99"]},
            r"subjects: p99 is nobody with a diagnosis in these folders; its labelled people have other ids",
        ),
    ],
)
def test_wrong_settings_are_sentences(world: Path, tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        verb(world, tmp_path / "out", **settings).run()
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_explained_is_refused(world: Path, tmp_path: Path) -> None:
    seen = reseal(write_classifier(tmp_path / "seen", world / "cohort", cross_fit=False))
    with pytest.raises(
        UserError, match=rf"every member saw all {2 * PER_CLASS} labelled people .* train with cross_fit=5"
    ):
        verb(world, tmp_path / "out", run=seen).run()
    other = tmp_path / "other"
    shutil.copytree(world / "cohort", other)
    plan = (other / "plan.json").read_text()
    (other / "plan.json").write_text(plan.replace('"degrees_of_freedom": 12', '"degrees_of_freedom": 9'))
    with pytest.raises(UserError, match="weights of another plan"):
        verb(world, tmp_path / "out", prepared=reseal(other)).run()
    (tmp_path / "run").mkdir()
    shutil.copytree(world / "run", tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run" / "classifier.json").unlink()
    with pytest.raises(UserError, match="is not a run of a classifier"):
        verb(world, tmp_path / "out", run=reseal(tmp_path / "run")).run()
