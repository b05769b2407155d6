"""Copies of training scans: planted ones must be found, and none where nothing was copied, however bad the scans are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.maths.isolation import extreme_threshold, isolation
from gen3d.synthesis.memorisation import Memorisation, RealScans, closeness, memorisation, paired_share

LIMIT = 0.01
NUM_TRAIN, NUM_HELD_OUT, NUM_SYNTHETIC = 40, 12, 60
Vectors = NDArray[np.float64]


class Population:
    """People about a common mean: Gaussian, with a variance that falls with the root of the dimension's number."""

    def __init__(self, seed: int, num_dimensions: int = 100) -> None:
        self.generator = np.random.default_rng(seed)
        self.std = np.arange(1, num_dimensions + 1) ** -0.25
        self.mean = 3.0 * self.generator.standard_normal(num_dimensions)
        self.train, self.held_out = self.draw(NUM_TRAIN), self.draw(NUM_HELD_OUT)

    def draw(self, num: int) -> Vectors:
        return self.mean + self.noise(num)

    def noise(self, num: int) -> Vectors:
        return self.generator.standard_normal((num, len(self.std))) * self.std

    def copies(self, num: int, noise: float = 0.2) -> Vectors:
        chosen = self.train[self.generator.integers(NUM_TRAIN, size=num)]
        return chosen + noise * self.noise(num)

    def blurred(self, num_components: int, shrink: float = 0.7) -> Vectors:
        """Samples of the first principal components of the training people: they correlate with everybody."""
        mean = self.train.mean(axis=0)
        _, singular, components = np.linalg.svd(self.train - mean, full_matrices=False)
        scores = self.generator.standard_normal((NUM_SYNTHETIC, num_components)) * singular[:num_components]
        return mean + shrink * scores / math.sqrt(NUM_TRAIN) @ components[:num_components]

    def audit(self, synthetic: Vectors, **settings: float) -> Memorisation:
        return memorisation(
            synthetic,
            people(self.train),
            people(self.held_out),
            num_resamples=200,
            **settings,  # type: ignore[arg-type]
        )


def people(vectors: Vectors, mirrored: Vectors | None = None) -> RealScans:
    return RealScans(vectors, np.arange(len(vectors)), mirrored)


def direct_correlations(queries: Vectors, scans: Vectors, mean: Vectors) -> Vectors:
    first, second = queries - mean, scans - mean
    norms = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    return np.asarray(first @ second.T / norms)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_an_overfitted_generator_trips_the_alarm(share: float, seed: int) -> None:
    population = Population(seed)
    num = round(share * NUM_SYNTHETIC)
    synthetic = np.concatenate([population.copies(num), population.draw(NUM_SYNTHETIC - num)])
    found = population.audit(synthetic)
    assert found.copies.value > LIMIT
    assert found.copied[:num].mean() > 0.6
    assert not found.copied[num:].any()


@pytest.mark.parametrize("seed", range(10))
def test_held_out_people_in_the_role_of_synthetic_scans_pass(seed: int) -> None:
    population = Population(seed)
    found = population.audit(population.draw(NUM_HELD_OUT))
    assert found.copies.value == 0
    assert found.copies.high < 0.3


@pytest.mark.parametrize("num_components", [2, 5, 20])
def test_a_blurred_generator_passes_though_it_correlates_with_everybody(num_components: int) -> None:
    for seed in range(5):
        population = Population(seed)
        found = population.audit(population.blurred(num_components))
        assert found.copies.value <= LIMIT
        usual = found.closeness[0]
        assert usual.share.value > usual.expected_high or num_components == 20, (
            "the usual rule is expected to fail here"
        )


def test_blurred_copies_are_copies() -> None:
    population = Population(0)
    mean = population.train.mean(axis=0)
    components = np.linalg.svd(population.train - mean, full_matrices=False)[2][:20]
    copies = mean + 0.6 * (population.copies(NUM_SYNTHETIC, 0.0) - mean) @ components.T @ components
    assert population.audit(copies).copies.value > 0.6


def test_scans_that_are_all_the_mean_are_no_copies_and_nothing_breaks() -> None:
    population = Population(0)
    found = population.audit(np.repeat(population.train.mean(axis=0)[None], 5, axis=0))
    assert found.copies.value == 0
    assert np.isfinite(found.isolation).all()


def test_mixtures_of_two_training_people_are_copies() -> None:
    population = Population(1, num_dimensions=500)
    pairs = [population.generator.choice(NUM_TRAIN, 2, replace=False) for _ in range(20)]
    mixed = np.stack([population.train[list(pair)].mean(axis=0) for pair in pairs])
    found = population.audit(mixed)
    assert found.copies.value > 0.5
    assert all(found.nearest[scan] in pair for scan, pair in enumerate(pairs))


def test_somebody_under_two_names_is_told_and_hides_no_copy() -> None:
    population = Population(2)
    population.train[1] = population.train[0] + 0.05 * population.noise(1)[0]
    copies = population.train[[0, 1, 5, 6, 7]] + 0.1 * population.noise(5)
    found = population.audit(np.concatenate([copies, population.draw(20)]))
    assert found.num_doubles == 2
    np.testing.assert_array_equal(np.flatnonzero(found.copied), np.arange(5))


def test_a_mirrored_copy_counts_when_mirror_images_are_given() -> None:
    population = Population(3)
    mirror = np.random.default_rng(0).permutation(len(population.std))
    train, held_out = population.train, population.held_out
    synthetic = np.concatenate([train[4:7][:, mirror], population.draw(20)])
    with_mirror = memorisation(synthetic, people(train, train[:, mirror]), people(held_out, held_out[:, mirror]))
    np.testing.assert_array_equal(np.flatnonzero(with_mirror.copied), [0, 1, 2])
    np.testing.assert_array_equal(with_mirror.nearest[:3], [4, 5, 6])
    assert with_mirror.mirrored[:3].all()
    assert population.audit(synthetic).copies.value == 0


def test_statistics_count_people_and_not_scans() -> None:
    population = Population(4)
    twice = np.concatenate([population.train, population.train[:10] + 0.1 * population.noise(10)])
    train = RealScans(twice, np.append(np.arange(NUM_TRAIN), np.arange(10)))
    copies = population.train[:5] + 0.1 * population.noise(5)
    found = memorisation(np.concatenate([copies, population.draw(20)]), train, people(population.held_out))
    assert found.num_train == NUM_TRAIN
    assert len(found.real_isolation) == NUM_TRAIN + NUM_HELD_OUT
    np.testing.assert_array_equal(np.flatnonzero(found.copied), np.arange(5))  # a second scan hides no copy
    assert found.subjects_copied.value == pytest.approx(5 / NUM_TRAIN)


def test_similarity_is_the_correlation_about_the_training_mean() -> None:
    population = Population(5)
    synthetic = population.draw(7)
    expected = direct_correlations(synthetic, population.train, population.train.mean(axis=0))
    found = population.audit(synthetic)
    np.testing.assert_allclose(found.similarity, expected.max(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(found.nearest, expected.argmax(axis=1))


def test_isolation_in_a_case_that_can_be_worked_out() -> None:
    levels = np.array([[2.0, 0.5, -0.5, 0.1, 0.4]])  # three training people, two held out
    nearest, found = isolation(np.tanh(levels), num_train=3)
    first = (2.0 - 0.5) / np.std([0.5, -0.5, 0.1, 0.4], ddof=1)
    second = (0.5 - 0.4) / np.std([-0.5, 0.1, 0.4], ddof=1)
    assert nearest[0] == 0
    assert found[0] == pytest.approx(max(first, second))
    _, pair = isolation(np.tanh(np.array([[2.0, 1.9, -0.5, 0.1, 0.4]])), num_train=3)
    assert pair[0] == pytest.approx((1.9 - 0.4) / np.std([-0.5, 0.1, 0.4], ddof=1))


def test_the_threshold_is_the_quantile_of_a_gumbel_distribution_and_ignores_doubles() -> None:
    values = np.random.default_rng(0).gumbel(2.0, 0.5, size=4000)
    exact = 2.0 - 0.5 * math.log(-math.log1p(-1e-5))
    threshold, num_doubles = extreme_threshold(values, 1e-5)
    assert threshold == pytest.approx(exact, rel=0.03)
    assert num_doubles == 0
    spoilt, num_doubles = extreme_threshold(np.append(values[:40], [30.0, 31.0]), 1e-5)
    assert num_doubles == 2
    assert spoilt == pytest.approx(extreme_threshold(values[:40], 1e-5)[0])


def test_what_is_expected_above_the_percentile_of_few_held_out_people() -> None:
    generator = np.random.default_rng(0)
    shares, inside = [], []
    for _ in range(2000):
        found = closeness(generator.standard_normal(50), generator.standard_normal(10), 95.0)
        shares.append(found.share.value)
        inside.append(found.expected_low <= found.share.value <= found.expected_high)
    assert found.expected == pytest.approx(1 / 11)  # the largest of ten is the threshold
    assert np.mean(shares) == pytest.approx(found.expected, abs=0.01)
    assert np.mean(inside) >= 0.95
    assert closeness(generator.standard_normal(5), np.arange(99.0), 95.0).threshold == 94.0


def test_comparisons_without_a_threshold_are_even_for_a_generator_that_knows_nobody() -> None:
    runs = [Population(seed) for seed in range(30)]
    found = [population.audit(population.draw(NUM_SYNTHETIC)) for population in runs]
    assert np.mean([one.paired.value for one in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([one.membership.value for one in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([one.privacy_loss.value for one in found]) == pytest.approx(0.0, abs=0.04)
    assert np.mean([one.paired.low > 0.5 for one in found]) < 0.15
    assert np.mean([one.membership.low > 0.5 for one in found]) < 0.15
    assert np.mean([one.privacy_loss.low > 0 for one in found]) < 0.15


def test_comparisons_without_a_threshold_notice_copies() -> None:
    population = Population(6)
    population.train = population.train[:NUM_HELD_OUT]
    found = population.audit(population.train + 0.1 * population.noise(NUM_HELD_OUT))
    assert found.paired.value == 1.0
    assert found.paired.low > 0.6
    assert found.membership.low > 0.9
    assert found.accuracy_train.value < 0.1
    assert found.accuracy_held_out.value > 0.25
    assert found.privacy_loss.low > 0


def test_paired_share_is_one_where_every_scan_is_nearer_to_training_people() -> None:
    near, far = np.full((10, 30), 0.9), np.full((10, 8), 0.1)
    assert paired_share(near, far, 100, 0).value == 1.0
    assert paired_share(far, near, 100, 0).value == 0.0
    assert paired_share(near, near[:, :8], 100, 0).value == 0.5


@pytest.mark.parametrize("num", [1, 2])
def test_one_or_two_synthetic_scans_can_be_audited(num: int) -> None:
    population = Population(8)
    assert population.audit(population.copies(num)).copied.all()
    found = population.audit(population.draw(num))
    assert not found.copied.any()
    assert np.isnan(found.privacy_loss.value) == (num == 1)


def test_the_same_seed_gives_the_same_figures() -> None:
    population = Population(7)
    synthetic = population.draw(20)
    first, second = population.audit(synthetic), population.audit(synthetic)
    assert (first.paired, first.privacy_loss, first.membership) == (
        second.paired,
        second.privacy_loss,
        second.membership,
    )
