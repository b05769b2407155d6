"""A chain is judged on people it never saw, beside exact floors; planted stages go the right way, and null ones nowhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import open_prepared
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_stored
from gen3d.maths.stats import Interval
from gen3d.report.report import Report
from gen3d.stages.chain import Chain, matched
from gen3d.stages.folder import CHAIN, COPY, HISTOGRAM, OTHER, PAIRED, PUBLISHED, SHIFT, StagesFolder, volume_path
from gen3d.stages.measures import Thresholds, errors, nearest, reading
from gen3d.stages.people import choose_people
from gen3d.stages.sentences import verdict_sentence
from gen3d.stages.stages import Stages
from gen3d.stages.summaries import verdict
from tests.nets.test_lpips import write_files
from tests.stages.staged import STAGES, head, train_chain, write_staged

QUICK: dict[str, Any] = {"features": "none", "bootstrap": 200, "repeats": 10, "pictures": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_staged(tmp_path_factory.mktemp("learned") / "cohort", people=(10, 10, 10))


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people, each with a scan at every stage: the paired truth."""
    return write_staged(tmp_path_factory.mktemp("visits") / "visits", people=(6, 6, 6), first=200, same_people=True)


@pytest.fixture(scope="module")
def chain(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_chain(tmp_path_factory.mktemp("chain") / "run", cohort, steps=120, identity=5.0, validation=0.2)


@pytest.fixture(scope="module")
def judged(chain: Path, visits: Path, tmp_path_factory: pytest.TempPathFactory) -> StagesFolder:
    out = tmp_path_factory.mktemp("judged") / "stages"
    given = {"run": chain, "prepared": [visits], "out": out, "features": "package", "pictures": 2}
    Stages.model_validate(QUICK | given).run()
    return StagesFolder(read(out, ("stages",)), "stages")


def of(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_planted_ventricles_widen_along_the_chain(judged: StagesFolder) -> None:
    found = pd.DataFrame(judged.rows("directions"))
    for start, stage in (("0", "0.5"), ("0.5", "1")):
        made = of(found, start=start, stage=stage, candidate=CHAIN, reading="fluid").iloc[0]
        assert made["share"] >= 5 / 6
        assert made["change"] > 0.01
        truth = of(found, start=start, stage=stage, candidate="same person, truth", reading="fluid").iloc[0]
        assert truth["share"] == 1.0
        copied = of(found, start=start, stage=stage, candidate=COPY, reading="fluid").iloc[0]
        assert copied["change"] == 0.0


def test_floors_are_exactly_what_they_are_called(judged: StagesFolder, chain: Path, visits: Path) -> None:
    opened, prepared = Chain.open(chain, "cpu"), open_prepared(visits)
    key = "sub-p200_ses-1"
    pictures, masks = opened.scan(prepared, key)
    floors = opened.floors(0, 0, 2, pictures, masks)
    assert np.array_equal(floors[COPY], pictures)
    first, last = opened.generator(0, 0), opened.generator(0, 1)
    assert np.allclose(floors[SHIFT] - pictures, (last.mean_after - first.mean_before).numpy(), atol=1e-6)
    inside = masks > 0
    own = np.quantile(floors[HISTOGRAM][inside], np.linspace(0, 1, 101))
    assert np.abs(own - last.quantiles_after.numpy()).mean() < 0.02
    assert np.array_equal(floors[HISTOGRAM][~inside], pictures[~inside])
    # and the table holds their distance from the person's own later scan
    later = opened.scan(prepared, "sub-p200_ses-3")[0]
    row = of(judged.compared, key=key, start=0, stage=1, candidate=COPY, protocol=PAIRED).iloc[0]
    assert row["partner"] == "sub-p200_ses-3"
    assert row["mse_brain"] == pytest.approx(float(((pictures - later)[inside] ** 2).mean()), rel=1e-4)
    assert row["mse_frame"] == pytest.approx(float(((pictures - later) ** 2).mean()), rel=1e-4)


def test_the_published_protocol_compares_with_another_person_and_the_truth_with_the_same(judged: StagesFolder) -> None:
    compared = judged.compared
    own = compared["partner"].str[4:8] == compared["subject"]
    assert (own == (compared["protocol"] == PAIRED)).all()
    assert set(compared["candidate"]) == {CHAIN, COPY, SHIFT, HISTOGRAM, OTHER}
    assert set(of(compared, start=0, stage=1)["steps"]) == {2}
    assert compared["feature_distance"].notna().all()
    counts = of(compared, start=0, stage=0.5, protocol=PUBLISHED).groupby("candidate").size()
    assert set(counts) == {6}  # the same people behind every figure


def test_the_verdict_comes_first_and_says_which_truth(judged: StagesFolder) -> None:
    assert judged.summary[0].startswith("Against each person's own later scan, ")
    assert "the shift by the difference of the stages' means" in judged.summary[0]
    assert any("different people" in sentence for sentence in judged.summary)
    assert judged.classes == STAGES
    assert len(judged.pictured) == 2
    assert all(judged.picture(key).startswith(b"\x89PNG") for key in judged.pictured)
    sets = pd.DataFrame(judged.rows("sets"))
    assert set(sets["n"]) == {3}
    assert sets["metric"].str.contains("EfficientNet-Lite0, n=3").all()
    assert sets[["value", "floor", "low", "high"]].notna().all().all()


def test_made_scans_are_stored_where_the_slices_lie(judged: StagesFolder, chain: Path, visits: Path) -> None:
    opened, prepared = Chain.open(chain, "cpu"), open_prepared(visits)
    pictures, _ = opened.scan(prepared, "sub-p200_ses-1")
    made = opened.along(0, 0, pictures)
    stored = read_stored(volume_path(judged.folder, "sub-p200_ses-1", "0.5"))
    assert stored.shape == (32, 32, 2)
    assert np.allclose(stored, np.moveaxis(made[0], 0, 2), atol=1e-4)
    again = opened.generator(0, 1).translate(made[0])
    assert np.array_equal(again, made[1])


def test_copying_keeps_the_person_and_a_blank_does_not(judged: StagesFolder) -> None:
    identity = pd.DataFrame(judged.rows("identity"))
    assert (of(identity, candidate=COPY)["value"] == 1.0).all()
    assert identity["chance"].to_numpy() == pytest.approx(1 / 6)
    sources = np.random.default_rng(0).random((5, 40))
    assert nearest(sources[::-1], sources).tolist() == [4, 3, 2, 1, 0]
    assert nearest(np.zeros((5, 40)), sources).tolist() == [0] * 5


def test_exchanged_stages_do_not_beat_the_floors(cohort: Path, visits: Path, tmp_path: Path) -> None:
    run = train_chain(tmp_path / "run", cohort, steps=40, identity=5.0, validation=0.2, permuted=True)
    out = Stages.model_validate(QUICK | {"run": run, "prepared": [visits], "out": tmp_path / "stages"}).run()
    found = StagesFolder(read(out, ("stages",)), "null")
    _, apart, _ = verdict(found.compared, 200, 0)
    assert not apart.high < 0
    assert any("exchanged between people before training" in sentence for sentence in found.summary)
    assert found.rows("sets") == []


def test_nobody_who_was_trained_on_is_sent_along(cohort: Path, chain: Path) -> None:
    prepared, opened = open_prepared(cohort), Chain.open(chain, "cpu")
    people = choose_people(prepared, opened)
    trained = opened.run.seen.by_all(prepared.manifest)
    assert set(people.subjects) == set(prepared.manifest.loc[~trained, "subject"])
    assert people.num_seen == 24
    for row in range(len(people.table)):
        assert people.own(row, int(people.codes[row])) == row
        others = people.partners(row, 0, seed=0)
        assert len(others) == len(set(others))
        assert people.subjects[row] not in {people.subjects[other] for other in others}
    assert any("24 people whom every generator was trained on are left out" in line for line in people.sentences())


def test_all_seen_is_refused_and_so_are_other_runs_and_cohorts(
    cohort: Path, chain: Path, visits: Path, tmp_path: Path
) -> None:
    everybody = train_chain(tmp_path / "all", cohort, steps=2, validation=0.0)
    given = {"run": everybody, "prepared": [cohort], "out": tmp_path / "stages"}
    with pytest.raises(UserError, match=r"every generator was trained on all 30 people with cdr here .*cross_fit=5"):
        Stages.model_validate(QUICK | given).run()
    assert not (tmp_path / "stages").exists()
    direct = train_chain(tmp_path / "direct", cohort, steps=2, classes=["0", "0.5"])
    with pytest.raises(UserError, match=r"it goes 0 to 0\.5, which is not several steps of the chain"):
        Stages.model_validate(QUICK | given | {"run": chain, "prepared": [visits], "direct": direct}).run()
    late = write_staged(tmp_path / "late", people=(0, 0, 3), first=300)
    with pytest.raises(UserError, match="nobody who may be judged is at a stage before the last one"):
        Stages.model_validate(QUICK | given | {"run": chain, "prepared": [late]}).run()
    with pytest.raises(ValueError, match="fluid_below must be less than tissue_above"):
        Stages.model_validate(QUICK | given | {"fluid_below": 0.7})


def test_one_new_person_is_sent_where_there_is_nobody_to_compare_with(chain: Path, tmp_path: Path) -> None:
    alone = write_staged(tmp_path / "alone", people=(1, 0, 0), first=400)
    given = {"run": chain, "prepared": [alone], "out": tmp_path / "stages"}
    with pytest.raises(UserError, match="nobody who may be judged is at a stage after the first one"):
        Stages.model_validate(QUICK | given).run()
    found = StagesFolder(read(Stages.model_validate(QUICK | given | {"compare": False}).run(), ("stages",)), "stages")
    (sentence,) = found.summary
    assert "compared with nobody" in sentence
    assert len(found.compared) == 0
    made = [read_stored(volume_path(found.folder, "sub-p400_ses-1", stage)) for stage in STAGES[1:]]
    opened, prepared = Chain.open(chain, "cpu"), open_prepared(alone)
    along = opened.along(0, 0, opened.scan(prepared, "sub-p400_ses-1")[0])
    for stored, pictures in zip(made, along, strict=True):
        assert np.allclose(stored, np.moveaxis(pictures, 0, 2), atol=1e-4)
    page = Report.model_validate({"inputs": [found.folder], "out": tmp_path / "report"}).run() / "index.html"
    assert "compared with nobody" in page.read_text(encoding="utf-8")


def test_a_generator_of_all_steps_at_once_stands_beside_the_chain(
    cohort: Path, chain: Path, visits: Path, tmp_path: Path
) -> None:
    direct = train_chain(tmp_path / "direct", cohort, steps=4, classes=["0", "1"])
    given = {"run": chain, "prepared": [visits], "direct": direct, "out": tmp_path / "stages"}
    found = StagesFolder(read(Stages.model_validate(QUICK | given).run(), ("stages",)), "direct")
    own = of(found.compared, candidate="direct")
    assert set(zip(own["start"], own["stage"], strict=True)) == {(0, 1)}
    apart = pd.DataFrame(found.rows("consistency"))
    assert of(apart, what="chain from direct")["n"].tolist() == [6]
    assert len(of(apart, what="already there")) == 2


def test_lpips_is_measured_where_its_files_are_given(chain: Path, visits: Path, tmp_path: Path) -> None:
    backbone, heads = write_files(tmp_path)
    given = {
        "run": chain,
        "prepared": [visits],
        "out": tmp_path / "stages",
        "lpips": {"backbone": backbone, "heads": heads},
    }
    found = StagesFolder(read(Stages.model_validate(QUICK | given).run(), ("stages",)), "lpips")
    assert (found.compared["lpips"] > 0).all()
    assert "feature_distance" not in found.compared
    assert {"start": "0", "stage": "0.5", "protocol": PAIRED, "against": SHIFT, "measure": "lpips"}.items() <= next(
        row
        for row in found.rows("differences")
        if row["measure"] == "lpips" and row["against"] == SHIFT and row["protocol"] == PAIRED
    ).items()


def test_a_report_shows_it(judged: StagesFolder, visits: Path, tmp_path: Path) -> None:
    page = Report(inputs=(judged.folder, visits), out=tmp_path / "report").run() / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "Along the stages" in text
    assert "trained without pairs" in text
    assert "EfficientNet-Lite0, unit-normalised, unweighted" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.03, -0.01, "the chain beats the shift"), (0.01, 0.03, "does not beat"), (-0.01, 0.01, "it is open whether")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, said: str) -> None:
    assert said in verdict_sentence(PAIRED, Interval((low + high) / 2, low, high, 9), Interval(0.1, 0.0, 0.2, 9))


def test_errors_and_readings_in_closed_form() -> None:
    real = np.full((2, 16, 16), 0.5, np.float32)
    made = real.copy()
    made[:, :8] += 0.1
    brain = np.zeros(real.shape, bool)
    brain[:, :8] = True
    found = errors(made, real, brain, 1.0, flat=True)
    assert found["mse_brain"] == pytest.approx(0.01, rel=1e-4)
    assert found["mse_frame"] == pytest.approx(0.005, rel=1e-4)
    assert found["psnr_brain"] == pytest.approx(20.0, abs=1e-3)
    assert found["ssim_frame"] < 1.0
    assert math.isinf(errors(real, real, brain, 1.0, flat=True)["psnr_frame"])
    picture = np.array([[[0.1, 0.5, 0.9, 9.0]]], np.float32)
    inside = np.array([[[True, True, True, False]]])
    at = reading(picture, inside, 1.0, Thresholds(0.45, 0.6))
    assert (at["fluid"], at["tissue"], at["intensity"]) == pytest.approx((1 / 3, 1 / 3, 0.5))


def test_matching_keeps_ranks() -> None:
    pictures = head(1, 0.2)[None, :, :, 0]
    inside = pictures > 0
    given = np.linspace(1.0, 2.0, 101)
    found = matched(pictures, inside, given)
    assert found[inside].min() == pytest.approx(1.0)
    assert found[inside].max() == pytest.approx(2.0)
    order = np.argsort(pictures[inside], kind="stable")
    assert (np.diff(found[inside][order]) >= -1e-6).all()


def test_volumes_go_along_a_chain_too(tmp_path: Path) -> None:
    shape = (16, 16, 16)
    cohort = write_staged(tmp_path / "cohort", people=(4, 4, 4), shape=shape)
    visits = write_staged(tmp_path / "visits", people=(3, 3, 3), first=50, same_people=True, shape=shape)
    run = train_chain(tmp_path / "run", cohort, steps=3, dimensions=3, widths=[4, 4, 4])
    out = Stages.model_validate(QUICK | {"run": run, "prepared": [visits], "out": tmp_path / "stages"}).run()
    assert read_stored(volume_path(out, "sub-p050_ses-1", "1")).shape == shape
    assert len(StagesFolder(read(out, ("stages",)), "3d").compared) > 0
