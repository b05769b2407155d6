"""What a trained forecaster leaves for the people it never learned from: forecast and observed change of every region.

Written by `train` into the run's folder; `forecast` turns these errors into honest intervals (split-conformal prediction), and
the report shows them, without loading a network.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gen3d.core.tables import TableFile

FILE = "forecast_errors.tsv"

ERRORS = TableFile(
    FILE,
    ("subject", "key_1", "key_2", "years", "diagnosis", "model", "member", "region", "forecast", "spread", "observed"),
    "train again",
)
"""One row per pair of visits of a person whom the member never saw, model (the run's own and the floors fitted on the same
people) and region: log volume change as forecast by that member from the earlier visit, the spread (SD) over its draws (0 for
models that draw none), and log volume change as measured."""


def write_errors(folder: Path, frame: pd.DataFrame) -> None:
    """Write forecast_errors.tsv into a run."""
    ERRORS.write(folder, frame[list(ERRORS.columns)])


def read_errors(folder: Path) -> pd.DataFrame:
    """The errors of a run.

    Raises:
        UserError: missing, damaged, or without a column.
    """
    return ERRORS.read(folder)
