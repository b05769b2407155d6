"""Two people never become one, and nobody's id depends on who else was read."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from gen3d.cohort.labels import label, plain_text, qualified
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.prepare.columns import Columns
from gen3d.prepare.identity import named_sources
from gen3d.prepare.prepare import Prepare
from gen3d.prepare.sources import read_sources
from tests.prepare.test_sources import bids, table

ODD_IDS = (
    "1-12",
    "11-2",
    "A-1",
    "A_1",
    "A 1",
    "A.1",
    "José",
    "Josè",
    "北京",
    "上海",
    "Ж1",
    "１",
    "+",
    "a" * 200,
    "a" * 201,
)


def subjects(path: Path, ids: list[str], columns: Columns | None = None) -> list[str]:
    """The labels of people with these ids, one scan each."""
    rows = "".join(f'"{name}",{number}.nii\n' for number, name in enumerate(ids))
    return read_sources([table(path, "subject,file\n" + rows)], columns).frame["subject"].tolist()


def test_a_plain_id_is_its_own_label_and_any_other_gets_one_of_its_own() -> None:
    assert [label(text) for text in ("01", "A1", "sub", "S0P001")] == ["01", "A1", "sub", "S0P001"]
    labels = [label(text) for text in ODD_IDS]
    assert len(set(labels)) == len(ODD_IDS)
    assert all(re.fullmatch(r"[A-Za-z0-9]{1,64}", name) for name in labels)
    assert label("002_S_0295") == "002S0295xdc27c8b1"


def test_one_text_in_two_spellings_of_unicode_is_one_label() -> None:
    composed, decomposed = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert label(composed) == label(decomposed)
    assert plain_text("  A \u00a0 1 ") == "A 1"


def test_ids_that_differ_in_punctuation_accents_or_script_are_different_people(tmp_path: Path) -> None:
    ids = [name for name in ODD_IDS if name != "+"]
    frame_labels = subjects(tmp_path / "t.csv", ids)
    assert frame_labels == [label(name) for name in ids]
    frame = read_sources([tmp_path / "t.csv"]).frame
    assert frame["source_subject"].tolist() == ids


def test_an_id_is_the_same_whoever_else_is_in_the_table(tmp_path: Path) -> None:
    alone = subjects(tmp_path / "one.csv", ["A-1"])
    assert subjects(tmp_path / "two.csv", ["A1", "A-1", "A.1"])[1:2] == alone


@pytest.mark.parametrize("column", ["subject", "session"])
def test_names_that_differ_in_capitals_only_are_refused(column: str, tmp_path: Path) -> None:
    other = {"subject": "session", "session": "subject"}[column]
    path = table(tmp_path / "t.csv", f"{column},{other},file\na1,x,a.nii\nA1,x,b.nii\n")
    with pytest.raises(UserError, match=r"a1\S* and \S*A1\S* differ in capital letters only"):
        read_sources([path])


def test_underscores_in_subject_folders_leave_three_people_three(tmp_path: Path) -> None:
    ids = ["002_S_0295", "002_S_0413", "002_S_0559"]
    rows = "".join(f"sub-{name}\t{70 + number}\n" for number, name in enumerate(ids))
    root = bids(tmp_path / "d", [f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in ids], "participant_id\tage\n" + rows)
    source = read_sources([root])
    assert source.frame.set_index("subject")["age_years"].to_dict() == {label(n): 70 + i for i, n in enumerate(ids)}
    assert source.unmatched == []


def test_underscores_without_a_folder_end_where_an_entity_begins(tmp_path: Path) -> None:
    root = bids(
        tmp_path / "d", ["sub-002_S_1_ses-m_06_run-1_T1w.nii.gz", "sub-002_S_2_acq-b_T1w.nii.gz", "sub-3_T1w.nii"]
    )
    frame = read_sources([root]).frame
    assert set(zip(frame["subject"], frame["session"], strict=True)) == {
        (label("002_S_1"), label("m_06")),
        (label("002_S_2"), "1"),
        ("3", "1"),
    }


def test_sites_are_words_in_any_script(tmp_path: Path) -> None:
    text = "subject,site,file\n1,北京,a.nii\n2,上海,b.nii\n3,Site A,c.nii\n4,Site-A,d.nii\n5,n/a,e.nii\n"
    frame = read_sources([table(tmp_path / "t.csv", text)]).frame
    assert frame["site"].tolist() == ["北京", "上海", "Site A", "Site-A", tmp_path.name]


def two_studies(root: Path, second: str = "sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz") -> tuple[Path, Path]:
    head = "participant_id\tage\tgroup\n"
    return (
        bids(root / "studyA" / "bids", ["sub-01/anat/sub-01_T1w.nii.gz"], head + "sub-01\t30\tcontrol\n"),
        bids(root / "studyB" / "bids", [second], head + "sub-01\t71\tAD\n"),
    )


def test_the_same_id_in_two_sources_is_refused_with_what_to_type(tmp_path: Path) -> None:
    one, two = two_studies(tmp_path)
    with pytest.raises(
        UserError, match=r"sub-01 is in .*studyA/bids and in .*studyB/bids; .*shared_ids=true"
    ) as caught:
        read_sources([one, two])
    typed = f"source='{{studyA: {one}, studyB: {two}}}'"
    assert typed in str(caught.value)
    named = Prepare.model_validate({"source": {"studyA": one, "studyB": two}, "out": tmp_path / "out"})
    frame = read_sources(named.source).frame
    assert frame[["subject", "site", "age_years"]].to_numpy().tolist() == [
        ["studyA01", "studyA", 30.0],
        ["studyB01", "studyB", 71.0],
    ]
    shared = bids(tmp_path / "more", ["sub-01/ses-9/anat/sub-01_ses-9_T1w.nii.gz"])
    assert read_sources([one, shared], shared_ids=True).frame["key"].tolist() == ["sub-01_ses-1", "sub-01_ses-9"]


def test_a_named_source_has_its_ids_whatever_else_is_read(tmp_path: Path) -> None:
    one, two = two_studies(tmp_path)
    alone = read_sources({"siteA": one}).frame["subject"].tolist()
    both = read_sources({"siteB": two, "siteA": one}).frame["subject"].tolist()
    assert alone == ["siteA01"]
    assert alone[0] in both
    assert qualified("s1", "01") != qualified("s10", "1")


def test_names_that_keep_ids_apart_and_shared_ids_contradict_each_other(tmp_path: Path) -> None:
    one, two = two_studies(tmp_path)
    with pytest.raises(UserError, match=r"\(a, b\) keep their ids apart and shared_ids=true joins them"):
        read_sources({"a": one, "b": two}, shared_ids=True)


def test_names_of_sources_are_plain_and_folders_are_theirs(tmp_path: Path) -> None:
    verb = Prepare.model_validate({"source": {1: tmp_path}, "out": tmp_path / "o"})
    assert verb.source == {"1": tmp_path}
    assert verb.paths == (tmp_path,)
    for wrong in ({"site-A": "x"}, {"": "x"}, {}):
        with pytest.raises(ValueError, match=r"letters and digits only|at least 1 item"):
            Prepare.model_validate({"source": wrong, "out": tmp_path / "o"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("source=010", (Path("010"),)),
        ("source=[010, 8, no, 1e3]", tuple(map(Path, ("010", "8", "no", "1e3")))),
        ("source={1: 010, b: yes}", {"1": Path("010"), "b": Path("yes")}),
        ("source.010=12:30", {"010": Path("12:30")}),
    ],
)
def test_folders_and_names_are_words(typed: str, meant: object) -> None:
    assert load(Prepare, None, [typed, "out=o"]).source == meant


def test_what_to_type_uses_the_part_of_the_path_that_differs() -> None:
    assert named_sources([Path("/d/x/bids"), Path("/d/y/bids")]) == "source='{x: /d/x/bids, y: /d/y/bids}'"
    assert named_sources([Path("/d/a.csv"), Path("/d/b.csv")]) == "source='{a: /d/a.csv, b: /d/b.csv}'"
    same = [Path("/x/y"), Path("/x/y")]
    assert named_sources(same) == "source='{source1: /x/y, source2: /x/y}'"


def test_two_folders_of_one_name_are_not_one_site(tmp_path: Path) -> None:
    one, two = two_studies(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz")
    with pytest.raises(UserError, match=r"both would be the site bids; name the sources, source='\{studyA: "):
        read_sources([one, two])


def test_ids_unique_within_a_site_are_said_to_be_so_or_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "subject,site,session,file\n1,x,1,a.nii\n1,y,2,b.nii\n2,x,1,c.nii\n")
    with pytest.raises(UserError, match=r"1 is at the sites x and y; set columns\.ids_within_site=true"):
        read_sources([path])
    apart = read_sources([path], Columns(ids_within_site=True)).frame
    assert apart["subject"].tolist() == ["x1", "y1", "x2"]
    assert read_sources([path], Columns(ids_within_site=False)).frame["subject"].tolist() == ["1", "1", "2"]
    alone = table(tmp_path / "one.csv", "subject,site,file\n2,x,c.nii\n")
    assert read_sources([alone], Columns(ids_within_site=True)).frame["subject"].tolist() == ["x2"]


def test_two_texts_with_one_label_are_refused(tmp_path: Path) -> None:
    taken = label("A-1")
    path = table(tmp_path / "t.csv", f"subject,session,file\nA-1,1,a.nii\n{taken},2,b.nii\n")
    with pytest.raises(UserError, match=rf"'A-1' and '{taken}' would both be {taken} in file names"):
        read_sources([path])


def test_what_does_not_match_up_names_its_source(tmp_path: Path) -> None:
    one, two = two_studies(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz")
    source = read_sources({"A": one, "B": two})
    assert dict(zip(source.found_in, source.unmatched, strict=True))["B"][0] in ("01", "02")
