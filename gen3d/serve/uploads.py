"""What comes in: told by its bytes and never by its name, read header first, and written without what names a person.

A volume is unpacked once, up to the size that its header claims, and stored with its free text (description, auxiliary
file, intent, database name) and header extensions set to zero; what follows the voxels of an MGH file is cut off.
"""

from __future__ import annotations

import hashlib
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.imaging.headers import Header, read_mgh_header, read_nifti_header
from gen3d.imaging.streams import GZIP, HEAD, PIECE, ZIP, damaged

Kind = Literal["volume", "dicom", "slice"]
MOST_SIDE = 512
MOST_VOXELS = MOST_SIDE**3
MOST_RATIO = 200
"""Times that an upload may be larger unpacked than it is as it comes; brains compress to a half or a tenth."""

MOST_PIXELS_SIDE = 4096
MOST_ENTRIES = 20_000
"""Files of a zip."""

FREE_RATIO_BYTES = 1 << 20
"""Bytes up to which any ratio passes: a small file cannot become a bomb."""

PNG = b"\x89PNG\r\n\x1a\n"
TEXT_NIFTI1 = ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))
TEXT_NIFTI2 = ((240, 80), (320, 24), (508, 16))
"""Place and length of the free text of a header, bytes: data type, database name, description, auxiliary file, intent."""

NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar")
SHOWN = Path("the file")
"""As sentences call an upload, whose own name is not used anywhere."""

KNOWN = "a volume as NIfTI (.nii, .nii.gz) or MGH (.mgz), a zip of DICOM files, or a slice as PNG"


@dataclass(frozen=True)
class Stored:
    """An upload as it was stored: what it is, its file, and a hash of its images, whatever they were packed in or called."""

    kind: Kind
    path: Path
    content: str


def store(source: BinaryIO, size: int, folder: Path) -> Stored:
    """Recognise an upload of `size` bytes, check it, and write it into a folder under a name of ours.

    Raises:
        UserError: nothing that is known, too large, a bomb, damaged, or a zip whose entries lead elsewhere.
    """
    if size == 0:
        raise UserError("The file is empty (0 bytes); choose it again.")
    source.seek(0)
    head = source.read(HEAD)
    source.seek(0)
    if head.startswith(ZIP):
        check_zip(source, size)
        return Stored("dicom", _copied(source, folder / "dicom.zip"), _of_entries(source))
    if head.startswith(PNG):
        check_png(head, size)
        path = _copied(source, folder / "slice.png")
        return Stored("slice", path, _of_file(path))
    packed = head.startswith(GZIP)
    first = _first_bytes(head) if packed else head
    header = _header(first)
    _check_size(header, size, packed)
    path = folder / ("scan.mgh" if header.kind == "mgh" else "scan.nii")
    pieces = _unpacked(source) if packed else iter(lambda: source.read(PIECE), b"")
    with writing(path, header.claim.size):
        _write_volume(path, header, pieces, packed)
    return Stored("volume", path, _of_file(path))


def _of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_entries(source: BinaryIO) -> str:
    """Of a zip's files by their checksums, not by their names, their order or how they are packed."""
    with zipfile.ZipFile(source) as archive:
        entries = sorted((entry.CRC, entry.file_size) for entry in archive.infolist() if not entry.is_dir())
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def _header(first: bytes) -> Header:
    """The header of a volume.

    Raises:
        UserError: neither NIfTI nor MGH, or a header that contradicts itself.
    """
    if len(first) >= 4 and struct.unpack(">i", first[:4])[0] == 1:
        return read_mgh_header(SHOWN, first)
    if len(first) >= 4 and any(struct.unpack(f"{order}i", first[:4])[0] in (348, 540) for order in "<>"):
        return read_nifti_header(SHOWN, first, single=True)
    raise UserError(f"The file is none that is known here; upload {KNOWN}.")


def _check_size(header: Header, size: int, packed: bool) -> None:
    claim, sides = header.claim, header.shape
    if max(sides) > MOST_SIDE or claim.num_voxels > MOST_VOXELS:
        shown = " x ".join(str(side) for side in sides)
        raise UserError(
            f"The file claims {shown} voxels, more than {MOST_SIDE} along a side; upload a single T1w volume."
        )
    if packed and claim.size > FREE_RATIO_BYTES and claim.size > MOST_RATIO * size:
        raise UserError(
            f"The file claims to be {claim.size / size:.0f} times larger unpacked, more than {MOST_RATIO} times; no scan is."
        )


def _first_bytes(head: bytes) -> bytes:
    """The first unpacked bytes of a gzip stream, at most as many as a header needs."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error as error:
        raise damaged(SHOWN, str(error).split(": ")[-1]) from None


def _unpacked(source: BinaryIO) -> Iterator[bytes]:
    decoder, pending = zlib.decompressobj(wbits=31), source.read(PIECE)
    while pending and not decoder.eof:
        try:
            piece = decoder.decompress(pending, PIECE)
        except zlib.error as error:
            raise damaged(SHOWN, str(error).split(": ")[-1]) from None
        if piece:
            yield piece
        pending = decoder.unconsumed_tail or source.read(PIECE)
    if not decoder.eof:
        raise damaged(SHOWN, "its compressed stream ends too early")


def _write_volume(path: Path, header: Header, pieces: Iterator[bytes], packed: bool) -> None:
    """Write header and voxels, without free text, and nothing that follows them.

    Raises:
        UserError: shorter than the header claims, or longer than any scan of this header.
    """
    claim, written, seen = header.claim, 0, 0
    with path.open("wb") as target:
        for piece in pieces:
            seen += len(piece)
            if seen > claim.size + max(claim.may_follow, header.offset):
                raise UserError("The file goes on after the voxels that its header claims; convert it again.")
            target.write(piece[: max(0, claim.size - written)])
            written = min(claim.size, written + len(piece))
        if written < claim.size:
            raise damaged(SHOWN, f"{written} of the {claim.size} bytes that its header claims")
        if header.kind != "mgh":
            _blank(target, header)


def _blank(target: BinaryIO, header: Header) -> None:
    size = int(header.fields["sizeof_hdr"])
    for place, length in TEXT_NIFTI1 if size == 348 else TEXT_NIFTI2:
        target.seek(place)
        target.write(bytes(length))
    target.seek(size)
    target.write(bytes(header.offset - size))  # the extensions, which may hold whole DICOM headers


def check_png(head: bytes, size: int) -> None:
    """Refuse a PNG whose header claims more than a slice.

    Raises:
        UserError: no header, too many pixels, or a bomb.
    """
    if len(head) < 29 or head[12:16] != b"IHDR":
        raise damaged(SHOWN, "a PNG without its header")
    width, height, bits = *struct.unpack(">2I", head[16:24]), head[24]
    if not 0 < width <= MOST_PIXELS_SIDE or not 0 < height <= MOST_PIXELS_SIDE:
        raise UserError(
            f"The picture claims {width} x {height} pixels; at most {MOST_PIXELS_SIDE} along a side are read."
        )
    unpacked = width * height * max(1, bits // 8) * 4
    if unpacked > 16 * FREE_RATIO_BYTES and unpacked > MOST_RATIO * size:
        raise UserError(f"The picture claims to be more than {MOST_RATIO} times larger unpacked; no slice is.")


def check_zip(source: BinaryIO, size: int) -> None:
    """Refuse a zip that leads out of its folder, holds links or further archives, or is a bomb; nothing is unpacked.

    Raises:
        UserError: naming the reason, and never an entry: names may be those of people.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        raise damaged(SHOWN, f"not a readable zip: {type(error).__name__}") from None
    source.seek(0)
    if not any(not entry.is_dir() for entry in entries):
        raise UserError("The zip holds no file; zip the DICOM folder again.")
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"The zip holds {len(entries)} files; at most {MOST_ENTRIES} are read. Zip one examination.")
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0][:2] or "\0" in entry.orig_filename:
            raise UserError("The zip holds a path that leads out of its folder; zip the DICOM folder itself.")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError("The zip holds a link or a special file; zip plain files only.")
        if path.suffix.lower() in NESTED:
            raise UserError("The zip holds another archive; unpack it first, and zip the DICOM files alone.")
        if entry.flag_bits & 1:
            raise UserError("The zip is encrypted; zip the DICOM folder without a password.")
    unpacked = math.fsum(entry.file_size for entry in entries)
    if unpacked > FREE_RATIO_BYTES and unpacked > MOST_RATIO * size:
        raise UserError(f"The zip claims to be more than {MOST_RATIO} times larger unpacked; no scan is.")


def _copied(source: BinaryIO, path: Path) -> Path:
    with writing(path), path.open("wb") as target:
        while piece := source.read(PIECE):
            target.write(piece)
    return path
