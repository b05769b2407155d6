"""The channel modulated_density of simulated people and of their twins, and a network that reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from gen3d.anomaly.norm.fit import prepare_settings
from gen3d.cohort.channels import LOG_JACOBIAN, MODULATED
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.regions import find
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.explain.truth import PlantedTruth
from gen3d.prepare.prepare import Prepare
from gen3d.simulate.conditions import Condition
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

FAST = {"spacing_mm": 3, "workers": 1, "figures": False}
NETWORK = {"kind": "resnet3d", "layers": 10}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    conditions = {"small": Condition(kind="atrophy", count=3, changes={"hippocampus": -40})}
    out = tmp_path_factory.mktemp("cohort") / "out"
    return Simulate(out=out, subjects=6, conditions=conditions, density_channel=True, **FAST).run()


def test_people_with_small_hippocampi_have_less_grey_matter_there(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    assert prepared.plan.channels[-1] == MODULATED
    assert prepare_settings(prepared)["density_channel"] is True
    table = prepared.manifest
    inside = np.isin(prepared.regions, find("hippocampus"))
    amounts = np.array([prepared.volume(str(key), MODULATED)[inside].sum() for key in table["key"]])
    ill = (table["condition"] == "small").to_numpy()
    assert amounts[ill].mean() < 0.85 * amounts[~ill].mean()


def test_a_twin_differs_from_its_base_where_something_was_planted(cohort: Path, tmp_path: Path) -> None:
    conditions = {"null": Condition(kind="null"), "hip": Condition(kind="atrophy", changes={"hippocampus": -40})}
    twins = open_prepared(
        Simulate(
            base=(cohort,), out=tmp_path / "twins", subjects=1, conditions=conditions, workers=1, figures=False
        ).run()
    )
    inside = np.isin(twins.regions, find("hippocampus"))
    base = open_prepared(cohort).volume(str(twins.manifest["base"].iloc[0]), MODULATED)[inside].sum()
    by_condition = twins.manifest.set_index("condition")["key"].astype(str)
    null, planted = (twins.volume(by_condition[name], MODULATED)[inside].sum() for name in ("null", "hip"))
    assert null == pytest.approx(base, rel=0.03)
    assert planted < 0.85 * base


def test_a_network_learns_from_it_and_is_judged_on_the_template(cohort: Path, tmp_path: Path) -> None:
    model = {"kind": "classifier", "network": NETWORK, "target": "condition", "classes": ["none", "small"]}
    settings = {"prepared": cohort, "out": tmp_path / "run", "channels": [MODULATED], "cross_fit": 1, "track": []}
    run = Train.model_validate({**settings, "model": model, "optim": {"steps": 2, "batch_size": 2}}).run()
    assert read(run).summary["channels"] == [MODULATED]
    table = open_prepared(cohort).manifest
    key = str(table.loc[table["condition"] == "small", "key"].iloc[0])
    truth = PlantedTruth((cohort,), 0.05)
    assert np.array_equal(truth.changed(key, (MODULATED,)), truth.changed(key, (LOG_JACOBIAN,)))


def test_what_lacks_it_says_how_to_get_it(tmp_path: Path) -> None:
    plain = Simulate(out=tmp_path / "plain", subjects=4, conditions={}, **FAST).run()
    model = {"kind": "classifier", "network": NETWORK, "target": "sex", "classes": ["F", "M"]}
    with pytest.raises(UserError, match=r"has no channel modulated_density.* prepare again with density_channel=true"):
        Train.model_validate(
            {"prepared": plain, "out": tmp_path / "run", "channels": [MODULATED], "model": model}
        ).run()
    with pytest.raises(ValidationError, match="it needs deformation_channel=true"):
        Prepare(source=(tmp_path,), out=tmp_path / "out", density_channel=True, deformation_channel=False)
    with pytest.raises(ValidationError, match="twins have the channels of their base"):
        Simulate(base=(plain,), out=tmp_path / "out", density_channel=True)
