"""Two halves merged are the whole; a norm fitted from parts is the one fitted at once; what does not fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.calibration.empirical_null import CENTRES, count
from gen3d.anomaly.norm.folder import open_norm
from gen3d.anomaly.norm.merging import under_dof
from gen3d.anomaly.norm.norm import Norm
from gen3d.core.errors import UserError
from tests.anomaly.norm.test_norm import table
from tests.cohorts import write_cohort
from tests.runs import fit


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of two sites, a cross-fitted PCA of it, and the two sites as cohorts of their own."""
    home = tmp_path_factory.mktemp("merging")
    cohort = write_cohort(home / "whole", 60, 0, sites=("a", "b"), seed=3)
    fit(cohort, home / "run", kind="pca", num_components=4, cross_fit=3)
    for site in ("a", "b"):
        keep(cohort, home / site, [site])
    return home


def keep(cohort: Path, folder: Path, sites: list[str]) -> Path:
    """A copy of a cohort with the people of some sites; the others are not used."""
    shutil.copytree(cohort, folder)
    manifest = pd.read_csv(folder / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    manifest.loc[~manifest["site"].isin(sites), "role"] = "excluded"
    manifest.to_csv(folder / "manifest.tsv", sep="\t", index=False)
    return folder


def norm(home: Path, cohort: str, name: str, **keys: object) -> Path:
    return Norm.model_validate({"prepared": home / cohort, "run": home / "run", "out": home / name, **keys}).run()


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    return norm(home, "whole", "norm")


@pytest.fixture(scope="module")
def merged(home: Path) -> Path:
    halves = [norm(home, site, f"norm_{site}") for site in ("a", "b")]
    return Norm.model_validate({"merge": halves, "out": home / "merged"}).run()


def test_two_halves_merged_are_the_whole(whole: Path, merged: Path) -> None:
    one, two = open_norm(whole), open_norm(merged)
    assert two.record.controls.design.columns == one.record.controls.design.columns
    assert two.record.covariates.num_people == one.record.covariates.num_people
    assert two.record.who == one.record.who
    for channel in one.map_channels:
        mine, theirs = two.voxels(channel), one.voxels(channel)
        for site, factor in theirs.site_variance.factors.items():
            assert mine.site_variance.factors[site] == pytest.approx(factor, rel=0.01)
        np.testing.assert_allclose(mine.model.sd, theirs.model.sd, rtol=0.01)
        typical = np.sqrt(np.mean(theirs.model.sd**2))
        np.testing.assert_allclose(mine.model.coefficients, theirs.model.coefficients, atol=0.01 * typical)
        # The pool of held-out z is that of both norms: each control is judged by the controls of its own site.
        assert mine.null_counts is not None
        assert theirs.null_counts is not None
        assert mine.null_counts.sum() == pytest.approx(theirs.null_counts.sum())


def test_z_of_a_small_norm_is_taken_as_the_sds_that_it_stands_for() -> None:
    z = np.linspace(-6, 6, 2001)
    before, after = 12.0, 60.0
    sds = np.sign(z) * stats.t.isf(stats.norm.sf(np.abs(z)), before)
    expected = np.sign(z) * stats.norm.isf(stats.t.sf(np.abs(sds), after))
    moved = under_dof(count(z), before, after)
    assert moved.sum() == len(z)
    np.testing.assert_allclose(np.repeat(CENTRES, moved.astype(int)), expected, atol=0.03)
    np.testing.assert_array_equal(under_dof(count(z), 9.0, 9.0), count(z))


def test_without_factors_of_sites_the_fit_is_exactly_that_of_the_whole(home: Path) -> None:
    keys = {"site_variance": False, "empirical_null": False, "channels": ["deformation"]}
    one = open_norm(norm(home, "whole", "plain", **keys)).voxels("deformation")
    halves = [norm(home, site, f"plain_{site}", **keys) for site in ("a", "b")]
    two = open_norm(Norm.model_validate({"merge": halves, "out": home / "plain_merged"}).run()).voxels("deformation")
    np.testing.assert_allclose(two.model.sd, one.model.sd, rtol=1e-5)
    np.testing.assert_allclose(two.model.coefficients, one.model.coefficients, rtol=1e-4, atol=1e-6)
    assert two.model.dof == pytest.approx(one.model.dof, rel=1e-5)


def test_new_people_are_judged_the_same(home: Path, whole: Path, merged: Path) -> None:
    new = write_cohort(home / "new", 12, 3, sites=("a", "b"), seed=9, prefix="n")
    maps = [
        Anomaly.model_validate({"norm": folder, "prepared": new, "out": home / f"maps_{folder.name}"}).run()
        for folder in (whole, merged)
    ]
    one, two = (table(folder, "regions") for folder in maps)
    assert np.abs(one["z"] - two["z"]).median() < 0.02
    assert np.corrcoef(one["z"], two["z"])[0, 1] > 0.999
    subjects = table(maps[1], "subjects")
    healthy = subjects[subjects["role"] != "evaluation"]
    assert (healthy[[name for name in subjects if name.startswith("voxels_fdr")]] == 0).mean(axis=None) > 0.9


def test_a_norm_from_parts_is_the_norm(home: Path, whole: Path) -> None:
    parts = [norm(home, "whole", f"part{i}", part=f"{i}/3") for i in (1, 2, 3)]
    put_together = norm(home, "whole", "from_parts", parts=parts)
    for path in sorted((whole / "channels").iterdir()):
        with np.load(path) as one, np.load(put_together / "channels" / path.name) as two:
            for name in one.files:
                np.testing.assert_array_equal(one[name], two[name])
    with pytest.raises(UserError, match="scans are in none of the parts"):
        norm(home, "whole", "two_parts", parts=parts[:2])
    with pytest.raises(UserError, match="part of another fit"):
        norm(home, "whole", "other", parts=parts, samples=7)
    with pytest.raises(UserError, match="is a norm and no part"):
        norm(home, "whole", "norm_as_part", parts=[whole])


def test_what_cannot_be_one_norm_is_refused(home: Path, whole: Path, merged: Path, tmp_path: Path) -> None:
    def merging(*folders: Path) -> Path:
        return Norm.model_validate({"merge": folders, "out": tmp_path / "merged"}).run()

    with pytest.raises(UserError, match="two norms or more"):
        merging(whole)
    with pytest.raises(UserError, match="the same person among their controls"):
        merging(whole, home / "norm_a")
    other = norm(home, "b", "norm_other_settings", smoothing_mm=6)
    with pytest.raises(UserError, match=r"other settings \(smoothing_mm is 4\.0 and 6\.0"):
        merging(home / "norm_a", other)
    fit(home / "whole", home / "another_run", kind="pca", num_components=2, cross_fit=3)
    keys = {"prepared": home / "b", "run": home / "another_run", "out": home / "norm_other_run"}
    with pytest.raises(UserError, match="other models"):
        merging(home / "norm_a", Norm.model_validate(keys).run())
    with pytest.raises(UserError, match="was written by `gen3d prepare`"):
        merging(whole, home / "whole")
    assert (merged / "card.md").is_file()
