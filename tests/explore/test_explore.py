"""`gen3d explore` end to end: what is planted is found, a null cohort has nothing, and people count rather than scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.tables import read_table
from gen3d.explore import explore as verb
from gen3d.explore.explore import Explore
from gen3d.explore.folder import TABLES, ExploredFolder
from gen3d.explore.profiles import measures, quantiles
from gen3d.explore.readings import coarse_grid, greys_of
from gen3d.explore.section import section
from gen3d.figures.blocks import figures_in
from gen3d.imaging.volume import read_map_and_affine
from gen3d.report.open import open_context
from tests.explore.small import OTHER, PLAN, PLANTED, QUICK, explore, people, write

EFFECT = -0.2


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("planted") / "cohort", people(sessions=2), EFFECT)


@pytest.fixture(scope="module")
def explored(planted: Path) -> Path:
    return explore(planted, planted.parent / "explored")


def opened(folder: Path) -> ExploredFolder:
    return ExploredFolder(read(folder), folder.name)


def test_the_planted_region_is_found_and_the_other_is_not(explored: Path) -> None:
    regions = read_table(explored / "regions.tsv").set_index(["channel", "region"])
    for channel, effect in (("log_jacobian", EFFECT), ("t1w", 0.6 * EFFECT)):
        found = regions.loc[channel, PLANTED]
        assert found["p_all"] <= 0.05
        assert found["low"] <= effect <= found["high"]
        assert regions.loc[channel, OTHER]["p_all"] > 0.05
    volume = regions.loc["log_jacobian", PLANTED]
    assert volume["percent"] == pytest.approx(100 * np.expm1(volume["difference"]), rel=1e-4)
    assert volume["difference_sd"] < -1


def test_voxels_that_differ_lie_where_it_was_planted(explored: Path, planted: Path) -> None:
    path = next((explored / "maps").glob("*log_jacobian_t.nii.gz"))
    assert path.name == "from-CN_to-AD_desc-log_jacobian_t.nii.gz"
    t, affine = read_map_and_affine(path)
    labels = read_map_and_affine(planted / "regions.nii")[0]
    strongest = np.argwhere(t == t.min())[0]
    assert labels[tuple(strongest)] == 1
    np.testing.assert_allclose(affine, PLAN.matrix)
    comparison = read_table(explored / "comparisons.tsv").set_index("channel").loc["log_jacobian"]
    assert comparison["voxels_differ"]
    assert (np.abs(t) > comparison["critical_t"]).sum() == comparison["num_voxels_differ"]


def test_the_first_sentence_says_what_differs_in_how_many_people(explored: Path) -> None:
    first, *others = opened(explored).summary
    assert first.startswith(
        "After correction, CN and AD differ, in 24 people (diagnosis: CN 12, AD 12; 199 permutations"
    )
    assert any("1 of 2 regions" in text and PLANTED in text and OTHER not in text for text in others)


def test_a_null_cohort_has_nothing(tmp_path: Path) -> None:
    folder = explore(write(tmp_path / "cohort", people(), 0.0), tmp_path / "out")
    assert (
        opened(folder).summary[0].startswith("No region and no voxel differs between neighbouring levels of diagnosis")
    )
    assert not read_table(folder / "comparisons.tsv")["voxels_differ"].any()


def test_copies_of_a_persons_scan_change_no_p(explored: Path, tmp_path: Path) -> None:
    more = people()
    copies = pd.concat(
        [more, *[more.iloc[[1]].assign(session=str(number)) for number in range(2, 9)]], ignore_index=True
    )
    weighted = explore(write(tmp_path / "cohort", copies, EFFECT), tmp_path / "out")
    for name in ("regions", "comparisons", "intensity", "intensity_trend"):
        pd.testing.assert_frame_equal(read_table(weighted / f"{name}.tsv"), read_table(explored / f"{name}.tsv"))


def test_two_scans_of_one_person_are_the_ceiling(explored: Path) -> None:
    rows = read_table(explored / "similarity.tsv")
    ssim = rows[rows["measure"] == "ssim"].groupby("kind")["value"].mean()
    assert ssim["two scans of one person"] == pytest.approx(1.0, abs=1e-5)
    assert ssim["two people at one level"] < 0.95
    excess = read_table(explored / "excess.tsv").set_index("measure").loc["ssim"]
    assert excess["excess"] == pytest.approx(excess["within"] - excess["between"], abs=1e-6)


def test_an_interrupted_run_ends_the_same(
    planted: Path, explored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    gathered = verb.gather

    def stopped(*arguments: object) -> None:
        gathered(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        explore(planted, out)
    monkeypatch.setattr(verb, "gather", gathered)
    monkeypatch.setattr("gen3d.explore.readings.greys_of", None)  # nobody is read again
    explore(planted, out, workers=2)  # and several processes change nothing
    for name in TABLES:
        assert (out / f"{name}.tsv").read_bytes() == (explored / f"{name}.tsv").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in explored.iterdir())


def test_slices_have_no_regions_and_one_channel(tmp_path: Path) -> None:
    folder = explore(write(tmp_path / "cohort", people(), -0.6, slices=True), tmp_path / "out")
    assert read_table(folder / "regions.tsv").empty
    assert list(read_table(folder / "comparisons.tsv")["channel"]) == ["t1w"]
    assert "After correction, CN and AD differ" in opened(folder).summary[0]
    assert section(open_context([folder])) is not None


def test_without_ages_labels_are_shuffled_among_everybody(tmp_path: Path) -> None:
    folder = explore(write(tmp_path / "cohort", people().assign(age_years=np.nan)), tmp_path / "out")
    assert any("no age is known" in note for note in opened(folder).notes)
    assert "within age bins" not in opened(folder).summary[0]


def test_levels_of_other_ages_are_not_compared(tmp_path: Path) -> None:
    table = people()
    table.loc[table["diagnosis"] == "AD", "age_years"] += 40
    folder = explore(write(tmp_path / "cohort", table, EFFECT), tmp_path / "out")
    assert "no two levels share an age bin" in opened(folder).summary[0]
    assert any("CN and AD share no age bin, so they were not compared" in note for note in opened(folder).notes)


def test_the_plan_says_who_and_how_large(planted: Path, tmp_path: Path) -> None:
    lines = Explore.model_validate({"prepared": planted, "out": tmp_path / "out", **QUICK}).plan()
    assert lines[0] == "describes 24 people by diagnosis: CN (12 people), AD (12 people)"
    assert any("on disk while it works" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"by": "stage"}, "the cohort table has no column stage"),
        ({"by": "site"}, "everybody is at one level"),
        ({"fewest": 20}, "fewer than two levels have 20 people"),
        ({"adjust": ["diagnosis"]}, "diagnosis is what is compared"),
        ({"adjust": ["scanner"]}, "adjust: the cohort table has no column scanner"),
    ],
)
def test_a_wrong_setting_is_a_sentence_before_anything_is_written(
    planted: Path, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        explore(planted, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_section_shows_pictures_and_tables(explored: Path) -> None:
    shown = section(open_context([explored]))
    assert shown is not None
    assert [figure.name.rsplit("_", 1)[1] for figure in figures_in(shown.blocks)] == [
        "means", "differences", "profiles", "similarity",
    ]  # fmt: skip


def test_grey_values_are_those_of_an_8_bit_scan_without_background() -> None:
    histogram = greys_of(np.array([0.0, 0.0, 0.25, 0.5, 1.0, 2.0]), 180.0)[None]
    assert histogram.sum() == pytest.approx(1)
    assert set(np.flatnonzero(histogram[0])) == {45, 90, 180, 255}
    mean, _, dark, grey = measures(histogram)[0]
    assert mean == pytest.approx((45 + 90 + 180 + 255) / 4)
    assert (dark, grey) == (0.25, 0.0)
    assert quantiles(histogram, np.array([0.125]))[0, 0] == pytest.approx(45.0)


def test_the_coarse_grid_keeps_places(planted: Path) -> None:
    prepared = Explore.model_validate({"prepared": planted, "out": "x", **QUICK}).open_inputs().prepared
    grid = coarse_grid(prepared, 16.0)
    assert grid.steps == (2, 2, 2)
    values = np.arange(grid.mask.sum(), dtype=float)
    spread = grid.on_plan(values, np.ones(PLAN.shape, bool))
    np.testing.assert_array_equal(spread[::2, ::2, ::2][grid.mask], values)
