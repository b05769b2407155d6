"""Regions on the curves of a norm: a course of known centiles, and every bad input by its sentence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm as gauss

from gen3d.anomaly.folder import CLUSTERS, CONTROL_RANGES, REGIONS, write_maps_tables
from gen3d.anomaly.norm.folder import CENTILES, CURVES
from gen3d.core.errors import UserError
from gen3d.core.result_folder import picture_path
from gen3d.forecast.folder import NORMATIVE, ForecastFolder, normative_name
from gen3d.forecast.normative import NormativeCurves
from gen3d.forecast.section import section
from gen3d.report.open import open_context
from tests.forecast.world import NAME, forecasting
from tests.sealing import reseal
from tests.world import write_record

HIPPOCAMPUS, VENTRICLE = "left hippocampus", "left lateral ventricle"
SLOPE, SD = -0.004, 0.1
"""Of the healthy hippocampus: log volume per year, and between people."""


def curves(channel: str = "volume", last_age: int = 90) -> pd.DataFrame:
    """Normal distributions around straight lines; ventricles do not change."""
    ages = np.arange(50.0, last_age + 1)
    made = []
    for region, slope in ((HIPPOCAMPUS, SLOPE), (VENTRICLE, 0.0)):
        for sex in "FM":
            frame = pd.DataFrame({"channel": channel, "region": region, "sex": sex, "age_years": ages})
            for centile in CENTILES:
                frame[f"centile_{centile}"] = slope * (ages - 70) + SD * gauss.ppf(centile / 100)
            made.append(frame)
    return pd.concat(made, ignore_index=True)


def write_maps(
    root: Path, table: pd.DataFrame | None, effect: float = 0.0, by_norm: bool = True, key: str = ""
) -> Path:
    """A norm with these curves (None: without any), and maps by it of the second person, `effect` from the median."""
    norm, maps = root / "norm", root / "maps"
    for folder in (norm, maps):
        folder.mkdir(parents=True)
    if table is not None:
        CURVES.write(norm, table)
    write_record(norm, "norm")
    reseal(norm)
    rows = pd.DataFrame(
        {"key": key or "sub-p1_ses-2", "channel": "volume", "region": [HIPPOCAMPUS, VENTRICLE], "effect": effect}
    )
    rows = rows.reindex(columns=list(REGIONS.columns))
    subjects = pd.DataFrame({"key": ["sub-p1_ses-2"], "subject": "p1", "role": "evaluation", "diagnosis": "AD"})
    write_maps_tables(maps, subjects, rows, pd.DataFrame(columns=list(CLUSTERS.columns)), {})
    if by_norm:
        CONTROL_RANGES.write(maps, pd.DataFrame(columns=list(CONTROL_RANGES.columns)))
    write_record(maps, "anomaly", {"norm": [norm]} if by_norm else None)
    return reseal(maps)


def courses(tmp_path: Path, change: float, effect: float, age: float = 70.0, sex: str = "F") -> pd.DataFrame:
    """The hippocampus of somebody who changes by `change` in five years, wherever it was."""
    maps = NormativeCurves.of(write_maps(tmp_path, curves(), effect))
    rows = pd.DataFrame(
        {"key": "sub-p1_ses-2", "region": HIPPOCAMPUS, "years": [0.0, 5.0], "log_change": [0.0, change]}
    ).assign(low_90=lambda frame: frame["log_change"] - 0.02, high_90=lambda frame: frame["log_change"] + 0.02)
    return maps.courses(rows, age, sex)


@pytest.mark.parametrize("effect", [0.0, -SD, 0.5 * SD])
def test_who_changes_as_everybody_keeps_the_centile(tmp_path: Path, effect: float) -> None:
    made = courses(tmp_path, 5 * SLOPE, effect)
    assert made["years"].tolist() == [0.0, 5.0]
    assert made["centile"].to_numpy() == pytest.approx(100 * gauss.cdf(effect / SD), abs=1.0)
    assert made["percent"].to_numpy() == pytest.approx(100 * np.exp([effect, effect + 5 * SLOPE]))


def test_who_loses_more_falls_and_tails_are_not_told_apart(tmp_path: Path) -> None:
    today, later = courses(tmp_path, 5 * SLOPE - 3 * SD, 0.0)["centile"]
    assert today == pytest.approx(50)
    assert later == 0


def test_beyond_the_ages_of_controls_there_is_no_centile(tmp_path: Path) -> None:
    made = courses(tmp_path, 0.0, 0.0, age=88.0)
    assert np.isfinite(made["centile"].iloc[0])
    assert np.isnan(made["centile"].iloc[1])
    assert courses(tmp_path / "old", 0.0, 0.0, age=91.0).empty
    assert courses(tmp_path / "unknown", 0.0, 0.0, sex="nan").empty


def test_the_verb_places_people_and_the_page_shows_them(tmp_path: Path) -> None:
    maps = write_maps(tmp_path, curves(), -SD)
    with pytest.MonkeyPatch.context() as patch:
        future = forecasting(patch, tmp_path)(subjects=["p0", "p1"], pictures=2, maps=maps).run()
    table = NORMATIVE.read(future)
    assert set(table["key"]) == {"sub-p1_ses-2"}
    now = table[(table["region"] == HIPPOCAMPUS) & (table["years"] == 0)].iloc[0]
    assert now["centile"] == pytest.approx(16, abs=1)
    assert picture_path(future, normative_name("sub-p1_ses-2")).is_file()
    context = open_context([future])
    [folder] = context.all(ForecastFolder)
    assert "1 scan placed on the norm's curves" in folder.summary[-1]
    assert "1 scan has no place there" in folder.summary[-1]
    assert folder.model == NAME
    made = section(context)
    assert made is not None
    assert "among healthy people" in str(made.blocks)


@pytest.mark.parametrize(
    ("table", "by_norm", "key", "sentence"),
    [
        (curves(), False, "", "judged by controls of their own cohort"),
        (None, True, "", "no curves, and a forecast needs curves of volume"),
        (curves("contrast"), True, "", "curves of contrast alone"),
        (curves(), True, "sub-other_ses-1", "holds none of the 1 scans to forecast from"),
    ],
)
def test_maps_that_place_nobody_are_refused(
    tmp_path: Path, table: pd.DataFrame | None, by_norm: bool, key: str, sentence: str
) -> None:
    maps = write_maps(tmp_path, table, by_norm=by_norm, key=key)
    with pytest.MonkeyPatch.context() as patch:
        verb = forecasting(patch, tmp_path)(subjects=["p1"], maps=maps)
        with pytest.raises(UserError, match=re.escape(sentence)):
            verb.run()
