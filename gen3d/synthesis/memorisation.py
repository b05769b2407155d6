"""Whether synthetic scans copy training scans: nearest neighbours in an embedding, against people that were held out.

Dar et al. 2023 (arXiv 2307.01148) call a synthetic scan a copy when it correlates more with its nearest training scan than
95 % of held-out scans do. That rule flags every blurred generator, because scans of few components correlate with everybody,
and with a dozen held-out people its threshold is close to their maximum. Here a copy is recognised by its `isolation`:
how much nearer its nearest training person (or two) is than all other people, which does not depend on blur. The threshold
comes from the isolation of all real people: held-out people, and each training person compared with all others.

Pure functions of arrays. Scans are rows; statistics count people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from gen3d.maths.isolation import extreme_threshold, isolation
from gen3d.maths.stats import Interval, bootstrap_auroc, wilson_interval

Float = NDArray[np.float64]
Index = NDArray[np.int64]

NUM_SUBSAMPLES = 100


@dataclass(frozen=True)
class RealScans:
    """Embeddings of real scans [n, d], the number of the person of each [n], and of their left-right mirror images [n, d]."""

    vectors: NDArray[np.floating]
    person: Index
    mirrored: NDArray[np.floating] | None = None

    @property
    def num_people(self) -> int:
        """People, not scans."""
        return len(np.unique(self.person))


@dataclass(frozen=True)
class Closeness:
    """Synthetic scans that correlate more with a training scan than the held-out people's percentile.

    `threshold` is the correlation of the held-out person of that rank from above; `expected` is the share with which it
    would be exceeded by scans of new people, with a 95 % range that contains both the few held-out people behind the
    threshold and the number of synthetic scans (beta-binomial).
    """

    percentile: float
    threshold: float
    share: Interval
    expected: float
    expected_low: float
    expected_high: float


@dataclass(frozen=True)
class Memorisation:
    """The figures of one embedding.

    Per synthetic scan [s]: `nearest`, the row of its nearest training scan; `mirrored`, whether that scan's mirror image is
    meant; `similarity`, their correlation; `isolation` and `copied`.
    `real_isolation` are the values of real people behind `threshold`; `num_doubles` of them are as isolated as copies (the
    same person under two names).
    """

    nearest: Index
    mirrored: NDArray[np.bool_]
    similarity: Float
    isolation: Float
    copied: NDArray[np.bool_]
    threshold: float
    real_isolation: Float
    num_doubles: int
    num_train: int
    num_held_out: int
    copies: Interval
    subjects_copied: Interval
    closeness: tuple[Closeness, ...]
    paired: Interval
    accuracy_train: Interval
    accuracy_held_out: Interval
    privacy_loss: Interval
    membership: Interval


class _AuditScans:
    """All scans of an audit in one Gram matrix, from which every correlation about any mean follows."""

    def __init__(self, synthetic: NDArray[np.floating], train: RealScans, held_out: RealScans) -> None:
        parts = [synthetic, train.vectors, held_out.vectors]
        parts += [scans.mirrored for scans in (train, held_out) if scans.mirrored is not None]
        stacked = np.concatenate(parts).astype(np.float64)
        stacked -= stacked.mean(axis=0)  # keeps the differences below exact
        self.gram = stacked @ stacked.T
        ends = np.cumsum([len(part) for part in parts])
        self.synthetic, self.train, self.held_out = np.split(np.arange(ends[2]), ends[:2])
        self.train_person = np.unique(train.person, return_inverse=True)[1]
        self.held_out_person = np.unique(held_out.person, return_inverse=True)[1]
        self.num_train, self.num_held_out = train.num_people, held_out.num_people
        mirror_images = np.arange(ends[2], ends[-1])
        rows, people = [self.train, self.held_out], [self.train_person, self.held_out_person + self.num_train]
        if train.mirrored is not None:
            rows.append(mirror_images[: len(self.train)])
            people.append(people[0])
        if held_out.mirrored is not None:
            rows.append(mirror_images[-len(self.held_out) :])
            people.append(people[1])
        self.candidates, self.candidate_person = np.concatenate(rows), np.concatenate(people)

    @property
    def num_people(self) -> int:
        """Training and held-out people."""
        return self.num_train + self.num_held_out

    def first_scans(self, held_out: bool) -> Index:
        """One row per person."""
        rows, person = (self.held_out, self.held_out_person) if held_out else (self.train, self.train_person)
        return rows[np.unique(person, return_index=True)[1]]

    def mean_weights(self, without: int | None = None) -> Float:
        """Weights of the mean training scan, each person counting once; person `without` left out."""
        weights = np.zeros(len(self.gram))
        weights[self.train] = 1.0 / np.bincount(self.train_person)[self.train_person]
        if without is not None:
            weights[self.train[self.train_person == without]] = 0.0
        total: float = weights.sum()
        return weights / total

    def correlations(self, queries: Index, columns: Index, weights: Float) -> Float:
        """[queries, columns]: correlation after removal of the mean with these weights."""
        along = self.gram @ weights
        centre = float(weights @ along)
        inner = self.gram[np.ix_(queries, columns)] - along[queries][:, None] - along[columns][None, :] + centre
        squared = np.maximum(np.diag(self.gram) - 2.0 * along + centre, np.finfo(np.float64).tiny)
        return np.asarray(inner / np.sqrt(np.outer(squared[queries], squared[columns])))

    def to_people(self, queries: Index, weights: Float) -> Float:
        """[queries, people]: the largest correlation with a scan of the person, or with its mirror image."""
        largest = np.full((len(queries), self.num_people), -np.inf)
        correlations = self.correlations(queries, self.candidates, weights)
        for column, person in enumerate(self.candidate_person):
            np.maximum(largest[:, person], correlations[:, column], out=largest[:, person])
        return largest


def closeness(similarity: Float, held_out: Float, percentile: float) -> Closeness:
    """The share of synthetic scans above the held-out people's percentile: the measure of Dar et al. 2023.

    Args:
        similarity: [s] correlation of each synthetic scan with its nearest training person.
        held_out: [h] the same of each held-out person.
        percentile: of the held-out people; with fewer than it needs, their largest value is the threshold.
    """
    num, num_people = len(similarity), len(held_out)
    rank = max(1, int((1.0 - percentile / 100.0) * (num_people + 1)))
    threshold = float(np.sort(held_out)[-rank])
    law = betabinom(num, rank, num_people + 1 - rank)
    low, high = (float(law.ppf(q)) / num for q in (0.025, 0.975))
    share = wilson_interval(int(np.sum(similarity > threshold)), num)
    return Closeness(percentile, threshold, share, rank / (num_people + 1), low, high)


def memorisation(
    synthetic: NDArray[np.floating],
    train: RealScans,
    held_out: RealScans,
    *,
    tail: float = 1e-5,
    percentiles: tuple[float, ...] = (95.0, 99.0),
    num_resamples: int = 1000,
    seed: int = 0,
) -> Memorisation:
    """Every figure of the audit for one embedding.

    Args:
        synthetic: [s, d] embeddings of the synthetic scans.
        train: scans of the generator's training people, at least two people.
        held_out: scans of similar people that it never saw, at least two people.
        tail: probability that a real person is as isolated as the threshold for copies.
        percentiles: of the held-out people's correlations, for `closeness`.
        num_resamples: bootstrap draws.
        seed: of subsamples and draws.
    """
    scans = _AuditScans(synthetic, train, held_out)
    everybody = scans.mean_weights()
    to_people = scans.to_people(scans.synthetic, everybody)
    nearest_person, alone = isolation(to_people, scans.num_train)
    real = _isolation_of_people(scans)
    threshold, num_doubles = extreme_threshold(real, tail)
    copied = alone > threshold
    similarity = to_people[:, : scans.num_train].max(axis=1)
    row, is_mirrored = _nearest_scan(scans, nearest_person, everybody)
    held_out_similarity = scans.to_people(scans.first_scans(held_out=True), everybody)[:, : scans.num_train].max(axis=1)
    to_train, to_held_out = _fair_similarity(scans)
    return Memorisation(
        nearest=row,
        mirrored=is_mirrored,
        similarity=similarity,
        isolation=alone,
        copied=copied,
        threshold=threshold,
        real_isolation=real,
        num_doubles=num_doubles,
        num_train=scans.num_train,
        num_held_out=scans.num_held_out,
        copies=wilson_interval(int(copied.sum()), len(copied)),
        subjects_copied=wilson_interval(len(np.unique(nearest_person[copied])), scans.num_train),
        closeness=tuple(closeness(similarity, held_out_similarity, percentile) for percentile in percentiles),
        paired=paired_share(to_train, to_held_out, num_resamples, seed),
        membership=bootstrap_auroc(to_train.max(axis=0), to_held_out.max(axis=0), num_resamples, seed),
        **_adversarial(scans, num_resamples, seed),
    )


def _isolation_of_people(scans: _AuditScans) -> Float:
    """Isolation of every real person by the first scan: training people, then held-out people."""
    of_training = []
    for person, row in enumerate(scans.first_scans(held_out=False)):
        similarity = scans.to_people(np.array([row]), scans.mean_weights(without=person))
        similarity[:, person] = np.nan
        of_training.append(isolation(similarity, scans.num_train)[1])
    similarity = scans.to_people(scans.first_scans(held_out=True), scans.mean_weights())
    number = np.arange(scans.num_held_out)
    similarity[number, scans.num_train + number] = np.nan  # not compared with oneself
    return np.concatenate([*of_training, isolation(similarity, scans.num_train)[1]])


def _nearest_scan(scans: _AuditScans, person: Index, weights: Float) -> tuple[Index, NDArray[np.bool_]]:
    """The training scan behind each synthetic scan's nearest person, and whether it is the scan's mirror image."""
    of_training = scans.candidate_person < scans.num_train
    correlations = scans.correlations(scans.synthetic, scans.candidates[of_training], weights)
    other = scans.candidate_person[of_training][None, :] != person[:, None]
    column = np.argmax(np.where(other, -np.inf, correlations), axis=1)
    return column % len(scans.train), column >= len(scans.train)


def _fair_similarity(scans: _AuditScans) -> tuple[Float, Float]:
    """[s, training people] and [s, held-out people]: correlations after removal of a mean without the compared person.

    A person who is part of the mean correlates less with everybody, which would hide that synthetic scans are nearer to
    training people. For a held-out person another training person is left out, so that all means have the same precision. One
    scan per person and its mirror image, so that people with more scans have no advantage.
    """
    columns: list[Float] = []
    for number in range(scans.num_people):
        is_train = number < scans.num_train
        weights = scans.mean_weights(without=number % scans.num_train)
        rows = scans.candidates[scans.candidate_person == number]
        num_scans = np.sum(
            scans.train_person == number if is_train else scans.held_out_person == number - scans.num_train
        )
        first = rows[:: int(num_scans)]  # the first scan, and the first mirror image where there are any
        columns.append(scans.correlations(scans.synthetic, first, weights).max(axis=1))
    stacked = np.stack(columns, axis=1)
    return stacked[:, : scans.num_train], stacked[:, scans.num_train :]


def paired_share(to_train: Float, to_held_out: Float, num_resamples: int, seed: int) -> Interval:
    """The share of synthetic scans that are nearest to a training person, among equally many training and held-out people.

    0.5 is expected without memorisation, whatever else is wrong with the scans; no threshold is needed (in the spirit of the
    data-copying test of Meehan et al. 2020). The measure has little power when few people are held out: an equally small set
    of training people seldom contains the one that was copied.

    Args:
        to_train, to_held_out: [s, people] similarities.
        num_resamples: draws of people, with replacement, behind the interval.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    num = min(to_train.shape[1], to_held_out.shape[1])

    def share(first: Index, second: Index) -> float:
        nearer, other = to_train[:, first].max(axis=1), to_held_out[:, second].max(axis=1)
        return float(np.mean((nearer > other) + 0.5 * (nearer == other)))

    def people() -> tuple[Index, Index]:
        first, second = (generator.permutation(values.shape[1])[:num] for values in (to_train, to_held_out))
        return first, second

    value = np.mean([share(*people()) for _ in range(NUM_SUBSAMPLES)])
    draws = [[chosen[generator.integers(num, size=num)] for chosen in people()] for _ in range(num_resamples)]
    low, high = np.percentile([share(*draw) for draw in draws], [2.5, 97.5])
    return Interval(float(value), float(low), float(high), to_train.shape[1] + to_held_out.shape[1])


def _adversarial(scans: _AuditScans, num_resamples: int, seed: int) -> dict[str, Interval]:
    """Nearest-neighbour adversarial accuracy to training and to held-out people, and its difference (Yale et al. 2020).

    Euclidean distances between equally many synthetic scans, training people and held-out people, averaged over random
    subsamples. 0.5: synthetic and real scans are indistinguishable; below: they are copies; towards 1: they look different.
    The privacy loss is held-out minus training: 0 is expected without memorisation. Intervals from
    resampling people and synthetic scans; a scan drawn twice is used once, as it would be its own nearest neighbour. NaN of a
    single synthetic scan.
    """
    names = ("accuracy_train", "accuracy_held_out", "privacy_loss")
    sizes = (scans.num_train, scans.num_held_out, scans.num_people)
    if len(scans.synthetic) < 2:
        return {name: Interval(np.nan, np.nan, np.nan, size) for name, size in zip(names, sizes, strict=True)}
    squared = np.diag(scans.gram)[:, None] + np.diag(scans.gram)[None, :] - 2.0 * scans.gram
    np.fill_diagonal(squared, np.inf)
    groups = [scans.synthetic, scans.first_scans(held_out=False), scans.first_scans(held_out=True)]
    num = min(len(rows) for rows in groups)
    generator = np.random.default_rng(seed)

    def accuracies(drawn: list[Index]) -> tuple[float, float, float]:
        size = min(len(rows) for rows in drawn)
        synthetic, train, held_out = (generator.permutation(rows)[:size] for rows in drawn)
        to_train, to_held_out = (_accuracy(squared, synthetic, real) for real in (train, held_out))
        return to_train, to_held_out, to_held_out - to_train

    values = np.mean([accuracies(groups) for _ in range(NUM_SUBSAMPLES)], axis=0)
    draws = [[np.unique(generator.choice(rows, size=num)) for rows in groups] for _ in range(num_resamples)]
    resampled = np.array([accuracies(drawn) for drawn in draws if min(len(rows) for rows in drawn) > 1])
    low, high = np.percentile(resampled - resampled.mean(axis=0), [2.5, 97.5], axis=0)
    return {
        name: Interval(float(values[k]), float(values[k] + low[k]), float(values[k] + high[k]), sizes[k])
        for k, name in enumerate(names)
    }


def _accuracy(squared: Float, synthetic: Index, real: Index) -> float:
    """Mean over synthetic and real scans of the share that is nearer to its own kind than to the other kind."""
    across = squared[np.ix_(synthetic, real)]
    among_synthetic, among_real = (squared[np.ix_(rows, rows)].min(axis=1) for rows in (synthetic, real))
    return float(0.5 * (np.mean(across.min(axis=1) > among_synthetic) + np.mean(across.min(axis=0) > among_real)))
