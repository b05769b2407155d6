"""Several runs used as one: the mean of their expectations, for people held out from each of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import Split
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.exports.bids import Export
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.models.normative.restorer import RestorerConfig
from gen3d.models.run import Run, load_run
from gen3d.train.train import Train
from tests.cohorts import PLANTED, write_cohort
from tests.runs import fit
from tests.sealing import reseal


def anomaly(**keys: object) -> Path:
    return Anomaly.model_validate({"native": False, **keys}).run()


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", na_values="n/a")


@pytest.fixture(scope="module")
def maps(cohort: Path, run: Path, pca_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anomaly(prepared=cohort, run=[run, pca_run], out=tmp_path_factory.mktemp("maps") / "maps")


@pytest.fixture(scope="module")
def two_sites_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose design has a column for the site, so that it is wider than that of the others."""
    folder = tmp_path_factory.mktemp("two_sites")
    split = Split(train=0.9, calibration=0.1, test=0)
    return fit(write_cohort(folder / "cohort", sites=("a", "b"), seed=1, prefix="q", split=split), folder / "run")


def test_one_run_stays_a_run(run: Path) -> None:
    assert isinstance(load_runs([run]), Run)


def test_the_expectation_is_the_mean_of_the_runs(cohort: Path, run: Path, pca_run: Path, two_sites_run: Path) -> None:
    folders = [run, two_sites_run, pca_run]
    ensemble, prepared = load_runs(folders), open_prepared([cohort])
    row = prepared.select(["test"]).iloc[0]
    person = [row["age_years"]], [row["sex"]], [row["site"]]
    volume = prepared.load([row["key"]], ensemble.channels)[0]
    apart = []
    for folder in folders:
        alone = load_run(folder)
        expectation = alone.expect(volume, row["subject"], alone.covariates_of(*person)[0])
        assert expectation is not None
        apart.append(expectation[0])
    widths = {load_run(folder).covariates_of(*person).shape[1] for folder in folders}
    assert len(widths) > 1
    expectation = ensemble.expect(volume, row["subject"], ensemble.covariates_of(*person)[0])
    assert expectation is not None
    np.testing.assert_allclose(expectation[0], sum(apart) / 3, atol=1e-6)
    assert np.abs(apart[0] - apart[2]).max() > 0.01


def test_planted_changes_are_detected_and_few_others(maps: Path) -> None:
    subjects, regions = table(maps, "subjects"), table(maps, "regions")
    people = subjects.loc[subjects["role"] == "evaluation", "key"]
    found = regions[regions["key"].isin(people)]
    for channel in ("residual", "deformation"):
        planted = found[(found["region"] == PLANTED) & (found["channel"] == channel)]
        other = found[(found["region"] != PLANTED) & (found["channel"] == channel)]
        assert (planted["z"] < -3).all(), channel
        assert (planted["p_conformal"] == planted["p_conformal"].min()).all(), channel
        assert other["z"].abs().mean() < 2, channel
    calibration = json.loads((maps / "calibration.json").read_text())
    for channel in ("residual", "structural", "deformation"):
        test = calibration[channel]["test"]
        assert abs(test["mean"]) < 0.2, channel
        assert test["sd"] == pytest.approx(1, abs=0.15), channel
        assert 0.03 < test["share_beyond_1.96"] < 0.08, channel
    assert "latent_d" not in subjects


def test_the_record_names_every_run(maps: Path, run: Path, pca_run: Path, tmp_path: Path) -> None:
    inputs = json.loads((maps / "artefact.json").read_text())["inputs"]["run"]
    assert [item["path"] for item in inputs] == [str(run), str(pca_run)]
    keys = [json.loads((folder / "artefact.json").read_text())["key"] for folder in (run, pca_run)]
    assert [item["key"] for item in inputs] == keys
    dataset = Export(maps=maps, out=tmp_path / "bids", native=False).run()
    assert "voxelwise and pca" in "".join(path.read_text() for path in dataset.glob("*.json"))


def test_a_person_seen_by_one_run_gets_no_z(cohort: Path, run: Path, tmp_path: Path) -> None:
    family = fit(cohort, tmp_path / "family", kind="pca", num_components=4, cross_fit=3)
    seen = open_prepared([cohort]).select(["train"])["subject"].unique()
    assert load_run(family).can_judge(seen[0])
    for folders in ([run, family], [family, run]):
        ensemble = load_runs(folders)
        assert not any(ensemble.can_judge(subject) for subject in seen)
    judged = anomaly(prepared=cohort, run=[family, run], out=tmp_path / "maps", channels=["residual"])
    assert not set(seen) & set(table(judged, "subjects")["subject"])
    assert json.loads((judged / "calibration.json").read_text())["residual"]["num_controls"] == 21


def test_the_variance_floor_is_the_mean_of_the_models(run: Path, pca_run: Path) -> None:
    restorer = replace(load_run(run), model_config=RestorerConfig())
    assert (restorer.variance_floor, load_run(pca_run).variance_floor) == (2.0, 0.0)
    assert Ensemble((restorer, load_run(pca_run))).variance_floor == 1.0


def test_covariates_count_unless_every_run_predicts_from_them(cohort: Path, pca_run: Path, tmp_path: Path) -> None:
    crossed = load_run(fit(cohort, tmp_path / "family", cross_fit=3))
    assert crossed.predicts_out_of_sample
    assert Ensemble((crossed, crossed)).predicts_out_of_sample
    assert not Ensemble((crossed, load_run(pca_run))).predicts_out_of_sample


def test_runs_that_do_not_belong_together_are_refused(cohort: Path, run: Path, pca_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"given twice in run=; name each run once"):
        load_runs([run, pca_run, run])
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match=r"copy: given twice in run= \(it holds the same run as"):
        load_runs([run, copy])
    model = {"kind": "pca", "num_components": 4}
    settings = {"prepared": cohort, "out": tmp_path / "t1w", "model": model, "channels": ["t1w"], "track": []}
    t1w = Train.model_validate(settings).run()
    with pytest.raises(
        UserError, match=r"t1w: learned t1w, but .* learned t1w, log_jacobian; train both with the same"
    ):
        load_runs([run, t1w])
    other = shutil.copytree(pca_run, tmp_path / "other")
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps({**plan, "intensity": "percentile"}))
    reseal(other)
    with pytest.raises(UserError, match="give runs that were trained on one prepared cohort"):
        load_runs([run, other])


def test_no_held_out_people_names_both_runs(tmp_path: Path) -> None:
    split = Split(train=1, calibration=0, test=0)
    prepared = write_cohort(tmp_path / "c", num_controls=20, num_patients=0, split=split)
    runs = [fit(prepared, tmp_path / "a"), fit(prepared, tmp_path / "b", kind="pca", num_components=4, cross_fit=3)]
    with pytest.raises(UserError, match=r"were seen by every member of .*/a or of .*/b .*nobody is left"):
        anomaly(prepared=prepared, run=runs, out=tmp_path / "maps")


@pytest.mark.parametrize("verb", [Encode, Reconstruct])
def test_latents_and_reconstructions_are_of_one_run(verb: type[Encode | Reconstruct]) -> None:
    with pytest.raises(UserError, match=r"`run`: 2 run folders are given, and only `gen3d anomaly` can use several"):
        load(verb, None, ["prepared=c", "run=[a,b]", "out=o"])
    assert load(verb, None, ["prepared=c", "run=[a]", "out=o"]).run_folder == Path("a")
