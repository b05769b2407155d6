"""Sums over people from which a design can be chosen and fitted: no person's covariates are needed any more.

Every person is a row b of functions of age and sex that depend on no sample: 1, a, a squared and s, with a in decades from 50
years and s -0.5 (F) or +0.5 (M). People whose age or sex is unknown have 0 there and belong to groups of their own, because a
design puts its own mean in their place. A design's row is then a linear map of b that is the same for all people of a group
(`Design.transform`), so the sums B'B of groups give the cross-products of any design, and groups of two cohorts are merged by
adding them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3d.maths.splines import NUM_BENDS, age_basis

PLAIN = ("one", "age", "age2", "sex")
BASIS = (*PLAIN, *(f"bend{number}" for number in range(1, NUM_BENDS + 1)))
"""Functions of a person, the columns of `basis_rows`; those of the spline (`maths.splines`) come last, so that sums of values,
which are large, can do without them."""

CENTRE_YEARS, YEARS_PER_UNIT = 50.0, 10.0

Floats = NDArray[np.float64]


class Group(NamedTuple):
    """People of one site of whom the same is known."""

    site: str
    age_known: bool
    sex_known: bool


def in_units(age_years: Any) -> Any:
    """Ages in decades from 50 years, same shape."""
    return (np.asarray(age_years, dtype=np.float64) - CENTRE_YEARS) / YEARS_PER_UNIT


def basis_rows(age_years: Floats, sex: Floats) -> Floats:
    """The functions `BASIS` of n people, [n, b]; age in years and sex as -0.5 or +0.5, NaN where unknown."""
    age = np.where(np.isfinite(age_years), in_units(age_years), 0.0)
    plain = np.stack([np.ones(len(age)), age, age**2, np.where(np.isfinite(sex), sex, 0.0)], axis=1)
    return np.concatenate([plain, age_basis(age_years)], axis=1)


def groups_of(age_years: Floats, sex: Floats, sites: Sequence[str]) -> list[Group]:
    """The group of each person."""
    known = zip(sites, np.isfinite(age_years), np.isfinite(sex), strict=True)
    return [Group(str(site), bool(age), bool(of_sex)) for site, age, of_sex in known]


@dataclass(frozen=True)
class CovariateSums:
    """Groups of people with their numbers [g] and B'B [g, b, b], and the range of all known ages (NaN without any)."""

    groups: tuple[Group, ...]
    num: NDArray[np.int64]
    gram: Floats
    age_range_years: tuple[float, float]

    @classmethod
    def of(cls, age_years: Floats, sex: Floats, sites: Sequence[str]) -> CovariateSums:
        """The sums of n people; groups in the order of their names."""
        member = groups_of(age_years, sex, sites)
        groups = tuple(sorted(set(member)))
        rows = basis_rows(age_years, sex)
        position = {group: number for number, group in enumerate(groups)}
        index = np.array([position[group] for group in member], dtype=np.int64)
        gram = np.stack([rows[index == number].T @ rows[index == number] for number in range(len(groups))])
        known = age_years[np.isfinite(age_years)]
        ages = (float(known.min()), float(known.max())) if known.size else (math.nan, math.nan)
        return cls(groups, np.bincount(index, minlength=len(groups)), gram, ages)

    @classmethod
    def merged(cls, several: Iterable[CovariateSums]) -> CovariateSums:
        """The sums of all people of several."""
        listed = list(several)
        groups = tuple(sorted({group for sums in listed for group in sums.groups}))
        num = np.zeros(len(groups), dtype=np.int64)
        gram = np.zeros((len(groups), len(BASIS), len(BASIS)))
        for sums in listed:
            places = [groups.index(group) for group in sums.groups]
            num[places] += sums.num
            gram[places] += sums.gram
        ages = [age for sums in listed for age in sums.age_range_years if math.isfinite(age)]
        return cls(groups, num, gram, (min(ages), max(ages)) if ages else (math.nan, math.nan))

    @property
    def num_people(self) -> int:
        """All people."""
        return int(self.num.sum())

    @cached_property
    def site_counts(self) -> dict[str, int]:
        """Number of people of each site, by name."""
        counts: Counter[str] = Counter()
        for group, num in zip(self.groups, self.num, strict=True):
            counts[group.site] += int(num)
        return dict(sorted(counts.items()))

    @cached_property
    def num_known_ages(self) -> int:
        """People of known age."""
        return int(sum(num for group, num in zip(self.groups, self.num, strict=True) if group.age_known))

    def _total(self, row: int, column: int, age_known: bool | None = None, sex_known: bool | None = None) -> float:
        chosen = [
            gram[row, column]
            for group, gram in zip(self.groups, self.gram, strict=True)
            if age_known in (None, group.age_known) and sex_known in (None, group.sex_known)
        ]
        return float(sum(chosen))

    @property
    def age_mean_years(self) -> float:
        """Mean of the known ages, NaN without any."""
        if not self.num_known_ages:
            return math.nan
        return CENTRE_YEARS + YEARS_PER_UNIT * self._total(0, 1, age_known=True) / self.num_known_ages

    @property
    def age_sd_years(self) -> float:
        """Standard deviation of the known ages, NaN without any."""
        if not self.num_known_ages:
            return math.nan
        mean = self._total(0, 1, age_known=True) / self.num_known_ages
        square = self._total(1, 1, age_known=True) / self.num_known_ages
        return YEARS_PER_UNIT * math.sqrt(max(square - mean**2, 0.0))

    @cached_property
    def sex_counts(self) -> dict[str, int]:
        """Numbers of women and men of known sex."""
        num = sum(int(num) for group, num in zip(self.groups, self.num, strict=True) if group.sex_known)
        men = round(self._total(0, 3, sex_known=True) + num / 2)
        return {"F": num - men, "M": men}

    @property
    def sex_mean(self) -> float:
        """Mean of the known codes (F -0.5, M +0.5), 0 without any."""
        num = sum(self.sex_counts.values())
        return (self.sex_counts["M"] - self.sex_counts["F"]) / 2 / num if num else 0.0
