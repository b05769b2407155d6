"""Structures, fidelity, usefulness and diversity against planted truth, and where there is nothing to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.quality import predictors, structures
from gen3d.quality.diversity import diversity_rows
from gen3d.quality.features import ScanSet, metric_name
from gen3d.quality.fidelity import PredictorMaterial, fidelity, macro_auc
from gen3d.quality.folder import BOTH, REAL, SAME_N, SYNTHETIC
from gen3d.quality.people import QualityPeople, _at_most, numbers_of
from gen3d.quality.predictors import Readings, fit_numeric, folds
from gen3d.quality.sentences import fidelity_sentence, lead_extractor
from gen3d.quality.structures import structure_columns, structure_rows
from gen3d.quality.utility import utility_rows

NUM_REAL, NUM_TRAINING = 80, 30


def volumes(generator: np.random.Generator, num: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"hippocampus_ml": generator.normal(7, 0.6, num), "lateral_ventricle_ml": generator.normal(30, 8, num)}
    )


def test_structures_find_a_shift_and_a_loss_of_spread_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    real, synthetic = volumes(generator, 60), volumes(generator, 50)
    plain = structure_rows(real, synthetic, 300, 40, 0)
    assert (plain["q"] > 0.05).all()
    assert ((plain["difference_sd_low"] < 0) & (plain["difference_sd_high"] > 0)).all()
    synthetic["hippocampus_ml"] += 0.9
    synthetic["lateral_ventricle_ml"] = 30 + (synthetic["lateral_ventricle_ml"] - 30) / 3
    rows = structure_rows(real, synthetic, 300, 40, 0).set_index("structure")
    shifted, narrowed = rows.loc["hippocampus"], rows.loc["lateral ventricle"]
    assert shifted["difference_sd"] == pytest.approx(
        (synthetic["hippocampus_ml"].mean() - real["hippocampus_ml"].mean()) / real["hippocampus_ml"].std()
    )
    assert shifted["q"] < 0.001
    assert shifted["difference_sd_low"] > 0.5
    assert shifted["wasserstein_sd"] > shifted["floor_sd_high"]
    assert narrowed["ratio_sd_high"] < 0.6
    assert narrowed["n_wasserstein"] == 30


def test_structures_are_those_that_all_tables_have() -> None:
    table = pd.DataFrame({"a_ml": [1.0], "b_ml": [np.nan], "c_ml": [1.0], "age_years": [1]})
    assert structure_columns(table, table.drop(columns="c_ml")) == ["a_ml"]


def material(generator: np.random.Generator, obedient: bool) -> PredictorMaterial:
    """Real people whose age and sex show in voxels; synthetic scans that follow what was requested, or nothing."""

    def scans(age: NDArray[np.float64], sex: NDArray[np.object_]) -> Readings:
        pattern = np.linspace(-1, 1, 40)
        voxels = generator.normal(0, 0.4, (len(age), 40))
        voxels += np.outer((age - 60) / 10, pattern) + np.outer((sex == "F") * 2.0 - 1, pattern[::-1] ** 2 - 0.3)
        return Readings(generator.normal(0, 1, (len(age), 2)), voxels.astype(np.float32))

    def table(num: int) -> pd.DataFrame:
        sex = np.array(["F", "M"], dtype=object)[generator.integers(2, size=num)]
        return pd.DataFrame({"age_years": generator.uniform(45, 75, num), "sex": sex})

    real, asked = table(NUM_REAL), table(40)
    shown = asked if obedient else table(40)
    made = pd.DataFrame({"requested_age_years": asked["age_years"], "requested_sex": asked["sex"]})
    made["requested_hippocampus_ml"] = generator.uniform(6, 8, 40)
    noise = generator.normal(0, 0.05, 40)
    made["hippocampus_ml"] = (
        made["requested_hippocampus_ml"] if obedient else made["requested_hippocampus_ml"].mean()
    ) + noise
    arrays = [(frame["age_years"].to_numpy(float), frame["sex"].to_numpy(object)) for frame in (real, shown)]
    held_out = np.arange(NUM_TRAINING, NUM_REAL)
    return PredictorMaterial(real, made, scans(*arrays[0]), scans(*arrays[1]), held_out, held_out[:40])


NAMES = ("age_years", "sex", "hippocampus_ml")


def test_obedient_scans_are_as_predictable_as_real_people() -> None:
    found = fidelity(material(np.random.default_rng(0), obedient=True), NAMES, 200, 0)
    rows = found.table.set_index(["covariate", "people"])
    assert not found.notes
    for people in ("synthetic", "real"):
        assert rows.loc[("age_years", people), "r_low"] > 0.8
        assert rows.loc[("age_years", people), "slope"] == pytest.approx(1, abs=0.15)
        assert rows.loc[("sex", people), "accuracy"] > 0.85
        assert rows.loc[("sex", people), "auc_low"] > 0.8
        assert rows.loc[("age_years", people), "n"] == 40
    assert rows.loc[("hippocampus_ml", "synthetic"), "r"] > 0.98
    assert rows.loc[("hippocampus_ml", "synthetic"), "method"] == "measured"
    assert ("hippocampus_ml", "real") not in rows.index
    assert len(found.people) == 40 * 3


def test_scans_that_ignore_the_request_are_found_out() -> None:
    rows = fidelity(material(np.random.default_rng(1), obedient=False), NAMES, 200, 0).table
    rows = rows.set_index(["covariate", "people"])
    for name in ("age_years", "hippocampus_ml"):
        assert rows.loc[(name, "synthetic"), "r_low"] < 0 < rows.loc[(name, "synthetic"), "r_high"]
    assert rows.loc[("age_years", "real"), "r_low"] > 0.8
    assert rows.loc[("sex", "synthetic"), "auc_low"] < 0.5 < rows.loc[("sex", "synthetic"), "auc_high"]


def test_a_covariate_that_cannot_be_judged_is_named() -> None:
    given = material(np.random.default_rng(2), obedient=True)
    given.synthetic["requested_mmse"], given.synthetic["requested_site"] = 28.0, "a"
    found = fidelity(given, ("mmse", "site"), 200, 0)
    assert found.table.empty
    assert [note.split(":")[0] for note in found.notes] == ["mmse", "site"]


def test_scans_that_are_predicted_better_than_any_new_person_are_called_copies() -> None:
    row = {"covariate": "age_years", "method": "predicted", "n": 20, "slope": 0.9, "mae": 2.0}
    real = row | {"people": "real", "r": 0.6, "r_low": 0.4, "r_high": 0.8}
    for r_low, found in ((0.7, False), (0.9, True)):
        made = row | {"people": "synthetic", "r": 0.95, "r_low": r_low, "r_high": 0.99}
        assert ("points to copies" in fidelity_sentence([made, real])) == found


def test_sentences_are_about_an_extractor_that_others_use_where_there_is_one() -> None:
    assert lead_extractor(["random", "med3d"]) == "med3d"
    assert lead_extractor(["random"]) == "random"


def test_usefulness_of_obedient_and_of_disobedient_scans() -> None:
    table, notes = utility_rows(material(np.random.default_rng(3), obedient=True), NAMES, 200, 0)
    rows = table.set_index("trained_on")
    assert not notes
    assert set(table["target"]) == {"sex"}
    assert rows.loc[SYNTHETIC, "auc_low"] > 0.8
    assert rows.loc[SYNTHETIC, "gain_low"] < 0.05
    assert rows.loc[BOTH, "gain"] == pytest.approx(rows.loc[BOTH, "auc"] - rows.loc[REAL, "auc"])
    assert rows.loc[SAME_N, "n_train"] in (39, 40, 41)
    assert rows["n_test"].eq(50).all()
    table, _ = utility_rows(material(np.random.default_rng(4), obedient=False), NAMES, 200, 0)
    rows = table.set_index("trained_on")
    assert rows.loc[SYNTHETIC, "gain_high"] < 0
    assert rows.loc[REAL, "auc_low"] > 0.8


def test_usefulness_needs_two_categories() -> None:
    given = material(np.random.default_rng(5), obedient=True)
    given.synthetic["requested_sex"] = "F"
    table, notes = utility_rows(given, ("sex",), 200, 0)
    assert table.empty
    assert notes[0].startswith("sex: not two categories")


def test_predictor_with_more_voxels_than_people_finds_the_one_that_matters() -> None:
    generator = np.random.default_rng(6)
    hidden = generator.standard_normal(60)
    voxels = (np.outer(hidden, generator.standard_normal(500)) + generator.standard_normal((60, 500))).astype(
        np.float32
    )
    readings = Readings(np.empty((60, 0)), voxels)
    train, test = np.arange(40), np.arange(40, 60)
    predicted = fit_numeric(readings.rows(train), 5 * hidden[train]).numbers(readings.rows(test))
    assert np.corrcoef(predicted, hidden[test])[0, 1] > 0.98
    assert np.polyfit(5 * hidden[test], predicted, 1)[0] == pytest.approx(1, abs=0.1)


def test_folds_share_out_everybody_once() -> None:
    assert sorted(np.concatenate(folds(13, 0)).tolist()) == list(range(13))
    assert len(folds(3, 0)) == 3


def test_auc_over_categories_is_the_mean_of_one_against_the_rest() -> None:
    perfect = np.column_stack([[0, 0, 1, 1, 2, 2], np.repeat(np.eye(3), 2, axis=0)])
    assert macro_auc(perfect) == 1
    assert np.isnan(macro_auc(perfect[:2]))
    worst = perfect.copy()
    worst[:, 1] = 1 - worst[:, 1]
    assert macro_auc(worst) == pytest.approx(2 / 3)


def test_numbers_and_categories() -> None:
    assert numbers_of(pd.Series(["1.5", "", None])).tolist()[:1] == [1.5]  # type: ignore[union-attr]
    assert numbers_of(pd.Series(["F", "M"])) is None


def test_names_say_extractor_n_and_normalisation() -> None:
    assert metric_name("fid", "random", 24, "z-scored brain") == "FID-random(n=24, z-scored brain)"
    assert metric_name("kid", "med3d", 24, "z-scored brain") == "KID(Med3D ResNet-50, n=24, z-scored brain)"


def test_diversity_sees_that_scans_are_copies_of_each_other(tmp_path: Path) -> None:
    mask = np.ones((24, 26, 24), dtype=bool)

    def brain(seed: int) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(0.2, 1, mask.shape).astype(np.float32)

    shared = brain(99)

    def alike(key: str) -> NDArray[np.float32]:
        return 0.7 * shared + 0.3 * brain(int(key))

    real = ScanSet("real", tuple(map(str, range(8))), lambda key: brain(int(key)))
    others = ScanSet("synthetic", tuple(map(str, range(20, 27))), lambda key: brain(int(key)))
    copies = ScanSet("copies", tuple(map(str, range(40, 47))), alike)
    rows = pd.DataFrame(diversity_rows(mask, [real, others, copies], 1000, 300, 0, tmp_path))
    assert set(rows["measure"]) == {"MS-SSIM (2 scales, brain)"}
    part = rows.set_index("set")
    assert part.loc["real", "num_pairs"] == 28
    assert part.loc["synthetic", "minus_real_low"] < 0 < part.loc["synthetic", "minus_real_high"]
    assert part.loc["copies", "minus_real_low"] > 0.1
    again = pd.DataFrame(diversity_rows(mask, [real, others, copies], 1000, 300, 0, tmp_path))
    pd.testing.assert_frame_equal(rows, again)


def test_components_of_many_people_by_iteration_are_those_of_all_inner_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    ages = generator.uniform(40, 80, 200)
    voxels = generator.standard_normal((200, 300)) + np.outer((ages - 60) / 10, generator.standard_normal(300))
    readings = Readings(np.zeros((200, 0)), voxels.astype(np.float32))
    whole = fit_numeric(readings, ages).numbers(readings)
    monkeypatch.setattr(predictors, "SOLVED_WHOLE", 50)
    np.testing.assert_allclose(fit_numeric(readings, ages).numbers(readings), whole, rtol=0, atol=0.01)


def test_resamples_drawn_in_parts_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    real, synthetic = volumes(generator, 31), volumes(generator, 25)
    at_once = structure_rows(real, synthetic, 300, 20, 0)
    monkeypatch.setattr(structures, "DRAWN_AT_ONCE", 7 * 31)
    pd.testing.assert_frame_equal(structure_rows(real, synthetic, 300, 20, 0), at_once)


def people_of_one_kind(num: int, prefix: str) -> pd.DataFrame:
    return pd.DataFrame({"key": [f"{prefix}{place}" for place in range(num)]})


def test_larger_groups_are_a_random_choice_and_smaller_ones_stay() -> None:
    held_out = people_of_one_kind(60, "p")
    everybody = QualityPeople(people_of_one_kind(25, "s"), held_out[10:50], held_out, people_of_one_kind(8, "t"), ())
    few = _at_most(everybody, 20, 0)
    assert [len(part) for part in (few.synthetic, few.reference, few.held_out, few.training)] == [20, 20, 20, 8]
    assert set(few.reference["key"]) == set(few.held_out["key"])
    assert list(few.reference.index) == list(range(20))
    assert "a random 20 of 40 real people" in " ".join(few.notes)
    some = _at_most(everybody, 45, 0)
    assert list(some.reference["key"]) == list(everybody.reference["key"])
    assert len(some.held_out) == 45
    assert set(some.reference["key"]) < set(some.held_out["key"])
    assert some.notes == ()
    assert len(_at_most(everybody, 60, 0).held_out) == 60
