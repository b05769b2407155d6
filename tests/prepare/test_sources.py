"""Cohort tables from folders and files: codings that differ are understood, what is damaged gets its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.prepare.columns import Columns
from gen3d.prepare.sources import read_sources


def bids(root: Path, scans: list[str], participants: str | None = None) -> Path:
    for scan in scans:
        path = root / scan
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if participants is not None:
        (root / "participants.tsv").write_text(participants)
    return root


def table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_bids_with_other_codings_and_leftovers(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "ds1",
        ["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii", "sub-09/anat/sub-09_T1w.nii.gz"],
        "participant_id\tage\tgender\tgroup\thand\nsub-01\t39\tm\tdepr\tl\nsub-02\tn/a\tF\tcontrol\tr\nsub-03\t5\tf\tcontrol\tr\n",
    )
    source = read_sources([root], Columns(diagnosis_codes={"depr": "depression"}))
    rows = source.frame.set_index("subject")
    assert rows.loc["01", ["sex", "diagnosis", "age_years", "hand", "site"]].tolist() == [
        "M",
        "depression",
        39.0,
        "l",
        "ds1",
    ]
    assert rows.loc["02", "session"] == "b"
    assert rows.loc["02", "age_years"] != rows.loc["02", "age_years"]
    assert rows.loc["09", "diagnosis"] == ""
    assert ("09", "scan without a row in participants.tsv") in source.unmatched
    assert ("03", "row in participants.tsv without a scan") in source.unmatched


def test_derivatives_in_one_space_and_caps_names(tmp_path: Path) -> None:
    name = "sub-A1_ses-M006_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz"
    root = bids(tmp_path / "caps", [f"subjects/sub-A1/ses-M006/t1_linear/{name}"])
    frame = read_sources([root]).frame
    assert frame["key"].tolist() == ["sub-A1_ses-M006"]


def test_several_spaces_need_a_choice(tmp_path: Path) -> None:
    scans = [f"sub-1/anat/sub-1_space-{space}_T1w.nii.gz" for space in ("MNI", "T1")]
    root = bids(tmp_path / "d", scans)
    with pytest.raises(UserError, match=r"several spaces \(MNI, T1\)"):
        read_sources([root])
    assert read_sources([root], Columns(space="T1")).frame["source"].iloc[0].endswith("space-T1_T1w.nii.gz")
    with pytest.raises(UserError, match="no scan in space-xyz"):
        read_sources([root], Columns(space="xyz"))


def test_second_runs_are_listed_not_used(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz"])
    source = read_sources([root])
    assert len(source.frame) == 1
    used, not_used = (f"sub-1/anat/sub-1_run-{run}_T1w.nii.gz" for run in (1, 2))
    assert ("1", f"further image not used: {not_used} (used: {used})") in source.unmatched


def test_session_tables_give_the_age_at_each_scan(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "d",
        ["sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz", "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz"],
        "participant_id\tsex\nsub-1\tM\n",
    )
    (root / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\nses-a\t70\nses-b\t72\n")
    assert read_sources([root]).frame["age_years"].tolist() == [70.0, 72.0]


def test_table_with_semicolons_and_byte_order_mark(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "\ufeffsubject;file;Age;M/F\ns1;a.nii;40;F\ns2;b.nii;41;M\n")
    frame = read_sources([path]).frame
    assert frame["sex"].tolist() == ["F", "M"]
    assert frame["source"].iloc[0] == str(tmp_path / "a.nii")


def test_age_in_months_can_be_said(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "subject,file,age\n1,a.nii,480\n")
    assert read_sources([path], Columns(age_unit="months")).frame["age_years"].tolist() == [40.0]


HEAD = "subject,file,age,sex,group\n"
WRONG: dict[str, tuple[str, Columns, str]] = {
    "unknown sex": (HEAD + "1,a.nii,40,x,CN\n2,b.nii,40,2,CN\n", Columns(), "unknown code of sex '2', 'x'"),
    "age in months": (HEAD + "1,a.nii,480,F,CN\n", Columns(), "columns.age_unit=months"),
    "age in words": (HEAD + "1,a.nii,forty,F,CN\n", Columns(), "age 'forty' is not a number"),
    "negative age": (HEAD + "1,a.nii,-3,F,CN\n", Columns(), "negative age"),
    "duplicate scan": (HEAD + "1,a.nii,40,F,CN\n1,b.nii,41,F,CN\n", Columns(), "occurs more than once"),
    "two sexes": (
        "subject,session,file,sex\n1,1,a.nii,F\n1,2,b.nii,M\n",
        Columns(),
        "is M in one row and F in another",
    ),
    "no subject column": ("name,file\n1,a.nii\n", Columns(), "no column with the person's id"),
    "no path column": ("subject,age\n1,40\n", Columns(), "no column with the scans' files"),
    "no such column": (
        HEAD + "1,a.nii,40,F,CN\n",
        Columns(age_years="years"),
        "no column `years` for columns.age_years",
    ),
    "no rows": (HEAD, Columns(), "the table has no rows"),
    "ragged": (HEAD + "1,a.nii,40,F,CN\n1,a.nii,40,F,CN,9,9,9\n", Columns(), "every row needs the same columns"),
    "empty id": (HEAD + ",a.nii,40,F,CN\n", Columns(), "row 2 has no subject id"),
    "missing id": (HEAD + "1,a.nii,40,F,CN\nn/a,b.nii,40,F,CN\n", Columns(), "row 3 has no subject id (it says 'n/a')"),
    "no files": (HEAD + "1,,40,F,CN\n", Columns(), "no row names a scan file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_table_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, columns, sentence = WRONG[name]
    with pytest.raises(UserError) as error:
        read_sources([table(tmp_path / "t.csv", text)], columns)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_other_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        read_sources([table(tmp_path / "t.csv", HEAD + "Jürg,a.nii,40,F,CN\n", "latin-1")])
    with pytest.raises(UserError, match="no such folder or table"):
        read_sources([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="a BIDS or CAPS folder, a table"):
        read_sources([table(tmp_path / "t.xlsx", "x")])
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match=r"no \*_T1w\.nii"):
        read_sources([tmp_path / "void"])
    twice = bids(tmp_path / "d", ["sub-1/anat/sub-1_T1w.nii.gz"], "participant_id\tage\nsub-1\t4\nsub-1\t5\n")
    with pytest.raises(UserError, match="1 has more than one row"):
        read_sources([twice])
