"""Every trap of a series of DICOM files has its verdict in words, and what is converted is the scan that was written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.prepare.columns import Columns
from gen3d.prepare.dicom.settings import DicomSettings
from gen3d.prepare.dicom.source import as_bids

pytest.importorskip("pydicom")
pytest.importorskip("dicognito")
if importlib.util.find_spec("dcm2niix") is None:
    pytest.skip("dcm2niix is not installed", allow_module_level=True)

from tests.prepare.dicom.scanner import CAPTURE, NUM_SLICES, head, slanted, write_enhanced, write_series


def converted(source: Path, **settings: Any) -> Path:
    """The BIDS folder of a source."""
    out = source.parent / "out"
    with as_bids((source,), DicomSettings(**settings), Columns(), out, keep=True) as (folder,):
        return folder


def verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    """Series -> verdict and reason."""
    table = pd.read_csv(folder / "dicom.tsv", sep="\t", dtype=str, keep_default_na=False)
    return {row["series"]: (row["verdict"], row["reason"]) for _, row in table.iterrows()}


def image(folder: Path) -> Any:
    """The one image of a folder."""
    (path,) = folder.glob("sub-*/ses-*/anat/*_T1w.nii.gz")
    return nib.load(path)


def voxels(loaded: Any, data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The image's values at the places of the voxels that were written."""
    places = np.indices(data.shape).reshape(3, -1)
    world = affine[:3, :3] @ places + affine[:3, 3:]
    back = np.linalg.inv(loaded.affine)
    there = back[:3, :3] @ world + back[:3, 3:]
    assert np.abs(there - np.round(there)).max() < 1e-3, "the same grid"
    return np.asarray(loaded.dataobj)[tuple(np.round(there).astype(int))].reshape(data.shape)


Write = Callable[[Path], object]
SOUND: dict[str, Write] = {
    "plain": lambda folder: write_series(folder),
    "compressed by run lengths": lambda folder: write_series(folder, rle=True),
    "enhanced multi-frame": lambda folder: write_enhanced(folder),
    "names of a PACS, and its directory": lambda folder: (
        write_series(folder / "DICOM" / "PA0" / "ST0"),
        (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64),
        (folder / "README.TXT").write_text("from the PACS"),
    ),
}


@pytest.mark.parametrize("how", SOUND)
def test_a_sound_series_is_the_scan_that_was_written(how: str, tmp_path: Path) -> None:
    SOUND[how](tmp_path / "dicom")
    folder = converted(tmp_path / "dicom")
    assert verdicts(folder) == {"1": ("used", "n/a")}
    assert (voxels(image(folder), head(), slanted()) == head()).all()


def _every_second_slope(folder: Path) -> None:
    """Philips: every slice with a slope of its own."""
    for place, slope in enumerate(np.tile([1.0, 2.5], NUM_SLICES // 2)):
        write_series(folder, slices=[place], changes={"RescaleSlope": slope, "RescaleIntercept": 0})


def test_slopes_by_slice_are_applied(tmp_path: Path) -> None:
    _every_second_slope(tmp_path / "dicom")
    expected = head() * np.tile([1.0, 2.5], NUM_SLICES // 2)
    assert voxels(image(converted(tmp_path / "dicom")), head(), slanted()) == pytest.approx(expected, rel=1e-5)


def _short(folder: Path) -> None:
    path = write_series(folder)[40]
    path.write_bytes(path.read_bytes()[:-300])


def _twice(folder: Path) -> None:
    for path in write_series(folder)[7:9]:
        (folder / f"again{path.name}").write_bytes(path.read_bytes())


def _three_planes(folder: Path) -> None:
    write_series(folder, slices=range(5))
    write_series(folder, slices=range(5, 10), changes={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]})


def _changed(**changes: Any) -> Write:
    return lambda folder: write_series(folder, changes=changes)


UNUSABLE: dict[str, tuple[Write, str]] = {
    "lost slices": (lambda f: write_series(f, slices=[*range(30), *range(33, 80)]), "slices are missing: 3 of 80"),
    "truncated by its own count": (
        lambda f: write_series(f, slices=range(76), changes={"ImagesInAcquisition": 80}),
        "truncated: 76 of 80 slices",
    ),
    "truncated without a count": (
        lambda f: write_series(f, slices=range(40)),
        "40 slices cover 60 mm and a brain needs 110",
    ),
    "a file cut short": (_short, "truncated: 1 file of 80 end before their pixels do"),
    "two slices sent twice": (_twice, "2 slices are there twice"),
    "localiser by its type": (_changed(ImageType=["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]), "a localiser"),
    "localiser by its planes": (_three_planes, "its slices lie in several directions: a localiser"),
    "localiser by its name": (_changed(SeriesDescription="AAhead_Scout t1"), "a calibration"),
    "reformatted": (
        _changed(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        r"computed from another series \(image type MPR\)",
    ),
    "derived": (
        _changed(ImageType=["DERIVED", "SECONDARY", "M"]),
        r"computed from another series \(image type DERIVED\)",
    ),
    "phase": (_changed(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), "the phase of a complex image"),
    "MP2RAGE UNI": (
        _changed(SeriesDescription="mp2rage_UNI_Images", ImageType=["DERIVED", "PRIMARY", "M", "UNI"]),
        "background is noise",
    ),
    "MP2RAGE INV1": (_changed(SeriesDescription="mp2rage_INV1"), "the first inversion of MP2RAGE"),
    "2D": (_changed(MRAcquisitionType="2D"), r"slice by slice \(2D\)"),
    "T2": (_changed(SeriesDescription="t2_spc_sag", ProtocolName="t2"), "by its name a T2-weighted image"),
    "FLAIR": (_changed(SeriesDescription="3D T1 FLAIR"), "by its name a FLAIR image"),
    "long echo": (_changed(EchoTime=96), "its echo time of 96 ms is none of a T1w scan"),
    "nameless, spin echo": (
        _changed(SeriesDescription="s3", ProtocolName="s3", ScanningSequence="SE"),
        "neither its name nor its parameters",
    ),
    "contrast agent": (_changed(ContrastBolusAgent="Gadovist"), "contrast agent"),
    "contrast agent by its name": (_changed(SeriesDescription="t1_mprage +c"), "contrast agent"),
    "secondary capture": (_changed(SOPClassUID=CAPTURE, Modality="OT"), "a secondary capture: a picture of a screen"),
    "burned in": (_changed(BurnedInAnnotation="YES"), "its pixels hold writing"),
    "no MR": (_changed(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), r"no image of MR \(modality CT\)"),
    "thick": (
        lambda f: write_series(f, affine=slanted() @ np.diag([1, 1, 3, 1]), data=head(60)),
        "its voxels are 4.5 mm long",
    ),
}


@pytest.mark.parametrize("trap", UNUSABLE)
def test_what_is_no_whole_t1w_scan_is_refused_with_its_reason(trap: str, tmp_path: Path) -> None:
    write, reason = UNUSABLE[trap]
    write(tmp_path / "dicom")
    with pytest.raises(
        UserError, match=f"(?s)no T1w scan of a whole head among 1 series:.*series 1 .*{reason}"
    ) as caught:
        converted(tmp_path / "dicom")
    assert "Jane" not in str(caught.value), "the description named the person"
    assert not (tmp_path / "out_bids").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dicom"], "nothing is left behind"


def test_of_several_series_the_right_one_is_used_and_the_others_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    write_series(folder, number=1, slices=range(9), changes={"ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]})
    without = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "SeriesDescription": "t1_mprage_ND"}
    write_series(folder, number=2, changes=without, data=head(seed=2))
    write_series(folder, number=3, data=head(seed=3))
    write_series(folder, number=4, data=head(seed=4))
    write_series(folder, number=5, changes={"ImageType": ["ORIGINAL", "PRIMARY", "M", "DIS3D"]})
    write_series(folder, number=6, changes={"LossyImageCompression": "01"})
    table = verdicts(done := converted(folder))
    assert table.pop("4") == ("used", "n/a")
    assert {verdict for verdict, _ in table.values()} == {"not used"}
    reasons = {series: reason for series, (_, reason) in table.items()}
    assert reasons == {
        "1": "a localiser",
        "2": "without correction of distortion; its twin with it is series 4",
        "3": "a repeat; series 4 is the later one",
        "5": "without prescan normalisation, which series 4 has",
        "6": "compressed with loss, which series 4 is not",
    }
    assert (voxels(image(done), head(), slanted()) == head(seed=4)).all()


def test_a_series_that_dcm2niix_cannot_convert_gives_way_to_the_next(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", number=1)
    broken = write_series(tmp_path / "dicom", number=2, rle=True)
    for path in broken:
        path.write_bytes(path.read_bytes()[:-400])
    table = verdicts(converted(tmp_path / "dicom"))
    assert table["1"] == ("used", "n/a")
    assert table["2"][0] == "not used"
    assert "dcm2niix" in table["2"][1]


def test_echoes_are_combined_and_those_that_the_scanner_combined_go_first(tmp_path: Path) -> None:
    folder, echoes = tmp_path / "dicom", [head(seed=seed) for seed in range(3)]
    for number, data in enumerate(echoes, start=1):
        write_series(
            folder, data, changes={"EchoTime": 1.7 * number, "EchoNumbers": number, "SeriesInstanceUID": "1.2.9"}
        )
    expected = np.sqrt(np.mean(np.square([data.astype(float) for data in echoes]), axis=0))
    done = converted(folder)
    assert verdicts(done) == {"1": ("used", "root mean square of its 3 echoes")}
    assert voxels(image(done), head(), slanted()) == pytest.approx(expected, rel=1e-5)
    combined = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "DIS3D", "NORM", "MEAN"],
        "SeriesDescription": "t1_mprage RMS",
    }
    both = tmp_path / "both" / "dicom"
    write_series(both, number=2, changes=combined)
    for number, data in enumerate(echoes, start=1):
        write_series(
            both,
            data,
            number=3,
            changes={"EchoTime": 1.7 * number, "EchoNumbers": number, "SeriesInstanceUID": "1.2.9"},
        )
    assert verdicts(converted(both)) == {
        "2": ("used", "n/a"),
        "3": ("not used", "several echoes, which are combined in series 2"),
    }


def test_phase_in_the_same_series_is_left_out(tmp_path: Path) -> None:
    for kind, seed in (("M", 1), ("P", 2)):
        changes = {"ImageType": ["ORIGINAL", "PRIMARY", kind, "DIS3D"], "SeriesInstanceUID": "1.2.9"}
        write_series(tmp_path / kind, head(seed=seed), changes=changes)
    (tmp_path / "dicom").mkdir()
    for kind in "MP":
        for path in (tmp_path / kind).iterdir():
            path.rename(tmp_path / "dicom" / f"{kind}{path.name}")
    done = converted(tmp_path / "dicom")
    assert (voxels(image(done), head(), slanted()) == head(seed=1)).all()


def test_mp2rage_mixed_in_one_series_is_refused(tmp_path: Path) -> None:
    for kind in ("INV1", "INV2", "UNI"):
        changes = {
            "ImageType": ["ORIGINAL", "PRIMARY", "M", kind],
            "SeriesInstanceUID": "1.2.9",
            "SeriesDescription": "mp2rage",
        }
        write_series(tmp_path / "dicom" / kind, changes=changes)
    with pytest.raises(UserError, match="MP2RAGE with INV1, INV2 and UNI in one series"):
        converted(tmp_path / "dicom")
