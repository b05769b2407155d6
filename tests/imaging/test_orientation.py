"""Left stays left in every reader and format, and where a header does not say what is left, or says it twice, one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from gen3d.core.errors import UserError
from gen3d.imaging.brainmask import given_mask
from gen3d.imaging.foreign import read_foreign
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.volume import Volume, read_map_and_affine, read_volume
from gen3d.simulate.label_maps import read_labels, template_to_scan
from gen3d.simulate.lesion_masks import read_lesion_masks
from tests.imaging.foreign_files import AFFINE, FORMATS, SHAPE, Array, edited, nifti, values

Points = NDArray[np.float64]
BLOCK_MM = np.array([7.0, 7.0, 5.0])
"""Centre of the bright block in the world: on the right, in front, on top."""

FLIP = np.diag([-1.0, 1, 1, 1])
FLIP[0, 3] = SHAPE[0] - 1  # voxel i -> 11 - i


def _centre(data: Array, affine: Array) -> Points:
    return np.argwhere(data > 0.5 * data.max()).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]


def _scan(path: Path) -> Points:
    volume = read_volume(path)
    return _centre(volume.data, volume.affine)


def _label_map(path: Path) -> Points:
    return _centre(*read_labels(path))


def _own(path: Path) -> Points:
    return _centre(*read_map_and_affine(path))


def _mask(path: Path) -> Points:
    grid = Volume(np.ones((24, 28, 20), np.float32), np.diag([1.0, 1, 1, 1]) + _shift(-11.5, -13.5, -9.5))
    return _centre(given_mask(path, grid).astype(float), grid.affine)


def _lesion(path: Path) -> Points:
    (mask,) = read_lesion_masks(path.parent)
    return _centre(mask.data.astype(float), mask.affine)


def _shift(*millimetres: float) -> Array:
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = millimetres
    return matrix


READERS: dict[str, Callable[[Path], Points]] = {
    "scan": _scan,
    "brain mask": _mask,
    "label map": _label_map,
    "lesion mask": _lesion,
    "own map": _own,
}
NOT_READ = {"own map": ("pair", "MGZ", "fourth dimension of 1"), "lesion mask": ("pair", "MGZ")}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_scan_and_its_mirrored_twin_are_told_apart_by_every_reader(name: str, reader: str, tmp_path: Path) -> None:
    if name in NOT_READ.get(reader, ()):
        pytest.skip(f"no {reader} has this format")
    data = values() if reader != "lesion mask" else (values() == 1000).astype(np.int16)
    mirrored = np.ascontiguousarray(data[::-1])
    for folder, stored, affine, expected in (
        ("as it is", data, AFFINE, BLOCK_MM),
        ("stored from right to left", mirrored, AFFINE @ FLIP, BLOCK_MM),
        ("the twin", mirrored, AFFINE, BLOCK_MM * [-1, 1, 1]),
        ("the twin, stored from right to left", data, AFFINE @ FLIP, BLOCK_MM * [-1, 1, 1]),
    ):
        (tmp_path / folder).mkdir()
        path = FORMATS[name](tmp_path / folder / "a.nii", stored, affine)
        np.testing.assert_allclose(READERS[reader](path), expected, atol=0.7, err_msg=folder)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR", "SLA", "IPR", "ASL"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage])
def test_every_storage_order_keeps_its_place_in_the_world(codes: str, kind: type, tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(), AFFINE)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(codes))
    )
    path = tmp_path / ("a.mgz" if kind is nib.MGHImage else "a.nii.gz")
    nib.save(kind(np.asarray(turned.dataobj), turned.affine), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, values())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("degrees", [5, 20, 44, 45])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0)])
def test_oblique_grids_keep_their_place_in_the_world(degrees: float, codes: tuple[int, int], tmp_path: Path) -> None:
    turn = np.eye(4)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn[:2, :2] = [[c, -s], [s, c]]
    path = nifti(tmp_path / "a.nii", values(), turn @ AFFINE, codes)
    np.testing.assert_allclose(_scan(path), turn[:3, :3] @ BLOCK_MM, atol=0.01)


def _uncoded(path: Path) -> Path:
    return nifti(path, values(), codes=(0, 0))


def _uncoded_with_rows(path: Path) -> Path:
    return edited(edited(nifti(path, values()), "sform_code", 0), "qform_code", 0)


def _mirrored_sform(path: Path) -> Path:
    return edited(nifti(path, values()), "srow_x", -2, 0, 0, 11)


def _mirrored_qform(path: Path) -> Path:
    return edited(nifti(path, values(), codes=(4, 1)), "pixdim", -1)


def _apart(path: Path) -> Path:
    return edited(nifti(path, values()), "qoffset", -20)


def _analyze(path: Path) -> Path:
    image = nib.AnalyzeImage(values(), None)
    image.header.set_zooms((2, 2, 2))
    nib.save(image, path.with_suffix(".img"))
    return path.with_suffix(".img")


def _good_ras_flag(path: Path) -> Path:
    image = nib.MGHImage(values(), AFFINE)
    nib.save(image, path.with_suffix(".mgh"))
    content = bytearray(path.with_suffix(".mgh").read_bytes())
    content[28:30] = b"\0\0"
    path.with_suffix(".mgh").write_bytes(bytes(content))
    return path.with_suffix(".mgh")


UNKNOWN: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "no code": (_uncoded, ("sform_code and qform_code 0", "left and right are not known", "orientation.assume=RAS")),
    "no code, but rows": (_uncoded_with_rows, ("sform_code and qform_code 0", "orientation.assume=RAS")),
    "sform mirrored": (_mirrored_sform, ("sform's axes are LAS", "qform's RAS", "orientation.prefer=")),
    "qform mirrored": (_mirrored_qform, ("sform's axes are RAS", "mirror images", "orientation.prefer=")),
    "affines apart": (_apart, ("same code 1", "9 mm apart", "orientation.prefer=")),
    "Analyze": (_analyze, ("is in Analyze format", "left and right are not known", "orientation.assume=RAS")),
    "goodRASFlag": (_good_ras_flag, ("goodRASFlag 0", "left and right are not known")),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_left_is_a_sentence_with_a_way_out(name: str, tmp_path: Path) -> None:
    make, parts = UNKNOWN[name]
    path = make(tmp_path / "a.nii")
    with pytest.raises(UserError) as error:
        read_volume(path, OrientationRule())
    for part in (str(path), *parts):
        assert part in str(error.value)
    with pytest.raises(UserError) as error:  # where there is no setting, none is advised
        read_foreign(path)
    assert "orientation." not in str(error.value)
    with pytest.raises(ValueError, match=r"a\."):
        read_labels(path)


@pytest.mark.parametrize(("assume", "sides"), [("RAS", [1, 1, 1]), ("las", [-1, 1, 1]), ("LPI", [-1, -1, -1])])
@pytest.mark.parametrize("make", [_uncoded, _uncoded_with_rows, _analyze])
def test_assumed_axes_hold_where_a_header_gives_none(
    make: Callable[[Path], Path], assume: str, sides: list[int], tmp_path: Path
) -> None:
    volume = read_volume(make(tmp_path / "a.nii"), OrientationRule(assume=assume))
    np.testing.assert_allclose(_centre(volume.data, volume.affine), BLOCK_MM * sides, atol=1e-3)
    assert volume.spacing_mm == (2, 2, 2)


def test_axes_in_another_order_are_turned(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", np.ascontiguousarray(values().transpose(1, 2, 0)), codes=(0, 0))
    volume = read_volume(path, OrientationRule(assume="ASR"))
    np.testing.assert_array_equal(volume.data, values())


def test_a_header_that_says_its_axes_is_believed_whatever_is_assumed(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", values())
    np.testing.assert_array_equal(read_volume(path, OrientationRule(assume="LAS")).affine, AFFINE)


@pytest.mark.parametrize(("prefer", "right"), [("sform", -1), ("qform", 1)])
def test_the_preferred_affine_holds_where_two_contradict_each_other(prefer: str, right: int, tmp_path: Path) -> None:
    volume = read_volume(_mirrored_sform(tmp_path / "a.nii"), OrientationRule(prefer=prefer))
    np.testing.assert_allclose(_centre(volume.data, volume.affine), BLOCK_MM * [right, 1, 1], atol=1e-3)


@pytest.mark.parametrize("text", ["RA", "RASR", "RLS", "XYZ", "R A S", ""])
def test_what_names_no_three_axes_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="names no three axes"):
        OrientationRule(assume=text)


def _srow(path: Path, scale: float) -> Path:
    return edited(nifti(path, values(), codes=(2, 0)), "srow_x", 2 * scale, 0, 0, -11)


CONTRADICTIONS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "bits": (lambda p: edited(nifti(p, values()), "bitpix", 8), ("16 bits", "8 bits")),
    "type": (lambda p: edited(nifti(p, values()), "datatype", 16), ("32 bits", "16 bits")),
    "type and bits": (lambda p: edited(nifti(p, values()), "datatype", 2, 8), ("goes on after",)),
    "sizes": (lambda p: _srow(p, 1.05), ("2 x 2 x 2 mm", "2.1 x 2 x 2 mm")),
    "qform sizes": (lambda p: edited(nifti(p, values()), "pixdim", 2.3, index=1), ("3.3 mm apart",)),
    "qform without sizes": (lambda p: edited(nifti(p, values(), codes=(0, 1)), "pixdim", 0, index=2), ("2 x 0 x 2",)),
    "sizes that are no numbers": (lambda p: edited(nifti(p, values()), "pixdim", np.nan, index=3), ("2 x 2 x nan",)),
    "handedness": (lambda p: edited(nifti(p, values(), codes=(0, 1)), "pixdim", -0.5), ("-0.5",)),
    "no rotation": (lambda p: edited(nifti(p, values(), codes=(0, 1)), "quatern", 1, 1), ("qform (1, 1,",)),
    "rotation that is no number": (
        lambda p: edited(nifti(p, values(), codes=(0, 1)), "quatern", np.nan),
        ("a.nii",),
    ),
    "sform that is no number": (lambda p: edited(nifti(p, values(), codes=(1, 0)), "srow_y", np.inf), ("a.nii",)),
    "unknown code": (lambda p: edited(nifti(p, values()), "sform_code", 77), ("sform_code 77",)),
    "metre": (lambda p: edited(nifti(p, values()), "xyzt_units", 1), ("metre", "mm")),
    "micron": (lambda p: edited(nifti(p, values()), "xyzt_units", 3 + 8), ("micron", "mm")),
    "unknown unit": (lambda p: edited(nifti(p, values()), "xyzt_units", 5), ("code 5",)),
    "kilometres away": (lambda p: edited(nifti(p, values(), codes=(1, 0)), "srow_x", 2, 0, 0, 1e6), ("1e+03 m",)),
    "offset inside the header": (lambda p: edited(nifti(p, values()), "vox_offset", 100), ("byte 100", "byte 352")),
    "odd offset": (lambda p: edited(nifti(p, values()), "vox_offset", 352.5), ("352.5",)),
    "offset that is no number": (lambda p: edited(nifti(p, values()), "vox_offset", np.nan), ("nan",)),
    "offset in the voxels": (lambda p: edited(nifti(p, values()), "vox_offset", 368), ("truncated",)),
    "extension into the voxels": (
        lambda p: edited(FORMATS["extension"](p, values(), AFFINE), "extension", 1, 0, 0, 0, 64, 1, 0, 0),
        ("320 bytes", "byte 384"),
    ),
    "no dimensions": (lambda p: edited(nifti(p, values()), "dim", 0), ("0 dimensions",)),
    "eight dimensions": (lambda p: edited(nifti(p, values()), "dim", 8), ("8 dimensions",)),
    "fewer slices": (lambda p: edited(nifti(p, values()), "dim", 9, index=3), ("goes on after",)),
    "more slices": (lambda p: edited(nifti(p, values()), "dim", 11, index=3), ("truncated",)),
    "offset without a slope": (lambda p: edited(nifti(p, values()), "scl_slope", 0, 40), ("slope 0", "adds 40")),
    "absurd slope": (lambda p: edited(nifti(p, values()), "scl_slope", 1e30), ("scales voxels by 1e+30",)),
    "absurd offset": (lambda p: edited(nifti(p, values()), "scl_slope", 1, 1e30), ("adds 1e+30",)),
    "offset that is no number with a slope": (lambda p: edited(nifti(p, values()), "scl_slope", 1, np.nan), ("nan",)),
    "voxels elsewhere": (lambda p: edited(nifti(p, values()), "magic", *b"ni1"), ("another file",)),
    "no magic": (lambda p: edited(nifti(p, values()), "magic", *b"xyz"), ("magic",)),
    "pair in one file": (
        lambda p: (edited(FORMATS["pair"](p, values(), AFFINE).with_suffix(".hdr"), "magic", *b"n+1"), p)[0],
        ("same file",),
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_one_sentence_with_both_values(name: str, tmp_path: Path) -> None:
    make, parts = CONTRADICTIONS[name]
    path = make(tmp_path / "a.nii")
    for rule in (None, OrientationRule()):
        with pytest.raises(UserError) as error:
            read_volume(path, rule)
        for part in (str(path), *parts):
            assert part in str(error.value)
        assert "\n" not in str(error.value)


USUAL: dict[str, Callable[[Path], Path]] = {
    "qfac 0": lambda p: edited(nifti(p, values(), codes=(0, 1)), "pixdim", 0),
    "no sizes beside an sform": lambda p: edited(nifti(p, values(), codes=(1, 0)), "pixdim", 0, 0, 0, index=1),
    "no offset": lambda p: edited(nifti(p, values()), "vox_offset", 0),
    "rotation of an unused qform": lambda p: edited(nifti(p, values(), codes=(1, 0)), "quatern", 1, 1),
    "handedness of an unused qform": lambda p: edited(nifti(p, values(), codes=(1, 0)), "pixdim", 0.3),
    "extension flag without one": lambda p: edited(nifti(p, values()), "extension", 1),
    "unit of time": lambda p: edited(nifti(p, values()), "xyzt_units", 2 + 16),
    "slope -0": lambda p: edited(nifti(p, values()), "scl_slope", -0.0, 0),
    "slope infinite": lambda p: edited(nifti(p, values()), "scl_slope", np.inf, 0),
    "a tenth of a voxel": lambda p: edited(nifti(p, values()), "qoffset", -11.2),
    "unused dimensions": lambda p: edited(nifti(p, values()), "dim", 0, 0, 0, 0, index=4),
}


@pytest.mark.parametrize("name", USUAL)
def test_what_is_usual_in_practice_is_read_as_the_rule_says(name: str, tmp_path: Path) -> None:
    volume = read_volume(USUAL[name](tmp_path / "a.nii"), OrientationRule())
    np.testing.assert_array_equal(volume.data, values())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize(("slope", "inter"), [(-1.0, 0.0), (0.5, -100.0), (2.0, 7.0)])
def test_slopes_are_applied(slope: float, inter: float, tmp_path: Path) -> None:
    path = edited(nifti(tmp_path / "a.nii", values()), "scl_slope", slope, inter)
    np.testing.assert_allclose(read_volume(path).data, values() * slope + inter)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_number_type_and_byte_order_is_read(dtype: str, order: str, tmp_path: Path) -> None:
    data = np.minimum(values(), 120).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    nib.save(nib.Nifti1Image(data, AFFINE, header), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").data, data)


def test_labels_that_were_interpolated_or_are_none_are_refused(tmp_path: Path) -> None:
    for content, sentence in ((0.4, "no whole numbers"), (np.nan, "no labels"), (3e9, "no labels")):
        data = values(dtype="float32")
        data[0, 0, 0] = content
        with pytest.raises(ValueError, match=sentence):
            read_labels(nifti(tmp_path / "a.nii", data))


def test_a_mask_and_a_scan_of_which_one_alone_says_its_axes_are_not_laid_on_each_other(tmp_path: Path) -> None:
    rule = OrientationRule(assume="RAS")
    said, unsaid = nifti(tmp_path / "said.nii", values()), _uncoded(tmp_path / "unsaid.nii")
    for mask, scan in ((said, unsaid), (unsaid, said)):
        with pytest.raises(UserError, match="cannot be laid on each other"):
            given_mask(mask, read_volume(scan, rule), rule)
    for path in (said, unsaid):
        assert given_mask(path, read_volume(path, rule), rule).sum() == 27


def test_no_label_map_lies_in_the_world_of_a_scan_whose_axes_were_assumed(tmp_path: Path) -> None:
    path = tmp_path / "transforms" / "a.json"
    path.parent.mkdir()
    record: dict[str, object] = {"affine_template_to_scan": np.eye(4).tolist()}
    path.write_text(json.dumps(record))
    assert template_to_scan(tmp_path, "a") is not None
    path.write_text(json.dumps(record | {"scan_axes": "assumed to be RAS"}))
    assert template_to_scan(tmp_path, "a") is None
