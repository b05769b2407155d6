"""A norm is adapted to a site from a few controls of its own: nothing planted stays nothing, and what is planted is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.norm.folder import open_norm
from gen3d.anomaly.norm.norm import Norm
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import Split
from gen3d.core.errors import UserError
from gen3d.imaging.volume import store
from tests.cohorts import PLANTED, write_cohort
from tests.runs import fit
from tests.sealing import reseal

CONTROLS, TESTED = Split(train=0, calibration=1, test=0), Split(train=0, calibration=0, test=1)
CHANNELS = ("residual", "structural", "deformation")


def at_scanner(folder: Path, seed: int = 1) -> Path:
    """The same people scanned elsewhere: another contrast, a smooth shift of both channels, and twice the variance."""
    prepared = open_prepared(folder)
    shape, matrix = prepared.plan.shape, prepared.plan.matrix
    x, y, z = (np.sin(2 * np.pi * axis / 30 + seed) for axis in np.indices(shape))
    for key in prepared.manifest["key"]:
        for channel, shift, mean in (("t1w", 0.06, 0.7), ("log_jacobian", 0.07, 0.0)):
            volume = prepared.volume(key, channel)
            changed = mean + 1.2 * (volume - mean) + shift * (x + y * z)
            store(prepared.path(key, channel), changed * prepared.mask, matrix)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapting")


@pytest.fixture(scope="module")
def norm(place: Path) -> Path:
    controls = write_cohort(place / "controls", 60, 0, sites=("a", "b"), seed=3)
    run = fit(controls, place / "run")
    return Norm.model_validate({"prepared": controls, "run": run, "out": place / "adult", "licence": "CC0"}).run()


@pytest.fixture(scope="module")
def few(place: Path) -> Path:
    return at_scanner(write_cohort(place / "few", 8, 0, sites=("c",), seed=11, prefix="w", split=CONTROLS))


@pytest.fixture(scope="module")
def here(norm: Path, few: Path) -> Path:
    return Norm.model_validate({"adapt": norm, "prepared": few, "out": norm.parent / "here"}).run()


@pytest.fixture(scope="module")
def tested(place: Path) -> Path:
    return at_scanner(write_cohort(place / "tested", 16, 4, sites=("c",), seed=12, prefix="t", split=TESTED))


@pytest.fixture(scope="module")
def judged(here: Path, tested: Path) -> Path:
    return Anomaly.model_validate({"norm": here, "prepared": tested, "out": here.parent / "judged"}).run()


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", na_values="n/a")


def z_of(folder: Path, key: str, channel: str) -> np.ndarray:
    import nibabel as nib

    return np.asarray(nib.load(folder / f"maps/{key}_desc-{channel}_zmap.nii.gz").dataobj)


def test_healthy_people_of_the_site_stay_healthy(judged: Path, tested: Path) -> None:
    subjects = table(judged, "subjects")
    healthy = subjects[subjects["role"] == "test"]
    assert len(healthy) == 16
    mask = open_prepared(tested).mask
    for channel in CHANNELS:
        beyond = [(np.abs(z_of(judged, key, channel)[mask]) > 1.96).mean() for key in healthy["key"]]
        assert 0.03 < np.mean(beyond) < 0.07, channel
        assert (healthy[f"voxels_fdr_{channel}"] > 0).mean() <= 0.07
    assert healthy["flags"].str.contains("site c was added from 8 controls of its own").all()


def test_what_is_planted_is_found(judged: Path) -> None:
    subjects, regions = table(judged, "subjects"), table(judged, "regions")
    patients = subjects.loc[subjects["role"] == "evaluation", "key"]
    planted = regions[(regions["channel"] == "deformation") & (regions["region"] == PLANTED)].set_index("key")
    assert (planted.loc[patients, "z"] < -3).all()
    healthy = subjects.loc[subjects["role"] == "test", "key"]
    assert planted.loc[patients, "effect"].mean() - planted.loc[healthy, "effect"].mean() == pytest.approx(
        -0.3, abs=0.06
    )
    assert abs(planted.loc[healthy, "effect"].mean()) < 0.05, "deviations are from what people of the site have"


def test_without_it_the_site_is_refused(norm: Path, tested: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot judge scans of site 'c'.*gen3d norm adapt="):
        Anomaly.model_validate({"norm": norm, "prepared": tested, "out": tmp_path / "maps"}).run()


def test_known_sites_are_judged_as_before(norm: Path, here: Path, place: Path, tmp_path: Path) -> None:
    known = write_cohort(place / "known", 6, 0, sites=("a", "b"), seed=13, prefix="k", split=TESTED)
    before, after = (
        Anomaly.model_validate({"norm": folder, "prepared": known, "out": tmp_path / name}).run()
        for name, folder in (("before", norm), ("after", here))
    )
    assert (before / "regions.tsv").read_text() == (after / "regions.tsv").read_text()
    assert (before / "subjects.tsv").read_text() == (after / "subjects.tsv").read_text()


def test_the_folder_says_how_its_own_controls_behave(here: Path, few: Path) -> None:
    record = json.loads((here / "calibration.json").read_text())
    for channel in CHANNELS:
        of_site = record[channel]["adapted"]["c"]
        assert of_site["num_controls"] == of_site["held_out"]["num_people"] == 8
        assert 0.02 < of_site["held_out"]["share_beyond_1.96"] < 0.09
        assert of_site["shift_sds"] > 0.2
    assert record["deformation"]["adapted"]["c"]["sd_factor"] == pytest.approx(1.2, abs=0.15)
    card = (here / "card.md").read_text()
    assert "Site c was added from 8 controls of its own" in card
    assert "CC0" in card
    ids = set(open_prepared(few).manifest["subject"])
    for path in here.rglob("*"):
        if path.suffix in {".json", ".md", ".tsv"} and "runs" not in path.parts:
            assert not [name for name in ids if name in path.read_text()], path


def test_its_controls_are_not_judged(here: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="were seen by the norm"):
        Anomaly.model_validate({"norm": here, "prepared": few, "out": tmp_path / "maps"}).run()


def test_a_second_site_is_added_to_the_first(here: Path, judged: Path, tested: Path, tmp_path: Path) -> None:
    other = at_scanner(write_cohort(tmp_path / "d", 5, 0, sites=("d",), seed=21, prefix="d", split=CONTROLS), seed=2)
    both = Norm.model_validate({"adapt": here, "prepared": other, "out": tmp_path / "both"}).run()
    assert open_norm(both).record.controls.adapted == {"c": 8, "d": 5}
    maps = Anomaly.model_validate({"norm": both, "prepared": tested, "out": tmp_path / "maps"}).run()
    assert (maps / "regions.tsv").read_text() == (judged / "regions.tsv").read_text()


def refused(norm: Path, prepared: Path, tmp_path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Norm.model_validate({"adapt": norm, "prepared": prepared, "out": tmp_path / "refused"}).run()
    assert not (tmp_path / "refused").exists()


def test_what_cannot_be_adapted_is_a_sentence(norm: Path, tested: Path, few: Path, place: Path, tmp_path: Path) -> None:
    refused(norm, tested, tmp_path, "holds no control .*prepare healthy people of the new site")
    two = write_cohort(tmp_path / "two", 2, 0, sites=("e",), seed=31, prefix="e", split=CONTROLS)
    refused(norm, two, tmp_path, "site e has 2 controls and 3 are needed")
    known = write_cohort(tmp_path / "known", 6, 0, sites=("a",), seed=32, prefix="g", split=CONTROLS)
    refused(norm, known, tmp_path, "has site a already")
    nameless = write_cohort(tmp_path / "nameless", 6, 0, sites=("",), seed=33, prefix="h", split=CONTROLS)
    refused(norm, nameless, tmp_path, "6 controls of .* have no site")
    again = shutil.copytree(place / "controls", tmp_path / "again")
    manifest = pd.read_csv(again / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    manifest.assign(site="new").to_csv(again / "manifest.tsv", sep="\t", index=False)
    refused(norm, again, tmp_path, "of the controls .* are known to .*leave them out")
    plan = json.loads((few / "plan.json").read_text())
    coarse = shutil.copytree(few, tmp_path / "coarse")
    (coarse / "plan.json").write_text(json.dumps(plan | {"spacing_mm": 5.0}))
    refused(norm, coarse, tmp_path, "prepare the scans with the norm's settings|damaged")


def test_settings_of_the_norm_are_not_given_again(norm: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`smoothing_mm` has no meaning with adapt="):
        Norm.model_validate({"adapt": norm, "prepared": few, "out": tmp_path / "n", "smoothing_mm": 8.0})


def test_damaged_shifts_are_a_sentence(here: Path, tested: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(here, tmp_path / "damaged")
    path = damaged / "channels" / "deformation_voxels_sites.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{name: values[:-1] for name, values in arrays.items()})
    reseal(damaged)
    with pytest.raises(UserError, match=r"deformation_voxels_sites\.npz: missing or damaged"):
        Anomaly.model_validate({"norm": damaged, "prepared": tested, "out": tmp_path / "maps"}).run()


def test_norms_that_were_merged_are_adapted(place: Path, few: Path, tmp_path: Path) -> None:
    run = place / "run"
    parts = []
    for name, seed in (("one", 41), ("two", 42)):
        cohort = write_cohort(tmp_path / name, 24, 0, sites=(name,), seed=seed, prefix=name[0], split=CONTROLS)
        parts.append(Norm.model_validate({"prepared": cohort, "run": run, "out": tmp_path / f"norm_{name}"}).run())
    both = Norm.model_validate({"merge": parts, "out": tmp_path / "both"}).run()
    assert set(open_norm(both).voxels("deformation").squares) == {"one", "two"}
    here = Norm.model_validate({"adapt": both, "prepared": few, "out": tmp_path / "here"}).run()
    record = json.loads((here / "calibration.json").read_text())
    assert 0.02 < record["deformation"]["adapted"]["c"]["held_out"]["share_beyond_1.96"] < 0.09
