"""When everybody of a simulated cohort comes, where, and with which diagnosis: a row per visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gen3d.cohort.manifest import scan_key
from gen3d.simulate.conditions import DIAGNOSES, PROGRESSION_PER_YEAR, Condition
from gen3d.simulate.people import clinical_scores, first_visits, kinds_of

JITTER_YEARS = 0.1  # a visit is at most this much too early or too late, and a quarter of the time to its neighbours
CONVERTER_SEVERITY, STABLE_SEVERITY = (
    1.3,
    0.8,
)  # of MCI at the first visit: converters are ahead of stable people (assumption)
MCI_AS_AD = 0.5  # severity 1 of MCI is about half of that of AD (the effect table)
MMSE_RETEST_SD = 0.6  # of a score at another visit (assumption); the rest of the deviation is the person's
INTERNAL = ("first_age_years", "first_severity", "last_years")
"""Columns that the making of a scan needs and the cohort table does not have."""
TRUTH_COLUMNS = ("years", "converts")


def design_visits(
    num_subjects: int,
    conditions: Mapping[str, Condition],
    site_names: list[str],
    age_years: tuple[float, float],
    years: Sequence[float],
    repeated: float,
    scanner_change: float,
    progression: float,
    seed: int,
) -> pd.DataFrame:
    """As `people.design`, but each of a share of people comes at all of these times.

    Args:
        num_subjects: people.
        conditions: by name.
        site_names: of the scanners.
        age_years: youngest and oldest at the first visit.
        years: planned times of the visits after the first, ascending; the first is 0.
        repeated: share of people who come more than once.
        scanner_change: share of those whose later visits are all at one other site.
        progression: factor on the growth of severity; with 0 nobody's diagnosis changes.
        seed: of all choices. First visits are those of `people.design` with the same seed, but for the severity of MCI.

    Raises:
        UserError: the conditions need more people than there are.
    """
    first, _ = first_visits(num_subjects, conditions, site_names, age_years, seed)
    rng = np.random.default_rng([seed, 13])
    first = _with_conversions(first, conditions, len(years) - 1, progression > 0, rng)
    comes = _chosen(num_subjects, repeated, rng)
    moves = np.zeros(num_subjects, bool)
    moves[comes] = _chosen(int(comes.sum()), scanner_change, rng)
    elsewhere = [
        str(rng.choice([name for name in site_names if name != site])) if moved else site
        for site, moved in zip(first["site"], moves, strict=True)
    ]
    times = jittered(years, num_subjects, rng)
    times[~comes, 1:] = np.nan
    visits = []
    for visit in range(len(years)):
        rows = first.assign(visit=visit, years=times[:, visit], session=str(visit + 1))
        visits.append(rows.assign(site=elsewhere) if visit else rows)
    scans = pd.concat(visits)
    scans = scans[scans["years"].notna()].sort_values(["index", "visit"], kind="stable").reset_index(drop=True)
    scans["last_years"] = scans.groupby("index")["years"].transform("max")
    scans["first_age_years"], scans["first_severity"] = scans["age_years"], scans["severity"]
    scans["age_years"] = (scans["age_years"] + scans["years"]).round(3)
    scans["key"] = [scan_key(*pair) for pair in zip(scans["subject"], scans["session"], strict=True)]
    scans = _as_ill_as_then(scans, kinds_of(scans, conditions), progression)
    again = MMSE_RETEST_SD * rng.standard_normal(len(scans)) * (scans["visit"] > 0).to_numpy()
    deviations = rng.standard_normal(num_subjects)[scans["index"]] + again
    turned = _turned(scans).to_numpy()
    kinds = np.where(turned, "ad", kinds_of(scans, conditions)).tolist()
    severities = scans["severity"].to_numpy(float) * np.where(turned, MCI_AS_AD, 1.0)
    return clinical_scores(scans, kinds, severities, deviations).drop(columns=["visit", "turns"])


def jittered(years: Sequence[float], num_people: int, rng: np.random.Generator) -> np.ndarray:
    """When each person comes [people, visits], years after the first visit, in the order of the visits."""
    planned = np.asarray(years, float)
    gaps = np.diff(planned)
    room = np.minimum(gaps, np.append(gaps[1:], np.inf)) / 4
    early_or_late = np.minimum(JITTER_YEARS, room) * rng.uniform(-1, 1, size=(num_people, len(gaps)))
    return np.column_stack([np.zeros(num_people), planned[1:] + early_or_late]).round(3)


def _chosen(number: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of people, at random [number]."""
    chosen = np.zeros(number, bool)
    chosen[rng.permutation(number)[: round(share * number)]] = True
    return chosen


def _with_conversions(
    first: pd.DataFrame,
    conditions: Mapping[str, Condition],
    later_visits: int,
    progresses: bool,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Who converts, at which visit the diagnosis turns (0: never), and the severity that goes with it."""
    converts, turns = np.zeros(len(first), bool), np.zeros(len(first), int)
    severity = first["severity"].to_numpy(float).copy()
    for name, condition in conditions.items():
        members = np.flatnonzero(first["condition"] == name)
        if condition.kind != "mci" or not condition.converting_share:
            continue
        becoming = members[_chosen(len(members), condition.converting_share, rng)]
        converts[becoming] = True
        turns[becoming] = rng.integers(1, later_visits + 1, size=len(becoming))
        severity[members] *= np.where(converts[members], CONVERTER_SEVERITY, STABLE_SEVERITY)
    return first.assign(converts=converts & progresses, turns=turns * progresses, severity=severity)


def _as_ill_as_then(scans: pd.DataFrame, kinds: list[str], progression: float) -> pd.DataFrame:
    """Severity and diagnosis of the day of each visit."""
    per_year = np.array([PROGRESSION_PER_YEAR.get(kind, 0.0) for kind in kinds])
    per_year = np.where(scans["converts"], PROGRESSION_PER_YEAR["ad"], per_year) * progression
    return scans.assign(
        severity=scans["severity"] + per_year * scans["years"],
        diagnosis=np.where(_turned(scans), DIAGNOSES["ad"], scans["diagnosis"]),
    )


def _turned(scans: pd.DataFrame) -> pd.Series:
    """Which visits are those of somebody whose MCI has become AD."""
    return scans["converts"] & (scans["visit"] >= scans["turns"])
