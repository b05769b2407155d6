"""Names and columns of BIDS derivatives datasets that several verbs write.

The meaning of a table's columns stands in `columns.json` in the folder of the code that writes the table: a JSON sidecar
of BIDS in itself, read by `read_columns`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gen3d.cohort.manifest import scan_key
from gen3d.core.errors import UserError
from gen3d.core.package_data import package_text

BIDS_VERSION = "1.10.0"
# nilearn's template is exactly symmetric, on the 197 x 233 x 189 voxel grid of release 2009a (2009c has 193 x 229 x 193).
TEMPLATE_SPACE = "MNI152NLin2009aSym"


def read_columns(package: str) -> dict[str, Any]:
    """`columns.json` of a package such as `gen3d.cohort`: column -> its BIDS description, or table -> columns."""
    columns: dict[str, Any] = json.loads(package_text(package, "columns.json"))
    return columns


PARTICIPANT_COLUMNS: dict[str, dict[str, Any]] = read_columns("gen3d.cohort")


def label(text: str) -> str:
    """Text as a BIDS label: letters and digits only."""
    return re.sub(r"[^0-9A-Za-z]", "", text)


def stem(subject: str, session: str) -> str:
    """`sub-X_ses-Y`, or `sub-X` for a scan without a session."""
    return scan_key(label(subject), label(session)) if label(session) else f"sub-{label(subject)}"


def check_labels(subjects: list[tuple[str, str]]) -> None:
    """Refuse ids that differ only in characters that a BIDS label may not hold.

    Raises:
        UserError: naming the ids.
    """
    seen: dict[str, tuple[str, str]] = {}
    for subject, session in subjects:
        name = stem(subject, session)
        if not label(subject) or seen.setdefault(name, (subject, session)) != (subject, session):
            raise UserError(
                f"subject {subject!r}, session {session!r}: as a BIDS label this is {name}, which is empty or taken by "
                f"{seen.get(name, ('', ''))}; rename it in the source, with letters and digits only."
            )


def resolution(spacing_mm: float) -> str:
    """The label of the entity `res`: 2mm, 2p5mm."""
    return f"{spacing_mm:g}mm".replace(".", "p")
