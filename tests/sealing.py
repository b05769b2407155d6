"""Folders changed on purpose behind their seal, to test the readers: as a foreign tool would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gen3d.core.artefact import CHECKSUM, FILES, write_record
from gen3d.core.seal import RECORD, seal


def reseal(folder: Path, /, **changes: Any) -> Path:
    """Seal a finished folder as it is now, with these changes to its record; returns it."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record.pop(CHECKSUM, None)
    write_record(folder, record | changes | {FILES: seal(folder)})
    return folder
