"""An exported network gives what the run gives: compiled, as ONNX, and in the C++ program on the same scans."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from gen3d.classify.heads.learning import probabilities
from gen3d.classify.heads.probability_calibration import Scaling
from gen3d.cli import main
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.seen import identity_of
from gen3d.cohort.target import Target
from gen3d.core.artefact import write_record
from gen3d.core.errors import UserError
from gen3d.exports.folder import check_view, read_model, write_floats, write_index
from gen3d.exports.model import ExportModel
from gen3d.exports.model_compiled import open_onnx, open_package
from gen3d.exports.model_networks import FEWEST_TO_CALIBRATE, open_exported, problems
from gen3d.models.normative.voxelwise import VoxelwiseConfig
from gen3d.models.run import load_run
from gen3d.models.supervised.classifier import Classifier
from gen3d.models.supervised.framing import ViewWindow, framed, rescaled
from tests.cohorts import write_cohort
from tests.exports.classifier_run import write_run
from tests.models.test_run import VAE, volume_of
from tests.models.test_run import write_run as write_model_run
from tests.sealing import reseal

CLASSES = Target("diagnosis", "categories", ("control", "AD"))
GRID = (87, 88, 87)
"""Padded from 40 x 48 x 40: the smallest that the network takes."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "cohort", num_controls=12, num_patients=8)


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Liu's network of width 1 on two channels, z-scored, with padding."""
    model = {"network": {"kind": "liu", "width": 1}, "grid": GRID, "intensity": "zscore"}
    return write_run(tmp_path_factory.mktemp("run") / "run", cohort, CLASSES, ("t1w", "log_jacobian"), **model)


@pytest.fixture(scope="module")
def exported(cohort: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of one member, with three scans: two that it never saw, and one that it learned from."""
    keys = ["p000_1", "p001_1", "p013_1"]
    table = open_prepared(cohort).manifest
    scans = tuple(table["key"][table["subject"].isin([key[:4] for key in keys])])
    out = tmp_path_factory.mktemp("exported") / "exported"
    return ExportModel(run=run, out=out, members=(1,), prepared=(cohort,), scans=scans).run()


def scores(run: Path, member: int, volume: np.ndarray) -> np.ndarray:
    """Of the run itself, in Python."""
    model = load_run(run).member(member)
    assert isinstance(model, Classifier)
    with torch.no_grad():
        return model(torch.from_numpy(volume)[None]).numpy()[0]


def test_files_are_compared_when_written_and_when_opened(exported: Path, run: Path) -> None:
    model = read_model(exported)
    entry = model.member(1)
    assert entry["tolerance"] < 2e-3 * np.abs(entry["check_scores"]).max()
    assert 0 <= entry["package"]["difference"] < entry["tolerance"]
    assert 0 <= entry["onnx"]["difference"] < entry["tolerance"]
    network = load_run(run).member(1).network
    views = torch.from_numpy(check_view(5, 2, GRID)[3:])
    with torch.no_grad():
        expected = network(views)
    torch.testing.assert_close(open_package(model, 1)(views, None), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(open_onnx(model, 1)(views, None), expected, rtol=1e-3, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4, "the scores depend on the views"


def test_volumes_and_judges_are_those_of_the_cohort(exported: Path, cohort: Path, run: Path) -> None:
    model, prepared = read_model(exported), open_prepared(cohort)
    index = json.loads((exported / "volumes" / "index.json").read_text())
    seen = load_run(run).seen
    assert len(index["scans"]) == 3
    for scan in index["scans"]:
        row = prepared.row(scan["key"])
        np.testing.assert_array_equal(
            model.volume(scan["key"]), prepared.load([scan["key"]], ["t1w", "log_jacobian"])[0]
        )
        assert scan["age_years"] == pytest.approx(row["age_years"])
        assert scan["members"] == [m for m in seen.blind_to(identity_of(row["subject"])) if m == 1]
    judged = [scan["key"] for scan in index["scans"] if scan["members"]]
    assert [said["key"] for said in model.predictions] == judged
    assert 0 < len(judged) < 3


def test_calibration_is_that_of_the_people_who_watched(exported: Path) -> None:
    calibration = read_model(exported).member(1)["calibration"]
    assert calibration["num_people"] == 10, "those of the other fold"
    (scaling,) = calibration["scalings"]
    assert scaling["slope"] > 0
    assert scaling["temperature"] == pytest.approx(1 / scaling["slope"])
    for said in read_model(exported).predictions:
        margin = said["scores"][0][1] - said["scores"][0][0]
        odds = np.exp(scaling["slope"] * margin + scaling["biases"][1])
        assert said["probabilities"]["AD"] == pytest.approx(odds / (1 + odds), abs=1e-9)


def test_few_people_calibrate_nothing(run: Path) -> None:
    exported = open_exported(load_run(run), None)
    assert exported.scores is not None
    few = exported.scores.table.groupby(["member", "part"]).head(FEWEST_TO_CALIBRATE - 1)
    calibration = replace(exported, scores=replace(exported.scores, table=few)).calibration(1)
    assert calibration.num_people == 0
    assert calibration.record()["scalings"] == [{"slope": 1.0, "biases": [0.0, 0.0], "temperature": 1.0}]


def predicted(programs: Path, exported: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [programs / "gen3d_predict", exported, *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_the_program_says_what_python_says(programs: Path, exported: Path, run: Path, cohort: Path) -> None:
    model = read_model(exported)
    keys = [said["key"] for said in model.predictions]
    done = predicted(programs, exported, *keys)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["packages"][0]["calibrated_on"] == 10
    assert answer["packages"][0]["difference_to_python"] < model.member(1)["tolerance"]
    for here, there in zip(answer["scans"], model.predictions, strict=True):
        assert (here["key"], here["class"], here["members"]) == (there["key"], there["class"], there["members"])
        volume = open_prepared(cohort).load([here["key"]], ["t1w", "log_jacobian"])[0]
        np.testing.assert_allclose(here["scores"][0], scores(run, 1, volume), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(there["scores"][0], scores(run, 1, volume), atol=1e-6)
        for name, share in there["probabilities"].items():
            assert here["probabilities"][name] == pytest.approx(share, abs=1e-5)


def test_the_program_refuses_in_a_sentence(programs: Path, exported: Path, tmp_path: Path) -> None:
    unjudged = [
        s["key"] for s in json.loads((exported / "volumes/index.json").read_text())["scans"] if not s["members"]
    ]
    assert "every exported member learned from this person" in predicted(programs, exported, *unjudged).stderr
    assert json.loads(predicted(programs, exported, *unjudged, "--member", "1").stdout)["scans"][0]["members"] == [1]
    assert "no scan of this name" in predicted(programs, exported, "nobody").stderr
    assert "member 0: was not exported" in predicted(programs, exported, "--member", "0").stderr
    for change, sentence in (
        (("torch", "2.1.0"), "compiled by torch 2.1.0"),
        (("cpu", "NEON"), "for a processor with NEON"),
    ):
        folder = tmp_path / change[0]
        shutil.copytree(exported, folder, copy_function=os.link)
        described = json.loads((folder / "model.json").read_text())
        (folder / "model.json").unlink()
        (folder / "model.json").write_text(json.dumps(described | dict([change])))
        done = predicted(programs, folder)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_python_refuses_packages_of_another_torch_processor_or_network(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    described = json.loads((folder / "model.json").read_text())
    wrong = described["members"][0] | {"check_scores": [[9.0, 9.0]]}
    for change, sentence in (
        ({"torch": "2.1.0+cpu"}, "was compiled by torch 2.1.0"),
        ({"cpu": "NEON"}, "for a processor with NEON"),
        ({"members": [wrong]}, "gives other scores than the network"),
    ):
        (folder / "model.json").write_text(json.dumps(described | change))
        with pytest.raises(UserError, match=sentence):
            open_package(read_model(reseal(folder)), 1)


def test_python_refuses_onnx_of_another_network_a_damaged_and_an_absent_one(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    described = json.loads((folder / "model.json").read_text())
    wrong = described["members"][0] | {"check_scores": [[9.0, 9.0]]}
    (folder / "model.json").write_text(json.dumps(described | {"members": [wrong]}))
    with pytest.raises(UserError, match="gives other scores than the network"):
        open_onnx(read_model(reseal(folder)), 1)
    path = folder / described["members"][0]["onnx"]["file"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.onnx: damaged"):
        open_onnx(read_model(reseal(folder)), 1)
    path.unlink()
    with pytest.raises(UserError, match="no ONNX file is there"):
        open_onnx(read_model(reseal(folder)), 1)


def changed(exported: Path, folder: Path, scan: str, members: list[int], changes: dict[str, Any]) -> Path:
    """A copy whose model.json has these changes, and whose `scan` is judged by these members."""
    shutil.copytree(exported, folder, copy_function=os.link)
    index = json.loads((exported / "volumes/index.json").read_text())
    scans = [entry | {"members": members} for entry in index["scans"] if entry["key"] == scan]
    described = json.loads((exported / "model.json").read_text()) | changes
    for name, content in (("model.json", described), ("volumes/index.json", index | {"scans": scans})):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
    return folder


def test_the_program_averages_members_and_knows_every_task(programs: Path, exported: Path, tmp_path: Path) -> None:
    """Against classify's own probabilities: two members, each calibrated differently; ordered grades; numbers."""
    model = read_model(exported)
    said, entry = model.predictions[0], model.member(1)
    raw = np.array(said["scores"])
    scalings = {0: (Scaling(1.2, (0.0, 0.3)),), 1: (Scaling(0.7, (0.0, -0.4)),)}
    grades = {0: (Scaling(1.2, (0.0, 0.1)), Scaling(0.3, (0.0, 0.6))), 1: (Scaling(0.5, (0.0, 0.0)),) * 2}

    def entries(kept: dict[int, tuple[Scaling, ...]]) -> list[dict[str, Any]]:
        calibrated = {m: {"scalings": [vars(each) for each in kept[m]], "num_people": 9} for m in kept}
        return [
            entry | {"member": m, "calibration": calibrated[m], "label": {"mean": 10.0 * m, "std": 2.0}} for m in kept
        ]

    two, three = CLASSES, Target("cdr", "ordered", ("0", "0.5", "1"))
    for target, kept, of_problems in ((two, scalings, problems(raw, two)), (three, grades, problems(raw, three))):
        named = {"name": target.name, "task": target.task, "classes": list(target.classes)}
        folder = changed(
            exported, tmp_path / target.task, said["key"], [0, 1], {"target": named, "members": entries(kept)}
        )
        (scan,) = json.loads(predicted(programs, folder).stdout)["scans"]
        expected = np.mean([probabilities(of_problems, kept[m], target)[0] for m in (0, 1)], axis=0)
        np.testing.assert_allclose(list(scan["probabilities"].values()), expected, atol=1e-5)
        assert scan["class"] == target.classes[int(expected.argmax())]
        assert scan["members"] == [0, 1]
    number = {"name": "age_years", "task": "number", "classes": []}
    folder = changed(
        exported, tmp_path / "number", said["key"], [0, 1], {"target": number, "members": entries(scalings)}
    )
    (scan,) = json.loads(predicted(programs, folder).stdout)["scans"]
    assert scan["predicted"] == pytest.approx(2.0 * said["scores"][0][0] + 5.0, abs=1e-3)


def test_intensity_rules_and_crops_are_those_of_python(
    programs: Path, cohort: Path, exported: Path, tmp_path: Path
) -> None:
    """The same package behind another window and rule: what the program feeds it is what `framed` and `rescaled` make."""
    said = read_model(exported).predictions[0]
    volume = torch.from_numpy(open_prepared(cohort).load([said["key"]], ["t1w", "log_jacobian"]))
    scorer, channels = open_package(read_model(exported), 1), ("t1w", "log_jacobian")
    found = []
    cases = (
        ("minmax", (3, -20, -47), None),
        ("stored", (-30, 8, 2), None),
        ("zscore", (5, -3, -60), None),
        ("zscore", (5, -3, -60), -1.9),
    )
    for place, (rule, start, black) in enumerate(cases):
        window = {"start": start, "size": GRID}
        changes = {"window": window, "intensity": rule, "black": black}
        folder = changed(exported, tmp_path / str(place), said["key"], [1], changes)
        (scan,) = json.loads(predicted(programs, folder).stdout)["scans"]
        mask = torch.from_numpy(open_prepared(cohort).mask)[None, None].float()
        inside, view = (
            framed(mask, ViewWindow.model_validate(window)),
            framed(volume, ViewWindow.model_validate(window)),
        )
        expected = scorer(rescaled(view, rule, channels, inside, black), None)[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(scan["scores"][0], expected, rtol=1e-4, atol=1e-4)
        found.append(expected)
    assert min(float((found[i] - found[j]).abs().max()) for i, j in ((0, 1), (1, 2), (2, 3))) > 1e-2


def test_numbers_are_averaged_over_blind_members(cohort: Path, tmp_path: Path) -> None:
    """Of people that no member saw both members judge, each in its own unit."""
    target = Target("age_years", "number")
    model = {"network": {"kind": "liu", "width": 1}, "grid": (87, 87, 87), "intensity": "minmax"}
    run = write_run(tmp_path / "run", cohort, target, ("t1w",), **model)
    others = write_cohort(tmp_path / "others", num_controls=1, num_patients=0, prefix="n", seed=5)
    exported = read_model(ExportModel(run=run, out=tmp_path / "out", prepared=(others,), formats=("onnx",)).run())
    (said,) = exported.predictions
    assert said["members"] == [0, 1], "not the one with permuted labels"
    volume = open_prepared(others).load([said["key"]], ["t1w"])[0]
    alone = [scores(run, member, volume)[0] for member in (0, 1)]
    assert said["predicted"] == pytest.approx(np.mean(alone), rel=1e-5)
    assert [exported.member(member)["label"]["mean"] for member in (0, 1)] == [60.0, 61.0]


def test_an_encoder_is_exported_too(programs: Path, exported: Path, tmp_path: Path) -> None:
    run = write_model_run(tmp_path / "run", VAE)
    out = ExportModel(run=run, out=tmp_path / "out", members=(2,), formats=("onnx",)).run()
    volume = volume_of(3)
    latent = load_run(run).encode(volume, "nobody", member=2)
    session = onnxruntime.InferenceSession(str(out / "members/2/model.onnx"))
    np.testing.assert_allclose(session.run(None, {"views": volume[None]})[0][0], latent, rtol=1e-4, atol=1e-5)
    assert np.abs(latent).max() > 1e-3
    assert read_model(out).description["target"] == {"name": "vae", "task": "latent", "classes": []}
    said = read_model(exported).predictions[0]
    folder = changed(
        exported, tmp_path / "c", said["key"], [1], {"target": {"name": "vae", "task": "latent", "classes": []}}
    )
    (scan,) = json.loads(predicted(programs, folder).stdout)["scans"]
    assert set(scan) == {"key", "members", "scores"}
    assert "no compiled package of it is there" in predicted(programs, _with_volume(out, volume)).stderr


def _with_volume(out: Path, volume: np.ndarray) -> Path:
    write_floats(out / "volumes" / "v.f32", volume)
    scan = {"key": "v", "file": "v.f32", "age_years": None, "members": [2]}
    write_index(out / "volumes", volume.shape, ("t1w", "log_jacobian"), [scan])
    return out


def test_an_interrupted_export_goes_on_to_the_same_result(tmp_path: Path) -> None:
    """Killed after the first network, as the record and its files show it."""
    settings: dict[str, Any] = {"run": write_model_run(tmp_path / "run", VAE), "members": (0, 1), "formats": ("onnx",)}
    whole = ExportModel(out=tmp_path / "whole", **settings).run()
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "members/1")
    (cut / "model.json").unlink()
    record = json.loads((whole / "artefact.json").read_text())
    write_record(cut, record | {"status": "running", "files": None})
    kept = (cut / "members/0/model.onnx").stat().st_mtime_ns
    again = ExportModel(out=cut, **settings).run()
    assert (again / "members/0/model.onnx").stat().st_mtime_ns == kept
    assert json.loads((again / "model.json").read_text()) == json.loads((whole / "model.json").read_text())
    assert b"site-packages" not in (whole / "members/0/model.onnx").read_bytes(), "folders of this machine"


def test_what_cannot_be_exported_is_a_sentence(
    cohort: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    voxelwise = write_model_run(tmp_path / "voxelwise", VoxelwiseConfig())
    words = {
        f"run={voxelwise}": "has no network from a volume to scores",
        f"run={run} members=[7]": "has the members 0 to 2",
        f"run={run} scans=[p000]": "scans= names scans of prepared=",
        f"run={run} prepared={cohort} scans=[nobody]": "holds no scan nobody",
    }
    for given, sentence in words.items():
        assert main(["export-model", *given.split(), f"out={tmp_path / 'out'}"]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert main(["export-model", f"run={run}", f"out={tmp_path / 'out'}"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
