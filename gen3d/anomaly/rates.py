"""Rates of change of people with several visits: by person, by group, and between every two visits.

Rates come from a linear mixed model per region (`maths.rates`), in which every diagnosis has a rate. A person's rate and the
changes between visits are compared with those of the other controls, who are taken to be unchanged but for their ageing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from gen3d.anomaly.calibration.retest import fit_retest, reliable_change
from gen3d.anomaly.change_folder import GROUP_RATES, RATES, TRAJECTORIES, VISIT_PAIRS
from gen3d.anomaly.visit_changes import VisitVolumes
from gen3d.maths.rates import PersonSlopes, RateModel, fit_rates, slopes_of
from gen3d.maths.significance import fdr_adjust, p_values

Floats = NDArray[np.float64]
CONTROL_ROLES = ("train", "calibration", "test")
NO_DIAGNOSIS = ""


@dataclass(frozen=True)
class RatePeople:
    """n measured people: their subjects, diagnoses at the first visit, which are controls, and the regions [R]."""

    people: Sequence[VisitVolumes]
    regions: tuple[str, ...]
    slopes: PersonSlopes

    @property
    def subjects(self) -> list[str]:
        """Of every person."""
        return [str(person.visits["subject"].iloc[0]) for person in self.people]

    @property
    def groups(self) -> list[str]:
        """Diagnosis of every person at the first visit; "" where there is none."""
        found = [person.visits["diagnosis"].iloc[0] if "diagnosis" in person.visits else "" for person in self.people]
        return ["" if pd.isna(name) else str(name) for name in found]

    @property
    def controls(self) -> NDArray[np.bool_]:
        """[n] who is a control of the cohort."""
        return np.array([str(person.visits["role"].iloc[0]) in CONTROL_ROLES for person in self.people])


def rate_people(people: Sequence[VisitVolumes], regions: tuple[str, ...]) -> RatePeople:
    """People in the order of their subjects; regions that somebody lacks count as unchanged nowhere: they are left out."""
    listed = sorted(people, key=lambda person: str(person.visits["subject"].iloc[0]))
    known = np.all([np.isfinite(person.values).all(axis=0) for person in listed], axis=0)
    kept = [VisitVolumes(person.visits, person.values[:, known]) for person in listed]
    names = tuple(name for name, there in zip(regions, known, strict=True) if there)
    return RatePeople(kept, names, slopes_of([p.years for p in kept], [p.values for p in kept]))


def group_design(groups: Sequence[str]) -> tuple[list[str], Floats]:
    """The groups in order, and a column of ones for each: [n, p]."""
    names = sorted(set(groups))
    return names, np.array([[float(group == name) for name in names] for group in groups])


def group_model(of: RatePeople) -> tuple[list[str], RateModel | None]:
    """The groups, and the model with a rate for each; None with fewer than three people beyond the groups."""
    names, design = group_design(of.groups)
    return names, fit_rates(of.slopes, design) if len(of.people) >= len(names) + 3 else None


def trajectory_table(of: RatePeople) -> pd.DataFrame:
    """trajectories.tsv: log volume of every region at every visit, in percent of the person's first."""
    frames = []
    for person in of.people:
        change = 100 * np.expm1(person.values - person.values[0])
        for place, (_, visit) in enumerate(person.visits.iterrows()):
            frames.append(
                pd.DataFrame(
                    {
                        "subject": str(visit["subject"]),
                        "session": visit["session"],
                        "years": visit["years"],
                        "region": of.regions,
                        "change_percent": change[place],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)[list(TRAJECTORIES.columns)]


def rate_table(of: RatePeople, model: RateModel | None, min_controls: int) -> pd.DataFrame:
    """rates.tsv: every person's rate per region, with its 95 % interval, and against the rates of the other controls.

    The rate is the best linear unbiased prediction where third visits tell measurement error from people's own rates, else
    the person's own line. z, p and q are missing with fewer than `min_controls` other controls.
    """
    if model is None:
        rates, error, width = of.slopes.rates, np.full(of.slopes.rates.shape, np.nan), np.nan
    else:
        (rates, error), width = model.people, float(student.ppf(0.975, model.dof))
    z = _against_controls(of, min_controls)
    frames = []
    for i, person in enumerate(of.people):
        p = p_values(z[i])
        frames.append(
            pd.DataFrame(
                {
                    "subject": of.subjects[i],
                    "diagnosis": of.groups[i],
                    "region": of.regions,
                    "num_visits": len(person.visits),
                    "years": float(person.years[-1]),
                    "percent_per_year": 100 * np.expm1(rates[i]),
                    "low": 100 * np.expm1(rates[i] - width * error[i]),
                    "high": 100 * np.expm1(rates[i] + width * error[i]),
                    "own_percent_per_year": 100 * np.expm1(of.slopes.rates[i]),
                    "z": z[i],
                    "p": p,
                    "q": fdr_adjust(p) if np.isfinite(p).any() else p,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)[list(RATES.columns)]


def group_table(of: RatePeople, names: Sequence[str], model: RateModel | None) -> pd.DataFrame:
    """group_rates.tsv: the rate of every diagnosis per region, with its 95 % interval; empty where people are too few."""
    if model is None:
        return pd.DataFrame(columns=list(GROUP_RATES.columns))
    low, high = model.interval()
    groups = of.groups
    frames = [
        pd.DataFrame(
            {
                "diagnosis": name,
                "region": of.regions,
                "num_people": groups.count(name),
                "percent_per_year": 100 * np.expm1(model.coefficients[:, place]),
                "low": 100 * np.expm1(low[:, place]),
                "high": 100 * np.expm1(high[:, place]),
                "sd_people_percent": 100 * np.sqrt(model.ratio * model.noise) if model.separable else np.nan,
                "sd_visit_percent": 100 * np.sqrt(model.noise) if model.separable else np.nan,
            }
        )
        for place, name in enumerate(names)
    ]
    return pd.concat(frames, ignore_index=True)[list(GROUP_RATES.columns)]


def pair_table(of: RatePeople, min_controls: int) -> pd.DataFrame:
    """visit_pairs.tsv: the change between every two visits of a person, against those of first and last visits of controls.

    z is the reliable change index (Jacobson and Truax 1991), as in change.tsv; missing with fewer than `min_controls` others.
    """
    control, subjects = of.controls, np.array(of.subjects)
    whole = np.array([person.values[-1] - person.values[0] for person in of.people])
    span = np.array([person.years[-1] for person in of.people])
    frames = []
    for i, person in enumerate(of.people):
        others = control & (subjects != subjects[i])
        noise = fit_retest(whole[others], span[others], min_controls) if others.sum() >= min_controls else None
        sessions = person.visits["session"].tolist()
        for j in range(len(sessions)):
            for k in range(j):
                change, years = person.values[j] - person.values[k], float(person.years[j] - person.years[k])
                z = np.full(len(change), np.nan) if noise is None else reliable_change(change, years, noise)
                p = p_values(z)
                frames.append(
                    pd.DataFrame(
                        {
                            "subject": subjects[i],
                            "session_1": sessions[k],
                            "session_2": sessions[j],
                            "years": years,
                            "region": of.regions,
                            "change": change,
                            "change_percent": 100 * np.expm1(change),
                            "z_change": z,
                            "p": p,
                            "q": p if noise is None else fdr_adjust(p),
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)[list(VISIT_PAIRS.columns)]


def _against_controls(of: RatePeople, min_controls: int) -> Floats:
    """z [n, R] of every person's own rate among the rates of the other controls; NaN where these are too few."""
    control = of.controls
    z = np.full(of.slopes.rates.shape, np.nan)
    ones = np.ones(1)
    all_of_them = fit_rates(of.slopes.of(control), np.ones((int(control.sum()), 1))) if control.sum() >= 2 else None
    for i in range(len(z)):
        others = control.copy()
        others[i] = False
        num = int(others.sum())
        if num < max(min_controls, 2):
            continue
        model = fit_rates(of.slopes.of(others), np.ones((num, 1))) if control[i] else all_of_them
        assert model is not None
        z[i] = model.z_of(of.slopes.rates[i], float(of.slopes.spread[i]), ones)
    return z
