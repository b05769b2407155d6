"""Of all images in a folder, the raw and plain one is taken, and what is not taken is told with its full path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.prepare.dataset_files import dataset_files
from gen3d.prepare.which_scan import find_scans
from tests.prepare.test_sources import bids

RAW = "sub-01/anat/sub-01_T1w.nii.gz"


def taken(root: Path) -> list[str]:
    """The images that are taken, below the folder."""
    return [str(Path(scan.source).relative_to(root)) for scan in find_scans(root, None)[0]]


def remarks(root: Path) -> dict[str, str]:
    return dict(find_scans(root, None)[1])


@pytest.mark.parametrize(
    "place",
    [
        *(
            "derivatives/defaced",
            "a_copy",
            "sourcedata",
            "code/x",
            ".git/annex",
            ".Trash-1000",
            "lost+found",
            "zzz/deep/er",
        ),
        *("Derivatives", "$RECYCLE.BIN", "@eaDir", "sub-01/anat/.hidden"),
    ],
)
def test_the_raw_scan_goes_before_a_copy_of_the_same_name_wherever_it_lies(place: str, tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW, f"{place}/{RAW}"])
    assert taken(root) == [RAW]


def test_derivatives_that_are_given_are_read(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW, f"derivatives/defaced/{RAW}"])
    assert taken(root / "derivatives") == [f"defaced/{RAW}"]
    assert taken(root / "derivatives" / "defaced") == [RAW]
    only = bids(tmp_path / "only", [f"derivatives/defaced/{RAW}"])
    with pytest.raises(UserError, match=r"its only \*_T1w.* are in .*only/derivatives; give that folder itself"):
        taken(only)


def test_what_was_not_read_is_told(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW, f"derivatives/x/{RAW}", f"old/{RAW}", f"nested/{RAW}", "notes/sub-02_T1w.nii.gz"])
    (root / "nested" / "dataset_description.json").write_text("{}")
    found = remarks(root)
    assert found["derivatives"] == "not read: not part of the raw dataset"
    assert found["nested"] == "not read: a dataset of its own"
    assert {"old", "notes"} <= set(found)


def test_bidsignore_names_what_is_not_read(tmp_path: Path) -> None:
    scans = [
        RAW,
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "sub-03/anat/sub-03_acq-x_T1w.nii.gz",
    ]
    root = bids(tmp_path / "d", scans)
    (root / ".bidsignore").write_text("# comment\n\nsub-02/\n*_acq-*\n**/sub-01_*\n!sub-01/anat/sub-01_T1w.nii.gz\n")
    assert taken(root) == [RAW, "sub-03/anat/sub-03_T1w.nii.gz"]
    assert remarks(root)["sub-02"] == "not read: named in .bidsignore"


ORDER = {
    "contrast agent": ["run-2_T1w", "ce-GADAVIST_T1w"],
    "phase": ["run-1_T1w", "part-phase_T1w"],
    "magnitude is the image": ["part-mag_T1w", "acq-b_T1w"],
    "no acquisition named": ["run-3_T1w", "acq-a_run-1_T1w"],
    "no reconstruction named": ["T1w", "rec-defaced_T1w"],
    "a processed copy": ["T1w", "desc-defaced_T1w"],
    "runs are numbers": ["run-2_T1w", "run-10_T1w"],
    "padded runs": ["run-01_T1w", "run-2_T1w"],
    "no run": ["T1w", "run-1_T1w"],
    "no word in between": ["T1w", "Copy_T1w"],
}


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("turn", [1, -1])
def test_the_plain_image_goes_first(name: str, turn: int, tmp_path: Path) -> None:
    scans = [f"sub-01/anat/sub-01_{rest}.nii.gz" for rest in ORDER[name]]
    root = bids(tmp_path / "d", scans[::turn])
    assert taken(root) == scans[:1]
    assert any(scans[1] in remark for remark in remarks(root).values())


def test_one_image_in_two_formats_is_taken_once(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW, RAW.removesuffix(".gz")])
    assert taken(root) == [RAW.removesuffix(".gz")]


def test_a_deeper_copy_in_the_subjects_own_folder_goes_last(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-01/anat/a_old/sub-01_T1w.nii.gz", RAW])
    assert taken(root) == [RAW]


def test_only_a_contrast_image_is_used_and_told_and_only_a_phase_image_is_not(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-01/anat/sub-01_ce-gad_T1w.nii", "sub-02/anat/sub-02_part-phase_T1w.nii"])
    assert taken(root) == ["sub-01/anat/sub-01_ce-gad_T1w.nii"]
    assert "contrast agent" in remarks(root)["01"]
    assert "no scan that can be used" in remarks(root)["02"]


def test_a_session_that_only_the_folder_names_counts(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-01/ses-a/anat/sub-01_T1w.nii", "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii"])
    assert [scan.session for scan in find_scans(root, None)[0]] == ["a", "b"]


def test_a_file_that_contradicts_its_folder_is_told_not_used(tmp_path: Path) -> None:
    scans = [RAW, "sub-02/anat/sub-01_T1w.nii", "sub-01/ses-a/anat/sub-01_ses-b_T1w.nii", "sub-03/anat/T1_T1w.nii"]
    root = bids(tmp_path / "d", scans)
    assert taken(root) == [RAW]
    found = remarks(root)
    assert "named for somebody else" in found[scans[1]]
    assert "named for session b" in found[scans[2]]
    assert "named for somebody else" in found[scans[3]]


def test_a_linked_subject_is_read_once_and_circles_end(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW])
    elsewhere = bids(tmp_path / "pool", ["x/anat/sub-02_T1w.nii.gz"])
    (root / "sub-02").symlink_to(elsewhere / "x")
    (root / "sub-03").symlink_to(root / "sub-01")
    (root / "sub-01" / "up").symlink_to(root)
    (root / "sub-01" / "self").symlink_to(root / "sub-01" / "self")
    (root / "sub-04").symlink_to(tmp_path / "nowhere")
    assert taken(root) == [RAW, "sub-02/anat/sub-02_T1w.nii.gz"]
    assert remarks(root)["sub-03"] == "not read: a link to a folder that is read already"


def test_links_to_files_and_capital_endings_are_read(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-01/anat/sub-01_T1W.NII.GZ"])
    (tmp_path / "blob").touch()
    (root / "sub-02" / "anat").mkdir(parents=True)
    (root / "sub-02" / "anat" / "sub-02_T1w.nii.gz").symlink_to(tmp_path / "blob")
    (root / "sub-01" / "anat" / "._sub-01_T1w.nii.gz").touch()
    assert taken(root) == ["sub-01/anat/sub-01_T1W.NII.GZ", "sub-02/anat/sub-02_T1w.nii.gz"]


def test_several_datasets_or_copies_in_one_folder_are_refused_with_what_to_type(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [f"one/{RAW}", f"two/{RAW}"])
    with pytest.raises(UserError, match=r"sub-01 is in one and in two, .* source='\{one: .*/one, two: .*/two\}'"):
        taken(root)
    apart = bids(tmp_path / "apart", [f"one/{RAW}", "two/sub-02/anat/sub-02_T1w.nii"])
    assert len(taken(apart)) == 2
    for home in ("one", "two"):
        (apart / home / "dataset_description.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds 2 datasets \(one, two\); give the one you mean"):
        taken(apart)


def test_a_subjects_own_folder_can_be_given(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", ["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "sub-01/anat/sub-01_ses-2_T1w.nii"])
    assert [(s.subject, s.session) for s in find_scans(root / "sub-01", None)[0]] == [("01", "1"), ("01", "2")]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_that_is_not_text_is_told(tmp_path: Path) -> None:
    root = bids(tmp_path / "d", [RAW])
    os.mkdir(os.fsencode(root) + b"/sub-Jos\xe9")
    left_out = dataset_files(root).left_out
    assert left_out == [(r"sub-Jos\udce9", "not read: its name is not UTF-8; rename it")]
