"""Ages at later visits are told by dates where a table lacks them, and what contradicts itself is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.prepare.columns import Columns
from gen3d.prepare.dates import ages_by_dates, doubts_about_visits
from gen3d.prepare.sources import ScanSource, read_sources
from tests.prepare.test_sources import bids, table

VISITS = [f"sub-1/ses-{name}/anat/sub-1_ses-{name}_T1w.nii.gz" for name in ("M000", "M012", "M030")]
OTHER = "sub-2/ses-M000/anat/sub-2_ses-M000_T1w.nii.gz"
SESSIONS = (
    "session_id\tacq_time\nses-M000\t1925-03-01T10:00:00\nses-M012\t1926-03-01\nses-M030\t1927-08-31T09:12:00.5\n"
)
LATER = [70.0, 71.0, 72.5]


def ages(source: ScanSource) -> list[float]:
    return source.frame.sort_values(["subject", "session"])["age_years"].tolist()


def said(source: ScanSource) -> str:
    return "; ".join(source.notes)


def test_the_age_of_a_persons_row_is_that_of_the_first_visit_where_dates_are_known(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [*VISITS, OTHER], "participant_id\tage\nsub-1\t70\nsub-2\t60\n")
    undated = read_sources([root])
    assert ages(undated) == [70, 70, 70, 60]
    assert "has the same age (70 years) at the sessions M000 and M012" in said(undated)
    assert "what compares visits refuses this cohort" in said(undated)
    (root / "sub-1" / "sub-1_sessions.tsv").write_text(SESSIONS)
    source = read_sources([root])
    assert ages(source) == pytest.approx([*LATER, 60], abs=0.01)
    assert "2 ages of later visits made exact by the dates of the scans" in said(source)
    assert "refuses this cohort" not in said(source)


def test_a_missing_age_is_filled_in_from_scans_tsv(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", VISITS, "participant_id\tsession_id\tage\nsub-1\tses-M000\t70.0\n")
    assert "1 has no age at session M012" in said(read_sources([root]))
    for scan, day in zip(VISITS, ("2001-03-01", "2002-03-01T08:00:00", "2003-08-31"), strict=True):
        folder = (root / scan).parent.parent
        rows = f"filename\tacq_time\nanat/other_T1w.nii.gz\t1999-01-01\nanat/{Path(scan).name}\t{day}\n"
        (folder / f"sub-1_{folder.name}_scans.tsv").write_text(rows)
    source = read_sources([root])
    assert ages(source) == pytest.approx(LATER, abs=0.01)
    assert "2 ages filled in from the dates of the scans" in said(source)
    (root / "sub-1" / "ses-M012" / "sub-1_ses-M012_scans.tsv").write_text("filename\tacq_time\nanat/x\n")
    broken = read_sources([root])
    assert np.isnan(ages(broken)[1])
    assert "not read: " in said(broken), "a table that nobody needed before stops nothing"


def test_a_table_has_a_column_of_dates(tmp_path: Path) -> None:
    text = "subject,session,path,age,when\na,1,a.nii,70,20100101\na,2,b.nii,,20110101\nb,1,c.nii,55,n/a\n"
    assert ages(read_sources([table(tmp_path / "t.csv", text)], Columns(date="When"))) == pytest.approx(
        [70, 71, 55], abs=0.01
    )
    assert np.isnan(ages(read_sources([table(tmp_path / "t.csv", text)]))[1])
    with pytest.raises(UserError, match=r"no column `day` for columns\.date; the columns are .*when"):
        read_sources([table(tmp_path / "t.csv", text)], Columns(date="day"))
    american = text.replace("when", "scan_date").replace("20110101", "1/2/2011")
    assert "dates like 1/2/2011 are not read; write them as 2015-03-28" in said(
        read_sources([table(tmp_path / "a.csv", american)])
    )


DAY = 365.25
CASES = {
    "whole years that agree": ([70.0, 71.0], [0.0, 0.6 * DAY], [70.0, 70.6]),
    "whole years that do not": ([70.0, 75.0], [0.0, 0.6 * DAY], [70.0, 75.0]),
    "ages with decimals": ([70.2, 70.9], [0.0, 0.6 * DAY], [70.2, 70.9]),
    "a missing first age": ([np.nan, 71.5], [0.0, DAY], [70.5, 71.5]),
    "no date where the age is": ([70.0, np.nan], [np.nan, DAY], [70.0, np.nan]),
    "no age": ([np.nan, np.nan], [0.0, DAY], [np.nan, np.nan]),
    "no date at one visit": ([70.0, 70.0, np.nan], [0.0, np.nan, DAY], [70.0, 70.0, 71.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_dates_tell_of_ages(case: str) -> None:
    given, days, expected = (np.array(values) for values in CASES[case])
    np.testing.assert_allclose(ages_by_dates(given, days), expected, atol=1e-3)


def test_ages_that_do_not_go_with_dates_and_sessions_are_said_and_kept(tmp_path: Path) -> None:
    text = "subject,session,path,age,acq_time\na,1,a.nii,70.5,2010-01-01\na,2,b.nii,78.5,2011-01-01\n"
    source = read_sources([table(tmp_path / "t.csv", text)])
    assert ages(source) == [70.5, 78.5]
    assert "the ages of a do not go with the dates of the scans" in said(source)
    backwards = text.replace("70.5", "71.5").replace("78.5", "70.5").replace("2011", "2009")
    told = said(read_sources([table(tmp_path / "b.csv", backwards)]))
    assert (
        "a was older at session 1 (71.5 years) than at session 2 (70.5 years), although 1 comes first by its name"
        in told
    )
    only_dates = "subject,session,path,age,acq_time\na,1,a.nii,,2010-01-01\na,2,b.nii,70,2009-01-01\n"
    assert "a was older at session 1 (70.9993 years)" in said(read_sources([table(tmp_path / "c.csv", only_dates)]))


def test_dates_against_the_order_of_the_sessions_are_said(tmp_path: Path) -> None:
    text = "subject,session,path,age,acq_time\na,1,a.nii,70.1,2010-06-01\na,2,b.nii,70.6,2010-01-01\nb,1,c.nii,60,2010-06-01\n"
    source = read_sources([table(tmp_path / "t.csv", text)])
    assert "the dates of a go against the order of the sessions by their names" in said(source)
    assert ages(source) == [70.1, 70.6, 60]
    right = read_sources([table(tmp_path / "r.csv", text.replace("2010-01-01", "2010-12-01"))])
    assert "go against" not in said(right)
    unordered = text.replace(",1,a", ",red,a").replace(",2,b", ",blue,b")
    assert "go against" not in said(read_sources([table(tmp_path / "u.csv", unordered)]))


def test_a_diagnosis_that_goes_backwards_is_said() -> None:
    frame = pd.DataFrame({"subject": ["a", "a"], "session": ["1", "2"], "key": ["x", "y"], "age_years": [70.0, 71.0]})
    assert doubts_about_visits(frame.assign(diagnosis=["MCI", "AD"])) == []
    (sentence,) = doubts_about_visits(frame.assign(diagnosis=["AD", "MCI"]))
    assert "the diagnosis of a (AD, then MCI) goes backwards" in sentence
    assert doubts_about_visits(frame.iloc[:1]) == []
