"""The covariates of a normative model as a numeric matrix: age, age squared, sex and site of each person.

Not `cohort.columns`, because its columns mean something: age in decades, so that a coefficient reads as a change per decade;
sites coded by their deviation from the mean over sites, so that a person of an unmodelled site is compared with that mean
and not with the first site; and only as many terms as the number of people can carry. Runs keep these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.maths.covariate_sums import (
    BASIS,
    PLAIN,
    CovariateSums,
    Group,
    basis_rows,
    groups_of,
    in_units,
)
from gen3d.maths.splines import age_basis

TERMS = ("age", "age2", "sex", "site")
SPLINE = "age_spline"
KNOWN_TERMS = (*TERMS, SPLINE)
PRIORITY = ("site", "age", "sex", SPLINE, "age2")
"""Order in which terms get the columns that the number of people allows: an unmodelled site does most harm."""

PEOPLE_PER_COLUMN = 5
MIN_GROUP = 3
MIN_AGE_SD_YEARS = 0.5
SEX_CODES = {"F": -0.5, "M": 0.5}


@dataclass(frozen=True)
class Design:
    """How covariates become columns: fitted on calibration people, applied to any person.

    Columns: intercept; age in decades from the mean age of the fit; its square; sex (F -0.5, M +0.5); one deviation
    column per modelled site but the last (1 for its people, -1 for those of the last modelled site, 0 elsewhere), so
    the intercept is the mean over sites and a person of a site without a term is compared with that mean; the bends of a
    spline of age in place of its square.
    """

    terms: tuple[str, ...]
    age_mean_years: float
    age_range_years: tuple[float, float]
    sex_mean: float
    sites: tuple[str, ...]
    site_counts: dict[str, int]
    dropped: dict[str, str]
    num_people: int

    @classmethod
    def fit(
        cls,
        age_years: Sequence[Any] | NDArray[Any],
        sex: Sequence[Any] | NDArray[Any],
        site: Sequence[Any] | NDArray[Any],
        terms: Sequence[str] = TERMS,
        min_site: int = MIN_GROUP,
    ) -> Design:
        """Choose the terms that the calibration people (n of them) can carry.

        Rules: at most n / 5 columns, the intercept included, assigned in the order site, age, sex, age2; age needs a
        spread of half a year; sex needs 3 people of each; a site needs `min_site` people to have a column; a term that
        is a linear combination of earlier ones is dropped; age2 needs age. `.dropped` gives the reasons.

        Raises UserError for an unknown term, an unknown sex code, or nobody to fit on.
        """
        ages, sexes, sites = _ages(age_years), _sexes(sex), _sites(site)
        if not len(ages) or not len(ages) == len(sexes) == len(sites):
            raise UserError(
                f"Covariates of {len(ages)} ages, {len(sexes)} sexes and {len(sites)} sites: "
                "the calibration needs the same number of each, at least one person."
            )
        return cls.choose(CovariateSums.of(ages, sexes, sites), terms, min_site)

    @classmethod
    def choose(cls, sums: CovariateSums, terms: Sequence[str] = TERMS, min_site: int = MIN_GROUP) -> Design:
        """`fit` from the sums over people alone.

        Raises UserError for an unknown term.
        """
        unknown = [term for term in terms if term not in KNOWN_TERMS]
        if unknown:
            raise UserError(f"Unknown covariate {unknown[0]!r}: choose among {', '.join(KNOWN_TERMS)}.")
        candidate = cls(
            terms=(),
            age_mean_years=sums.age_mean_years,
            age_range_years=sums.age_range_years,
            sex_mean=sums.sex_mean,
            sites=tuple(name for name, count in sums.site_counts.items() if count >= min_site),
            site_counts=sums.site_counts,
            dropped={},
            num_people=sums.num_people,
        )
        dropped = candidate._without_variation(sums, terms)
        kept: tuple[str, ...] = ()
        for term in (name for name in PRIORITY if name in terms and name not in dropped):
            reason = candidate._with((*kept, term), dropped)._too_large(term, sums)
            if term in ("age2", SPLINE) and "age" not in kept:
                reason = "the linear age term is not in the model"
            elif term == "age2" and SPLINE in kept:
                reason = f"{SPLINE} bends in its place"
            if reason:
                dropped[term] = reason
            else:
                kept = (*kept, term)
        return candidate._with(tuple(term for term in KNOWN_TERMS if term in kept), dropped)

    def _with(self, terms: tuple[str, ...], dropped: dict[str, str]) -> Design:
        return replace(self, terms=terms, dropped=dict(dropped))

    def _without_variation(self, sums: CovariateSums, terms: Sequence[str]) -> dict[str, str]:
        reasons: dict[str, str] = {}
        if {"age", "age2", SPLINE} & set(terms):
            if sums.num_known_ages < MIN_GROUP:
                reasons["age"] = f"only {sums.num_known_ages} of {sums.num_people} people have a known age"
            elif sums.age_sd_years < MIN_AGE_SD_YEARS:
                reasons["age"] = f"the ages do not vary (standard deviation {sums.age_sd_years:.2f} years)"
        if "age" in reasons:
            reasons |= dict.fromkeys(("age2", SPLINE), reasons["age"])
        if "sex" in terms:
            numbers = sums.sex_counts
            if min(numbers.values()) < MIN_GROUP:
                reasons["sex"] = f"{numbers['F']} F and {numbers['M']} M; at least {MIN_GROUP} of each are needed"
        if "site" in terms and len(self.sites) < 2:
            if len(self.site_counts) == 1:
                reasons["site"] = "all people are of one site"
            else:
                reasons["site"] = "fewer than two sites have enough people"
        return {term: reason for term, reason in reasons.items() if term in terms}

    def _too_large(self, term: str, sums: CovariateSums) -> str | None:
        num_columns = len(self.columns) - max(0, len(self.bends) - 1)  # penalised together, they cost about one column
        allowed = max(1, self.num_people // PEOPLE_PER_COLUMN)
        if num_columns > allowed:
            return (
                f"{self.num_people} people carry {allowed} columns (one per {PEOPLE_PER_COLUMN} people) "
                f"and the model with {term} would have {num_columns}"
            )
        free = self.free
        if is_collinear(self.gram(sums)[np.ix_(free, free)]):
            return "it is a linear combination of the other covariates in these people"
        return None

    def gram(self, sums: CovariateSums) -> NDArray[np.float64]:
        """C'C of the people of the sums, [p, p]."""
        transforms = [self.transform(group) for group in sums.groups]
        few = slice(self.basis_width)
        return np.asarray(sum(of @ gram[few, few] @ of.T for of, gram in zip(transforms, sums.gram, strict=True)))

    def transform(self, group: Group) -> NDArray[np.float64]:
        """The matrix [p, b] that makes a person's row of this design out of the row of `basis_rows`, for people of a group.

        b is `basis_width`: the first so many functions of a person.
        """
        one, age, age2, sex, *bends = np.eye(len(BASIS))
        shift = float(in_units(self.age_mean_years)) if group.age_known and math.isfinite(self.age_mean_years) else 0.0
        rows = [one]
        if "age" in self.terms:
            rows.append(age - shift * one if group.age_known else 0 * one)
        if "age2" in self.terms:
            rows.append(age2 - 2 * shift * age + shift**2 * one if group.age_known else 0 * one)
        if "sex" in self.terms:
            rows.append(sex if group.sex_known else self.sex_mean * one)
        if "site" in self.terms:
            last = float(group.site == self.sites[-1])
            rows += [(float(group.site == level) - last) * one for level in self.sites[:-1]]
        if SPLINE in self.terms:  # 0 at the mean age, like the other terms of age
            middle = age_basis([self.age_mean_years])[0]
            rows += [bend - at * one if group.age_known else 0 * one for bend, at in zip(bends, middle, strict=True)]
        return np.stack(rows)[:, : self.basis_width]

    def matrix(
        self,
        age_years: Sequence[Any] | NDArray[Any],
        sex: Sequence[Any] | NDArray[Any],
        site: Sequence[Any] | NDArray[Any],
    ) -> NDArray[np.float64]:
        """The covariates of m people as float64 [m, p]; missing age or sex is replaced by the mean of the fit."""
        rows, groups = basis_of(age_years, sex, site)
        transforms = {group: self.transform(group) for group in set(groups)}
        if not groups:
            return np.empty((0, len(self.columns)))
        return np.stack([transforms[group] @ row[: self.basis_width] for group, row in zip(groups, rows, strict=True)])

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each column of `matrix`."""
        names = ["intercept"]
        several = {"site": [f"site {level}" for level in self.sites[:-1]], SPLINE: list(BASIS[len(PLAIN) :])}
        for term in self.terms:
            names += several.get(term, [term])
        return tuple(names)

    @property
    def bends(self) -> tuple[int, ...]:
        """The columns of the spline of age, which are penalised (`maths.splines`); the last ones."""
        num = len(BASIS) - len(PLAIN) if SPLINE in self.terms else 0
        return tuple(range(len(self.columns) - num, len(self.columns)))

    @property
    def free(self) -> list[int]:
        """The columns that are not penalised."""
        return list(range(len(self.columns) - len(self.bends)))

    @property
    def basis_width(self) -> int:
        """Columns of `basis_rows` that sums of values need: all where the spline was asked for, in sums of more people too."""
        return len(BASIS) if SPLINE in (*self.terms, *self.dropped) else len(PLAIN)

    def flags(self, age_years: Sequence[Any] | NDArray[Any], sex: Sequence[Any] | NDArray[Any]) -> list[str]:
        """One string per person: what makes the expectation doubtful, joined by '; ', empty where nothing does."""
        return ["; ".join(self._reasons(*person)) for person in zip(_ages(age_years), _sexes(sex), strict=True)]

    def site_flag(self, site: Any) -> str:
        """What makes the expectation at a site doubtful, "" where nothing does."""
        name = _sites([site])[0]
        count = self.site_counts.get(name, 0)
        named = f"site {name}" if name else "a person without a site"
        if count == 0:
            return f"{named} has no calibration controls"
        if "site" in self.terms and name not in self.sites:
            return f"{named} has only {count} calibration controls and no term of its own"
        if "site" not in self.terms and len(self.site_counts) > 1:
            return "differences between sites are not in the model"
        return ""

    def _reasons(self, age: float, sex: float) -> list[str]:
        low, high = self.age_range_years
        reasons = []
        if not math.isfinite(age):
            reasons.append("age is missing, the mean age was used")
        elif math.isfinite(low) and not low <= age <= high:
            reasons.append(f"age {age:.0f} outside the calibrated {math.floor(low)} to {math.ceil(high)} years")
        if not math.isfinite(sex):
            reasons.append("sex is missing, the mean was used")
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold (NaN becomes None)."""
        values = asdict(self)
        values["age_mean_years"] = _or_none(self.age_mean_years)
        values["age_range_years"] = [_or_none(age) for age in self.age_range_years]
        values["terms"], values["sites"] = list(self.terms), list(self.sites)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Design:
        """The design that `to_dict` described."""
        low, high = values["age_range_years"]
        return cls(
            **{
                **values,
                "terms": tuple(values["terms"]),
                "sites": tuple(values["sites"]),
                "age_mean_years": _or_nan(values["age_mean_years"]),
                "age_range_years": (_or_nan(low), _or_nan(high)),
            }
        )


def basis_of(
    age_years: Sequence[Any] | NDArray[Any], sex: Sequence[Any] | NDArray[Any], site: Sequence[Any] | NDArray[Any]
) -> tuple[NDArray[np.float64], list[Group]]:
    """The rows of `basis_rows` of m people [m, b], and the group of each.

    Raises UserError for an unknown sex code.
    """
    ages, sexes = _ages(age_years), _sexes(sex)
    return basis_rows(ages, sexes), groups_of(ages, sexes, _sites(site))


def covariate_sums(
    age_years: Sequence[Any] | NDArray[Any], sex: Sequence[Any] | NDArray[Any], site: Sequence[Any] | NDArray[Any]
) -> CovariateSums:
    """The sums over m people.

    Raises UserError for an unknown sex code.
    """
    return CovariateSums.of(_ages(age_years), _sexes(sex), _sites(site))


def is_collinear(gram: NDArray[np.float64]) -> bool:
    """Whether columns with these cross-products [p, p] determine each other: smallest singular value below 1e-6 of unit columns."""
    scale = np.sqrt(np.diag(gram))
    if not (scale > 0).all():
        return True
    return bool(np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] < 1e-12)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _missing(value: Any) -> bool:
    return value is None or str(value).strip().lower() in {"", "nan", "none", "na", "n/a", "<na>"}


def _ages(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    return np.array([math.nan if _missing(value) else float(value) for value in values], dtype=np.float64)


def _sexes(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    codes = []
    for value in values:
        if not _missing(value) and value not in SEX_CODES:
            raise UserError(f"Unknown sex code {value!r} in the covariates: write F or M, or leave it empty.")
        codes.append(math.nan if _missing(value) else SEX_CODES[value])
    return np.array(codes, dtype=np.float64)


def _sites(values: Sequence[Any] | NDArray[Any]) -> list[str]:
    return ["" if _missing(value) else str(value) for value in values]
