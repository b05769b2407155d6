"""Calibration leaves a person out: no scan gets a z from another scan of the same person."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import CalibrationSettings, calibrate, describe_calibration
from gen3d.anomaly.calibration.empirical_null import count, fit_null_map
from gen3d.anomaly.calibration.panel import Panel, make_panel
from gen3d.anomaly.control_scores import ControlScores
from gen3d.anomaly.tables import RegionRows, latent_scores, region_table

TERMS = ("age", "sex", "site")
VOXELS = 4000


def people(num_controls: int = 30, num_test: int = 4, seed: int = 0) -> pd.DataFrame:
    """Calibration and test controls of two sites, one scan each."""
    generator = np.random.default_rng(seed)
    num = num_controls + num_test
    frame = pd.DataFrame(
        {
            "subject": [f"p{i:03d}" for i in range(num)],
            "session": "1",
            "site": [("a", "b")[(i // 2) % 2] for i in range(num)],
            "age_years": generator.uniform(20, 80, num),
            "sex": ["FM"[i % 2] for i in range(num)],
            "role": ["calibration"] * num_controls + ["test"] * num_test,
            "base": "",
        }
    )
    return _with_keys(frame)


def _with_keys(frame: pd.DataFrame) -> pd.DataFrame:
    key = "sub-" + frame["subject"] + "_ses-" + frame["session"]
    return frame.assign(key=key, calibrates=(frame["role"] == "calibration") & (frame["base"] == ""))


def with_twins(frame: pd.DataFrame, bases: list[int], per_base: int = 1) -> pd.DataFrame:
    """The table with planted copies of some rows, of role evaluation."""
    copies = [
        frame.iloc[[base]].assign(session=f"twin{k}", role="evaluation", base=frame["key"][base])
        for base in bases
        for k in range(per_base)
    ]
    return _with_keys(pd.concat([frame, *copies], ignore_index=True))


def null_values(frame: pd.DataFrame, seed: int = 1) -> NDArray[np.float32]:
    """Values with an age effect, a site effect and SDs of their own per voxel."""
    generator = np.random.default_rng(seed)
    sd = np.sqrt(8 / generator.chisquare(8, VOXELS))
    slope, shift = generator.standard_normal((2, VOXELS))
    age = (frame["age_years"].to_numpy() - 50) / 10
    site = (frame["site"] == "b").to_numpy().astype(float)
    noise = generator.standard_normal((len(frame), VOXELS)) * sd
    return (age[:, None] * slope + site[:, None] * shift + noise).astype(np.float32)


def regions_of(panel: Panel, channel: str, values: NDArray[np.float32], names: pd.DataFrame) -> pd.DataFrame:
    regional = calibrate(values, panel)
    return region_table(panel, RegionRows(channel, names), values, regional, ControlScores.of(panel, regional.z))


def twins_of(panel: Panel) -> NDArray[np.int64]:
    return np.flatnonzero((panel.table["base"] != "").to_numpy())


def test_a_twin_is_calibrated_as_if_its_person_were_not_in_the_cohort() -> None:
    table = with_twins(people(), [3, 11], per_base=2)
    panel = make_panel(table, TERMS)
    values = null_values(table)
    values[twins_of(panel), :200] -= 6
    together = calibrate(values, panel).z
    for base in (3, 11):
        person = table["subject"] == table["subject"][base]
        twins = np.flatnonzero(person & (table["base"] != ""))
        kept = np.flatnonzero(~person | (table["base"] != ""))
        alone = make_panel(table.iloc[kept], TERMS)
        expected = calibrate(values[kept], alone).z[np.searchsorted(kept, twins)]
        np.testing.assert_allclose(together[twins], expected, rtol=1e-4, atol=1e-4)
        # the person's own scan in the calibration would have changed the answer
        wrong = calibrate(values, Panel(table, panel.calibration, panel.repeats[:0], twins, panel.gated, panel.design))
        assert np.abs(wrong.z[twins] - expected).max() > 0.05


def test_a_copy_without_a_change_has_the_held_out_z_of_its_base() -> None:
    table = with_twins(people(), [0, 7, 21])
    panel = make_panel(table, TERMS)
    values = null_values(table)
    bases = np.array([0, 7, 21])
    values[twins_of(panel)] = values[bases]
    for empirical_null in (False, True):
        z = calibrate(values, panel, CalibrationSettings(empirical_null=empirical_null)).z
        np.testing.assert_allclose(z[twins_of(panel)], z[bases], rtol=2e-4, atol=2e-4)


def test_the_empirical_null_of_a_twin_leaves_its_person_out() -> None:
    """Not exactly what the cohort without the person gives: the pool holds z of other controls, each judged by a fit
    without itself but with the person, so the two pools differ a little (1 / n of each fit)."""
    table = with_twins(people(), [5])
    panel = make_panel(table, TERMS)
    values = null_values(table)
    z = calibrate(values, panel, CalibrationSettings(empirical_null=True)).z[-1]
    kept = np.delete(np.arange(len(table)), 5)
    alone = calibrate(values[kept], make_panel(table.iloc[kept], TERMS), CalibrationSettings(empirical_null=True)).z[-1]
    inside = np.abs(alone) < 3
    assert np.abs(z - alone)[inside].max() < 0.1
    # exactly the pool of the other controls: a base that is far out everywhere does not widen it
    values[5] *= 4
    raw, mapped = (calibrate(values, panel, CalibrationSettings(empirical_null=wanted)).z for wanted in (False, True))
    counts = np.array([count(z) for z in raw[panel.calibration]])
    np.testing.assert_array_equal(mapped[-1], fit_null_map(counts.sum(axis=0) - counts[5])(raw[-1]))
    assert np.abs(mapped[-1]).max() > np.abs(fit_null_map(counts.sum(axis=0))(raw[-1])).max() + 0.2


@pytest.mark.parametrize("empirical_null", [False, True])
def test_sites_of_different_scatter(empirical_null: bool) -> None:
    """Site b scatters 1.5 times as much: with factors both sites are calibrated, without them neither is."""
    table = people(40, 40)
    panel = make_panel(table, TERMS)
    far = (table["site"] == "b").to_numpy()
    values = null_values(table)
    values[far] *= 1.5
    test = np.arange(40, 80)

    def share(site_variance: bool, site: str) -> float:
        found = calibrate(
            values, panel, CalibrationSettings(empirical_null=empirical_null, site_variance=site_variance)
        )
        record = describe_calibration(panel, found, 0.05)
        assert set(record["site_variance"]) == ({"a", "b"} if site_variance else set())
        rows = test[(table["site"][test] == site).to_numpy()]
        by_site = record["test"]["by_site"][site]
        assert by_site["num_people"] == 20
        assert by_site["share_beyond_1.96"] == pytest.approx(np.mean(np.abs(found.z[rows]) > 1.96), abs=1e-6)
        if site_variance:
            factors = {name: entry["sd_factor"] for name, entry in record["site_variance"].items()}
            assert factors["b"] / factors["a"] == pytest.approx(1.5, rel=0.06)
            assert record["site_variance"][site]["num_controls"] == 20
        return float(by_site["share_beyond_1.96"])

    assert share(True, "a") == pytest.approx(0.05, abs=0.008)
    assert share(True, "b") == pytest.approx(0.05, abs=0.008)
    assert share(False, "a") < 0.035
    assert share(False, "b") > 0.08


def test_largest_region_among_the_largest_of_every_control() -> None:
    """p_max is family-wise: uniform or larger in healthy people, where the smallest p_conformal of many is not."""
    table = people(39, 161)
    panel = make_panel(table, ())
    values = null_values(table)[:, :30] * 0.1
    names = pd.DataFrame({"name": [f"r{i}" for i in range(30)]})
    found = regions_of(panel, "deformation", values, names)
    test = found[found["key"].isin(table["key"][39:])].groupby("key")[["p_max", "p_conformal"]].min()
    assert (test["p_max"] <= 0.1).mean() < 0.2
    assert (test["p_conformal"] <= 0.1).mean() > 0.6
    assert test["p_max"].min() >= 1 / 40 - 1e-9
    assert (found["p_max"] >= found["p_conformal"] - 1e-9).all()


def test_ranks_leave_the_own_calibration_scan_out() -> None:
    """The base is the most extreme control: its twin, a little less extreme, is still beyond every other control."""
    table = with_twins(people(), [2])
    panel = make_panel(table, TERMS)
    values = null_values(table)[:, :3]
    values[2], values[-1] = 40, 30
    names = pd.DataFrame({"name": ["one", "two", "three"]})
    regions = regions_of(panel, "residual", values, names)
    twin = regions[regions["key"] == table["key"].iloc[-1]]
    np.testing.assert_allclose(twin["p_conformal"], 1 / 30)
    control = regions[regions["key"] == table["key"].iloc[-2]]
    assert (control["p_conformal"] >= 1 / 31 - 1e-9).all()


def test_latent_distances_leave_the_own_calibration_scan_out() -> None:
    table = with_twins(people(), [2, 9])
    panel = make_panel(table, TERMS)
    latents = np.random.default_rng(4).standard_normal((len(table), 12)).astype(np.float32)
    latents[twins_of(panel)] = latents[[2, 9]]
    scores = latent_scores(panel, latents)
    assert scores is not None
    np.testing.assert_allclose(scores.distance[twins_of(panel)], scores.distance[[2, 9]], rtol=1e-6)
    np.testing.assert_array_equal(scores.percentile[twins_of(panel)], scores.percentile[[2, 9]])


def test_a_twin_is_never_a_calibration_scan_and_a_second_session_is_a_repeat() -> None:
    table = with_twins(people(), [0])
    table.loc[1, "subject"] = table.loc[0, "subject"]
    panel = make_panel(table.sample(frac=1, random_state=0), TERMS)
    assert len(panel.calibration) == 29
    assert set(panel.table.loc[panel.repeats, "subject"]) == {"p000"}
    assert len(panel.repeats) == 2
    assert (panel.table.loc[panel.calibration, "base"] == "").all()


@pytest.mark.parametrize("row", [0, 29, 31])
def test_reference_of_a_row(row: int) -> None:
    panel = make_panel(people(), TERMS)
    reference = panel.reference(row)
    assert row not in reference
    assert len(reference) == (29 if row < 30 else 30)
