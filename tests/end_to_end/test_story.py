"""The main job from the first verb to the report, as a user runs it, on a coarse grid."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.cli import main
from gen3d.cohort.channels import CHANNELS
from gen3d.cohort.manifest import subject_hash
from gen3d.core.config import load
from gen3d.demo import Demo
from gen3d.simulate.folder import TRUTH
from gen3d.train.train import Train
from gen3d.verbs import VERBS, verb_class
from tests.serve.browser import chromium
from tests.serve.served import running

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the whole demo
KEYS = ["subjects=44", "spacing_mm=4", "steps=8", "workers=2"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("story") / "demo"
    assert main(["demo", f"out={out}", *KEYS]) == 0
    return out


@pytest.mark.slow
def test_planted_atrophy_is_found_by_the_deformation_channel(demo: Path) -> None:
    rows = json.loads((demo / "evaluation" / "metrics.json").read_text())["headline"]
    atrophy = [r for r in rows if r["measure"].startswith("AUC of") and r["condition"] in ("ad", "AD")]
    assert {row["maps"] for row in atrophy} == {"restorer_and_pca", "pca"}
    assert max(row["value"] for row in atrophy) > 0.75


@pytest.mark.slow
def test_where_nothing_is_planted_little_is_found(demo: Path) -> None:
    for model in ("restorer_and_pca", "pca"):
        records = json.loads((demo / "maps" / model / "calibration.json").read_text())
        # 11 people calibrate the two together: too few for `size`, a channel of a handful of numbers.
        for channel in CHANNELS if model == "restorer_and_pca" else records:
            held_out = records[channel]["calibration_held_out"]
            assert 0.03 < held_out["share_beyond_1.96"] < 0.08, (model, channel)


@pytest.mark.slow
def test_the_report_is_one_file_with_no_request(demo: Path) -> None:
    html = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"']https?://", html)
    assert html.count("<img") + html.count("<svg") > 5


@pytest.mark.slow
def test_every_folder_can_be_traced(demo: Path) -> None:
    records = {path.parent: json.loads(path.read_text()) for path in demo.rglob("artefact.json")}
    assert len(records) == 19
    by_key = {record["key"]: folder for folder, record in records.items()}
    report = records[demo / "report"]
    assert {item["key"] for item in report["inputs"]["inputs"]} <= set(by_key)
    both = records[demo / "maps" / "restorer_and_pca"]["inputs"]["run"]
    assert [item["key"] for item in both] == [records[demo / "runs" / name]["key"] for name in ("restorer", "pca")]


@pytest.mark.slow
def test_a_norm_judges_new_people_at_the_same_scanners(demo: Path) -> None:
    maps = demo / "maps" / "new_people"
    subjects = pd.read_csv(maps / "subjects.tsv", sep="\t")
    assert not set(subjects["subject"]) & set(pd.read_csv(demo / "cohort" / "manifest.tsv", sep="\t")["subject"])
    assert (subjects["role"] == "evaluation").sum() == 2
    assert subjects["score_deformation"].notna().all()
    assert len(list((maps / "maps").glob("*_zmap.nii.gz"))) == 3 * len(subjects)
    html = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert "New people: PCA, by a norm" in html
    assert "No image and no id is in the folder" in html
    held_out = json.loads((demo / "norm" / "calibration.json").read_text())["deformation"]["calibration_held_out"]
    assert 0.03 < held_out["share_beyond_1.96"] < 0.08


@pytest.mark.slow
def test_nobody_is_judged_whom_either_of_the_two_models_saw(demo: Path) -> None:
    seen = json.loads((demo / "runs" / "restorer" / "subjects.json").read_text())["0"]
    subjects = pd.read_csv(demo / "maps" / "restorer_and_pca" / "subjects.tsv", sep="\t", dtype={"subject": str})
    assert not {subject_hash(subject) for subject in subjects["subject"]} & set(seen)
    assert {"calibration", "test", "evaluation"} == set(subjects["role"])


@pytest.mark.slow
def test_the_report_leads_with_the_two_models_together(demo: Path) -> None:
    html = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert "Local volume, Restorer and PCA (registration alone)" in html
    assert "Maps and regions are those of Restorer and PCA" in html
    best = json.loads((demo / "report" / "metrics.json").read_text())["summary"]["best_by_condition"]
    lesion = next(row for row in best if row["condition"] == "lesion")
    models = {lesion["model"]} | {row["model"] for row in lesion["others"]}
    assert models <= {"Restorer and PCA", "PCA"}
    assert "Restorer and PCA" in models or lesion["channel"] != "residual"


@pytest.mark.slow
def test_a_first_page_with_maps_comes_long_before_the_end(demo: Path) -> None:
    html = (demo / "first_page" / "index.html").read_text(encoding="utf-8")
    assert "Group maps" in html
    first = (demo / "first_page" / "artefact.json").stat().st_mtime
    assert all(
        path.stat().st_mtime > first for path in (demo / "runs" / "restorer" / "members").rglob("model.safetensors")
    )


@pytest.mark.slow
def test_it_ends_with_a_dozen_lines_that_say_what_was_planted_and_found(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", f"out={demo}", *KEYS]) == 0
    closing = capsys.readouterr().out.split("What was planted")[1].strip().splitlines()
    assert len(closing) <= 16
    text = "\n".join(closing)
    for part in (
        "AD-like atrophy",
        "Lesions:",
        "False alarms",
        "New people: judged by",
        "Synthetic scans:",
        "report/index.html",
        "On your own scans",
    ):
        assert part in text, part


def test_the_full_demo_has_every_step_once(tmp_path: Path) -> None:
    short, full = (Demo(out=tmp_path / "demo", full=full).plan() for full in (False, True))
    verbs = {line.split(":")[0] for line in full}
    assert len(set(full)) == len(full) > len(short)
    assert {"harmonise", "predict", "reconstruct"} <= verbs - {line.split(":")[0] for line in short}


@pytest.mark.parametrize("full", [False, True])
def test_its_trainings_are_recorded_where_the_user_says(
    tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainings that a whole demo would run, without a step of it."""
    trainings: list[Train] = []
    monkeypatch.setattr(Train, "run", lambda train: trainings.append(train) or train.out)
    for verb in set(VERBS) - {"train", "demo"}:
        monkeypatch.setattr(verb_class(verb), "run", lambda verb: verb.out)
    monkeypatch.setattr(Demo, "_closing", lambda demo: [])
    for words, expected in (([], ("tensorboard",)), (["track=[tensorboard,mlflow]"], ("tensorboard", "mlflow"))):
        demo = load(Demo, None, [f"out={tmp_path / 'demo'}", f"full={str(full).lower()}", *words])
        demo.run()
        assert [train.track for train in trainings] == [expected] * (6 if full else 4)
        assert "track" not in demo.settings()
        trainings.clear()


@pytest.mark.slow
def test_a_second_run_changes_nothing(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file() and path.name != ".lock"}
    assert main(["demo", f"out={demo}", *KEYS]) == 0
    after = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file() and path.name != ".lock"}
    assert before == after


@pytest.mark.slow
def test_other_settings_are_refused(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"out={demo}", *KEYS, "seed=5"]) == 2
    assert "holds a result of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_truth_is_met(demo: Path) -> None:
    regions = pd.read_csv(demo / "cohort" / "truth" / "truth_regions.tsv", sep="\t")
    assert {"key", "region", "percent_change"} <= set(regions.columns)
    manifest = pd.read_csv(demo / "cohort" / "manifest.tsv", sep="\t")
    null = manifest[manifest["diagnosis"] == "null"]["key"]
    assert (regions[regions["key"].isin(null)]["percent_change"].abs() < 1e-6).all()


@pytest.mark.slow
def test_synthetic_scans_are_drawn_audited_and_compared(demo: Path) -> None:
    audit = json.loads((demo / "synthetic" / "audit.json").read_text())
    assert audit["done"]
    assert not audit["failed"]
    assert set(audit["embeddings"]) == {"latent", "voxels"}
    scans = pd.read_csv(demo / "synthetic" / "manifest.tsv", sep="\t")
    assert len(scans) == len(list((demo / "synthetic" / "volumes").glob("*_t1w.nii"))) == 12
    assert set(scans["role"]) == {"evaluation"}
    compared = json.loads((demo / "quality" / "metrics.json").read_text())
    assert {row["set"] for row in compared["tables"]["distances"]} >= {"synthetic", "reconstructed"}
    html = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert "of people who do not exist" in html
    assert compared["summary"][0].split("(")[0].strip() in html


@pytest.fixture
def shown(request: pytest.FixtureRequest) -> Path:
    """The demo whose norm judges one scan in a browser: that in the folder GEN3D_DEMO, or the one of these tests."""
    folder = os.environ.get("GEN3D_DEMO", "")
    return Path(folder) if folder else Path(request.getfixturevalue("demo"))


@pytest.mark.slow
def test_the_norm_of_the_demo_judges_one_scan_in_a_browser(shown: Path, tmp_path: Path) -> None:
    """As README shows it: its picture is made here, in the folder GEN3D_PICTURES."""
    with chromium(tmp_path / "profile") as browser, running(shown / "norm", tmp_path / "served") as server:
        truth = TRUTH.read(shown / "new_people" / "truth")
        key = truth.loc[truth["condition"] == "lesion", "key"].iloc[0]
        person = pd.read_csv(shown / "new_people" / "manifest.tsv", sep="\t").set_index("key").loc[key]
        page = browser.came_in(server.address, next(iter(server.tokens.values())))
        page.choose_file("#scan", shown / "new_people" / "volumes" / f"{key}_t1w.nii")
        page.run(f"document.getElementById('age').value = '{person['age_years']:.1f}'")
        page.run(f"document.getElementById('sex').value = '{person['sex']}'")
        page.run(f"document.getElementById('site').value = '{person['site']}'")
        page.run("document.getElementById('send').click()")
        page.until("location.pathname.startsWith('/jobs/')")
        page.until("document.querySelector('canvas.nv') !== null", 600)
        page.size(1100, 1320)
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.until("document.querySelector('canvas.nv').dataset.ready === '1'")
        told = page.run("document.body.innerText")
        place = page.run("document.querySelector('.place').textContent")
        page.picture(Path(os.environ.get("GEN3D_PICTURES", tmp_path)) / "one_scan_in_a_browser.png", whole=False)
    assert re.search(r"Compared with \d+ controls of a norm", told)
    lesion = nib.load(shown / "new_people" / "truth" / f"{key}_changed.nii.gz")
    inside = np.argwhere(np.asarray(lesion.dataobj) > 0) @ lesion.affine[:3, :3].T + lesion.affine[:3, 3]
    crosshair = [float(text) for text in re.findall(r"-?\d+", place)[:3]]
    assert np.linalg.norm(inside - crosshair, axis=1).min() < 10, "the page opens where the lesion was planted"
    assert page.said == []
