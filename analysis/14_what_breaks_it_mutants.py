"""What do damaged files do? Mutants of headers and streams of small scans, each read as `gen3d prepare` reads a scan.

Every mutant is one accident: a flipped bit, overwritten bytes, a cut, an addition, a header field with a random or extreme
value, one of two affines mirrored, turned, moved or scaled, exchanged codes. It is refused with a sentence, or accepted:
with the same voxels in the same place, within the tolerance that two affines are given (a voxel), with voxels that differ
by a scale alone (the tissue rule takes that out), or with other voxels or another place. A memory limit and an alarm
stand guard. Bits of the voxels of a file without a checksum, and of the only affine, cannot be known to be wrong by any
reader; they have rows of their own. Prints two Markdown tables: by kind, and which field the wrongly accepted are of.

    python analysis/14_what_breaks_it_mutants.py --num 4000 --seed 14
    python analysis/14_what_breaks_it_mutants.py --num 4000 --seed 14 --scans A_T1w.nii.gz B_T1w.nii
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import logging
import resource
import signal
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.imaging.template import full_template
from gen3d.imaging.volume import Volume, read_volume

Random = np.random.Generator
OUTCOMES = ("refused", "the same", "within a voxel", "another scale", "OTHER", "TRACEBACK", "HANGS OR MEMORY")
SECONDS, GIBIBYTES = 20, 2
FIELDS = {  # NIfTI-1: offset, type, number
    "sizeof_hdr": (0, "<i4", 1),
    "dim": (40, "<i2", 8),
    "intent": (56, "<f4", 3),
    "datatype": (70, "<i2", 1),
    "bitpix": (72, "<i2", 1),
    "pixdim": (76, "<f4", 8),
    "vox_offset": (108, "<f4", 1),
    "scl_slope": (112, "<f4", 1),
    "scl_inter": (116, "<f4", 1),
    "xyzt_units": (123, "u1", 1),
    "cal and slice": (124, "<f4", 4),
    "qform_code": (252, "<i2", 1),
    "sform_code": (254, "<i2", 1),
    "quatern": (256, "<f4", 3),
    "qoffset": (268, "<f4", 3),
    "srow": (280, "<f4", 12),
    "magic": (344, "u1", 4),
    "extension": (348, "u1", 4),
}
MGH_FIELDS = {
    "version": 4,
    "dims": 20,
    "type": 24,
    "dof": 28,
    "flag": 30,
    "delta": 42,
    "Mdc": 78,
    "Pxyz_c": 90,
}  # their ends
EXTREME = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    255,
    32767,
    -32768,
    1e-38,
    -1e-6,
    0.001,
    1000,
    1e9,
    1e30,
    -1e30,
    np.nan,
    np.inf,
    -np.inf,
)


@dataclass(frozen=True)
class Original:
    """A sound file: its name, its bytes, those inside its gzip stream, and what reading it gives."""

    name: str
    content: bytes
    inner: bytes
    volume: Volume

    @property
    def suffix(self) -> str:
        """Of a file name."""
        return self.name[self.name.index(".") :]


def originals(folder: Path, scans: list[Path]) -> list[Original]:
    """Sound files: the given ones, or a simulated brain in several formats."""
    paths = scans or _simulated(folder)
    made = []
    for path in paths:
        content = path.read_bytes()
        packed = path.name.endswith(("gz", "mgz"))
        made.append(Original(path.name, content, gzip.decompress(content) if packed else content, read_volume(path)))
    return made


def _simulated(folder: Path) -> list[Path]:
    template = full_template()
    spacing = np.array([6.0, 5.0, 6.5])
    data = ndimage.zoom(ndimage.gaussian_filter(template.t1w, 2.0), 1 / spacing, order=1)
    noise = 0.03 * np.random.default_rng(0).standard_normal(data.shape)
    data = (800 * np.where(data > 0.05, np.maximum(data + noise, 0.02), 0)).astype(np.int16)
    turn = np.eye(4)
    turn[:3, :3] = [[0.995, -0.0998, 0], [0.0998, 0.995, 0], [0, 0, 1]]
    affine = turn @ np.diag([*spacing, 1.0])
    affine[:3, 3] = (-95, -120, -80)
    paths = []
    for name, codes in (("both.nii.gz", (1, 1)), ("both.nii", (1, 1)), ("sform.nii", (2, 0)), ("qform.nii.gz", (0, 1))):
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, code=codes[0])
        image.set_qform(affine, code=codes[1])
        image.header.set_xyzt_units("mm")
        image.header.set_slope_inter(1, 0)
        nib.save(image, folder / name)
        paths.append(folder / name)
    nib.save(nib.MGHImage(data, affine), folder / "a.mgz")
    return [*paths, folder / "a.mgz"]


# ------------------------------------------------------------------------------------------------------- accidents


def flipped(data: bytes, low: int, high: int, random: Random) -> bytes:
    """One bit between two bytes."""
    place, bit = int(random.integers(low, high)), int(random.integers(8))
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def overwritten(data: bytes, random: Random) -> bytes:
    """Up to 64 bytes somewhere."""
    place, length = int(random.integers(len(data))), int(random.integers(1, 65))
    return data[:place] + random.bytes(min(length, len(data) - place)) + data[place + length :]


def cut(data: bytes, random: Random) -> bytes:
    """Anywhere, or near the end."""
    kept = random.integers(len(data)) if random.random() < 0.5 else len(data) - random.integers(1, 33)
    return data[: int(kept)]


def added(data: bytes, random: Random) -> bytes:
    """Random bytes, one byte that is not 0, another file, another member, or the file once more."""
    choices = (random.bytes(50), b"\7", b"<html>" * 40, gzip.compress(random.bytes(300)), data)
    return data + choices[int(random.integers(len(choices)))]


def random_field(data: bytes, random: Random) -> tuple[bytes, str]:
    """A header field with a random or extreme value."""
    name = list(FIELDS)[int(random.integers(len(FIELDS)))]
    place, kind, num = FIELDS[name]
    size = np.dtype(kind).itemsize
    place += size * int(random.integers(num))
    if random.random() < 0.5:
        raw = random.bytes(size)
    else:
        value = EXTREME[int(random.integers(len(EXTREME)))]
        with np.errstate(invalid="ignore", over="ignore"):
            raw = np.array(value).astype(kind).tobytes()
    return data[:place] + raw + data[place + size :], name


def other_affine(data: bytes, random: Random) -> tuple[bytes, str]:
    """The sform mirrored, its axes exchanged, turned, moved or scaled by more than a voxel; the qform as it was."""
    rows = np.frombuffer(data[280:328], "<f4").reshape(3, 4).astype(np.float64)
    centre = rows[:, :3] @ (np.array(struct.unpack("<3h", data[42:48])) - 1) / 2
    name = ("mirrored", "exchanged", "turned", "moved", "scaled")[int(random.integers(5))]
    linear = np.eye(3)
    axis = int(random.integers(3))
    if name == "mirrored":
        linear[axis, axis] = -1
    elif name == "exchanged":
        linear = linear[np.roll(np.arange(3), int(random.integers(1, 3)))]
    elif name == "turned":
        angle = random.uniform(0.3, 3)
        linear[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    elif name == "scaled":
        linear[axis, axis] = random.choice([0.5, 0.9, 1.1, 2])
    else:
        rows[axis, 3] += random.choice([-1, 1]) * random.uniform(10, 500)
    middle = rows[:, 3] + centre
    rows[:, 3] = linear @ middle - linear @ centre if name != "moved" else rows[:, 3]
    rows[:, :3] = linear @ rows[:, :3]
    return data[:280] + rows.astype("<f4").tobytes() + data[328:], f"sform {name}"


def exchanged_codes(data: bytes, random: Random) -> tuple[bytes, str]:
    """Both orientation codes, the unit, or type and bits, with other valid values."""
    name = ("codes", "unit", "type and bits")[int(random.integers(3))]
    if name == "codes":
        return data[:252] + random.integers(0, 5, 2).astype("<i2").tobytes() + data[256:], name
    if name == "unit":
        return data[:123] + bytes([int(random.integers(0, 32))]) + data[124:], name
    kind, bits = ((2, 8), (256, 8), (4, 16), (512, 16), (8, 32), (16, 32), (64, 64), (128, 24))[int(random.integers(8))]
    return data[:70] + np.array([kind, bits], "<i2").tobytes() + data[74:], f"type {kind}"


def header_bit(data: bytes, random: Random) -> tuple[bytes, str]:
    """One bit of the 352 bytes of a NIfTI header."""
    mutant = flipped(data, 0, 352, random)
    place = next(place for place in range(352) if data[place] != mutant[place])
    for name, (start, kind, num) in FIELDS.items():
        if start <= place < start + num * np.dtype(kind).itemsize:
            return mutant, name
    return mutant, "text"


def _inside(change: Callable[[bytes, Random], tuple[bytes, str]]) -> Callable[[Original, Random], tuple[bytes, str]]:
    """An accident that happened before a file was compressed."""

    def made(original: Original, random: Random) -> tuple[bytes, str]:
        data, name = change(original.inner, random)
        return (gzip.compress(data, 1, mtime=0) if original.content[:2] == b"\x1f\x8b" else data), name

    return made


def _stream(change: Callable[[bytes, Random], bytes]) -> Callable[[Original, Random], tuple[bytes, str]]:
    return lambda original, random: (change(original.content, random), "")


def _bit(data: bytes, random: Random) -> bytes:
    return flipped(data, 0, len(data), random)


def _voxel_bit(data: bytes, random: Random) -> tuple[bytes, str]:
    return flipped(data, 352, len(data), random), "voxels"


def _mgh_bit(data: bytes, random: Random) -> tuple[bytes, str]:
    mutant = flipped(data, 0, 90, random)
    place = next(place for place in range(90) if data[place] != mutant[place])
    return mutant, next(name for name, end in MGH_FIELDS.items() if place < end)


def _packed(original: Original) -> bool:
    return original.content[:2] == b"\x1f\x8b"


def _two_affines(original: Original) -> bool:
    return _nifti(original) and min(struct.unpack("<2h", original.inner[252:256])) > 0


def _nifti(original: Original) -> bool:
    return original.inner[344:346] == b"n+"


KINDS: dict[str, tuple[Callable[[Original], bool], Callable[[Original, Random], tuple[bytes, str]], int]] = {
    "compressed: one bit": (_packed, _stream(_bit), 6),
    "compressed: bytes overwritten": (_packed, _stream(overwritten), 3),
    "compressed: cut": (_packed, _stream(cut), 3),
    "compressed: something added": (_packed, _stream(added), 3),
    "plain: cut": (lambda o: not _packed(o), _stream(cut), 2),
    "plain: something added": (lambda o: not _packed(o), _stream(added), 2),
    "header, two affines: one bit": (_two_affines, _inside(header_bit), 6),
    "header, two affines: random or extreme field": (_two_affines, _inside(random_field), 6),
    "header, two affines: one of them changed": (_two_affines, _inside(other_affine), 4),
    "header: other codes, units, types": (_nifti, _inside(exchanged_codes), 4),
    "header, one affine: one bit": (lambda o: _nifti(o) and not _two_affines(o), _inside(header_bit), 3),
    "header, one affine: random or extreme field": (
        lambda o: _nifti(o) and not _two_affines(o),
        _inside(random_field),
        3,
    ),
    "header of MGH: one bit": (lambda o: o.name.endswith(("mgz", "mgh")), _inside(_mgh_bit), 2),
    "plain: one bit of the voxels": (lambda o: not _packed(o) and _nifti(o), _inside(_voxel_bit), 2),
}
"""kind -> (which originals, accident -> bytes and the field, weight)."""


# -------------------------------------------------------------------------------------------------------- outcomes


class Late(Exception):
    """The alarm."""


def outcome(path: Path, original: Original) -> tuple[str, str]:
    """What reading a mutant gives, and the sentence or the error."""
    signal.alarm(SECONDS)
    try:
        volume = read_volume(path)
    except UserError as error:
        return ("HANGS OR MEMORY" if "allocate" in str(error) or "MemoryError" in str(error) else "refused"), str(error)
    except (Late, MemoryError) as error:
        return "HANGS OR MEMORY", repr(error)
    except Exception as error:
        return "TRACEBACK", repr(error)
    finally:
        signal.alarm(0)
    return compared(volume, original.volume), ""


def compared(volume: Volume, expected: Volume) -> str:
    """How far a volume is from what was stored."""
    if volume.data.shape != expected.data.shape:
        return "OTHER"
    corners = np.array(list(itertools.product(*((0, side - 1) for side in expected.data.shape))))
    moved = corners @ (volume.affine - expected.affine)[:3, :3].T + (volume.affine - expected.affine)[:3, 3]
    apart = float(np.linalg.norm(moved, axis=1).max()) / min(expected.spacing_mm)
    if not apart <= 1.0:
        return "OTHER"
    if np.array_equal(volume.data, expected.data):
        return "the same" if apart < 0.01 else "within a voxel"
    return "another scale" if _scaled(volume.data, expected.data) else "OTHER"


def _scaled(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    slope, inter = np.polyfit(expected.ravel().astype(np.float64), found.ravel().astype(np.float64), 1)
    error = np.abs(found - (slope * expected + inter)).max()
    return bool(slope > 0 and error <= 1e-4 * (found.max() - found.min()))


def main() -> None:
    """Make, read and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=4000)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scans", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    random, weights = np.random.default_rng(given.seed), np.array([weight for *_, weight in KINDS.values()], float)
    counts: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        sound = originals(Path(folder), given.scans)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + GIBIBYTES * 2**30, resource.RLIM_INFINITY))
        for index in random.choice(len(KINDS), given.num, p=weights / weights.sum()):
            kind, (fits, accident, _) = list(KINDS.items())[index]
            fitting = [original for original in sound if fits(original)]
            if not fitting:
                continue
            original = fitting[int(random.integers(len(fitting)))]
            content, field = accident(original, random)
            path = Path(folder) / f"mutant{original.suffix}"
            path.write_bytes(content)
            result, reason = outcome(path, original)
            counts[kind, result] += 1
            if result in OUTCOMES[4:]:
                wrong[kind, field, f"{result} {reason[:60]}".strip()] += 1
    show(counts, wrong)


def _late(*_: object) -> None:
    raise Late


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def show(counts: Counter[tuple[str, str]], wrong: Counter[tuple[str, str, str]]) -> None:
    """Print the tables."""
    print(f"| accident | n | {' | '.join(OUTCOMES)} |\n|{'---|' * (len(OUTCOMES) + 2)}")
    for kind in KINDS:
        row = [counts[kind, result] for result in OUTCOMES]
        print(f"| {kind} | {sum(row)} | {' | '.join(str(count) for count in row)} |")
    total = [sum(counts[kind, result] for kind in KINDS) for result in OUTCOMES]
    print(f"| all | {sum(total)} | {' | '.join(str(count) for count in total)} |")
    print("\n| accident | field | outcome | n |\n|---|---|---|---|")
    for (kind, field, result), count in sorted(wrong.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"| {kind} | {field} | {result} | {count} |")


if __name__ == "__main__":
    main()
