"""Outlying calibration controls are named on the screen, in the record and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from gen3d.anomaly.calibration.outlying import (
    HEAVIEST_CLUSTER,
    LARGEST_REGION,
    allowed_sentence,
    describe_reference,
    outlying_sentences,
)
from gen3d.anomaly.calibration.panel import Panel, make_panel
from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.sections.calibration import outlying_controls
from gen3d.core.artefact import read
from tests.anomaly.test_panel import table
from tests.maps_folder import write_tables
from tests.world import write_record

NUM = 35


@pytest.fixture(scope="module")
def panel() -> Panel:
    return make_panel(table(a=NUM), ())


def described(panel: Panel, largest: float) -> dict[str, Any]:
    """The reference of cluster masses: log-normal in controls but for p020."""
    scores = np.exp(norm.ppf((np.arange(NUM) + 0.5) / NUM))
    scores[20] = largest
    return describe_reference(scores, panel.table["subject"].iloc[panel.calibration].tolist())


def test_the_outlying_control_is_named_with_the_next_score(panel: Panel) -> None:
    record = described(panel, 90.0)
    assert record["outlying"] == [{"subject": "p020", "score": 90.0}]
    assert record["next_score"] == pytest.approx(np.exp(norm.ppf((NUM - 0.5) / NUM)))
    (sentence,) = outlying_sentences("residual", {HEAVIEST_CLUSTER: record, LARGEST_REGION: described(panel, 1.0)})
    assert sentence.startswith(
        "residual: 1 calibration control far beyond the others in the mass of the heaviest cluster: p020"
    )
    assert "fitted to the other 34" in sentence


def test_the_report_lists_outlying_controls(panel: Panel, tmp_path: Path) -> None:
    references = {HEAVIEST_CLUSTER: described(panel, 90.0)}
    people = pd.DataFrame({"key": ["k"], "subject": ["s"], "role": ["test"], "score_residual": [1.0]})
    folder = tmp_path / "maps"
    folder.mkdir()
    write_tables(folder, people, pd.DataFrame({"key": ["k"]}), calibration={"residual": {"references": references}})
    write_record(folder, "anomaly")
    (row,) = outlying_controls(MapsFolder(read(folder, ("anomaly",)), "maps"))
    assert (row["subject"], row["score"], row["num_controls"]) == ("p020", 90.0, NUM)


@pytest.mark.parametrize(("num", "says"), [(10, "1/11, so that none can be 0.05 or less"), (19, "rank 1/20")])
def test_what_so_many_controls_allow_is_said(num: int, says: str) -> None:
    assert says in allowed_sentence(num)
    assert ("none can be" in allowed_sentence(num)) == (num < 19)
