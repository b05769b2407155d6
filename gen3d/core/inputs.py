"""What a finished folder was made from, found by its content: the place that was recorded may hold something else by now.

A recorded input is looked for at the path of then, at the same place relative to the folder (both moved together), and beside
both (renamed). What lies there is the input only if it has the recorded key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gen3d.core.artefact import Artefact, file_digest, record_of
from gen3d.core.errors import UserError

MOST_NEIGHBOURS = 1000
"""Folders that are looked at next to a place."""


def find_input(artefact: Artefact, item: Mapping[str, Any]) -> Path | None:
    """Where an input of a folder is now, or None.

    Args:
        artefact: the folder.
        item: one of `artefact.inputs`: its `path` of then, and its `key`.
    """
    recorded, key = Path(str(item["path"])), str(item["key"])
    return next((place for place in _places(artefact, recorded) if _key_at(place) == key), None)


def input_of(artefact: Artefact, item: Mapping[str, Any], remedy: str) -> Path:
    """As `find_input`, of an input that is needed.

    Args:
        artefact: the folder.
        item: one of its inputs.
        remedy: how to name the input, as the end of the sentence: `give prepared=FOLDER`.

    Raises:
        UserError: it is not there any more, or something else is.
    """
    found = find_input(artefact, item)
    if found is not None:
        return found
    recorded = Path(str(item["path"]))
    other = _key_at(recorded)
    what = (
        f"which is no longer there (nor beside it, nor beside {artefact.folder})"
        if other is None
        else f"which holds something else now (key {other} instead of {item['key']})"
    )
    raise UserError(f"{artefact.folder}: was made from {recorded}, {what}; {remedy}.")


def _places(artefact: Artefact, recorded: Path) -> Iterator[Path]:
    yield recorded
    here = Path(os.path.abspath(artefact.folder))
    moved = None
    if artefact.place is not None and recorded.is_absolute():
        moved = Path(os.path.normpath(here / os.path.relpath(recorded, artefact.place)))
        yield moved
    around = (recorded.parent if recorded.is_absolute() else None, moved and moved.parent, here.parent)
    for folder in dict.fromkeys(place for place in around if place is not None):
        yield from _neighbours(folder)


def _neighbours(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from [Path(entry.path) for entry in islice(entries, MOST_NEIGHBOURS) if entry.is_dir()]
    except (OSError, ValueError):
        return


def _key_at(place: Path) -> str | None:
    """The key of what lies at a place: of a folder of gen3d its record's, of a file its hash; None for anything else."""
    try:
        if place.is_dir():
            record = record_of(place)
            return str(record.get("key")) if record is not None else None
        return file_digest(place) if place.is_file() else None
    except (UserError, OSError, ValueError):
        return None
