"""Nothing leaves quarantine unaudited: copies of training people are kept aside, unless somebody gives a reason in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_stored
from gen3d.models.run import Run, load_run
from gen3d.synthesis.audit import AuditSettings, known_people
from gen3d.synthesis.drawing import Drawing
from gen3d.synthesis.folder import SyntheticDataset
from gen3d.synthesis.gate import Gate, training_folders
from gen3d.synthesis.sample import Sample
from tests.cohorts import write_cohort
from tests.generators import fit_generator
from tests.sealing import reseal

SETTINGS = AuditSettings(draws=100, min_held_out=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort of few people and a generator's run, ldm."""
    folder = tmp_path_factory.mktemp("gate")
    fit_generator(write_cohort(folder / "cohort", num_controls=30, num_patients=0), folder)
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return load_run(place / "ldm")


@pytest.fixture(scope="module")
def reference(place: Path) -> Prepared:
    return open_prepared(place / "cohort")


def dataset_of(people: list[str], reference: Prepared, out: Path) -> SyntheticDataset:
    """A synthetic dataset whose scans are those of real people."""
    dataset = SyntheticDataset(out, reference.plan.model_copy(update={"channels": ("t1w",)}))
    for sample, key in enumerate(people):
        dataset.keep(sample, {"t1w": reference.volume(key, "t1w")}, False)
    return dataset


def sampled(place: Path, out: Path, **changes: Any) -> Sample:
    tree = {"run": place / "ldm", "out": out, "count": 2, "steps": 1, "measure": False, "device": "cpu"}
    return Sample.model_validate({**tree, "audit": SETTINGS.model_dump(), **changes})


def test_copies_of_training_people_stay_in_quarantine(run: Run, reference: Prepared, tmp_path: Path) -> None:
    train, _ = known_people(run, reference, SETTINGS)
    dataset = dataset_of(list(train["key"])[:4], reference, tmp_path / "copies")
    gate = Gate.open(run, SETTINGS, None, None)
    with pytest.raises(
        UserError, match=r"audit failed: 4 of 4 synthetic scans are copies .* waiver='reason'"
    ) as caught:
        gate.pass_through(dataset, range(4))
    assert str(dataset.out / "quarantine") in str(caught.value)
    assert {path.name for path in dataset.quarantine.iterdir()} == {"volumes", "nearest.png", "nearest.tsv"}
    report = json.loads((dataset.out / "audit.json").read_text())
    assert report["failed"]
    assert report["waiver"] is None
    waived = Gate.open(run, SETTINGS, None, "only to test the rule")
    assert waived.pass_through(dataset, range(4)) == [True] * 4
    assert json.loads((dataset.out / "audit.json").read_text())["waiver"] == "only to test the rule"
    dataset.release()
    assert not dataset.quarantine.exists(), "pictures of training people do not become part of the dataset"
    assert read_stored(dataset.path(2, "t1w")).any()
    with pytest.raises(UserError, match="released with a waiver"):
        gate.still_stands(dataset)
    waived.still_stands(dataset)


def test_people_whom_the_model_never_saw_pass(run: Run, reference: Prepared, tmp_path: Path) -> None:
    _, held_out = known_people(run, reference, SETTINGS)
    dataset = dataset_of(list(held_out["key"])[:6], reference, tmp_path / "others")
    gate = Gate.open(run, SETTINGS, None, None)
    assert gate.pass_through(dataset, range(6)) == [False] * 6
    gate.still_stands(dataset)


def test_a_failed_request_is_kept_and_a_waiver_hands_over_the_same_scans(
    place: Path, run: Run, reference: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder gives every pair of samples the scans of two training people."""
    train, _ = known_people(run, reference, SETTINGS)
    remembered = reference.load(list(train["key"])[:2], ("t1w",))
    monkeypatch.setattr(Drawing, "decoded", lambda self, latents: remembered)
    out = tmp_path / "out"
    verb = sampled(place, out, count=4)
    with pytest.raises(UserError, match=r"audit failed: 4 of 4 synthetic scans are copies"):
        verb.run()
    monkeypatch.undo()
    made = {path.name: path.stat().st_mtime_ns for path in (out / "quarantine" / "volumes").iterdir()}
    assert len(made) == 4
    with pytest.raises(UserError, match="never finished there"):
        open_prepared(out)
    assert not list(out.rglob("*_T1w.nii*"))
    with pytest.raises(UserError, match="audit failed"):
        verb.run()
    waived = sampled(place, out, count=4, waiver="rule of a test")
    assert waived.run() == out
    assert {path.name: path.stat().st_mtime_ns for path in (out / "volumes").iterdir()} == made
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["waiver"] == "rule of a test"
    assert provenance["audit"]["failed"]
    assert open_prepared(out).manifest["audit_copy"].astype(str).str.lower().eq("true").all()
    with pytest.raises(UserError, match=r"released with a waiver \(rule of a test\)"):
        verb.run()


def test_without_the_training_people_there_is_no_audit_and_no_dataset(place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(place, moved)
    for name in ("ldm", "vae"):
        record = json.loads((place / name / "artefact.json").read_text().replace(str(place), str(moved)))
        reseal(moved / name, **record)
    (tmp_path / "far" / "away").mkdir(parents=True)
    away = Path(shutil.move(moved / "cohort", tmp_path / "far" / "away" / "cohort"))
    with pytest.raises(
        UserError, match=r"no audit .* is possible: .*cohort, which is no longer .*audit_against=.*waiver="
    ):
        sampled(moved, tmp_path / "out").run()
    assert not (tmp_path / "out").exists()
    sampled(moved, tmp_path / "out", audit_against=away).run()
    out = sampled(moved, tmp_path / "unaudited", waiver="the cohort is at another site").run()
    report = json.loads((out / "audit.json").read_text())
    assert report["done"] is False
    assert "no longer there" in report["obstacle"]
    assert set(open_prepared(out).manifest["audit_copy"]) == {"unknown"}


def test_other_people_in_the_recorded_place_are_no_reference(place: Path, tmp_path: Path) -> None:
    run = load_run(place / "ldm")
    assert training_folders(run) == (place / "cohort",)
    other = write_cohort(tmp_path / "other", num_controls=30, num_patients=0, seed=5, prefix="q")
    with pytest.raises(UserError, match=r"holds 0 of the training people of"):
        Gate.open(run, SETTINGS, [other], None)
    kept = (place / "cohort" / "artefact.json").read_text()
    (place / "cohort" / "artefact.json").write_text((other / "artefact.json").read_text())
    with pytest.raises(UserError, match=r"was made from .*cohort, which holds something else now"):
        Gate.open(run, SETTINGS, None, None)
    (place / "cohort" / "artefact.json").write_text(kept)
