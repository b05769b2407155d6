"""The page says who came more than once, over how many years, and nothing where everybody came once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gen3d.figures.blocks import Heading, Table, Text
from gen3d.prepare.section_visits import visits


def cohort(**changed: Any) -> pd.DataFrame:
    """One person comes twice, two three times, one once."""
    rows = [("a", "1", 70.0), ("a", "2", 72.0), *(("b", str(k), 60.0 + k) for k in range(3)), ("d", "1", 50.0)]
    rows += [("c", session, age) for session, age in (("M00", 55.0), ("M24", 57.0), ("M06", 55.5))]
    frame = pd.DataFrame(rows, columns=["subject", "session", "age_years"])
    frame = frame.assign(
        role="test", diagnosis="control", site="siteA", key=frame["subject"] + frame["session"], base=""
    )
    return frame.assign(**changed)


def test_years_between_visits_are_told_by_the_number_of_visits() -> None:
    frame = cohort()
    frame.loc[frame["key"] == "cM24", ["diagnosis", "site"]] = ["MCI", "siteB"]
    blocks, rows = visits(frame)
    heading, text, table = blocks
    assert isinstance(heading, Heading)
    assert isinstance(text, Text)
    assert text.text == "3 people of 4 came more than once, over 2.0 years."
    assert [row["visits"] for row in rows] == ["2", "3", "all"]
    assert [row["num_people"] for row in rows] == [1, 2, 3]
    assert rows[1]["years"] == [2.0, 2.0, 2.0]
    assert rows[1]["years_between"] == [1.0, 0.5, 1.5], "in the order of time, not of the table"
    assert [row["num_other_diagnosis"] for row in rows] == [0, 1, 1]
    assert [row["num_other_site"] for row in rows] == [0, 1, 1]
    assert isinstance(table, Table)
    assert table.rows[1] == ["3", "2", "2.0 (2.0 to 2.0)", "1.0 (0.5 to 1.5)", "1", "1"]


def test_unknown_ages_are_said_and_people_who_came_once_are_no_visits() -> None:
    frame = cohort()
    frame.loc[frame["subject"] == "a", "age_years"] = np.nan
    blocks, rows = visits(frame)
    assert "of 1 person the time between the visits is not known, for want of ages" in blocks[1].text
    assert rows[0]["years"] is None
    once = cohort().drop_duplicates("subject")
    assert visits(once) == ([], [])
    twin = once.assign(session="2t", base=once["key"])
    assert visits(pd.concat([once, twin], ignore_index=True)) == ([], [])
