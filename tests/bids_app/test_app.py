"""From a raw dataset to a valid derivatives dataset, in the words of a BIDS app; and each mistake in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from gen3d.bids_app.app import main
from tests.validator import bids_errors

SPACE = "MNI152NLin2009aSym"


@pytest.fixture(scope="module")
def derivatives(raw: Path, small_norm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both levels, sub-03 with its broken file among the participants."""
    out = tmp_path_factory.mktemp("app") / "out"
    shared = ["--norm", str(small_norm), "--n_cpus", "1"]
    assert main([str(raw), str(out), "participant", *shared]) == 3
    assert main([str(raw), str(out), "group", *shared]) == 3
    return out


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_every_participant_has_maps_a_table_and_a_page(derivatives: Path) -> None:
    for name, session in (("sub-01", "ses-1"), ("sub-02", "ses-a"), ("sub-02", "ses-b")):
        start = derivatives / name / session / "anat" / f"{name}_{session}"
        assert Path(f"{start}_space-{SPACE}_res-4mm_desc-residual_stat-z_statmap.nii.gz").is_file()
        assert Path(f"{start}_space-individual_desc-deformation_stat-z_statmap.nii.gz").is_file()
        assert len(table(Path(f"{start}_desc-regions_stats.tsv"))) > 20
        assert f"{name} against healthy controls" in (derivatives / f"{name}.html").read_text()
    assert not (derivatives / "sub-03").exists()


def test_the_group_has_everybodys_rows(derivatives: Path) -> None:
    group = table(derivatives / "group_desc-regions_stats.tsv")
    people = table(derivatives / "participants.tsv")
    assert people["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert people["age"].astype(float).tolist() == [61, 70]
    single = sorted(derivatives.glob("sub-*/ses-*/anat/*_desc-regions_stats.tsv"))
    assert len(single) == 3
    for path in single:
        own = table(path).set_index(["channel", "region"])
        rows = group[group["participant_id"].eq(path.parts[-4]) & group["session_id"].eq(path.parts[-3])]
        pd.testing.assert_frame_equal(rows.set_index(["channel", "region"])[own.columns.tolist()], own)
    assert len(group) == sum(len(table(path)) for path in single)
    page = (derivatives / "group.html").read_text()
    assert "A study: everybody against healthy controls" in page


def test_the_page_of_the_group_shows_what_the_participants_were_told(derivatives: Path) -> None:
    """The norm judges each scan by itself, so the maps that the page is made of are those of the participants."""
    (folder,) = (derivatives / "work").glob("group-*")
    together = table(folder / "maps" / "regions.tsv").set_index(["key", "channel", "region"])["z"].astype(float)
    for name in ("sub-01", "sub-02"):
        alone = table(derivatives / "work" / name / "maps" / "regions.tsv").set_index(["key", "channel", "region"])["z"]
        pd.testing.assert_series_equal(together[alone.index], alone.astype(float), rtol=1e-6)


def test_the_dataset_is_described_and_names_no_place(derivatives: Path, raw: Path) -> None:
    described = json.loads((derivatives / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "gen3d-bids"
    assert described["SourceDatasets"] == [{"DOI": "doi:10.18112/openneuro.ds0.v1"}]
    methods = (derivatives / "methods.md").read_text()
    assert "N4ITK" in methods
    assert "cubic voxels of 4 mm" in methods
    assert "judged by the norm on 27 controls" in methods
    for path in derivatives.rglob("*"):
        if "work" not in path.parts and path.suffix in (".json", ".tsv", ".md", ""):
            assert path.is_dir() or str(raw.parent.parent) not in path.read_text(), path


def test_the_validator_finds_no_error(derivatives: Path) -> None:
    assert bids_errors(derivatives) == []


def test_the_same_command_has_nothing_to_do(derivatives: Path, raw: Path, small_norm: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (derivatives / "work").rglob("*.nii*")}
    assert len(before) > 10
    call = [str(raw), str(derivatives), "participant", "--participant_label", "sub-01", "--norm", str(small_norm)]
    assert main(call) == 0
    assert {path: path.stat().st_mtime_ns for path in (derivatives / "work").rglob("*.nii*")} == before


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said to a call that is refused."""
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return " ".join(said.err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--participant-label", "09"], "no participant sub-09 with a T1w scan; there are 3: 01, 02, 03."),
        (["--participant-label", "04"], "sub-04 has no T1w scan that can be used; leave out this participant."),
        (["--participant-label", "01", "sub-01"], "the participant sub-01 is given twice"),
        (["--session-label", "x"], "no session ses-x with a T1w scan"),
        (["--session-label", "a", "ses-a"], "the session ses-a is given twice"),
        (
            ["--site", "elsewhere"],
            "cannot judge scans of the site 'elsewhere'; it has controls of a and b. Give --site NAME",
        ),
        (["--n_cpus", "0"], "argument --n_cpus/--n-cpus: 0 is not a whole number above 0"),
        (["--bad"], "unrecognized arguments: --bad; `gen3d-bids --help` lists the arguments."),
    ],
)
def test_wrong_words_get_their_sentences(
    raw: Path, small_norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    said = refused(capsys, str(raw), str(tmp_path / "out"), "participant", "--norm", str(small_norm), *words)
    assert sentence in said
    assert not (tmp_path / "out").exists()


def test_wrong_datasets_get_their_sentences(
    raw: Path, small_norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = (str(tmp_path / "out"), "participant", "--norm", str(small_norm))
    folder = tmp_path / "study"
    assert "no such folder; BIDS_DIR is the folder of the dataset" in refused(capsys, str(folder), *rest)
    folder.mkdir()
    assert "no dataset_description.json, so it is not a BIDS dataset" in refused(capsys, str(folder), *rest)
    description = folder / "dataset_description.json"
    description.write_text("{")
    assert "not JSON that can be read" in refused(capsys, str(folder), *rest)
    description.write_text('{"Name": "x"}')
    assert "no BIDSVersion, which BIDS requires" in refused(capsys, str(folder), *rest)
    shutil.copy(raw / "dataset_description.json", description)
    assert "no *_T1w.nii or *_T1w.nii.gz in it" in refused(capsys, str(folder), *rest)
    inside = refused(capsys, str(raw), str(raw / "results"), *rest[1:])
    assert "lies in the raw dataset" in inside
    assert not (raw / "results").exists()
    group = refused(capsys, str(raw), str(tmp_path / "new"), "group", *rest[2:])
    assert "no participant has results there; run the participant level first" in group


def test_results_of_another_dataset_are_not_mixed(
    derivatives: Path, raw: Path, small_norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(raw, other)
    (other / "dataset_description.json").write_text('{"Name": "Another", "BIDSVersion": "1.10.0"}')
    said = refused(capsys, str(other), str(derivatives), "participant", "--norm", str(small_norm))
    assert "describes a dataset of another norm, source, site or version of gen3d" in said
