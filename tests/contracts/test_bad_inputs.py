"""What goes wrong between verbs: each mistake gives one sentence and exit code 2, and leaves finished work alone.

Damaged scans are in tests/data/test_volume.py, damaged tables in tests/data/test_sources.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gen3d.cli import main
from gen3d.imaging.volume import write_nifti
from tests.cohorts import write_cohort
from tests.runs import fit
from tests.sealing import reseal

Damage = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort and a run of its own, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("sound")
    write_cohort(folder / "cohort", num_controls=32, num_patients=2)
    fit(folder / "cohort", folder / "run")
    return folder


def _edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return edit


def _never_finished(folder: Path) -> None:
    reseal(folder, status="running")


def _truncate(name: str) -> Callable[[Path], None]:
    def truncate(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:1000])

    return truncate


def _first_volume(folder: Path) -> Path:
    return next(iter(sorted((folder / "volumes").glob("*_t1w.nii"))))


WEIGHTS = "members/0/model.safetensors"
ANOMALY = ["anomaly", "prepared=cohort", "run=run", "out=maps", "native=false"]
TRAIN = ["train", "configs.yaml", "prepared=cohort", "out=new"]
BENCH = ["simulate", "base=cohort", "out=new", "figures=false"]
LESION = [*BENCH, "conditions={a: {kind: lesion, masks: masks}}"]
SHRUNK = [*BENCH, "conditions={a: {kind: atrophy, changes: {thalamus: 200}, severity: [3]}}"]
DRAWN = [*BENCH, "conditions={a: {kind: atrophy, changes: {x: -9}, labels: masks, label_names: names.tsv}}"]


def _mask(folder: str = "masks", shift_mm: float = 0.0, filled: bool = True) -> Damage:
    """A mask of 2 ml in the middle of the left hemisphere, or elsewhere, or empty."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-40, -20, 20 + shift_mm)
    return lambda cohort, run: write_nifti(Path(folder) / "a.nii", np.full((9, 9, 9), filled, np.uint8), affine)


DAMAGED: dict[str, tuple[list[str], Damage, str]] = {
    "run never finished": (ANOMALY, lambda c, r: _never_finished(r), "`gen3d train` never finished there"),
    "cohort never finished": (TRAIN, lambda c, r: _never_finished(c), "`gen3d prepare` never finished there"),
    "weights cut short": (ANOMALY, lambda c, r: _truncate(WEIGHTS)(r), "model.safetensors"),
    "weights missing": (ANOMALY, lambda c, r: (r / WEIGHTS).unlink(), "weights of member 0 are missing"),
    "config of the run damaged": (ANOMALY, lambda c, r: (r / "config.yaml").write_text("["), "missing or damaged"),
    "subjects of the run missing": (ANOMALY, lambda c, r: (r / "subjects.json").unlink(), "missing or damaged"),
    "plan damaged": (ANOMALY, lambda c, r: (c / "plan.json").write_text("{"), "missing or damaged"),
    "another grid": (
        ANOMALY,
        lambda c, r: _edit("plan.json", lambda t: t.replace('"spacing_mm": 4.0', '"spacing_mm": 2.0'))(c),
        "weights of another plan",
    ),
    "manifest missing": (TRAIN, lambda c, r: (c / "manifest.tsv").unlink(), "no cohort table there"),
    "manifest without roles": (
        TRAIN,
        lambda c, r: _edit("manifest.tsv", lambda t: t.replace("role", "rolle", 1))(c),
        "lacks the column role",
    ),
    "unknown role": (
        TRAIN,
        lambda c, r: _edit("manifest.tsv", lambda t: t.replace("\ttrain\t", "\ttraining\t"))(c),
        "unknown role training",
    ),
    "nobody to learn from": (
        TRAIN,
        lambda c, r: _edit("manifest.tsv", lambda t: t.replace("\ttrain\t", "\tevaluation\t"))(c),
        "train",
    ),
    "volume missing": (ANOMALY, lambda c, r: [p.unlink() for p in (c / "volumes").glob("*_t1w.nii")], "cannot be read"),
    "volume of another grid": (
        TRAIN,
        lambda c, r: [shutil.copy(c / "mask.nii", p) for p in (c / "volumes").glob("*_t1w.nii")],
        "volume",
    ),
    "channel that was not prepared": ([*TRAIN, "channels=[t1w,flair]"], lambda c, r: None, "has no channel flair"),
    "record damaged": (ANOMALY, lambda c, r: (r / "artefact.json").write_text("{"), "damaged (not JSON)"),
    "a run instead of a cohort": (
        ["train", "configs.yaml", "prepared=run", "out=new"],
        lambda c, r: None,
        "`gen3d prepare` or `gen3d prepare-slices` or `gen3d simulate` or `gen3d sample` is needed",
    ),
    "report of a folder of something else": (
        ["report", "inputs=[elsewhere]", "out=report"],
        lambda c, r: Path("elsewhere").mkdir(),
        "holds no artefact.json",
    ),
    "truth that is none": (
        ["evaluate", "maps=run", "truth=cohort", "out=e"],
        lambda c, r: None,
        "was written by `gen3d",
    ),
    "latents of a model without": (
        ["encode", "prepared=cohort", "run=run", "out=l"],
        lambda c, r: None,
        "no latent space",
    ),
    "unknown model kind": (
        ["train", "prepared=cohort", "out=new", "model.kind=gan"],
        lambda c, r: None,
        "the kinds are",
    ),
    "masks of no folder": (LESION, lambda c, r: None, "no such folder"),
    "a folder without masks": (LESION, lambda c, r: Path("masks").mkdir(), "holds no mask"),
    "an empty mask": (LESION, _mask(filled=False), "the mask is empty"),
    "masks in another space": (LESION, _mask(shift_mm=90.0), "so it is in another space"),
    "no mask of the size": (
        [*BENCH, "conditions={a: {kind: lesion, masks: masks, sizes_ml: [40, 60]}}"],
        _mask(),
        "none of its 1 masks has between 40 and 60 ml",
    ),
    "a region that is none": (
        [*BENCH, "conditions={a: {kind: atrophy, changes: {hipocampus: -24}}}"],
        lambda c, r: None,
        "the nearest name is 'hippocampus'",
    ),
    "beyond what stays diffeomorphic": (SHRUNK, lambda c, r: None, "the largest change that works is about"),
    "label maps of nobody": (
        DRAWN,
        lambda c, r: [Path("masks").mkdir(), Path("names.tsv").write_text("label\tname\n1\tx\n")],
        "holds a label map of none of the",
    ),
    "a bench on nobody": (
        [*BENCH, "conditions={a: {kind: 'null'}}", "base_roles=[test]"],
        lambda c, r: _edit("manifest.tsv", lambda t: t.replace("\ttest\t", "\tevaluation\t"))(c),
        "holds no control with the role test",
    ),
    "a twin to learn from": (
        TRAIN,
        lambda c, r: _edit(
            "manifest.tsv", lambda t: re.sub(r"(?m)$", "\tx", t.rstrip("\n")).replace("\tx", "\tbase", 1) + "\n"
        )(c),
        "its role is always evaluation",
    ),
    "out is a file": (
        [*ANOMALY[:3], "out=afile", "native=false"],
        lambda c, r: Path("afile").write_text("x"),
        "cannot be written",
    ),
}


SEEN_LATE = {"volume missing", "volume of another grid", "weights cut short"}
"""Damage that shows when a scan or a network is read, in the middle of the work."""


@pytest.mark.parametrize("name", DAMAGED)
def test_one_sentence_and_nothing_lost(
    name: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, damage, sentence = DAMAGED[name]
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    (tmp_path / "configs.yaml").write_text("model: {kind: voxelwise}\n")
    monkeypatch.chdir(tmp_path)
    damage(tmp_path / "cohort", tmp_path / "run")
    for folder in (tmp_path / "cohort", tmp_path / "run"):  # the readers behind the seal are tried
        if name != "record damaged":
            reseal(folder)
    out = Path(next(word for word in command if word.startswith("out=")).removeprefix("out="))
    existed = out.exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(command) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert existed or out.exists() == (name in SEEN_LATE), (
        "what is wrong with the inputs is said before a folder is made"
    )


def test_full_disk_is_one_sentence_and_the_rest_stays(sound: Path, tmp_path: Path) -> None:
    """A real full disk: a file system of 300 kB, in a mount namespace of its own."""
    script = (
        f"mount -t tmpfs -o size=300k tmpfs {tmp_path} && "
        f"{sys.executable} -m gen3d reconstruct prepared={sound / 'cohort'} run={sound / 'run'} out={tmp_path / 'out'}"
    )
    can_mount = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if can_mount.returncode:
        pytest.skip("this machine does not let us mount a small file system")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
