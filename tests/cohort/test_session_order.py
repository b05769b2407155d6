"""The first scan of a person is the earliest one, and where that is not known it is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.change import pair_sessions
from gen3d.classify.study.features import Features, one_scan_each
from gen3d.cohort.session_order import first_scans, in_order, ranks_of
from gen3d.core.errors import UserError

IN_ORDER = (
    ["pre", "post"],
    ["baseline", "followup"],
    ["screening", "bl", "m06", "m12", "final"],
    ["2", "10"],
    ["M006", "M012", "M100"],
    ["m6", "y1", "month18"],
    ["9months", "1year"],
    ["a", "b"],
    ["first", "second", "third"],
    ["followup1", "followup2"],
    ["v1", "v02"],
    ["test", "retest"],
    ["20190102xdeadbeef", "20200101x00000000"],
    ["pre", "post1", "post2"],
)


@pytest.mark.parametrize("names", IN_ORDER, ids=" ".join)
def test_names_with_an_order_are_in_it(names: list[str]) -> None:
    turned = pd.DataFrame({"session": names[::-1], "age_years": np.nan})
    places, known = in_order(turned)
    assert known
    assert [turned["session"].iloc[place] for place in places] == names


WITHOUT = (["on", "off"], ["red", "blue"], ["m12", "y1"], ["v1", "w2"], ["pre", "baseline"], ["x1", "post", "lab"])


@pytest.mark.parametrize("names", WITHOUT, ids=" ".join)
def test_other_names_have_none(names: list[str]) -> None:
    assert ranks_of(names) is None
    scans = pd.DataFrame({"session": names})
    assert not in_order(scans)[1]


def test_age_goes_before_names() -> None:
    scans = pd.DataFrame({"session": ["post", "pre", "x"], "age_years": [70.0, 71.0, 69.5]})
    assert in_order(scans) == ([2, 0, 1], True)
    same_age = pd.DataFrame({"session": ["post", "pre"], "age_years": [70.0, 70.0]})
    assert in_order(same_age) == ([1, 0], True)
    half_known = pd.DataFrame({"session": ["2", "10"], "age_years": [70.0, np.nan]})
    assert in_order(half_known) == ([0, 1], True)


def visits(sessions: list[str], ages: list[float]) -> pd.DataFrame:
    table = pd.DataFrame({"subject": "p", "session": sessions, "age_years": ages, "role": "test", "base": ""})
    return table.assign(key=[f"sub-p_ses-{session}" for session in sessions])


def test_first_scans_of_everybody() -> None:
    table = pd.concat([visits(["post", "pre"], [np.nan] * 2), visits(["on", "off"], [np.nan] * 2).assign(subject="q")])
    first, unknown = first_scans(table)
    assert first.tolist() == [False, True, False, True]
    assert unknown == ["q"]


def features(table: pd.DataFrame) -> Features:
    num = len(table)
    return Features(table, np.zeros((1, num, 3)), np.ones((1, num), bool), (3,), (3,), ("k",), "latents", {})


def test_a_head_takes_the_scan_before_and_asks_where_that_is_not_known() -> None:
    kept = one_scan_each(features(visits(["post", "pre"], [np.nan] * 2)), "first")
    assert kept.table["session"].tolist() == ["pre"]
    with pytest.raises(UserError, match=r"which of the sessions on, off of p came first is not known.*sessions=all"):
        one_scan_each(features(visits(["on", "off"], [np.nan] * 2)), "first")
    assert len(one_scan_each(features(visits(["on", "off"], [np.nan] * 2)), "all")) == 2


def test_change_has_a_direction_or_stops() -> None:
    pairs = pair_sessions(visits(["post", "pre"], [np.nan, 70.0]))
    assert pairs[["session_1", "session_2"]].to_numpy().tolist() == [["pre", "post"]]
    with pytest.raises(UserError, match="came first is not known"):
        pair_sessions(visits(["on", "off"], [np.nan] * 2))
