"""Plots of calibration are of test controls, and the conformal shares are those of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.folder import P_CONFORMAL, MapsFolder
from gen3d.anomaly.sections.calibration import SHARES, conformal_figures
from gen3d.core.artefact import read
from tests.maps_folder import write_tables
from tests.world import write_record

NUM_REGIONS = 99


def maps_of(folder: Path, p_of_test: np.ndarray) -> MapsFolder:
    """MapsFolder of 3 test controls with these conformal p, and of a calibration control and a patient with p = 0.01."""
    folder.mkdir()
    roles = ["test"] * 3 + ["calibration", "evaluation"]
    keys = [f"sub-{i}_ses-1" for i in range(5)]
    subjects = pd.DataFrame({"key": keys, "subject": keys, "role": roles, "diagnosis": "CN", "score_residual": 1.0})
    rows = [
        (key, channel, f"r{region}", p_of_test[i, region] if role == "test" else 0.01)
        for i, (key, role) in enumerate(zip(keys, roles, strict=True))
        for channel in ("residual", "size")
        for region in range(NUM_REGIONS)
    ]
    regions = pd.DataFrame(rows, columns=["key", "channel", "region", P_CONFORMAL])
    write_tables(folder, subjects, regions, calibration={"residual": {"num_controls": 35}})
    write_record(folder, "anomaly")
    return MapsFolder(read(folder, ("anomaly",)), "maps")


def test_uniform_p_lie_on_the_diagonal_and_only_test_controls_count(tmp_path: Path) -> None:
    uniform = np.tile(np.arange(1, NUM_REGIONS + 1) / (NUM_REGIONS + 1), (3, 1))
    (row,) = conformal_figures(maps_of(tmp_path / "maps", uniform))
    assert (row["channel"], row["num_people"]) == ("residual", 3)
    np.testing.assert_allclose(row["by_person"], np.tile(SHARES, (3, 1)), atol=0.011)
    assert row["share_5_percent"].value == pytest.approx(5 / NUM_REGIONS)
    assert row["expected_5_percent"] == pytest.approx(1 / 36)


def test_p_that_are_too_small_are_seen(tmp_path: Path) -> None:
    small = np.tile(np.arange(1, NUM_REGIONS + 1) / (NUM_REGIONS + 1), (3, 1)) ** 2
    (row,) = conformal_figures(maps_of(tmp_path / "maps", small))
    assert row["share_5_percent"].value == pytest.approx(np.sqrt(0.05), abs=0.02)
    assert (row["by_person"] >= SHARES - 0.011).all()
