"""Shares of the comparison of controls, each made by a job of its own, and put together by the fit.

A part holds values of single people and is no norm; it stays where the scans are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.compare import ChannelValues, CompareSettings, Z
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.norm.channel_files import damaged
from gen3d.anomaly.norm.folder import VERB
from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import named
from gen3d.core.arrays import read_array
from gen3d.core.artefact import digest, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.work_arrays import save_array
from gen3d.models.run import Run

PART, VALUES = "part.json", "values"


def share_of(part: str, num_rows: int) -> NDArray[np.int64]:
    """The rows of a share, dealt in turn: `3/16` is the third of sixteen.

    Raises:
        ValueError: another form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    number, total = (int(text) for text in match.groups()) if match else (0, 0)
    if not 1 <= number <= total:
        raise ValueError(f"part={part} is not of the form 3/16, the third of sixteen.")
    return np.arange(number - 1, num_rows, total)


def identity_of_parts(prepared: Prepared, run: Run | Ensemble, settings: CompareSettings) -> str:
    """What parts of one comparison have in common."""
    runs = run.runs if isinstance(run, Ensemble) else (run,)
    return digest([prepared.key, [one.artefact.key for one in runs], repr(settings)])


def write_part(folder: Path, identity: str, table: pd.DataFrame, values: ChannelValues) -> None:
    """Write the values of the scans of a table."""
    for name, array in values.by_name.items():
        (folder / VALUES).mkdir(exist_ok=True)
        save_array(folder / VALUES / f"{name}.npy", array)
    write_json(folder / PART, {"identity": identity, "keys": table["key"].astype(str).tolist()})


@dataclass(frozen=True)
class KnownValues(Mapping[str, Mapping[str, NDArray[np.float32]]]):
    """Values by name of scans by key, read from parts as they are needed."""

    places: dict[str, tuple[Path, int]]

    def __getitem__(self, key: str) -> Mapping[str, NDArray[np.float32]]:
        folder, row = self.places[key]
        return {name: array[row] for name, array in _arrays(folder).items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


_opened: dict[Path, dict[str, NDArray[Any]]] = {}


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    if folder not in _opened:
        _opened.clear()  # one part at a time
        paths = sorted((folder / VALUES).glob("*.npy"))
        try:
            _opened[folder] = {path.stem: read_array(path, mapped=True) for path in paths if path.stem != Z}
        except (OSError, ValueError) as error:
            raise damaged(folder / VALUES, error) from None
    return _opened[folder]


def open_parts(folders: Sequence[Path], identity: str, keys: Sequence[str]) -> KnownValues:
    """Open the parts of a comparison.

    Raises:
        UserError: a folder that is no part of it, or scans that no part has.
    """
    places: dict[str, tuple[Path, int]] = {}
    for folder in folders:
        read(folder, (VERB,))
        path = folder / PART
        if not path.is_file():
            raise UserError(f"{folder}: is a norm and no part of one (part=); use merge= for norms.")
        try:
            record = load_object(path)
            listed = [str(key) for key in record["keys"]]
            same = record["identity"] == identity
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(path, error) from None
        if not same:
            raise UserError(
                f"{folder}: a part of another fit (other scans, models or settings of the comparison); give the same "
                "prepared=, run= and settings as its jobs had."
            )
        places |= {key: (folder, row) for row, key in enumerate(listed)}
    absent = [key for key in keys if key not in places]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(keys)} scans are in none of the parts ({named(absent)}); give every part, and run the jobs "
            "that did not finish again."
        )
    return KnownValues(places)
