"""Numbers and codes in words, and text that cannot break the page."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.core import words as spell
from gen3d.figures import names as wording
from gen3d.figures.blocks import Section, Table, Text
from gen3d.maths.stats import Interval
from gen3d.report.report import render


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (spell.number(-1.256, 2), "\N{MINUS SIGN}1.26"),
        (spell.number(2.0, 1, signed=True), "+2.0"),
        (spell.number(-0.001, 2), "0.00"),
        (spell.number(float("nan")), spell.NONE),
        (spell.percent(0.0512), "5.1 %"),
        (wording.with_interval(Interval(0.871, 0.78, 0.94, 10)), "0.87 [0.78, 0.94]"),
        (wording.with_interval(Interval(0.871, np.nan, np.nan, 1)), "0.87"),
        (wording.with_interval(Interval(0.05, 0.041, 0.063, 10), 1, 100), "5.0 [4.1, 6.3]"),
        (spell.probability(0.0004), "<\N{THIN SPACE}0.001"),
        (spell.probability(0.0234), "0.023"),
        (spell.people(1), "1 person"),
        (spell.listed(["a", "b", "c"]), "a, b and c"),
        (wording.group("AD"), "AD (Alzheimer's disease)"),
        (wording.effect("deformation", -0.2, -18.1), "\N{MINUS SIGN}18.1 %"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert text == expected


def test_plain_values_are_json() -> None:
    found = wording.plain({"a": np.float32(1.5), "b": [np.nan, np.int64(2)], 3: Interval(0.5, np.nan, 0.6, 4)})
    assert found == {"a": 1.5, "b": [None, 2], "3": {"value": 0.5, "low": None, "high": 0.6, "num": 4}}


def test_text_from_a_table_cannot_become_markup() -> None:
    table = Table("<i>caption</i>", ["<b>head</b>"], [["<script>alert(1)</script>"]], "l")
    html = render("<title>", [Section("one", "One", [table, Text("run `a < b`")])], [])
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<code>a &lt; b</code>" in html
    assert "<i>caption" not in html


def test_ragged_tables_are_refused() -> None:
    Table("", ["a", "b"], [["over"], ["1", "2"]], "lr")
    with pytest.raises(ValueError, match="differ in length"):
        Table("", ["a", "b", "c"], [["1", "2"]], "lrr")


def test_a_reading_that_is_no_volume_is_marked_and_no_other() -> None:
    assert wording.reading("left_caudate", "deformation") == "left caudate (not its volume)"
    assert wording.reading("left lateral ventricle", "deformation") == "left lateral ventricle"
    assert wording.reading("left caudate", "residual") == "left caudate"
    assert wording.reading("some other region", "deformation") == "some other region"
