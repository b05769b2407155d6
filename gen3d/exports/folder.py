"""What `gen3d export-model` writes: compiled networks, what turns a volume into their input, and volumes without a NIfTI reader.

    model.json                 everything that a program without Python needs; `ExportedModel` is its content
    mask.f32                   brain mask of the grid, raw float32 [x, y, z]
    members/<n>/model.pt2      compiled ahead of time by torch (AOTInductor), for one version of torch and one kind of processor
    members/<n>/model.onnx     the same network for any ONNX runtime
    volumes/index.json         scans by key, with shape, channels, age, label, and the members that never saw the person
    volumes/<key>.f32          raw little-endian float32 [channels, x, y, z] in stored units
    volumes/predictions.json   what the network of Python says of these scans, in the words of the C++ program

Nothing here loads torch. The C++ program that reads the same files is in `gen3d/exports/cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.disk import write_whole, writing
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object

VERB = "export-model"
FORMAT = 1
MODEL, MASK, MEMBERS, VOLUMES = "model.json", "mask.f32", "members", "volumes"
PACKAGE, ONNX = "model.pt2", "model.onnx"
INDEX, PREDICTIONS = "index.json", "predictions.json"
LATENT = "latent"
"""In place of a target's task, for the encoder of a model of volumes."""

AGAIN = "export the model again"
_HASH = np.uint64(2654435761)


@dataclass(frozen=True)
class ExportedModel:
    """An exported folder: its record, and model.json as it stands."""

    artefact: Artefact
    description: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @property
    def torch_version(self) -> str:
        """The torch that compiled the packages."""
        return str(self.description["torch"])

    @property
    def members(self) -> list[int]:
        """Numbers of the exported members."""
        return [int(entry["member"]) for entry in self.description["members"]]

    def member(self, number: int) -> dict[str, Any]:
        """What model.json says of a member.

        Raises:
            UserError: it was not exported.
        """
        for entry in self.description["members"]:
            if entry["member"] == number:
                return dict(entry)
        raise UserError(f"{self.folder}: member {number} was not exported, only {', '.join(map(str, self.members))}.")

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z) of a volume file."""
        return (len(self.description["channels"]), *self.description["plan"]["shape"])

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """What the network of Python says of the exported scans; [] where none were exported."""
        path = self.folder / VOLUMES / PREDICTIONS
        return list(_object(path)["scans"]) if path.is_file() else []

    def volume(self, key: str) -> NDArray[np.float32]:
        """A scan's volume [C, X, Y, Z].

        Raises:
            UserError: missing, or of another size.
        """
        path = volume_path(self.folder, key)
        if not path.is_file() or path.stat().st_size != 4 * int(np.prod(self.volume_shape)):
            raise UserError(f"{path}: missing, or not a volume of {self.volume_shape}; {AGAIN}.")
        return np.fromfile(path, dtype="<f4").reshape(self.volume_shape)


def read_model(folder: Path) -> ExportedModel:
    """Open an exported folder.

    Raises:
        UserError: not a finished export, or model.json is damaged or of another version.
    """
    artefact, description = read(folder, (VERB,)), _object(folder / MODEL)
    needed = {
        "torch",
        "cpu",
        "network",
        "target",
        "channels",
        "plan",
        "window",
        "intensity",
        "black",
        "check",
        "members",
    }
    absent = sorted(needed - set(description))
    if absent or description.get("format") != FORMAT:
        reason = f"no entry {absent[0]}" if absent else f"format {description.get('format')!r}"
        raise UserError(f"{folder / MODEL}: damaged, or of another version of gen3d ({reason}); {AGAIN}.")
    model = ExportedModel(artefact, description)
    try:
        sizes = [*model.volume_shape, *description["window"]["size"]]
        checks = [np.append(model.member(n)["check_scores"], model.member(n)["tolerance"]) for n in model.members]
        if min(sizes) < 1 or not checks or not all(np.isfinite(check.astype(np.float64)).all() for check in checks):
            raise ValueError("sizes or scores that are none")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / MODEL}: damaged ({error!r}); {AGAIN}.") from None
    return model


def member_path(folder: Path, member: int, name: str) -> Path:
    """Where a member's file (PACKAGE, ONNX) lies."""
    return folder / MEMBERS / str(member) / name


def volume_path(folder: Path, key: str) -> Path:
    """Where a scan's raw volume lies."""
    return folder / VOLUMES / f"{key}.f32"


def write_floats(path: Path, values: NDArray[Any]) -> None:
    """Write an array as raw little-endian float32 in C order, whole or not at all."""
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, len(content)):
        write_whole(path, content)


def write_index(
    folder: Path, shape: Sequence[int], channels: Sequence[str], scans: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Write `folder`/index.json: what each raw file beside it is. Each scan has at least `key` and `file`."""
    listed = [dict(scan) for scan in scans]
    write_json(folder / INDEX, {"shape": list(shape), "channels": list(channels), **more, "scans": listed})


def check_view(num: int, channels: int, size: Sequence[int]) -> NDArray[np.float32]:
    """Values from 0 to 1 that Python and C++ make alike to the last digit, [num, channels, *size].

    The upper 24 bits of the place's product with Knuth's multiplicative constant (The Art of Computer Programming 3, 6.4).
    """
    places = np.arange(1, num * channels * int(np.prod(size)) + 1, dtype=np.uint64)
    mixed = (places * _HASH & np.uint64(0xFFFFFFFF)) >> np.uint64(8)
    return (mixed.astype(np.float32) / np.float32(1 << 24)).reshape(num, channels, *size)


def _object(path: Path) -> dict[str, Any]:
    try:
        return load_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {AGAIN}.") from None
