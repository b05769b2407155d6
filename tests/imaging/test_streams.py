"""A file is read whole or refused: every flipped bit of a compressed one, every cut, every addition, every false claim."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.imaging.foreign import files_of, read_foreign
from gen3d.imaging.streams import MAX_MEGAVOXELS_VARIABLE
from gen3d.imaging.volume import open_stored, read_map, read_volume, store
from gen3d.simulate.label_maps import read_labels
from gen3d.simulate.lesion_masks import read_lesion_masks
from tests.imaging.foreign_files import AFFINE, FORMATS, edited, nifti, rewritten, values


def _sentence(path: Path, read: Callable[[Path], object] = read_foreign) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    text = str(error.value)
    assert path.name in text
    assert text.isprintable()
    return text


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_no_flipped_bit_of_a_compressed_scan_changes_what_is_read(suffix: str, tmp_path: Path) -> None:
    original = FORMATS["MGZ" if suffix == ".mgz" else "compressed"](tmp_path / "a.nii", values(), AFFINE)
    before, content = read_foreign(original), original.read_bytes()
    refused = 0
    damaged = tmp_path / f"damaged{suffix}"
    for position in np.random.default_rng(11).integers(0, 8 * len(content), 300):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        damaged.write_bytes(bytes(flipped))
        try:
            after = read_foreign(damaged)
        except UserError:
            refused += 1
        else:  # a time stamp in the gzip header, or the unused bits of its last byte
            np.testing.assert_array_equal(after.data, before.data)
            np.testing.assert_array_equal(after.affine, before.affine)
    assert refused > 280


@pytest.mark.parametrize("read", [read_volume, read_map, read_labels, lambda path: read_lesion_masks(path.parent)])
def test_every_reader_reads_the_checksum(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", values())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum, so that every voxel is still as it was written
    path.write_bytes(bytes(content))
    with pytest.raises((UserError, ValueError), match=r"a\.nii\.gz.*data check"):
        read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path / "a.nii", values(), AFFINE)
    content = path.read_bytes()
    for kept in (0, 1, 3, 100, 347, 351, 360, len(content) // 2, len(content) - 20, len(content) - 1):
        path.write_bytes(content[:kept])
        _sentence(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_goes_on_after_its_voxels_is_refused(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path / "a.nii", values(), AFFINE)
    for rest in (b"\1", b"\0" * 280, b"more" * 5000):
        _sentence(rewritten(path, lambda data, rest=rest: data + rest))
        FORMATS[name](tmp_path / "a.nii", values(), AFFINE)


def test_members_and_zeros_after_a_stream_are_read_as_gzip_reads_them_and_nothing_else(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", values())
    expected, content = read_foreign(path).data, gzip.decompress(path.read_bytes())
    several = b"".join(gzip.compress(content[start : start + 700]) for start in range(0, len(content), 700))
    for sound in (several, several + gzip.compress(b""), several + b"\0" * 200_000):
        path.write_bytes(sound)
        np.testing.assert_array_equal(read_foreign(path).data, expected)
    for wrong in (several + b"x", several + b"\0" * 9 + gzip.compress(b""), several + b"\0" * 70_000 + b"x"):
        path.write_bytes(wrong)
        assert "follows its compressed stream" in _sentence(path)
    path.write_bytes(several[:-9])
    assert "ends too early" in _sentence(path)
    broken = bytearray(several)
    broken[len(gzip.compress(content[:700])) - 7] ^= 4  # the checksum of the first member
    path.write_bytes(bytes(broken))
    assert "data check" in _sentence(path)


@pytest.mark.parametrize("change", [lambda data: data, bz2.compress, lambda data: zlib.compress(data)])
def test_a_name_that_promises_gzip_is_held_to_it(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", values()).rename(tmp_path / "a.nii.gz")
    path.write_bytes(change(path.read_bytes()))
    assert "no gzip stream" in _sentence(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_claim_of_gigabytes_takes_no_memory(suffix: str, tmp_path: Path) -> None:
    path = edited(nifti(tmp_path / f"a{suffix}", values()), "dim", 3, 1200, 1000, 1000)
    tracemalloc.start()
    text = _sentence(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "2400000352 bytes that its header claims" in text
    assert peak < 5e6


def test_a_decompression_bomb_is_stopped_where_its_claim_ends(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", values())
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content + bytes(300_000_000), 1))
    tracemalloc.start()
    assert "goes on after" in _sentence(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_more_voxels_than_the_limit_are_refused_and_the_limit_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edited(nifti(tmp_path / "a.nii", values()), "dim", 3, 1000, 1000, 300)
    os.truncate(path, 352 + 600_000_000)  # sparse: as long as its header claims, and empty
    assert "300 million voxels, more than 256 million" in _sentence(path)
    small = nifti(tmp_path / "b.nii.gz", values())
    monkeypatch.setenv(MAX_MEGAVOXELS_VARIABLE, "0.001")
    assert f"{MAX_MEGAVOXELS_VARIABLE}" in _sentence(small)
    monkeypatch.setenv(MAX_MEGAVOXELS_VARIABLE, "0.01")
    assert read_foreign(small).data.shape == values().shape
    monkeypatch.setenv(MAX_MEGAVOXELS_VARIABLE, "many")
    with pytest.raises(UserError, match="GEN3D_MAX_MEGAVOXELS=many is not a number"):
        read_foreign(small)


def test_both_files_of_a_pair_are_proven_and_either_name_opens_it(tmp_path: Path) -> None:
    path = FORMATS["pair"](tmp_path / "a.nii", values(), AFFINE)
    header, data = files_of(path)
    assert (header.name, data.name) == ("a.hdr", "a.img")
    np.testing.assert_array_equal(read_foreign(header).data, read_foreign(data).data)
    content = data.read_bytes()
    data.write_bytes(content[:-2])
    assert "truncated" in _sentence(data)
    data.unlink()
    with pytest.raises(UserError, match=r"a\.img: no such file"):
        read_foreign(header)


def test_tags_after_the_voxels_of_an_mgh_file_are_read_and_voxels_there_are_not(tmp_path: Path) -> None:
    path = FORMATS["MGZ"](tmp_path / "a.nii", values(), AFFINE)
    expected = read_foreign(path).data
    line = b"mri_convert a b\0"
    parameters, tag = struct.pack(">5f", 2300, 0.14, 2.9, 900, 256), struct.pack(">iq", 3, len(line)) + line
    size = 284 + 2 * expected.size

    def follow(rest: bytes) -> Path:
        return rewritten(path, lambda data: data[:size] + rest)

    for rest in (b"", parameters, parameters + tag + tag, parameters + tag + bytes(4)):
        np.testing.assert_array_equal(read_foreign(follow(rest)).data, expected)
    for rest in (parameters + tag[:-1], parameters + bytes(400), parameters + b"\7" * 64, b"\xff" * 20):
        assert "bytes follow the voxels" in _sentence(follow(rest))
    rewritten(path, lambda data: data[:15] + b"\x09" + data[16:])  # ten slices become nine
    _sentence(path)


def test_a_stored_volume_of_another_length_is_not_mapped(tmp_path: Path) -> None:
    store(tmp_path / "a.nii", values(dtype="float32"), AFFINE)
    assert open_stored(tmp_path / "a.nii").shape == values().shape
    content = (tmp_path / "a.nii").read_bytes()
    for wrong in (content + b"\0", content[:-1]):
        (tmp_path / "a.nii").write_bytes(wrong)
        assert "run the verb that wrote this folder again" in _sentence(tmp_path / "a.nii", open_stored)


def test_a_pipe_in_place_of_a_scan_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    for read in (read_volume, read_map, open_stored):
        assert "named pipe" in _sentence(tmp_path / "a.nii.gz", read)
    nifti(tmp_path / "b.nii", values(), kind=nib.Nifti1Pair)
    (tmp_path / "b.img").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "b.img")
    assert "named pipe" in _sentence(tmp_path / "b.img")
