"""Intervals around forecasts that hold what they promise: split-conformal prediction by horizon, over people.

A forecast of a person whom its model never saw is compared with what was measured later. The score of such a pair of visits is
``|observed - forecast| / spread``, and the interval of a new forecast is ``forecast +- q * spread`` with q a quantile of the
scores (Lei et al. 2018, J Am Stat Assoc 113; Romano, Patterson and Candes 2019, NeurIPS, for scores in units of a spread). With
the errors of a cross-fitted family it is the cross-conformal variant of Vovk 2015 (Ann Math Artif Intell 74).

People are the unit. A person with several pairs of visits in a bin of horizons counts once: their scores share the weight of one
person, and the new person has the weight of one at infinity (Lee, Barber and Willett 2023, arXiv 2306.06342). With one pair each
this is the ceil((n + 1)(1 - a))-th smallest score. The mean of a person's scores would be too small a score, and one pair drawn
at random would throw away the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = (0.50, 0.80, 0.90)
"""Shares of people whose true change lies inside the interval, as promised."""

NORMAL_SD = 0.6827
"""Share inside one standard deviation of a normal distribution: the level that makes a spread an SD."""

LEAST_SPREAD = 0.002
"""Log volume: where draws agree better than this, the spread is this; 0.2 % of a volume is less than scans can show."""

ENOUGH_PEOPLE = 20
"""Per bin of horizons: from here on the 90 % interval does not hang on the one largest error."""

FIRST_BIN_YEARS = 1.0
"""Bins before they are merged: horizons that round to the same number of years."""

SHORTEST_SHARE = 0.5
"""Of the shortest time between two visits: nearer horizons have no interval, because nobody was seen again so soon."""

MEDIAN_TO_SD = 1.4826
TOLERANCE = 1e-9


@dataclass(frozen=True)
class HorizonBin:
    """Horizons above `low` and up to `high` years, and how many people were followed so long."""

    low: float
    high: float
    num_people: int


def horizon_bins(years: Floats, people: NDArray[np.int_], enough: int = ENOUGH_PEOPLE) -> list[HorizonBin]:
    """Bins of horizons, ascending and without gaps, each with `enough` people where there are so many.

    Args:
        years: of each pair of visits [n].
        people: number of the person of each pair [n].
        enough: a bin with fewer people is merged with the neighbour that has fewer.
    """
    groups: list[list[int]] = []
    rounded = np.maximum(np.floor(years / FIRST_BIN_YEARS + 0.5), 0)
    for value in np.unique(rounded):
        groups.append(np.flatnonzero(rounded == value).tolist())
    while len(groups) > 1:
        counts = [len(set(people[group])) for group in groups]
        least = int(np.argmin(counts))
        if counts[least] >= enough:
            break
        beside = [place for place in (least - 1, least + 1) if 0 <= place < len(groups)]
        other = min(beside, key=lambda place: (counts[place], place))
        first, second = sorted((least, other))
        groups[first : second + 1] = [groups[first] + groups[second]]
    bins, low = [], float(years.min()) * SHORTEST_SHARE if len(years) else 0.0
    for place, group in enumerate(groups):
        last = float(years[group].max())
        high = last if place + 1 == len(groups) else (last + float(years[groups[place + 1]].min())) / 2
        bins.append(HorizonBin(low, high, len(set(people[group]))))
        low = high
    return bins


def quantile_over_people(scores: Floats, people: NDArray[np.int_], levels: Sequence[float]) -> Floats:
    """The quantiles q of scores that hold for a new person, infinite where too few people were followed.

    Args:
        scores: [n, R] of each pair of visits and region; NaN counts as not there.
        people: number of the person of each pair [n].
        levels: shares between 0 and 1.

    Returns:
        [levels, R]: the least score at which the weights of people, 1 / (K + 1) each for K people, reach the level.
    """
    if not len(scores):
        return np.full((len(levels), scores.shape[1]), np.inf)
    known = np.isfinite(scores)
    codes = np.unique(people, return_inverse=True)[1]
    pairs = np.zeros((int(codes.max()) + 1, scores.shape[1]))
    np.add.at(pairs, codes, known)
    num_people = (pairs > 0).sum(axis=0)
    with np.errstate(divide="ignore"):
        weights = np.where(known, 1.0 / pairs[codes], 0.0) / (num_people + 1)
    order = np.argsort(np.where(known, scores, np.inf), axis=0, kind="stable")
    ordered = np.take_along_axis(np.where(known, scores, np.inf), order, axis=0)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=0), axis=0)
    found = np.full((len(levels), scores.shape[1]), np.inf)
    for place, level in enumerate(levels):
        enough = reached >= level - TOLERANCE
        first = enough.argmax(axis=0)
        found[place] = np.where(enough.any(axis=0), ordered[first, np.arange(scores.shape[1])], np.inf)
    return found


@dataclass(frozen=True)
class ModelErrors:
    """The pairs of visits of people whom a model never saw.

    Attributes:
        forecast, spread, observed: log volume change [n, R].
        people: number of the person of each pair [n].
        years: between the visits [n].
        scale: [n, R] what errors are divided by; [R] for a model without draws, whose spread is one number per region.
    """

    forecast: Floats
    spread: Floats
    observed: Floats
    people: NDArray[np.int_]
    years: Floats

    @property
    def draws(self) -> bool:
        """Whether the model draws samples, so that its spread differs between people."""
        return bool((np.nan_to_num(self.spread) > 0).any())

    @property
    def errors(self) -> Floats:
        """Observed minus forecast [n, R]."""
        return np.asarray(self.observed - self.forecast)

    def scale_of(self, spread: Floats, others: NDArray[np.bool_] | None = None) -> Floats:
        """What stands for the spread of a forecast [..., R].

        Of a model without draws it is the robust SD of the errors of a region, without those of the person (`others` are the
        pairs that count).
        """
        if self.draws:
            return np.maximum(spread, LEAST_SPREAD)
        errors = self.errors if others is None else self.errors[others]
        constant = np.array([_robust_sd(column) for column in errors.T])
        return np.broadcast_to(np.maximum(constant, LEAST_SPREAD), np.shape(spread))


def _robust_sd(errors: Floats) -> float:
    known = np.abs(errors[np.isfinite(errors)])
    return MEDIAN_TO_SD * float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True)
class ConformalIntervals:
    """Errors of all models of a run, in the order of the regions.

    Attributes:
        regions: names [R].
        subjects: by number.
        models: by name.
        bins: of horizons, the same for all models.
        num_members: members behind every forecast of the table; a new person is forecast by as many, because averaging more
            would make errors that intervals of single members do not describe.
    """

    regions: tuple[str, ...]
    subjects: tuple[str, ...]
    models: dict[str, ModelErrors]
    bins: tuple[HorizonBin, ...]
    num_members: int = 1
    _factors: dict[tuple[str, int, int], Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, errors: pd.DataFrame, regions: Sequence[str]) -> ConformalIntervals:
        """From the table of errors of a run (`gen3d.cohort.forecast_errors`).

        A pair that several members forecast has the mean of their forecasts, and the spread over their draws and between them,
        as a new person's forecast has.
        """
        subjects = tuple(sorted(set(errors["subject"].astype(str))))
        number = {name: place for place, name in enumerate(subjects)}
        models = {str(name): _of_model(rows, regions, number) for name, rows in errors.groupby("model", sort=False)}
        first = next(iter(models.values()), None)
        bins = () if first is None else tuple(horizon_bins(first.years, first.people))
        num_members = int(errors.groupby("subject")["member"].nunique().min()) if len(errors) else 1
        return cls(tuple(regions), subjects, models, bins, num_members)

    @property
    def longest(self) -> float:
        """Years between the visits that lie furthest apart."""
        return self.bins[-1].high if self.bins else 0.0

    def bin_of(self, years: float) -> int | None:
        """The bin of a horizon; None beyond the longest that was seen, and for horizons far below the shortest."""
        if not self.bins or not self.bins[0].low - TOLERANCE <= years <= self.longest + TOLERANCE:
            return None
        return next((place for place, part in enumerate(self.bins) if years <= part.high + TOLERANCE), None)

    def factors(self, model: str, place: int, without: str = "") -> Floats:
        """How many spreads wide an interval is to either side [levels + 1, R]; the last row is that of `NORMAL_SD`.

        Args:
            model: its name.
            place: number of the bin.
            without: a person whose own errors do not count, because the interval is for them.
        """
        own = self.subjects.index(without) if without in self.subjects else -1
        key = (model, place, own)
        if key not in self._factors:
            pairs = self.models[model]
            others = pairs.people != own
            inside = others & self.inside(pairs, place)
            scores = np.abs(pairs.errors[inside]) / pairs.scale_of(pairs.spread[inside], others)
            self._factors[key] = quantile_over_people(scores, pairs.people[inside], (*LEVELS, NORMAL_SD))
        return self._factors[key]

    def spread_of(self, model: str, spread: Floats, without: str = "") -> Floats:
        """The spread of a forecast [R], or the constant one of a model without draws."""
        pairs = self.models[model]
        own = self.subjects.index(without) if without in self.subjects else -1
        return pairs.scale_of(spread, pairs.people != own)

    def half_widths(self, model: str, years: float, spread: Floats, without: str = "") -> Floats:
        """Half the width of each interval [levels, R] in log volume; NaN where no interval can be promised."""
        place = self.bin_of(years)
        if place is None or model not in self.models:
            return np.full((len(LEVELS), len(self.regions)), np.nan)
        factors = self.factors(model, place, without)[: len(LEVELS)]
        widths = factors * self.spread_of(model, spread, without)[None]
        return np.where(np.isfinite(widths), widths, np.nan)

    def sd_factor(self, model: str, years: float, without: str = "") -> float:
        """By what a spread is multiplied to be a standard deviation of the error: the median over regions; NaN if unknown."""
        place = self.bin_of(years)
        if place is None or model not in self.models:
            return float("nan")
        factors = self.factors(model, place, without)[-1]
        known = factors[np.isfinite(factors)]
        return float(np.median(known)) if len(known) else float("nan")

    def inside(self, pairs: ModelErrors, place: int) -> NDArray[np.bool_]:
        """Which pairs of visits belong to a bin [n]."""
        part = self.bins[place]
        above = pairs.years > part.low + TOLERANCE if place else np.ones(len(pairs.years), dtype=bool)
        return np.asarray(above & (pairs.years <= part.high + TOLERANCE))


def _of_model(rows: pd.DataFrame, regions: Sequence[str], number: dict[str, int]) -> ModelErrors:
    squares = rows.assign(forecast_2=rows["forecast"] ** 2, spread_2=rows["spread"] ** 2)
    joined = squares.groupby(["subject", "key_1", "key_2", "region"])[
        ["years", "forecast", "observed", "forecast_2", "spread_2"]
    ].mean()
    between = (joined["forecast_2"] - joined["forecast"] ** 2).clip(lower=0)
    joined["spread"] = np.sqrt(joined["spread_2"] + between.where(between > TOLERANCE**2, 0.0))
    wide = joined.reset_index().pivot(index=["subject", "key_1", "key_2"], columns="region")
    people = np.array([number[str(name)] for name in wide.index.get_level_values(0)], dtype=np.int_)
    years = np.nanmax(wide["years"].to_numpy(dtype=np.float64), axis=1)
    parts = [
        pd.DataFrame(wide[name]).reindex(columns=list(regions)).to_numpy(dtype=np.float64)
        for name in ("forecast", "spread", "observed")
    ]
    return ModelErrors(parts[0], parts[1], parts[2], people, years)
