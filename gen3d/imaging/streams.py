"""The bytes of an image file, proven whole: every checksum is read, and no more is taken in than the header claims."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.core.files import open_regular, shown

MAX_MEGAVOXELS = 256  # a whole head at 0.35 mm; reading one takes about 20 bytes a voxel
MAX_MEGAVOXELS_VARIABLE = "GEN3D_MAX_MEGAVOXELS"
HEAD = 4096  # bytes that hold the header of every format
PIECE = 1 << 20
READ = 1 << 16  # bytes taken from a compressed file at a time; more would be copied for each of many small members
MOST_INFLATED = 1032  # times larger than its compressed form deflate can make a stream
GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"
DICOM_AT, DICOM = 128, b"DICM"


@dataclass(frozen=True)
class Claim:
    """What a header claims: bytes up to the end of the voxels, and how many may follow them (tags of MGH files)."""

    size: int
    num_voxels: int
    may_follow: int = 0


def proven(path: Path, claim: Callable[[bytes], Claim]) -> BytesIO:
    """Read an image file whole, decompressed where its name ends with .gz or it is an .mgz.

    Of a gzip stream the checksum and length of every member are compared; zeros may follow the last member, as gzip itself
    allows, and nothing else. What a header claims is compared with the file's size and the limit before it is taken in.

    Args:
        path: the file.
        claim: from its first bytes (decompressed, up to 4096) to what its header claims; raises a UserError for a bad one.

    Raises:
        UserError: not a regular file, empty, truncated, damaged, longer or shorter than its header claims, or larger than
            the limit.
    """
    compressed = is_compressed(path)
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                raise UserError(f"{path}: empty file (0 bytes); copy or convert it again.")
            pieces = _inflated(path, stream) if compressed else _plain(stream)
            return _collected(path, pieces, claim, size * MOST_INFLATED if compressed else size, compressed)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read ({error.strerror or error}); copy it again.") from None


def is_compressed(path: Path) -> bool:
    """Whether a file of this name is a gzip stream."""
    return path.name.lower().endswith((".gz", ".mgz"))


def max_voxels() -> int:
    """The largest number of voxels that is read; GEN3D_MAX_MEGAVOXELS changes it.

    Raises:
        UserError: the variable holds no positive number.
    """
    text = os.environ.get(MAX_MEGAVOXELS_VARIABLE, "").strip()
    try:
        number = float(text) if text else float(MAX_MEGAVOXELS)
        if not 0 < number < 1e6:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{MAX_MEGAVOXELS_VARIABLE}={text} is not a number of million voxels; give one such as {MAX_MEGAVOXELS}, or unset it."
        ) from None
    return int(number * 1e6)


def damaged(path: Path, reason: str) -> UserError:
    """The error of a file that is not what was written."""
    return UserError(f"{path}: truncated or damaged image data ({reason}); copy it again.")


def _collected(
    path: Path, pieces: Iterator[bytes], claim: Callable[[bytes], Claim], most: int, compressed: bool
) -> BytesIO:
    whole, claimed = BytesIO(), None
    for piece in pieces:
        whole.write(piece)
        if claimed is None and whole.tell() >= HEAD:
            claimed = _checked(path, claim(_head(whole)), most, compressed)
        if claimed is not None and whole.tell() > claimed.size + claimed.may_follow:
            break
    length = whole.tell()
    if claimed is None:
        claimed = _checked(path, claim(_head(whole)), most, compressed)
    if length > claimed.size + claimed.may_follow:
        raise UserError(
            f"{path}: goes on after the {claimed.size} bytes that its header claims, so the header or the file is wrong; "
            "convert it again."
        )
    if length < claimed.size:
        raise damaged(path, f"{length} of the {claimed.size} bytes that its header claims")
    whole.seek(0)
    return whole


def _head(whole: BytesIO) -> bytes:
    return bytes(whole.getbuffer()[:HEAD])


def _checked(path: Path, claim: Claim, most: int, compressed: bool) -> Claim:
    """Compare a claim with what the file can hold and with the limit, before it is taken in."""
    if claim.size > most:
        of = f"a compressed file of this size holds at most {most}" if compressed else f"{most}"
        raise damaged(path, f"{of} of the {claim.size} bytes that its header claims")
    if claim.num_voxels > max_voxels():
        raise UserError(
            f"{path}: claims {claim.num_voxels / 1e6:.0f} million voxels, more than {max_voxels() / 1e6:.0f} million; "
            f"if it is right, allow it with the environment variable {MAX_MEGAVOXELS_VARIABLE}."
        )
    return claim


def _plain(stream: BufferedReader) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _inflated(path: Path, stream: BufferedReader) -> Iterator[bytes]:
    """Decompressed pieces of at most 1 MiB of every member; zlib compares checksum and length at the end of each."""
    pending = stream.read(READ)
    if not pending.startswith(GZIP):
        raise UserError(
            f"{path}: not a readable NIfTI or MGH image (no gzip stream, as its name says); convert it again."
        )
    while pending:
        decoder = zlib.decompressobj(wbits=31)
        while not decoder.eof:
            try:
                piece = decoder.decompress(pending, PIECE)
            except zlib.error as error:
                raise damaged(path, str(error).split(": ")[-1]) from None
            if piece:
                yield piece
            pending = decoder.unconsumed_tail or (b"" if decoder.eof else stream.read(READ))
            if not pending and not decoder.eof and not piece:
                raise damaged(path, "its compressed stream ends too early")
        pending = _next_member(path, decoder.unused_data, stream)


def _next_member(path: Path, rest: bytes, stream: BufferedReader) -> bytes:
    """What follows a member: another member, or zeros to the end of the file and then b""."""
    if len(rest) < len(GZIP):
        rest += stream.read(READ)
    if rest.startswith(GZIP):
        return rest
    while rest:
        if rest.strip(b"\0"):
            raise UserError(f"{path}: something else follows its compressed stream; copy it again or cut that off.")
        rest = stream.read(READ)
    return b""
