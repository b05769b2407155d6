from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.core.exact_columns import read_exact
from gen3d.core.tables import TableFile, read_cells, read_record, read_table, records, rows_of, write_table

PEOPLE = TableFile("people.tsv", ("key", "condition", "age_years"), "run `gen3d prepare` again")
FRAME = pd.DataFrame({"key": ["007", "8"], "condition": ["null", ""], "age_years": [61.25, np.nan]})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    PEOPLE.write(tmp_path, FRAME)
    pd.testing.assert_frame_equal(PEOPLE.read(tmp_path), FRAME, check_dtype=False)
    assert (tmp_path / "people.tsv").read_text() == "key\tcondition\tage_years\n007\tnull\t61.25\n8\t\tn/a\n"


def test_cells_are_read_as_they_are_written(tmp_path: Path) -> None:
    PEOPLE.write(tmp_path, FRAME)
    assert read_cells(tmp_path / "people.tsv")["age_years"].tolist() == ["61.25", "n/a"]


def test_a_table_that_is_not_there_can_be_empty(tmp_path: Path) -> None:
    frame = PEOPLE.read_if_there(tmp_path)
    assert list(frame.columns) == list(PEOPLE.columns)
    assert not len(frame)


def test_a_writer_cannot_leave_a_column_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="condition"):
        PEOPLE.write(tmp_path, FRAME.drop(columns="condition"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "people.tsv: no such table; run `gen3d prepare` again."),
        (b"key\tcondition\n1\tnull\n", "people.tsv: lacks the column age_years; run `gen3d prepare` again."),
        (b"key\tcondition\tage_years\n\xff\tnull\t1\n", "people.tsv: damaged ('utf-8' codec"),
        (b"", "people.tsv: damaged (No columns to parse from file); run `gen3d prepare` again."),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "people.tsv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        PEOPLE.read(tmp_path)
    assert sentence in str(caught.value)


def test_records_are_for_json_and_rows_are_as_they_are() -> None:
    assert records(FRAME)[1] == {"key": "8", "condition": "", "age_years": None}
    assert np.isnan(rows_of(FRAME)[1]["age_years"])


def test_a_record_is_an_object_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert read_record(path) == {}
    path.write_text("[1]")
    assert read_record(path) == {"rows": [1]}
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_record(path)


def test_whole_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    frame = pd.DataFrame({"scanner": [2180401.0, 2180402.0, np.nan], "share": [1 / 3, 2e-9, 1.0]})
    write_table(tmp_path / "t.tsv", frame)
    read = read_table(tmp_path / "t.tsv")
    assert read["scanner"].tolist()[:2] == [2180401, 2180402]
    assert read["share"].tolist() == [0.333333, 2e-9, 1.0]


HOSTILE = ["=cmd|' /C calc'!A0", "+1+1", "-1-1", "@SUM(A1)", "'=1", "\tx", "-", "-3.5", "O'Neill", "'quoted'", ""]


def test_cells_that_a_spreadsheet_would_execute_are_disarmed_and_read_as_they_were(tmp_path: Path) -> None:
    frame = pd.DataFrame({"site": HOSTILE, "other": HOSTILE})
    write_table(tmp_path / "t.tsv", frame)
    written = read_cells(tmp_path / "t.tsv")["site"].tolist()
    assert written[:6] == [f"'{cell}" for cell in HOSTILE[:6]]
    assert written[6:] == HOSTILE[6:], "numbers and names stay"
    read = read_table(tmp_path / "t.tsv")
    assert read["site"].tolist() == HOSTILE
    assert read["other"].fillna("").tolist() == HOSTILE


def test_codes_that_look_like_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(
        "a\tb\tc\td\te\tf\n0102\t1e3\t12345678901234567\ttrue\t1\t1.5e-05\n102\t1\t3\tfalse\tn/a\t2\n"
    )
    frame = read_exact(tmp_path / "t.tsv", (), ["n/a"])
    assert frame[["a", "b", "c", "d"]].to_numpy().tolist() == [
        ["0102", "1e3", "12345678901234567", "true"],
        ["102", "1", "3", "false"],
    ]
    written = read_table(tmp_path / "t.tsv")
    assert written[["a", "b", "c"]].iloc[0].tolist() == ["0102", "1e3", "12345678901234567"]
    assert written["d"].tolist() == [True, False], "columns of gen3d's own results"
    assert frame["e"].tolist()[0] == 1.0
    assert frame["f"].tolist() == [1.5e-05, 2.0]
