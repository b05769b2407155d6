"""Whose series they are, what names nobody afterwards, hostile zips, and the whole way of the verb."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gen3d.cli import main
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_volume, write_nifti
from gen3d.prepare.columns import Columns
from gen3d.prepare.dicom import archive, converting
from gen3d.prepare.dicom.archive import unpack
from gen3d.prepare.dicom.settings import DicomSettings
from gen3d.prepare.dicom.source import as_bids, is_dicom_source
from gen3d.prepare.prepare import Prepare
from tests.phantoms import matrix, scan_of

pytest.importorskip("pydicom")
pytest.importorskip("dicognito")
if importlib.util.find_spec("dcm2niix") is None:
    pytest.skip("dcm2niix is not installed", allow_module_level=True)

from tests.prepare.dicom.scanner import all_bytes, write_series
from tests.validator import bids_errors

TELLING = (
    "doe",
    "jane",
    "hosp-",
    "4711",
    "elsewhere",
    "house",
    "a12345",
    "66021",
    "made for tests",
    "202009",
    "2020-09",
    "121816",
    "1950",
)


def converted(source: Path, columns: Columns | None = None, **settings: Any) -> Path:
    """The BIDS folder of a source."""
    with as_bids((source,), DicomSettings(**settings), columns or Columns(), source.parent / "out", keep=True) as (
        folder,
    ):
        return folder


def table(folder: Path, name: str = "participants.tsv") -> pd.DataFrame:
    """A table of the folder as text."""
    return pd.read_csv(folder / name, sep="\t", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits of a woman of 70 and 92, and one of a man."""
    folder = tmp_path_factory.mktemp("dicom") / "export"
    write_series(folder / "a", study="1.2.3.1")
    later = {"StudyDate": "20220831", "PatientAge": "092Y", "PatientBirthDate": ""}
    write_series(folder / "b", study="1.2.3.2", changes=later)
    other = {"PatientID": "HOSP-9", "PatientName": "Roe^Richard", "PatientSex": "M", "PatientBirthDate": "19800101"}
    write_series(
        folder / "c", study="1.2.3.3", changes={**other, "PatientAge": "040Y", "SeriesDescription": "t1_mprage"}
    )
    return folder


def zipped(path: Path, folder: Path) -> Path:
    """All files of a folder in a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                bundle.write(file, str(file.relative_to(folder)))
    return path


@pytest.fixture
def export(visits: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    (tmp_path / "export").symlink_to(visits)
    return tmp_path / "export"


def test_nothing_that_is_written_names_anybody(export: Path) -> None:
    folder = converted(export)
    content = all_bytes(folder)
    assert [text for text in TELLING if text.encode() in content] == []
    people = table(folder).set_index("sex")
    assert people.loc["F", "age"] == "70.3"
    assert people.loc["M", "age"] == "40.7"
    assert people["scanner"].tolist() == ["SIEMENS Prisma 3T"] * 2
    subject = people.loc["F", "participant_id"]
    sessions = table(folder / subject, f"{subject}_sessions.tsv")
    assert sessions.to_dict("list") == {"session_id": ["ses-1", "ses-2"], "age": ["70.3", "90"]}, (
        "no date, nobody above 90"
    )
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "face" in (folder / "README").read_text()


@pytest.mark.parametrize("dates", ["none", "shifted"])
def test_the_bids_validator_finds_no_error(dates: str, export: Path) -> None:
    assert bids_errors(converted(export, dates=dates)) == []


def test_shifted_dates_keep_the_time_between_visits_and_each_person_has_another_shift(export: Path) -> None:
    folder = converted(export, dates="shifted")
    days: dict[str, list[pd.Timestamp]] = {}
    for path in sorted(folder.glob("sub-*/sub-*_sessions.tsv")):
        days[path.parent.name] = [pd.Timestamp(text) for text in table(path.parent, path.name)["acq_time"]]
    woman, man = sorted(days.values(), key=len, reverse=True)
    assert (woman[1] - woman[0]).days == (pd.Timestamp("2022-08-31") - pd.Timestamp("2020-09-01")).days
    shifts = [(pd.Timestamp("2020-09-01") - first).days for first in (woman[0], man[0])]
    assert all(60 <= shift <= 731 for shift in shifts)
    assert shifts[0] != shifts[1]
    scans = table(next(folder.glob("sub-*/ses-2")), next(folder.glob("sub-*/ses-2/*_scans.tsv")).name)
    assert pd.Timestamp(scans["acq_time"][0]) == woman[1]


def test_ids_cannot_be_traced_back_and_a_map_keeps_them(export: Path, tmp_path: Path) -> None:
    first, again = converted(export, bids=tmp_path / "one"), converted(export, bids=tmp_path / "two")
    assert not set(table(first)["participant_id"]) & set(table(again)["participant_id"]), "the secret was thrown away"
    key = tmp_path / "key.tsv"
    mapped = converted(export, bids=tmp_path / "three", id_map=key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    known = table(tmp_path, "key.tsv").set_index("patient_id")["subject"]
    assert {f"sub-{known['HOSP-4711']}", f"sub-{known['HOSP-9']}"} == set(table(mapped)["participant_id"])
    repeated = converted(export, bids=tmp_path / "four", id_map=key)
    assert table(repeated).equals(table(mapped))


def test_a_cohort_table_is_linked_by_the_map_or_by_the_ids_of_the_hospital(export: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.tsv"
    key.write_text("patient_id\tsubject\nHOSP-4711\t017\nHOSP-9\t018\n")
    key.chmod(0o600)
    people = tmp_path / "people.csv"
    people.write_text("participant_id,diagnosis,age,mmse,surname\n017,AD,60,20,Doe\n")
    linked = table(converted(export, id_map=key, people=people)).set_index("participant_id")
    assert linked.loc["sub-017"].to_dict() == {
        "age": "70.3", "sex": "F", "scanner": "SIEMENS Prisma 3T", "diagnosis": "AD", "mmse": "20",
    }  # fmt: skip
    assert linked.loc["sub-018", "diagnosis"] == "n/a"
    people.write_text("participant_id,diagnosis\nHOSP-9,control\n")
    other = table(converted(export, bids=tmp_path / "other", people=people)).set_index("sex")
    assert other["diagnosis"].to_dict() == {"F": "n/a", "M": "control"}
    assert b"hosp-" not in all_bytes(tmp_path / "other")


def test_the_one_person_of_a_source_can_be_named_and_known(
    tmp_path: Path, visits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "dicom")
    people = tmp_path / "people.csv"
    people.write_text("participant_id,diagnosis,age,sex,site\nK7,AD,41,M,siteB\n")
    made = table(converted(tmp_path / "dicom", subject="K7", people=people)).set_index("participant_id")
    assert made.loc["sub-K7", ["diagnosis", "site", "sex"]].tolist() == ["AD", "siteB", "F"]
    said = " ".join(capsys.readouterr().out.split())
    for what in ("sex", "age"):
        assert f"the {what} of 1 person is another than in the header of their images, which counts" in said
    people.write_text(f"participant_id,age,sex\nK7,{made.loc['sub-K7', 'age']},F\n")
    converted(tmp_path / "dicom", subject="K7", people=people, bids=tmp_path / "same")
    assert "is another than in the header" not in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"holds series of 2 people .*dicom.subject=K7 is the id of one"):
        converted(visits, subject="K7")
    two = (tmp_path / "dicom", visits)
    with (
        pytest.raises(UserError, match=r"dicom.subject=K7 is the id of one person, and 2 sources are"),
        as_bids(two, DicomSettings(subject="K7"), Columns(), tmp_path / "two", keep=True),
    ):
        pass
    with pytest.raises(ValueError, match="both give ids"):
        DicomSettings(subject="K7", id_map=tmp_path / "map.tsv")
    with pytest.raises(ValueError, match="an id is of letters and digits alone"):
        DicomSettings(subject="sub-K7")


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("patient_id\tsubject\nHOSP-9\t1\n", 0o644, r"others may read it \(mode 644\); chmod 600"),
        ("patient_id\tsubject\nHOSP-9\t1\nHOSP-4711\t1\n", 0o600, "two people have one id"),
        ("id\tsubject\nHOSP-9\t1\n", 0o600, "no column patient_id"),
    ],
)
def test_an_id_map_that_cannot_be_used_is_a_sentence(
    export: Path, tmp_path: Path, text: str, mode: int, sentence: str
) -> None:
    key = tmp_path / "key.tsv"
    key.write_text(text)
    key.chmod(mode)
    with pytest.raises(UserError, match=sentence):
        converted(export, id_map=key)
    assert not (tmp_path / "out_bids").exists()


def test_an_id_map_within_what_is_written_is_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lies in .*out_bids"):
        converted(export, id_map=tmp_path / "out_bids" / "key.tsv")


def test_two_people_in_one_zip_are_refused_and_an_export_of_many_is_not(visits: Path, tmp_path: Path) -> None:
    bundle = zipped(tmp_path / "scan.zip", visits)
    with pytest.raises(UserError, match=r"holds series of 2 people .*dicom.several_people=true"):
        converted(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.zip"], "nothing of them is left"
    assert len(table(converted(bundle, several_people=True))) == 2


def test_one_id_with_two_birth_dates_and_no_id_at_all_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    write_series(folder / "a", number=1)
    write_series(folder / "b", number=2, study="1.2.3.2", changes={"PatientBirthDate": "19610101"})
    with pytest.raises(UserError, match=r"one patient id .* 2 birth dates \(series 1 and 2\)"):
        converted(folder)
    write_series(folder / "c", number=3, study="1.2.3.9", changes={"PatientID": ""})
    with pytest.raises(UserError, match=r"1 series has no patient id \(series 3\)"):
        converted(folder)


def test_a_path_that_names_the_person_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane_Maria"
    write_series(folder)
    with pytest.raises(UserError, match="this path holds the person's name"):
        converted(folder)


def test_a_conversion_is_used_again_and_never_mixed(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom")
    before = table(converted(tmp_path / "dicom"))
    assert table(converted(tmp_path / "dicom")).equals(before)
    with pytest.raises(UserError, match="conversion with other settings of dicom"):
        converted(tmp_path / "dicom", dates="shifted")
    write_series(tmp_path / "dicom" / "more", number=2)
    with pytest.raises(UserError, match="conversion of other files, or these were changed"):
        converted(tmp_path / "dicom")
    (tmp_path / "out_bids" / "dicom.json").unlink()
    with pytest.raises(UserError, match="is no conversion of DICOM files"):
        converted(tmp_path / "dicom")


def test_what_is_missing_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "dicom")
    monkeypatch.setattr(converting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"need the program dcm2niix.*pip install 'gen3d\[dicom\]'"):
        converted(tmp_path / "dicom")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"need pydicom.*pip install 'gen3d\[dicom\]'"):
        converted(tmp_path / "dicom")


def test_what_is_a_source_of_dicom(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom" / "deep" / "er", slices=[0])
    assert is_dicom_source(tmp_path / "dicom")
    assert is_dicom_source(zipped(tmp_path / "any.name", tmp_path / "dicom"))
    (tmp_path / "dicom" / "sub-1_T1w.nii.gz").touch()
    assert not is_dicom_source(tmp_path / "dicom"), "a BIDS folder may have its DICOM files beside"
    (tmp_path / "empty").mkdir()
    assert not is_dicom_source(tmp_path / "empty")
    bundle = tmp_path / "text.zip"
    with zipfile.ZipFile(bundle, "w") as archive_:
        archive_.writestr("a.txt", "nothing")
    with pytest.raises(UserError, match="holds no DICOM image"):
        converted(bundle)


def _link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


HOSTILE: dict[str, tuple[Any, bytes, str]] = {
    "an absolute name": ("/etc/passwd", b"x", "leads out of it"),
    "a name that climbs": ("a/../../b", b"x", "leads out of it"),
    "a name of Windows": ("..\\..\\b", b"x", "leads out of it"),
    "a drive": ("C:\\b", b"x", "leads out of it"),
    "a link": (_link(), b"/etc/passwd", "a link or a device"),
    "an archive by its name": ("inner.zip", b"x", "another archive"),
    "an archive by its content": ("IM1", b"PK\x03\x04rest", "another archive"),
    "a bomb": ("IM1", bytes(40 << 20), "times its size"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_zip_is_refused(how: str, tmp_path: Path) -> None:
    name, content, sentence = HOSTILE[how]
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(name, content)
    with pytest.raises(UserError, match=sentence):
        converted(tmp_path / "hostile.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.zip"]


def test_a_zip_that_lies_about_its_sizes_or_is_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "scan.zip"
    with zipfile.ZipFile(bundle, "w") as writing:
        writing.writestr("IM1", os.urandom(5000))
    (tmp_path / "into").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(archive, "most_bytes", lambda: 1000)
        with pytest.raises(UserError, match=r"unpacks to more than .*GEN3D_LIMIT_GIB"):
            unpack(bundle, tmp_path / "into")
    content = bytearray(bundle.read_bytes())
    content[60] ^= 255
    bundle.write_bytes(content)
    (tmp_path / "again").mkdir()
    with pytest.raises(UserError, match="not a zip that can be unpacked"):
        unpack(bundle, tmp_path / "again")


def test_dicom_to_prepared_equals_nifti_to_prepared_and_says_what_it_left_out(tmp_path: Path) -> None:
    scan = scan_of(matrix(), spacing_mm=1.6)
    whole = scan.data.round().astype("uint16")
    write_series(tmp_path / "dicom", whole, scan.affine, number=1)
    write_series(tmp_path / "dicom", number=2, slices=range(4), changes={"SeriesDescription": "t2_haste"})
    write_nifti(tmp_path / "bids" / "sub-1" / "anat" / "sub-1_T1w.nii.gz", whole.astype("float32"), scan.affine)
    fast: dict[str, Any] = {"spacing_mm": 4.0, "workers": 1, "bias_correction": False, "deformation_channel": False}
    verb = Prepare(source=(tmp_path / "dicom",), out=tmp_path / "prepared", controls=("all",), **fast)
    assert "reads 1 scans of 1 people" in "\n".join(verb.plan())
    assert not (tmp_path / "prepared_bids").exists(), "a dry run keeps nothing"
    verb.run()
    Prepare(source=(tmp_path / "bids",), out=tmp_path / "plain", controls=("all",), **fast).run()
    ours, theirs = (next((tmp_path / name / "volumes").glob("*_t1w.nii")) for name in ("prepared", "plain"))
    assert read_volume(ours).data == pytest.approx(read_volume(theirs).data, abs=0.02)
    remarks = (tmp_path / "prepared" / "unmatched.tsv").read_text()
    assert "series not used: by its name a T2-weighted image" in remarks
    assert "Jane" not in remarks
    assert main(["prepare", f"source={tmp_path / 'dicom'}", f"out={tmp_path / 'prepared'}", "controls=[all]",
                 "spacing_mm=4", "workers=1", "bias_correction=false", "deformation_channel=false"]) == 0  # fmt: skip


@pytest.mark.real
def test_the_zip_of_a_hospital_becomes_a_prepared_scan(real_data: Path, tmp_path: Path) -> None:
    bundle = real_data / "dicom" / "philips_t1w.zip"
    if not bundle.is_file():
        pytest.skip("no DICOM files among the real scans")
    Prepare(source=(bundle,), out=tmp_path / "out", spacing_mm=4.0, workers=1, deformation_channel=False).run()
    verdict = table(tmp_path / "out", "verdicts.tsv").iloc[0]
    assert verdict["verdict"] == "keep"
    assert b"d2n_philips" not in all_bytes(tmp_path / "out_bids")
