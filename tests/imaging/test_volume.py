"""Damaged scans: each gives its sentence. Sound ones keep their values and their place in the world."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.imaging.volume import SLOPE, open_stored, read_map, read_stored, read_volume, store, write_nifti

SHAPE = (12, 14, 10)
GOOD = np.random.default_rng(0).random(SHAPE).astype(np.float32)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def _save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def _with(value: float, count: int = 1) -> np.ndarray:
    data = GOOD.copy()
    data.flat[:count] = value
    return data


def _header_edit(path: Path, offset: int, raw: bytes) -> Path:
    _save(path, GOOD)
    content = bytearray(path.read_bytes())
    content[offset : offset + len(raw)] = raw
    path.write_bytes(bytes(content))
    return path


def _truncated(path: Path) -> Path:
    _save(path, GOOD)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _truncated_gz(path: Path) -> Path:
    content = gzip.compress(_save(path.with_suffix(""), GOOD).read_bytes())
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def _colour(path: Path) -> Path:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, AFFINE), path)
    return path


def _sform(path: Path, diagonal: tuple[float, float, float]) -> Path:
    """Write the rows of the sform behind nibabel's back, and make it the only orientation."""
    _header_edit(path, 252, np.array([0, 1], dtype=np.int16).tobytes())
    content = bytearray(path.read_bytes())
    content[280:328] = np.diag([*diagonal, 0.0]).astype(np.float32)[:3].tobytes()
    path.write_bytes(bytes(content))
    return path


def _sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 1] = 1.0
    return affine


DAMAGED: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "missing": ("a.nii", lambda p: p, "no such file"),
    "folder": ("a.nii", lambda p: (p.mkdir(), p)[1], "is a folder"),
    "empty file": ("a.nii.gz", lambda p: (p.touch(), p)[1], "empty file"),
    "text": ("a.nii.gz", lambda p: (p.write_text("not an image " * 40), p)[1], "not a readable NIfTI"),
    "text, plain": ("a.nii", lambda p: (p.write_text("not an image " * 40), p)[1], "not a readable NIfTI"),
    "truncated": ("a.nii", _truncated, "truncated or damaged"),
    "truncated gz": ("a.nii.gz", _truncated_gz, "truncated or damaged"),
    "other suffix": ("a.jpg", lambda p: (p.write_bytes(b"\xff\xd8\xff" * 200), p)[1], "not a readable NIfTI"),
    "4D": ("a.nii", lambda p: _save(p, np.stack([GOOD, GOOD], -1)), "has 4 dimensions"),
    "2D": ("a.nii", lambda p: _save(p, GOOD[:, :, 0]), "has 2 dimensions"),
    "one slice": ("a.nii", lambda p: _save(p, GOOD[:, :, :1]), "a whole-brain scan is needed"),
    "constant": ("a.nii", lambda p: _save(p, np.full(SHAPE, 7.0)), "same value (7)"),
    "all zero": ("a.nii", lambda p: _save(p, np.zeros(SHAPE)), "same value (0)"),
    "one voxel": ("a.nii", lambda p: _save(p, np.eye(1, GOOD.size).reshape(SHAPE)), "nearly all voxels"),
    "NaN": ("a.nii", lambda p: _save(p, _with(np.nan, 3)), "3 voxels are NaN"),
    "infinite": ("a.nii", lambda p: _save(p, _with(np.inf)), "1 voxels are NaN or infinite"),
    "zero affine": ("a.nii", lambda p: _sform(p, (0, 0, 0)), "zero or singular"),
    "singular affine": ("a.nii", lambda p: _sform(p, (2, 2, 0)), "zero or singular"),
    "sheared affine": ("a.nii", lambda p: _save(p, GOOD, _sheared()), "sheared"),
    "metres": ("a.nii", lambda p: _save(p, GOOD, np.diag([0.002, 0.002, 0.002, 1])), "not those of a brain scan"),
    "micrometres": ("a.nii", lambda p: _save(p, GOOD, np.diag([900.0, 900, 900, 1])), "not those of a brain scan"),
    "negative spacing": ("a.nii", lambda p: _header_edit(p, 80, np.float32(-2.0).tobytes()), "negative voxel size"),
    "colour": ("a.nii", _colour, "not numbers"),
    "complex": ("a.nii", lambda p: _save(p, GOOD.astype(np.complex64)), "not numbers"),
    "bad dimensions": ("a.nii", lambda p: _header_edit(p, 40, np.int16(-3).tobytes()), "a.nii"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_scan_is_one_sentence(name: str, tmp_path: Path) -> None:
    file, make, sentence = DAMAGED[name]
    path = make(tmp_path / file)
    with pytest.raises(UserError) as error:
        read_volume(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_any_orientation_keeps_its_place_in_the_world(codes: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(GOOD, np.array([[2.0, 0, 0, -9], [0, 2, 0, -11], [0, 0, 2, 5], [0, 0, 0, 1]]))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    )
    nib.save(turned, tmp_path / "turned.nii.gz")
    volume = read_volume(tmp_path / "turned.nii.gz")
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(volume.data, GOOD)
    np.testing.assert_allclose(volume.affine, image.affine)
    assert volume.spacing_mm == (2.0, 2.0, 2.0)


def test_a_fourth_dimension_of_one_is_accepted(tmp_path: Path) -> None:
    np.testing.assert_allclose(read_volume(_save(tmp_path / "a.nii", GOOD[..., None])).data, GOOD)


def test_oblique_scans_are_accepted(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    affine = AFFINE.copy()
    affine[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert read_volume(_save(tmp_path / "a.nii", GOOD, affine)).data.shape == SHAPE


def test_stored_volumes_are_memory_mapped_and_precise(tmp_path: Path) -> None:
    values = (GOOD * 4 - 2).astype(np.float32)
    store(tmp_path / "a.nii", values, AFFINE)
    mapped = open_stored(tmp_path / "a.nii")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_allclose(read_stored(tmp_path / "a.nii"), values, atol=SLOPE)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").get_fdata(), values, atol=SLOPE)


def test_what_cannot_be_stored_is_clipped_not_wrapped(tmp_path: Path) -> None:
    store(tmp_path / "a.nii", np.full(SHAPE, 50.0), AFFINE)
    assert read_stored(tmp_path / "a.nii").max() == pytest.approx(4.0, abs=1e-3)


def test_foreign_files_are_no_stored_volumes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", GOOD, AFFINE)
    with pytest.raises(UserError, match="int16 expected"):
        open_stored(tmp_path / "a.nii")
    with pytest.raises(UserError, match="no such file"):
        read_map(tmp_path / "nowhere.nii")


def test_written_maps_keep_affine_and_leave_no_partial_files(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] = (-79, -113, -73)
    write_nifti(tmp_path / "deep" / "a.nii.gz", GOOD > 0.5, affine)
    image = nib.load(tmp_path / "deep" / "a.nii.gz")
    np.testing.assert_allclose(image.affine, affine)
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 4
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.nii.gz"]
