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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from gen3d.maths.isolation import extreme_threshold, isolation
from gen3d.maths.stats import Interval, bootstrap_auroc, wilson_interval

Float = NDArray[np.float64]
Index = NDArray[np.int64]

NUM_SUBSAMPLES = 100
MOST_IN_A_DRAW = 1000
"""Scans of each kind in a subsample of the adversarial accuracy, whose time grows with their square."""
COMPARED_AT_ONCE = 1024
"""People who are compared with all others at a time."""
LOOKED_AT = 16
"""Chosen columns among which the largest value of a row is looked for; that none is chosen has a chance of 1e-7."""


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


@dataclass(frozen=True)
class Centre:
    """A mean scan: its inner products with all scans [n], and with itself."""

    along: Float
    square: float


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

    @cached_property
    def _along_each(self) -> tuple[Float, Float]:
        """Inner products of everything with the sum of each training person's scans, [people, n], and of all people's sum."""
        share = 1.0 / np.bincount(self.train_person)[self.train_person]
        by_person = np.argsort(self.train_person, kind="stable")
        starts = np.searchsorted(self.train_person[by_person], np.arange(self.num_train))
        rows = self.gram[self.train[by_person]] * share[by_person][:, None]
        each = rows if len(starts) == len(rows) else np.add.reduceat(rows, starts, axis=0)
        return each, each.sum(axis=0)

    @cached_property
    def _squares(self) -> Float:
        return np.diag(self.gram).copy()

    def mean(self, without: int | None = None) -> Centre:
        """The mean training scan, each person counting once; person `without` left out.

        What is left when one person is taken out follows from the products of that person's scans alone, so that a mean without
        each of n people costs n^2 and not n^3.
        """
        each, total = self._along_each
        along, num = (total, self.num_train) if without is None else (total - each[without], self.num_train - 1)
        along = along / num
        share = np.bincount(self.train_person)[self.train_person] * float(num)
        inside = slice(None) if without is None else self.train_person != without
        return Centre(along, float((along[self.train[inside]] / share[inside]).sum()))

    def correlations(self, queries: Index, columns: Index, centre: Centre) -> Float:
        """[queries, columns]: correlation after removal of a mean."""
        along = centre.along
        inner = self.gram[np.ix_(queries, columns)]
        inner -= along[queries][:, None]
        inner += centre.square - along[columns][None, :]
        squared = np.maximum(self._squares - 2.0 * along + centre.square, np.finfo(np.float64).tiny)
        inner /= np.sqrt(squared[queries])[:, None]
        inner /= np.sqrt(squared[columns])[None, :]
        return np.asarray(inner)

    def squared_distances(self, first: Index, second: Index) -> Float:
        """[first, second]: squared Euclidean distances; infinite of a scan from itself."""
        squared = self._squares[first][:, None] + self._squares[second][None, :]
        squared -= 2.0 * self.gram[np.ix_(first, second)]
        if first is second:
            np.fill_diagonal(squared, np.inf)
        return np.asarray(squared)

    def to_people(self, queries: Index, centre: Centre) -> Float:
        """[queries, people]: the largest correlation with a scan of the person, or with its mirror image."""
        correlations = self.correlations(queries, self._by_person, centre)
        if len(self._first_of_person) == correlations.shape[1]:
            return correlations
        return np.asarray(np.maximum.reduceat(correlations, self._first_of_person, axis=1))

    @cached_property
    def _order(self) -> Index:
        return np.argsort(self.candidate_person, kind="stable")

    @cached_property
    def _by_person(self) -> Index:
        """Rows of the candidates, person by person."""
        return self.candidates[self._order]

    @cached_property
    def _first_of_person(self) -> Index:
        """Where each person begins among them."""
        return np.searchsorted(self.candidate_person[self._order], np.arange(self.num_people))

    @cached_property
    def one_of_each(self) -> tuple[Index, Index]:
        """Of every person the row of the first scan and of its mirror image, that of the scan where there is none."""
        of_person = np.concatenate([np.bincount(self.train_person), np.bincount(self.held_out_person)])
        ends = np.append(self._first_of_person[1:], len(self.candidates))
        image = self._first_of_person + of_person
        first = self._by_person[self._first_of_person]
        return first, np.where(image < ends, self._by_person[np.minimum(image, ends - 1)], first)


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
    everybody = scans.mean()
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
    of_training = np.empty(scans.num_train)
    for person, row in enumerate(scans.first_scans(held_out=False)):
        similarity = scans.to_people(np.array([row]), scans.mean(without=person))
        similarity[:, person] = np.nan
        of_training[person] = isolation(similarity, scans.num_train)[1][0]
    everybody, rows = scans.mean(), scans.first_scans(held_out=True)
    of_held_out = np.empty(scans.num_held_out)
    for start in range(0, len(rows), COMPARED_AT_ONCE):
        part = np.arange(start, min(start + COMPARED_AT_ONCE, len(rows)))
        similarity = scans.to_people(rows[part], everybody)
        similarity[part - start, scans.num_train + part] = np.nan  # not compared with oneself
        of_held_out[part] = isolation(similarity, scans.num_train)[1]
    return np.concatenate([of_training, of_held_out])


def _nearest_scan(scans: _AuditScans, person: Index, centre: Centre) -> tuple[Index, NDArray[np.bool_]]:
    """The training scan behind each synthetic scan's nearest person, and whether it is the scan's mirror image."""
    of_training = scans.candidate_person < scans.num_train
    correlations = scans.correlations(scans.synthetic, scans.candidates[of_training], centre)
    other = scans.candidate_person[of_training][None, :] != person[:, None]
    column = np.argmax(np.where(other, -np.inf, correlations), axis=1)
    return column % len(scans.train), column >= len(scans.train)


def _fair_similarity(scans: _AuditScans) -> tuple[Float, Float]:
    """[s, training people] and [s, held-out people]: correlations after removal of a mean without the compared person.

    A person who is part of the mean correlates less with everybody, which would hide that synthetic scans are nearer to
    training people. For a held-out person another training person is left out, so that all means have the same precision. One
    scan per person and its mirror image, so that people with more scans have no advantage.
    """
    similarity = np.empty((len(scans.synthetic), scans.num_people))
    first, mirror_images = scans.one_of_each
    for number in range(scans.num_people):
        centre = scans.mean(without=number % scans.num_train)
        rows = np.unique([first[number], mirror_images[number]])
        similarity[:, number] = scans.correlations(scans.synthetic, rows, centre).max(axis=1)
    return similarity[:, : scans.num_train], similarity[:, scans.num_train :]


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

    nearest_of = tuple(_LargestOfSome(values, num) for values in (to_train, to_held_out))

    def share(first: Index, second: Index) -> float:
        nearer, other = nearest_of[0](first), nearest_of[1](second)
        return float(np.mean((nearer > other) + 0.5 * (nearer == other)))

    def people() -> tuple[Index, Index]:
        first, second = (generator.permutation(values.shape[1])[:num] for values in (to_train, to_held_out))
        return first, second

    value = np.mean([share(*people()) for _ in range(NUM_SUBSAMPLES)])
    draws = [[chosen[generator.integers(num, size=num)] for chosen in people()] for _ in range(num_resamples)]
    low, high = np.percentile([share(*draw) for draw in draws], [2.5, 97.5])
    return Interval(float(value), float(low), float(high), to_train.shape[1] + to_held_out.shape[1])


class _LargestOfSome:
    """The largest value of every row [s] over some columns, for many random choices of `num` or more different columns.

    Where many columns are chosen, one of the largest values of each row is nearly always among them, so that only a few
    columns of each row are looked at. The result is exact.
    """

    def __init__(self, values: Float, num: int) -> None:
        self._values, width = values, values.shape[1]
        looked_at = int(np.ceil(LOOKED_AT * width / max(1, num)))
        self._top = None
        if looked_at < num // 2:
            top = np.argpartition(-values, looked_at - 1, axis=1)[:, :looked_at]
            self._top = np.take_along_axis(
                top, np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable"), axis=1
            )

    def __call__(self, columns: Index) -> Float:
        """columns [m] -> [s]."""
        if self._top is None:
            return np.asarray(self._values[:, columns].max(axis=1))
        chosen = np.zeros(self._values.shape[1], dtype=bool)
        chosen[columns] = True
        there = chosen[self._top]
        place = there.argmax(axis=1)
        rows = np.arange(len(place))
        largest = self._values[rows, self._top[rows, place]]
        none = ~there[rows, place]
        if none.any():
            largest[none] = self._values[none][:, chosen].max(axis=1)
        return np.asarray(largest)


def _adversarial(scans: _AuditScans, num_resamples: int, seed: int) -> dict[str, Interval]:
    """Nearest-neighbour adversarial accuracy to training and to held-out people, and its difference (Yale et al. 2020).

    Euclidean distances between equally many synthetic scans, training people and held-out people (at most
    MOST_IN_A_DRAW), averaged over random subsamples. 0.5: synthetic and real scans are indistinguishable; below: they are
    copies; towards 1: they look different. The privacy loss is held-out minus training: 0 is expected without memorisation.
    Intervals from resampling people and synthetic scans; a scan drawn twice is used once, as it would be its own nearest
    neighbour. NaN of a single synthetic scan.
    """
    names = ("accuracy_train", "accuracy_held_out", "privacy_loss")
    sizes = (scans.num_train, scans.num_held_out, scans.num_people)
    if len(scans.synthetic) < 2:
        return {name: Interval(np.nan, np.nan, np.nan, size) for name, size in zip(names, sizes, strict=True)}
    groups = [scans.synthetic, scans.first_scans(held_out=False), scans.first_scans(held_out=True)]
    num = min(MOST_IN_A_DRAW, *(len(rows) for rows in groups))
    generator = np.random.default_rng(seed)

    def accuracies(drawn: list[Index]) -> tuple[float, float, float]:
        size = min(num, *(len(rows) for rows in drawn))
        synthetic, train, held_out = (generator.permutation(rows)[:size] for rows in drawn)
        to_train, to_held_out = (_accuracy(scans, synthetic, real) for real in (train, held_out))
        return to_train, to_held_out, to_held_out - to_train

    values = np.mean([accuracies(groups) for _ in range(NUM_SUBSAMPLES)], axis=0)
    draws = [[np.unique(generator.choice(rows, size=num)) for rows in groups] for _ in range(num_resamples)]
    resampled = np.array([accuracies(drawn) for drawn in draws if min(len(rows) for rows in drawn) > 1])
    low, high = np.percentile(resampled - resampled.mean(axis=0), [2.5, 97.5], axis=0)
    return {
        name: Interval(float(values[k]), float(values[k] + low[k]), float(values[k] + high[k]), sizes[k])
        for k, name in enumerate(names)
    }


def _accuracy(scans: _AuditScans, synthetic: Index, real: Index) -> float:
    """Mean over synthetic and real scans of the share that is nearer to its own kind than to the other kind."""
    across = scans.squared_distances(synthetic, real)
    among_synthetic, among_real = (scans.squared_distances(rows, rows).min(axis=1) for rows in (synthetic, real))
    return float(0.5 * (np.mean(across.min(axis=1) > among_synthetic) + np.mean(across.min(axis=0) > among_real)))
