"""Tables of people as they come: joined so that every row that is lost is told, refused where a reader would have to guess."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import Columns
from gen3d.prepare.sources import ScanSource, read_sources
from tests.prepare.test_sources import bids, table

TWO = ["sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz"]
VISITS = [f"sub-1/ses-{name}/anat/sub-1_ses-{name}_T1w.nii.gz" for name in ("M000", "M012")]
HEAD = "participant_id\tage\tsex\tgroup\n"


def ages(source: ScanSource) -> list[float | None]:
    return [None if math.isnan(age) else round(age, 3) for age in source.frame["age_years"]]


REFUSED: dict[str, tuple[str, str]] = {
    "a row too long": (HEAD + "sub-1\t30\tF\tCN\nsub-2\t40\tM\tCN\t7\n", "line 3 has 5 cells, but the header has 4"),
    "a row too short": (HEAD + "sub-1\t30\tF\tCN\nsub-2\t40\tM\n", "line 3 has 3 cells, but the header has 4"),
    "a trailing tab in every row": (
        "participant_id\tno\tage\teducation\nsub-1\t1\t30\t12\t\nsub-2\t2\t70\t16\t\n",
        "line 2 has 5 cells, but the header has 4 columns",
    ),
    "row names without a header": ("age\tsex\nsub-1\t30\tF\nsub-2\t40\tM\n", "line 2 has 3 cells"),
    "a title above the header": ("Study 7\n" + HEAD + "sub-1\t30\tF\tCN\n", "line 2 has 4 cells, but the header has 1"),
    "a column without a name": ("participant_id\t\tsex\nsub-1\t30\tF\nsub-2\t40\tM\n", "column 2 has no name"),
    "two columns of one name": ("participant_id\tage\tage\nsub-1\t30\t31\nsub-2\t4\t5\n", "two columns are called age"),
    "two tables in one": (HEAD + "sub-1\t30\tF\tCN\n" + HEAD + "sub-2\t40\tM\tCN\n", "line 3 repeats the header"),
    "a quotation mark that is not closed": (
        HEAD + 'sub-1\t30\tF\t"CN\nsub-2\t40\tM\tCN\n',
        "quotation mark that is not closed",
    ),
    "a null byte": (HEAD + "sub-1\t30\tF\tC\0N\nsub-2\t40\tM\tCN\n", "holds a null byte"),
    "ids saved as numbers": (HEAD + "1.0\t30\tF\tCN\n10.0\t40\tM\tCN\n", "'1.0' was saved as a number"),
    "ids saved in scientific notation": (HEAD + "2.1E+05\t30\tF\tCN\n", "was saved as a number"),
    "two columns of ages": (
        "participant_id\tAGE\tage_at_scan\nsub-1\t30\t31\n",
        "both may be the age_years, and they differ",
    ),
    "one name in capitals and not": (
        "participant_id\tage\tAge\nsub-1\t30\t31\n",
        "columns age and Age both may be the age_years",
    ),
    "one name in two spellings": (
        "participant_id\tage\tAge_Years\tGROUP\tdx\nsub-1\t3\t3\tCN\tAD\n",
        "both may be the diagnosis",
    ),
    "a score that is a code": ("participant_id\tmmse\nsub-1\t-9\n", "mmse -9 of sub-1 is not between 0 and 30"),
    "a score in words": ("participant_id\tmmse\nsub-1\t29/30\n", "mmse '29/30' is not a number"),
    "an age over 89": (HEAD + "sub-1\t89+\tF\tCN\n", "columns.age_codes='{\"89+\": 89}'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_leaves_room_for_a_guess_is_refused(name: str, tmp_path: Path) -> None:
    text, sentence = REFUSED[name]
    with pytest.raises(UserError) as error:
        read_sources([bids(tmp_path / "d", TWO, text)])
    assert sentence in str(error.value)
    assert "participants.tsv" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_plain_is_read(tmp_path: Path) -> None:
    text = 'participant_id\tage\tsex\t\n sub-1 \t30\tF\t\n\t\t\t\nsub-2\t"40"\tM\t\n\n'
    assert ages(read_sources([bids(tmp_path / "d", TWO, text)])) == [30, 40]
    assert read_user_table(table(tmp_path / "t.csv", 'a,b\n"x, y",2\n'))["a"].tolist() == ["x, y"]


def test_participant_id_goes_before_another_column_of_ids(tmp_path: Path) -> None:
    text = "participant_id\tsubject\tage\nsub-2\t1\t40\nsub-1\t2\t30\n"
    source = read_sources([bids(tmp_path / "d", TWO, text)])
    assert ages(source) == [30, 40]
    assert "subject from participant_id" in source.notes[0]
    assert "passed over: subject (for subject)" in source.notes[0]
    scans = table(tmp_path / "t.csv", "participant_id,subject,file\n2,1,a.nii\n1,2,b.nii\n")
    with pytest.raises(UserError, match=r"columns\.subject=subject \(or participant_id\)"):
        read_sources([scans])
    assert read_sources([scans], Columns(subject="participant_id")).frame["subject"].tolist() == ["2", "1"]


@pytest.mark.parametrize(
    ("said", "written", "right"),
    [
        ({"Units": "months"}, "62", 62 / 12),
        ({"Units": "Days"}, "73.05", 0.2),
        ({"Units": "weeks"}, "104.357", 2),
        ({"Units": "yrs"}, "62", 62),
        ({"Description": "Age at scan in months"}, "62", 62 / 12),
        ({"Description": "age of the person"}, "62", 62),
    ],
)
def test_the_unit_that_the_sidecar_says_is_used(
    said: dict[str, str], written: str, right: float, tmp_path: Path
) -> None:
    root = bids(tmp_path / "d", TWO, f"participant_id\tage\nsub-1\t{written}\nsub-2\tn/a\n")
    (root / "participants.json").write_text(json.dumps({"age": said}))
    source = read_sources([root])
    assert ages(source) == [round(right, 3), None]
    assert any("participants.json" in note for note in source.notes) == (right not in (62,))
    assert ages(read_sources([root], Columns(age_unit="years")))[0] == float(written)


def test_a_sidecar_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", TWO, HEAD + "sub-1\t30\tF\tCN\nsub-2\t40\tM\tCN\n")
    for text, sentence in (
        ('{"age": {"Units": "decades"}}', "age has the unit 'decades'"),
        ('{"sex": {"Levels": {"F": "male", "M": "female"}}}', "sex F is called 'male'"),
        ("{", "participants.json: not JSON"),
    ):
        (root / "participants.json").write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_sources([root])


def test_codes_mean_what_the_sidecar_says_and_the_user_goes_first(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", TWO, HEAD + "sub-1\t30\t1\t1\nsub-2\t40\t2\t2\n")
    levels = {
        "sex": {"Levels": {"1": "male", "2": {"Description": "Female participant"}}},
        "group": {"Levels": {"1": "control", "2": "patient", "CN": "cognitively normal"}},
    }
    (root / "participants.json").write_text(json.dumps(levels))
    source = read_sources([root])
    assert source.frame[["sex", "diagnosis"]].to_numpy().tolist() == [["M", "control"], ["F", "patient"]]
    assert any("sex 1 is M, 2 is F" in note for note in source.notes)
    other = read_sources([root], Columns(sex_codes={"1": "F"}, diagnosis_codes={"2": "AD"})).frame
    assert other[["sex", "diagnosis"]].to_numpy().tolist() == [["F", "control"], ["F", "AD"]]


def test_codes_are_found_however_they_were_saved(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", TWO, HEAD + "sub-1\t30\t1.0\t2.0\nsub-2\t40\t2.0\t1\n")
    codes = Columns(sex_codes={"1": "M", "2": "F"}, diagnosis_codes={"1": "AD", "2": "control", "7": "x"})
    source = read_sources([root], codes)
    assert source.frame[["sex", "diagnosis"]].to_numpy().tolist() == [["M", "control"], ["F", "AD"]]
    assert any("no row has diagnosis 7, which columns.diagnosis_codes names" in note for note in source.notes)


def test_sex_other_is_a_sex_that_is_not_known(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", TWO, HEAD + "sub-1\t30\tO\tCN\nsub-2\t40\t9\tCN\n")
    assert read_sources([root], Columns(sex_codes={"9": "unknown"})).frame["sex"].tolist() == ["", ""]


def test_missing_values_and_ages_can_be_spelled_otherwise(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", TWO, "participant_id\tage\tmmse\tedu\nsub-1\t89+\t-9\tNA\nsub-2\t-9\t30\t12\n")
    frame = read_sources([root], Columns(missing=("-9",), age_codes={"89+": 90})).frame
    assert frame["age_years"].fillna(-1).tolist() == [90, -1]
    assert frame["mmse"].fillna(-1).tolist() == [-1, 30]
    assert frame["edu"].tolist() == ["n/a", "12"], "a number may stand beside a missing value"


def test_a_session_column_that_no_file_has_is_no_loss(tmp_path: Path) -> None:
    text = "participant_id\tsession_id\tage\nsub-1\tses-01\t30\nsub-2\tbaseline\t40\n"
    source = read_sources([bids(tmp_path / "d", TWO, text)])
    assert ages(source) == [30, 40]
    assert "session 01 is taken for 1, baseline is taken for 1" in "; ".join(source.notes)
    visits = bids(tmp_path / "v", VISITS, "participant_id\tsession_id\tage\nsub-1\tses-M000\t30\nsub-1\tses-M999\t40\n")
    source = read_sources([visits])
    assert ages(source) == [30, None]
    assert ("1", "row of session M999 in participants.tsv without a scan") in source.unmatched
    assert ("1", "scan of session M012 without a row in participants.tsv") in source.unmatched
    assert any("1 of 2 scans without a row, 1 of 2 rows without a scan" in note for note in source.notes)


def _sessions(root: Path, text: str) -> Path:
    (root / "sub-1" / "sub-1_sessions.tsv").write_text(text)
    return root


def test_sessions_padded_otherwise_are_matched_where_it_is_plain(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", VISITS, "participant_id\tage\nsub-1\t30\n")
    source = read_sources([_sessions(root, "session_id\tage\nses-M00\t30.2\nses-M12\t31.2\n")])
    assert ages(source) == [30.2, 31.2]
    assert any("M00 is taken for M000, M12 is taken for M012" in note for note in source.notes)
    source = read_sources([_sessions(root, "session_id\tage\nses-M000\t30.2\nses-M0\t31.2\nses-M6\t33\n")])
    assert ages(source) == [30.2, 30]
    assert ("1", "row of session M6 in sub-1_sessions.tsv without a scan") in source.unmatched
    assert ("1", "scan of session M012 without a row in sub-1_sessions.tsv") in source.unmatched


def test_ages_of_sessions_are_in_the_unit_of_their_sidecar_or_of_the_participants(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", VISITS, "participant_id\tage\nsub-1\t60\n")
    _sessions(root, "session_id\tage\nses-M000\t60\nses-M012\t72\n")
    (root / "participants.json").write_text('{"age": {"Units": "months"}}')
    assert ages(read_sources([root])) == [5, 6]
    (root / "sessions.json").write_text('{"age": {"Units": "weeks"}}')
    assert ages(read_sources([root])) == [round(60 * 7 / 365.25, 3), round(72 * 7 / 365.25, 3)]


def test_tables_of_sessions_that_are_empty_twice_or_without_sessions(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", VISITS, "participant_id\tAgeAtScan\nsub-1\t30\n")
    named = Columns(age_years="AgeAtScan")
    assert ages(read_sources([_sessions(root, "session_id\tacq_time\nses-M000\tx\n")], named)) == [30, 30]
    assert ages(read_sources([_sessions(root, "session_id\tage\n")], named)) == [30, 30]
    for text, sentence in (
        ("session_id\tage\nses-M000\t1\nses-M000\t2\n", "1 has more than one row of session M000"),
        ("sessions\tage\nses-M000\t1\n", "no column session_id"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_sources([_sessions(root, text)], named)
    with pytest.raises(UserError, match=r"no column `Years` for columns\.age_years"):
        read_sources([_sessions(root, "session_id\tage\nses-M000\t1\n")], Columns(age_years="Years"))


def test_the_table_of_somebody_else_above_is_not_read(tmp_path: Path) -> None:
    folder = bids(tmp_path / "data" / "projectX", TWO)
    (tmp_path / "data" / "participants.tsv").write_text(HEAD + "sub-1\t81\tF\tAD\n")
    source = read_sources([folder])
    assert ages(source) == [None, None]
    assert any("participants.tsv is not read" in note for note in source.notes)


def test_a_table_of_another_name_is_told(tmp_path: Path) -> None:
    folder = bids(tmp_path / "d", TWO)
    (folder / "Participants.csv").write_text("participant_id,age\nsub-1,81\n")
    assert any("Participants.csv is not read" in note for note in read_sources([folder]).notes)


def test_a_table_without_rows_says_nothing_of_anybody(tmp_path: Path) -> None:
    source = read_sources([bids(tmp_path / "d", TWO, HEAD)])
    assert ages(source) == [None, None]
    assert any("no rows, so age, sex and diagnosis are unknown" in note for note in source.notes)


def test_a_derivative_takes_the_table_of_its_dataset_and_says_so(tmp_path: Path) -> None:
    for name, mark in (("derivatives", "dataset_description.json"), ("caps", "sub-1")):
        root = tmp_path / name
        folder = bids(root / name / "x", TWO) if name == "derivatives" else bids(root / name, TWO[:1])
        (root / "participants.tsv").write_text(HEAD + "sub-1\t30\tF\tCN\n")
        (root / mark).mkdir() if mark == "sub-1" else (root / mark).write_text("{}")
        source = read_sources([folder])
        assert ages(source)[0] == 30
        assert str(root / "participants.tsv") in source.notes[0]


def test_ids_that_match_nothing_are_told(tmp_path: Path) -> None:
    source = read_sources([bids(tmp_path / "d", TWO, HEAD + "sub-001\t30\tF\tCN\n")])
    assert any("none of its 1 row is that of a scan here" in note for note in source.notes)
    assert len(source.unmatched) == 3
    assert pd.isna(source.frame["age_years"]).all()


def test_a_named_column_may_be_in_one_of_several_sources(tmp_path: Path) -> None:
    first = bids(tmp_path / "a", TWO[:1], "participant_id\tAgeAtScan\nsub-1\t30\n")
    second = bids(tmp_path / "b", TWO[1:], "participant_id\tage\nsub-2\t40\n")
    source = read_sources([first, second], Columns(age_years="AgeAtScan"))
    assert ages(source) == [30, 40]
    assert any("no column `AgeAtScan` for columns.age_years, so the usual names count" in note for note in source.notes)
    with pytest.raises(UserError, match="no column `Years`"):
        read_sources([first, second], Columns(age_years="Years"))


def test_a_null_byte_in_a_path_is_left_to_its_row(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "subject,file,age\n1,a\0b.nii,30\n2,c.nii,40\n")
    source = read_sources([path])
    assert ages(source) == [30, 40]
    assert source.frame["source"].iloc[0].endswith("a\0b.nii")
    with pytest.raises(UserError, match="row 3 holds a null byte in age_years"):
        read_sources([table(tmp_path / "u.csv", "subject,file,age\n1,a.nii,30\n2,c.nii,4\0\n")])
