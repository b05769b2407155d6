"""Uploads are told by their bytes, bounded before they are taken in, and stored without what names a person."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from gen3d.core.errors import UserError
from gen3d.serve.uploads import store
from tests.serve.served import write_small

TEXT = {"descrip": b"Doe^Jane 1950", "aux_file": b"doe.txt", "intent_name": b"Doe", "db_name": b"JDOE"}


def stored(content: bytes, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return store(io.BytesIO(content), len(content), folder).path


def refused(content: bytes, folder: Path) -> str:
    """The sentence; and nothing may be left whose name or content is the client's."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError) as error:
        store(io.BytesIO(content), len(content), folder)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_keeps_its_voxels_and_loses_its_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"jane_doe{suffix}"
    image = nib.load(write_small(tmp_path / "plain.nii.gz", **TEXT))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane, DICOM header"))
    nib.save(image, path)
    kept = stored(path.read_bytes(), tmp_path / "up")
    assert kept == tmp_path / "up" / "scan.nii"
    assert b"Doe" not in kept.read_bytes()
    assert b"JDOE" not in kept.read_bytes()
    found = nib.load(kept)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(nib.load(path).dataobj))
    np.testing.assert_array_equal(found.affine, nib.load(path).affine)
    assert not found.header.extensions


def test_a_nifti_2_loses_its_text_too(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header["descrip"], image.header["intent_name"] = TEXT["descrip"], TEXT["intent_name"]
    nib.save(image, tmp_path / "two.nii")
    kept = stored((tmp_path / "two.nii").read_bytes(), tmp_path / "up")
    assert b"Doe" not in kept.read_bytes()
    np.testing.assert_array_equal(np.asarray(nib.load(kept).dataobj), np.asarray(image.dataobj))


def test_an_mgz_keeps_its_voxels_and_loses_its_tags(tmp_path: Path) -> None:
    image = nib.MGHImage(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4))
    nib.save(image, tmp_path / "a.mgz")
    with gzip.open(tmp_path / "a.mgz") as stream:
        content = stream.read()
    kept = stored(
        gzip.compress(content + struct.pack(">5f", 2, 0, 0, 0, 0) + b"mri_convert /home/doe"), tmp_path / "up"
    )
    assert kept.name == "scan.mgh"
    assert b"doe" not in kept.read_bytes()
    voxels = np.frombuffer(kept.read_bytes()[284:], ">f4").reshape((3, 4, 5), order="F")
    np.testing.assert_array_equal(voxels, np.asarray(image.dataobj))


def header(shape: tuple[int, int, int], kind: int = 2, bits: int = 8) -> bytes:
    made = nib.Nifti1Header()
    made.set_data_shape(shape)
    made["datatype"], made["bitpix"], made["magic"], made["vox_offset"] = kind, bits, b"n+1", 352
    return made.binaryblock + bytes(4)


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    assert "more than 512 along a side" in refused(gzip.compress(header((600, 10, 10)) + bytes(100)), tmp_path)
    assert "times larger unpacked" in refused(gzip.compress(header((500, 500, 500)) + bytes(1 << 20)), tmp_path)
    whole = gzip.compress(header((200, 200, 100)) + bytes(4_000_000))
    assert len(whole) < 20_000
    assert "times larger unpacked" in refused(whole, tmp_path)
    small = header((10, 10, 10)) + bytes(1000)
    assert "goes on after the voxels" in refused(gzip.compress(small + bytes(30_000_000)), tmp_path)
    assert list(tmp_path.glob("scan*")) == [] or (tmp_path / "scan.nii").stat().st_size <= 1352


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    sound = write_small(tmp_path / "a.nii.gz").read_bytes()
    assert "ends too early" in refused(sound[:-200], tmp_path / "up")
    broken = bytearray(sound)
    broken[len(broken) // 2] ^= 0xFF
    assert "damaged" in refused(bytes(broken), tmp_path / "up")
    plain = write_small(tmp_path / "a.nii").read_bytes()
    assert "of the 1792 bytes that its header claims" in refused(plain[:-5], tmp_path / "up")
    assert "empty" in refused(b"", tmp_path / "up")
    for content in (
        b"hello",
        b"%PDF-1.7",
        b"\x7fELF" + bytes(500),
        b"<html>" * 99,
        bytes(4096),
        gzip.compress(b"not a scan" * 99),
    ):
        assert "none that is known" in refused(content, tmp_path / "up")


def zipped(*names: str, content: bytes = b"x", attributes: int = 0) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = attributes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (zipped("../../etc/cron.d/x"), "leads out of its folder"),
        (zipped("/etc/passwd"), "leads out of its folder"),
        (zipped("a\\..\\..\\x"), "leads out of its folder"),
        (zipped("C:/x"), "leads out of its folder"),
        (zipped("link", attributes=0o120777 << 16), "a link or a special file"),
        (zipped("pipe", attributes=0o010644 << 16), "a link or a special file"),
        (zipped("more.zip"), "another archive"),
        (zipped("a/b.tar"), "another archive"),
        (zipped("zeros.dcm", content=bytes(50 << 20)), "times larger unpacked"),
        (zipped("folder/"), "holds no file"),
        (b"PK\x03\x04" + bytes(500), "not a readable zip"),
        (zipped("a.dcm")[:-30], "not a readable zip"),
    ],
)
def test_a_zip_that_is_a_trap_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    assert sentence in refused(content, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_zip_is_stored_as_it_came(tmp_path: Path) -> None:
    content = zipped("Doe/IM1.dcm", "Doe/IM2.dcm")
    assert stored(content, tmp_path).name == "dicom.zip"
    assert (tmp_path / "dicom.zip").read_bytes() == content


def content_of(content: bytes, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return store(io.BytesIO(content), len(content), folder).content


def test_the_same_images_have_the_same_hash_whatever_they_came_in(tmp_path: Path) -> None:
    plain = write_small(tmp_path / "plain.nii").read_bytes()
    told = write_small(tmp_path / "told.nii", **TEXT).read_bytes()
    other = write_small(tmp_path / "other.nii", (8, 9, 11)).read_bytes()
    assert plain != told
    volumes = [content_of(each, tmp_path / "up") for each in (plain, told, gzip.compress(told), other)]
    assert len(set(volumes[:3])) == 1
    assert volumes[3] != volumes[0]
    zips = [zipped("Doe/1.dcm", "Doe/2.dcm"), zipped("2", "1"), zipped("1", "2", content=b"y"), zipped("1")]
    hashes = [content_of(each, tmp_path / "up") for each in zips]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_slice_is_a_png_of_bounded_size(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16)).save(picture, "PNG")
    assert stored(picture.getvalue(), tmp_path).name == "slice.png"
    huge = bytearray(picture.getvalue())
    huge[16:24] = struct.pack(">2I", 100_000, 100_000)
    assert "at most 4096" in refused(bytes(huge), tmp_path / "up")
    huge[16:24] = struct.pack(">2I", 4096, 4096)
    assert "times larger" in refused(bytes(huge), tmp_path / "up")
