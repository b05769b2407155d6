"""What is computed in blocks is what it is at once, and leaving out grows with the number of people."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from gen3d.anomaly.calibration import calibrate, site_variance
from gen3d.anomaly.calibration.calibrate import null_figures
from gen3d.anomaly.calibration.panel import make_panel
from gen3d.classify.prediction import typicality
from gen3d.cohort import duplicates
from gen3d.maths import cross_validated, left_out, neighbourhoods, stats
from gen3d.maths.deviation import held_out_deviation
from gen3d.stratify import structure
from tests.anomaly.test_panel import table

SMALL = 7


def people(num: int = 60, width: int = 40) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((num, width))


def test_duplicates_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = people()
    values[50] = values[4] + 0.05 * people(1)[0]
    names = [f"p{row:02d}" for row in range(60)]
    at_once = duplicates.find_duplicates(values, names)
    monkeypatch.setattr(duplicates, "COMPARED_AT_ONCE", SMALL)
    in_blocks = duplicates.find_duplicates(values, names)
    assert [(pair.first, pair.second) for pair in in_blocks] == [("p04", "p50")]
    assert in_blocks[0].isolation == pytest.approx(at_once[0].isolation)


def test_areas_and_intervals_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    ill, well = generator.integers(0, 9, 31) + 2.0, generator.integers(0, 9, 23).astype(float)
    wins = (ill[:, None] > well) + 0.5 * (ill[:, None] == well)
    variance = wins.mean(axis=1).var(ddof=1) / 31 + wins.mean(axis=0).var(ddof=1) / 23
    found = stats.delong_interval(ill, well)
    assert found.value == wins.mean()
    assert found.low == pytest.approx(wins.mean() - 1.959964 * np.sqrt(variance), abs=1e-6)
    at_once = stats.bootstrap_auroc(ill, well, 100)
    generator = np.random.default_rng(0)
    drawn = [generator.multinomial(num, np.full(num, 1 / num), size=100) / num for num in (31, 23)]
    limits = np.percentile(np.einsum("bi,ij,bj->b", drawn[0], wins, drawn[1]), [2.5, 97.5])
    assert (at_once.value, at_once.low, at_once.high) == pytest.approx((wins.mean(), *limits))
    of_numbers = stats.bootstrap_interval(well, num_resamples=100)
    monkeypatch.setattr(stats, "RESAMPLED_AT_ONCE", 50)
    assert stats.bootstrap_auroc(ill, well, 100) == at_once
    assert stats.bootstrap_interval(well, num_resamples=100) == of_numbers


def test_areas_within_models_are_those_of_all_pairs() -> None:
    generator = np.random.default_rng(1)
    scores, positive = generator.standard_normal(80).round(1), generator.random(80) < 0.4
    weights = generator.integers(0, 3, (5, 40)).astype(float)
    models, of_person = np.arange(80) // 20, np.arange(80) % 40
    area = cross_validated.WithinModels(scores, positive, models, of_person, 40)
    pairs = (positive[:, None] & ~positive) & (models[:, None] == models)
    wins = np.where(pairs, (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores), 0.0)
    value = wins.sum() / pairs.sum()
    assert area.value == pytest.approx(value, rel=1e-12)
    drawn = weights[:, of_person]
    expected = np.einsum("bi,ij,bj->b", drawn, wins, drawn) / np.einsum("bi,ij,bj->b", drawn, pairs, drawn)
    np.testing.assert_allclose(area.resampled(weights), expected, rtol=1e-12)
    change = (wins - value * pairs) / pairs.sum()
    influence = np.bincount(of_person, weights=change.sum(axis=0) + change.sum(axis=1), minlength=40)
    np.testing.assert_allclose(area.influence, influence, rtol=1e-9, atol=1e-15)


def test_consensus_of_clusters_is_the_mean_share_of_resamples_together(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    labels, resampled = generator.integers(-1, 3, 40), generator.integers(-2, 3, (12, 40)).astype(np.int32)
    monkeypatch.setattr(structure, "COMPARED_AT_ONCE", SMALL)
    found = structure._consensus(labels, resampled)
    expected = np.full(40, np.nan)
    for person in np.flatnonzero(labels >= 0):
        shares = []
        for other in np.flatnonzero((labels == labels[person]) & (np.arange(40) != person)):
            both = (resampled[:, person] != structure.ABSENT) & (resampled[:, other] != structure.ABSENT)
            together = both & (resampled[:, person] == resampled[:, other]) & (resampled[:, person] >= 0)
            shares.append(together.sum() / both.sum() if both.any() else 0.0)
        expected[person] = np.mean(shares)
    np.testing.assert_allclose(found[labels >= 0], expected[labels >= 0])
    monkeypatch.setattr(structure, "MOST_OTHERS", 8)
    some = structure._consensus(labels, resampled)[labels >= 0]
    assert np.abs(some - expected[labels >= 0]).max() < 0.2
    assert some.mean() == pytest.approx(expected[labels >= 0].mean(), abs=0.03)


def test_trustworthiness_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    values, coordinates = people(90, 5), people(90, 2)[:, ::-1]
    monkeypatch.setattr(neighbourhoods, "COMPARED_AT_ONCE", SMALL)
    expected = sklearn_trustworthiness(values, coordinates, n_neighbors=6)
    assert neighbourhoods.trustworthiness(values, coordinates, 6) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(neighbourhoods, "MOST_JUDGED", 60)
    assert neighbourhoods.trustworthiness(values, coordinates, 6) == pytest.approx(expected, abs=0.05)


def test_the_nearest_other_person_is_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values, of_person = people(30, 3), np.arange(30) // 2
    expected = typicality.nearest_distances(values, of_person)
    monkeypatch.setattr(typicality, "COMPARED_AT_ONCE", SMALL)
    np.testing.assert_array_equal(typicality.nearest_distances(values, of_person), expected)


@pytest.mark.parametrize("num", [1, 400, 401, 5000])
def test_everybody_is_left_out_once_and_many_people_in_few_groups(num: int) -> None:
    groups = left_out.left_out_together(num)
    assert sorted(np.concatenate(groups)) == list(range(num))
    assert len(groups) == (num if num <= 400 else 200)


def test_many_people_are_left_out_in_groups_and_cost_few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = make_panel(table(a=230, b=200), ("site",))
    values = np.random.default_rng(0).standard_normal((len(panel.table), 20)).astype(np.float32)
    values[panel.calibration[230:]] *= 2  # site b scatters more
    monkeypatch.setattr(left_out, "GROUPS", 10)
    calls, original = [], site_variance.fit_site_variance

    def counted(*arguments: object) -> site_variance.SiteVariance:
        calls.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "fit_site_variance", counted)
    z = calibrate.calibrate(values, panel).z
    assert len(calls) == 11
    changed = values.copy()
    changed[panel.calibration[3]] *= 50
    again = calibrate.calibrate(changed, panel).z
    together = panel.calibration[3::10]  # left out with person 3, so that nothing of person 3 is in their fit
    np.testing.assert_allclose(again[together[1:]], z[together[1:]], rtol=1e-5, atol=1e-6)
    assert np.abs(again[panel.calibration[4]] - z[panel.calibration[4]]).max() > 1e-3


def test_held_out_distances_of_many_people_are_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    values = people(60, 12)
    monkeypatch.setattr(left_out, "MOST_ALONE", 10)
    monkeypatch.setattr(left_out, "GROUPS", 6)
    expected = held_out_deviation(values)
    far = values.copy()
    far[5] *= 30
    assert held_out_deviation(far)[5] > 10 * expected[5]


def test_figures_of_z_take_no_copy_of_z() -> None:
    z = np.random.default_rng(0).standard_normal((100, 20_000)).astype(np.float32)
    rows = np.arange(90)
    tracemalloc.start()
    found = null_figures(z, rows, 0.05, np.array(["a"] * 90, dtype=object))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < z.nbytes / 3
    assert found["sd"] == pytest.approx(z[:90].astype(float).std(), rel=1e-9)


def test_typicality_of_many_is_that_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values, new = people(60, 6), people(25, 6) + 0.3
    model = typicality.fit_typicality(values, np.arange(60))
    at_once = typicality.typicality(model, new)
    monkeypatch.setattr(typicality, "COMPARED_AT_ONCE", SMALL)
    in_blocks = typicality.typicality(model, new)
    for name in ("p", "percentile", "part_percentiles"):
        np.testing.assert_array_equal(getattr(in_blocks, name), getattr(at_once, name))
