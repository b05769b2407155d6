"""Who is a control, by source and site, and what is said of it before a scan is prepared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gen3d.cohort.manifest import Split, assign_roles
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.prepare.prepare import Prepare
from gen3d.prepare.roles import control_rows, role_lines
from gen3d.prepare.sources import read_sources
from tests.prepare.test_sources import bids

ORIGIN = ["A"] * 6 + ["B"] * 6 + ["C"] * 2
FRAME = pd.DataFrame(
    {
        "subject": [f"p{i}" for i in range(14)],
        "key": [f"sub-p{i}_ses-1" for i in range(14)],
        "site": ["A"] * 6 + ["north"] * 6 + ["C"] * 2,
        "diagnosis": [""] * 6 + ["CN", "CN", "CN", "AD", "AD", ""] + ["2", "1"],
        "age_years": [50.0 + i for i in range(13)] + [float("nan")],
        "sex": ["F", "M"] * 6 + ["F", ""],
    }
)


def test_controls_can_differ_by_source_and_by_site() -> None:
    assert control_rows(FRAME, None, ORIGIN).tolist() == [False] * 6 + [True] * 3 + [False] * 5
    by_source = {"A": ("all",), "north": ("AD",), "C": ("1.0",)}
    assert control_rows(FRAME, by_source, ORIGIN).tolist() == [True] * 6 + [False] * 3 + [True] * 2 + [False] * 2 + [
        True
    ]
    assert control_rows(FRAME, {"A": ("all",)}, ORIGIN).sum() == 9, "the others keep the usual names"
    assert control_rows(FRAME, ("2.0",), ORIGIN).tolist() == [False] * 12 + [True, False]


@pytest.mark.parametrize(
    ("controls", "sentence"),
    [
        ({"D": ("all",)}, "controls names D, which is no source or site; they are A, B, C, north"),
        ({"B": ("CN",), "north": ("CN",)}, "name the sources or the sites, not both"),
        ({"B": ("HC",)}, r"B: controls=\['HC'\] matches no row"),
    ],
)
def test_names_that_mean_nobody_or_somebody_twice_are_refused(
    controls: dict[str, tuple[str, ...]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        control_rows(FRAME, controls, ORIGIN)


def test_roles_are_shown_by_source_and_what_may_surprise_is_said() -> None:
    rows = control_rows(FRAME, {"C": ("1",)}, ORIGIN)
    lines = role_lines(FRAME, rows, ORIGIN, Split())
    roles = assign_roles(FRAME, Split(), rows)["role"].tolist()
    dealt = " / ".join(str(roles[6:12].count(role)) for role in ("train", "calibration", "test"))
    assert lines[0].split() == [
        "source",
        "site",
        "people",
        "controls",
        "train",
        "/",
        "calibration",
        "/",
        "test",
        "others",
    ]
    assert lines[1].split() == ["A", "A", "6", "0", "0", "/", "0", "/", "0", "6"]
    assert lines[2].split() == ["B", "north", "6", "3", *dealt.split(), "3"]
    told = "\n".join(lines[4:])
    assert "A: no diagnosis is known, so all 6 people have the role evaluation" in told
    assert "controls={A: [all]}" in told
    assert "B, site north: 1 person without a diagnosis has the role evaluation" in told
    assert "C: of 1 control, 1 no age and 1 no sex; those calibrate as if" in told


def test_many_sites_do_not_fill_the_screen() -> None:
    many = pd.concat([FRAME] * 5, ignore_index=True).assign(site=[f"s{i:02d}" for i in range(70)])
    many["subject"] = many["key"] = [f"q{i}" for i in range(70)]
    lines = role_lines(many, control_rows(many, None, ["A"] * 70), ["A"] * 70, Split())
    assert len(lines) < 90
    assert "  and 31 further sources and sites" in lines


def test_a_site_whose_diagnoses_are_called_otherwise_is_told() -> None:
    rows = control_rows(FRAME, None, ORIGIN)
    assert any(
        "none of the diagnoses is one of controls (2 1, 1 1)" in line
        for line in role_lines(FRAME, rows, ORIGIN, Split())
    )


def test_codes_of_controls_are_words_on_the_command_line(tmp_path: Path) -> None:
    text = "participant_id\tsex\tgroup\nsub-1\t1\tno\nsub-2\t2\t0\n"
    root = bids(tmp_path / "010", ["sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz"], text)
    common = [f"source={root}", "out=o"]
    for typed, controls in (
        ("controls=[0]", ("0",)),
        ("controls=[no]", ("no",)),
        ("controls=no", ("no",)),
        ("controls={010: [no, 0]}", {"010": ("no", "0")}),
    ):
        verb = load(Prepare, None, [*common, typed, "columns={sex_codes: {1: M, 2: F}}"])
        assert verb.controls == controls
        assert [source.frame["sex"].tolist() for source in [verb._read(verb.source)]] == [["M", "F"]]
    renamed = load(
        Prepare, None, [*common, "columns={sex_codes: {1: M, 2: F}, diagnosis_codes: {0: control, no: 1e3}}"]
    )
    assert read_sources(renamed.source, renamed.columns).frame["diagnosis"].tolist() == ["1e3", "control"]
    assert load(Prepare, None, ["source=010", "out=o"]).source == (Path("010"),)
