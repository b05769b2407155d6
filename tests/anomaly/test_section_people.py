"""What is told of one person: a reading that does not measure its region's volume is never told as its volume."""

from __future__ import annotations

import pandas as pd
import pytest

from gen3d.anomaly.sections.people import _region_table, _strongest_sentence
from gen3d.cohort import region_validity
from gen3d.cohort.channels import VOLUME
from gen3d.cohort.region_validity import FIGURES, Validity
from gen3d.core.tables import rows_of

GOOD = Validity(0.8, 0.7, 0.9, 63, 0.7, 0.1, -0.1, 0.7, 0.0, follows_ventricles=False)
POOR = Validity(0.5, 0.29, 0.67, 63, 0.45, 0.63, 0.0, -0.05, 0.9, follows_ventricles=True)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of validity that stay when those of the package change."""
    found = {
        ("caudate", "deformation"): POOR,
        ("caudate", VOLUME): GOOD,
        ("hippocampus", "deformation"): GOOD,
        ("accumbens", VOLUME): POOR,
    }
    rows = {
        where: dict(zip(FIGURES, figures, strict=False)) | {"follows_ventricles": "yes" if figures is POOR else "no"}
        for where, figures in found.items()
    }
    monkeypatch.setattr(region_validity, "_rows", lambda: rows)


def regions(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    """Rows of a person: channel, region, effect in percent, z."""
    frame = pd.DataFrame(rows, columns=["channel", "region", "effect_percent", "z"])
    return frame.assign(effect=frame["effect_percent"] / 100, q=0.01, p_conformal=0.05)


def test_a_caudate_that_enlarged_ventricles_draw_along_is_not_told_as_a_finding() -> None:
    person = regions(("deformation", "left caudate", 42.0, 4.1), ("deformation", "left hippocampus", -9.0, -2.0))
    sentence = _strongest_sentence(person)
    assert sentence.startswith("Strongest volume finding: left hippocampus, 9 % smaller")
    assert "The furthest reading is left caudate, +42 % (r 0.50 with labelled volume (" in sentence
    assert "not a measure of this region's volume" in sentence


def test_nothing_is_added_where_the_furthest_reading_measures_its_volume() -> None:
    person = regions(("deformation", "left caudate", 12.0, 1.1), ("deformation", "left hippocampus", -29.0, -5.0))
    assert "furthest" not in _strongest_sentence(person)


def test_a_person_with_nothing_but_poor_readings_is_told_so() -> None:
    sentence = _strongest_sentence(regions(("deformation", "left caudate", 42.0, 4.1)))
    assert "left caudate, 42 % larger" in sentence
    assert "not a measure of this region's volume" in sentence


def test_the_chosen_readings_are_told_where_the_maps_have_them() -> None:
    person = regions(
        ("deformation", "left caudate", 42.0, 4.1),
        (VOLUME, "left caudate", 3.0, 0.4),
        (VOLUME, "left accumbens", 1.0, 0.1),
    )
    assert _strongest_sentence(person).startswith("Strongest volume finding: left caudate, 3 % larger")


def test_the_table_of_a_person_marks_what_is_not_a_volume_and_gives_r() -> None:
    person = regions(("deformation", "left caudate", 42.0, 4.1), ("deformation", "left hippocampus", -9.0, -2.0))
    table = _region_table([row | {"controls_5_95": None} for row in rows_of(person)])
    caudate, hippocampus = table.rows[1], table.rows[2]
    assert (caudate[0], caudate[-1]) == ("left caudate (not its volume)", "0.50")
    assert (hippocampus[0], hippocampus[-1]) == ("left hippocampus", "0.80")
