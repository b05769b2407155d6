"""What `gen3d harmonise` writes next to the latents: the fitted harmonisation, its tables and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.result_folder import ResultFolder, write_picture, write_result

ARRAYS = "harmonisation.npz"
BEFORE_AFTER = "before_after"


def write_harmonised(
    folder: Path,
    arrays: Mapping[str, NDArray[Any]],
    tables: Mapping[str, pd.DataFrame],
    summary: Sequence[str],
    picture: bytes,
) -> None:
    """Write the fitted harmonisation, its tables (sites, people, ...), the sentences and the picture."""
    kept: dict[str, Any] = dict(arrays)
    np.savez(folder / ARRAYS, **kept)
    write_picture(folder, BEFORE_AFTER, picture)
    write_result(folder, {"summary": summary}, tables)


@dataclass(frozen=True)
class HarmonisedFolder(ResultFolder):
    """Harmonised latents, and the measured effect of harmonising."""
