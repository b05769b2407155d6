"""A norm with a spline of age and an SD by age: judges as its cohort does, keeps both in its files, and draws its curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.norm.curves import CURVES
from gen3d.anomaly.norm.folder import CURVES_PNG, CURVES_SVG, open_norm
from gen3d.anomaly.norm.norm import Norm
from gen3d.cohort.manifest import Split
from gen3d.core.errors import UserError
from tests.cohorts import write_cohort
from tests.runs import fit
from tests.sealing import reseal

BY_AGE = {
    "covariates": ["age", "age_spline", "sex", "site"],
    "age_variance": ["deformation", "contrast"],
    "channels": ["deformation"],
}


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    split = Split(train=0.25, calibration=0.75, test=0)  # enough controls calibrate for a spline
    return write_cohort(tmp_path_factory.mktemp("by_age") / "controls", 44, 0, sites=("a", "b"), seed=3, split=split)


@pytest.fixture(scope="module")
def run(controls: Path) -> Path:
    return fit(controls, controls.parent / "run")


@pytest.fixture(scope="module")
def norm(controls: Path, run: Path) -> Path:
    return Norm.model_validate({"prepared": controls, "run": run, "out": controls.parent / "norm", **BY_AGE}).run()


def test_new_people_are_judged_as_in_a_cohort_with_the_controls(controls: Path, run: Path, norm: Path) -> None:
    split = Split(train=0, calibration=0, test=1)
    new = write_cohort(controls.parent / "new", 6, 0, sites=("a", "b"), seed=9, prefix="n", split=split)
    judged = Anomaly.model_validate({"norm": norm, "prepared": new, "out": new.parent / "judged"}).run()
    keys = {"prepared": [controls, new], "run": run, "out": new.parent / "together", **BY_AGE}
    together = Anomaly.model_validate(keys).run()
    mine, theirs = (pd.read_csv(folder / "regions.tsv", sep="\t", na_values="n/a") for folder in (judged, together))
    theirs = theirs[theirs["key"].isin(mine["key"])].reset_index(drop=True)
    np.testing.assert_allclose(mine["z"], theirs["z"], atol=1e-3)


def test_curves_are_written_drawn_and_shown_on_the_card(norm: Path) -> None:
    opened = open_norm(norm)
    curves = CURVES.read(norm)
    low, high = opened.record.covariates.age_range_years
    assert low <= curves["age_years"].min() <= curves["age_years"].max() <= high
    channel = str(curves["channel"].iloc[0])
    of_regions = opened.regions(channel)
    region, age = str(curves["region"].iloc[0]), float(curves["age_years"].iloc[0])
    row = opened.group_of(channel).design.matrix([age], ["F"], ["no such site"])
    expected = (row @ of_regions.norm.model.coefficients)[0, of_regions.names.index(region)]
    assert curves["centile_50"].iloc[0] == pytest.approx(expected, abs=1e-4)
    assert (norm / CURVES_PNG).read_bytes().startswith(b"\x89PNG")
    assert region in (norm / CURVES_SVG).read_text(encoding="utf-8")
    card = (norm / "card.md").read_text(encoding="utf-8")
    assert f"]({CURVES_PNG})" in card
    assert f"| {region}" in card


def test_the_spline_and_the_sd_by_age_come_back_from_the_folder(norm: Path) -> None:
    record = json.loads((norm / "norm.json").read_text(encoding="utf-8"))
    for channel, parts in record["channels"].items():
        of_regions = open_norm(norm).regions(channel).norm
        assert of_regions.bends is not None
        assert list(of_regions.bends.columns) == parts["regions"]["bends"]["columns"]
        assert of_regions.age_variance.to_dict() == parts["regions"]["age_variance"]


def test_a_damaged_sd_by_age_is_a_sentence(norm: Path) -> None:
    path = norm / "norm.json"
    before = path.read_text(encoding="utf-8")
    record = json.loads(before)
    del record["channels"]["deformation"]["regions"]["age_variance"]["sites"]
    path.write_text(json.dumps(record), encoding="utf-8")
    reseal(norm)
    try:
        with pytest.raises(UserError, match="missing or damaged"):
            open_norm(norm).regions("deformation")
    finally:
        path.write_text(before, encoding="utf-8")
        reseal(norm)


def test_an_sd_by_age_of_no_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown channel 'residul': choose among residual"):
        Norm.model_validate({"prepared": "a", "run": "b", "out": "c", "age_variance": ["residul"]})
