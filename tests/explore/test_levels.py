"""Which people are at which level: order, bins, repeated scans, and the sentences of what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.manifest import scan_key
from gen3d.core.errors import UserError
from gen3d.explore.levels import Exploring, LevelRule, choose_people, in_order
from tests.explore.small import people

RULE = LevelRule("diagnosis", None, (), 3, 2, 5.0, True)


def cohort(num: int = 24, names: tuple[str, ...] = ("CN", "AD"), sessions: int = 1) -> pd.DataFrame:
    table = people(num, names, sessions).assign(role="evaluation", cdr=np.nan, mmse=np.nan)
    return table.assign(key=[scan_key(*pair) for pair in table[["subject", "session"]].itertuples(index=False)])


def chosen(table: pd.DataFrame, **changed: object) -> Exploring:
    return choose_people(table, replace(RULE, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "expected", "ordered"),
    [
        (("AD", "CN", "MCI"), ("CN", "MCI", "AD"), True),
        (("dementia", "healthy"), ("healthy", "dementia"), True),
        (
            ("MildDemented", "NonDemented", "VeryMildDemented"),
            ("NonDemented", "VeryMildDemented", "MildDemented"),
            True,
        ),
        (("2", "0", "0.5", "1"), ("0", "0.5", "1", "2"), True),
        (("siteB", "control", "siteA"), ("control", "siteA", "siteB"), False),
        (("CN", "healthy", "AD"), ("CN", "healthy", "AD"), False),
    ],
)
def test_levels_stand_in_their_order(labels: tuple[str, ...], expected: tuple[str, ...], ordered: bool) -> None:
    assert in_order(sorted(labels)) == (tuple(sorted(expected)) if labels[0] == "CN" else expected, ordered) or (
        in_order(labels)[1] is ordered and set(in_order(labels)[0]) == set(expected)
    )


def test_ordered_levels_are_compared_with_neighbours_others_with_the_first() -> None:
    assert chosen(cohort(24, ("AD", "CN", "MCI"))).comparisons() == [(0, 1), (1, 2)]
    assert chosen(cohort(24, ("b", "a", "c"))).comparisons() == [(0, 1), (0, 2)]


def test_numbers_fall_into_bins_with_given_or_equally_filled_edges() -> None:
    table = cohort()
    table["mmse"] = np.linspace(10, 30, 24)
    assert list(chosen(table, column="mmse").counts().values()) == [8, 8, 8]
    by_edge = chosen(table, column="mmse", edges=(24.0,))
    assert by_edge.levels == ("below 24", "24 and more")
    assert by_edge.counts()["below 24"] == int((table["mmse"] < 24).sum())
    with pytest.raises(UserError, match="they must grow"):
        chosen(table, column="mmse", edges=(24.0, 20.0))


def test_a_person_counts_once_at_the_level_of_the_first_scan() -> None:
    table = cohort(24, sessions=2)
    later = (table["subject"] == "p000") & (table["session"] == "2")
    table.loc[later, "diagnosis"] = "AD"
    found = chosen(table)
    assert len(found.table) == 24
    assert found.scans[0] == ("sub-p000_ses-1",)
    assert found.scans[1] == ("sub-p001_ses-1", "sub-p001_ses-2")
    assert found.notes == ("1 scan of people at another level than in their first scan was left out",)
    assert all(len(keys) == 1 for keys in chosen(table, every_scan=False).scans)


def test_the_order_of_the_table_does_not_matter() -> None:
    table = cohort(sessions=2)
    shuffled = chosen(table.sample(frac=1.0, random_state=0))
    assert chosen(table).scans == shuffled.scans
    pd.testing.assert_frame_equal(chosen(table).table, shuffled.table)


def test_planted_copies_and_excluded_scans_are_left_out() -> None:
    table = cohort()
    table["base"] = ""
    table.loc[0, "base"], table.loc[1, "role"] = "sub-p000_ses-1", "excluded"
    assert len(chosen(table).table) == 22


def test_ages_make_bins_and_their_absence_is_said() -> None:
    table = cohort()
    assert len(np.unique(chosen(table).age_bins)) == 3
    table.loc[0, "age_years"] = np.nan
    assert "1 person without an age was compared among themselves" in chosen(table).notes
    table["age_years"] = np.nan
    without = chosen(table)
    assert (without.age_bins == 0).all()
    assert without.notes == (
        "no age is known, so labels were shuffled among everybody and a difference may be one of age",
    )


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"column": "stage"}, "by: the cohort table has no column stage; it has subject"),
        ({"column": "cdr"}, "by=cdr: no scan has a value of it"),
        ({"column": "site"}, r"by=site: everybody is at one level \(a 24\), so there is nothing to compare"),
        ({"fewest": 13}, r"by=diagnosis: fewer than two levels have 13 people \(CN 12, AD 12\)"),
        ({"column": "subject"}, "by=subject has 24 different values .* so nearly everybody is alone"),
        ({"levels": ("CN", "FTD")}, "levels: nobody has diagnosis FTD; the column holds AD, CN"),
        ({"levels": ("CN", "CN")}, "names a level twice"),
        ({"edges": (1.0,)}, "edges= divides numbers, and diagnosis holds AD, CN"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chosen(cohort(), **changed)


def test_a_level_with_too_few_people_is_left_out_and_named() -> None:
    table = cohort()
    table.loc[0, "diagnosis"] = "MCI"
    found = chosen(table)
    assert found.levels == ("CN", "AD")
    assert found.notes == ("diagnosis MCI was left out: 1 person, fewer than 2",)
