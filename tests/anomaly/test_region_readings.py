"""Readings of the volume of regions: each sees what it is for, and a structure is read by the one chosen for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly import region_readings
from gen3d.anomaly.region_readings import (
    DEFORMATION,
    LESS_VENTRICLE,
    TISSUE,
    RegionReadings,
    VolumeReading,
    has_volumes,
)
from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, T1W
from gen3d.cohort.folder import Prepared
from gen3d.cohort.region_validity import Choice
from gen3d.cohort.regions import region_table, regions_on
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import full_template, template_on


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A cohort with the package's own regions, without a file: its volumes are given by each test."""
    plan = plan_grid(2.5, channels=("t1w", "log_jacobian"))
    opened = Prepared((), plan, pd.DataFrame({"key": ["a", "b"]}), "key")
    opened.__dict__.update(mask=template_on(plan).mask, regions=regions_on(plan), region_table=region_table())
    return opened


def place(prepared: Prepared, name: str) -> int:
    return int(np.flatnonzero(prepared.region_table["name"] == name)[0])


def with_volumes(
    monkeypatch: pytest.MonkeyPatch, prepared: Prepared, log_jacobian: np.ndarray, t1w: np.ndarray
) -> None:
    """Let every scan of the cohort be this one."""
    volumes = {LOG_JACOBIAN: log_jacobian.astype(np.float32), T1W: t1w.astype(np.float32)}
    monkeypatch.setattr(Prepared, "volume", lambda self, key, channel: volumes[channel])


def test_fluid_that_replaces_a_structure_is_lost_to_its_tissue(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = template_on(prepared.plan)
    nowhere = np.zeros(prepared.plan.shape)
    left, third = place(prepared, "left hippocampus"), place(prepared, "third ventricle")
    with_volumes(monkeypatch, prepared, nowhere, template.t1w)
    whole = RegionReadings(prepared)("any")
    full = full_template()
    fluid = float(np.median(full.t1w[full.csf > 0.8]))
    hollow = np.where(prepared.regions == prepared.region_table["label"][left], fluid, template.t1w)
    with_volumes(monkeypatch, prepared, nowhere, hollow)
    found = RegionReadings(prepared)("any")
    assert found[TISSUE][left] < whole[TISSUE][left] - 0.5
    assert found[TISSUE][third] == pytest.approx(whole[TISSUE][third])
    assert found[DEFORMATION][left] == found[CONTRAST][left] == 0


def test_what_ventricles_draw_along_is_taken_out_where_it_was_chosen(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ventricles 30 % larger draw the region along by half of it: nothing is left; a change of its own stays."""
    table, labels = prepared.region_table, prepared.regions
    of = {name: labels == table["label"][place(prepared, name)] for name in table["name"]}
    larger, own = np.log(1.3), -0.2
    log_jacobian = larger * (of["left lateral ventricle"] | of["right lateral ventricle"])
    log_jacobian = log_jacobian + 0.5 * larger * (of["left caudate"] | of["right caudate"]) + own * of["left caudate"]
    with_volumes(monkeypatch, prepared, log_jacobian, template_on(prepared.plan).t1w)
    choices = {"caudate": Choice(LESS_VENTRICLE, 0.5), "hippocampus": Choice(DEFORMATION, 0.0)}
    monkeypatch.setattr(
        region_readings,
        "chosen_reading",
        lambda name: choices.get(name.removeprefix("left ").removeprefix("right "), Choice(TISSUE, 0.0)),
    )
    assert has_volumes(prepared)
    values = VolumeReading(prepared)(prepared.manifest.iloc[0])
    assert values.shape == (len(table),)
    assert values[place(prepared, "right caudate")] == pytest.approx(0, abs=1e-5)
    assert values[place(prepared, "left caudate")] == pytest.approx(own, abs=1e-5)
    assert values[place(prepared, "left hippocampus")] == 0
    assert (
        values[place(prepared, "left thalamus")]
        == RegionReadings(prepared)("any")[TISSUE][place(prepared, "left thalamus")]
    )


def test_without_a_log_jacobian_on_coarse_grids_or_with_other_regions_there_is_no_volume_of_regions(
    prepared: Prepared,
) -> None:
    regions = prepared.region_table
    for plan in (plan_grid(2.5, channels=("t1w",)), plan_grid(4.0, channels=("t1w", "log_jacobian"))):
        other = replace(prepared, plan=plan)
        other.__dict__["region_table"] = regions
        assert not has_volumes(other)
    other = replace(prepared)
    for foreign in (regions[["label", "name"]], regions.iloc[:1]):
        other.__dict__["region_table"] = foreign
        assert not has_volumes(other)
