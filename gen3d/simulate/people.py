"""Who is in a simulated cohort: age, sex, site, condition and severity of every person, and their sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gen3d.cohort.manifest import scan_key
from gen3d.core.errors import UserError
from gen3d.simulate.conditions import CONTROL, DIAGNOSES, PROGRESSION_PER_YEAR, Condition

NONE = "none"
INTERVAL_YEARS = (1.0, 3.0)  # between two sessions of a person
INTRACRANIAL_ML = {"F": 1400.0, "M": 1570.0}
INTRACRANIAL_SD_ML = 110.0


def design(
    num_subjects: int,
    conditions: Mapping[str, Condition],
    site_names: list[str],
    age_years: tuple[float, float],
    longitudinal: float,
    seed: int,
) -> pd.DataFrame:
    """The cohort table before any image: one row per scan, with the person's number (``index``), condition and severity.

    Within each condition, ages cover the range evenly, and sites and sexes are assigned in turn, so that none of them
    predicts the condition. The seed is part of the ids, so that two cohorts share no id.

    Raises:
        UserError: the conditions need more people than there are.
    """
    frame, rng = first_visits(num_subjects, conditions, site_names, age_years, seed)
    followed = frame.sample(n=round(longitudinal * num_subjects), random_state=int(rng.integers(2**31))).sort_index()
    interval = rng.uniform(*INTERVAL_YEARS, size=len(followed)).round(2)
    progression = np.array(  # not by `map`: nobody followed up would make a column of text
        [
            PROGRESSION_PER_YEAR.get(conditions[name].kind, 0.0) if name != NONE else 0.0
            for name in followed["condition"]
        ],
        dtype=float,
    )
    second = followed.assign(
        session="2", age_years=followed["age_years"] + interval, severity=followed["severity"] + progression * interval
    )
    scans = pd.concat([frame, second]).sort_values(["index", "session"], kind="stable").reset_index(drop=True)
    scans["key"] = [scan_key(*pair) for pair in zip(scans["subject"], scans["session"], strict=True)]
    return _clinical(scans, conditions, rng)


def first_visits(
    num_subjects: int,
    conditions: Mapping[str, Condition],
    site_names: list[str],
    age_years: tuple[float, float],
    seed: int,
) -> tuple[pd.DataFrame, np.random.Generator]:
    """Everybody at session 1, and the generator of what is drawn next."""
    rng = np.random.default_rng([seed, 11])
    groups = [(name, number) for name, condition in conditions.items() if (number := condition.number(num_subjects))]
    num_ill = sum(number for _, number in groups)
    if num_ill > num_subjects:
        raise UserError(
            f"the conditions need {num_ill} people but subjects={num_subjects}; "
            "lower their share or count, or raise subjects."
        )
    people = [
        pd.DataFrame(_group(name, number, conditions.get(name), site_names, age_years, rng))
        for name, number in [(NONE, num_subjects - num_ill), *groups]
        if number
    ]
    frame = pd.concat(people, ignore_index=True).iloc[rng.permutation(num_subjects)].reset_index(drop=True)
    frame.insert(0, "index", np.arange(num_subjects))
    digits = max(3, len(str(num_subjects)))
    frame.insert(1, "subject", [f"S{seed}P{i + 1:0{digits}d}" for i in range(num_subjects)])
    frame["session"] = "1"
    return frame, rng


def _group(
    name: str,
    number: int,
    condition: Condition | None,
    site_names: list[str],
    age_years: tuple[float, float],
    rng: np.random.Generator,
) -> dict[str, object]:
    """Columns for the people of one condition."""
    low, high = age_years
    ages = low + (high - low) * (rng.permutation(number) + rng.uniform(size=number)) / number
    sites = np.array(site_names)[(np.arange(number) + rng.integers(len(site_names))) % len(site_names)]
    sexes = np.array(["F", "M"])[(np.arange(number) // len(site_names) + rng.integers(2)) % 2]
    spread = INTRACRANIAL_SD_ML * np.clip(rng.standard_normal(number), -2.5, 2.5)
    volumes = np.array([INTRACRANIAL_ML[sex] for sex in sexes]) + spread
    severities = np.zeros(number)
    if condition and condition.kind != "null":
        severities = rng.permutation(np.resize(condition.severities, number))
    diagnosis = DIAGNOSES[condition.kind] if condition else CONTROL
    return {
        "site": sites,
        "age_years": ages.round(1),
        "sex": sexes,
        "diagnosis": diagnosis,
        "condition": name,
        "severity": severities.astype(float),
        "intracranial_ml": volumes.round(0),
    }


def _clinical(scans: pd.DataFrame, conditions: Mapping[str, Condition], rng: np.random.Generator) -> pd.DataFrame:
    """CDR and MMSE of people who come once or twice, each score drawn anew."""
    return clinical_scores(
        scans, kinds_of(scans, conditions), scans["severity"].to_numpy(float), rng.standard_normal(len(scans))
    )


def kinds_of(scans: pd.DataFrame, conditions: Mapping[str, Condition]) -> list[str]:
    """The kind of every row's condition; `NONE` for the healthy."""
    return [conditions[name].kind if name != NONE else NONE for name in scans["condition"]]


def clinical_scores(
    scans: pd.DataFrame, kinds: Sequence[str], severities: Sequence[float] | np.ndarray, deviations: np.ndarray
) -> pd.DataFrame:
    """The table with CDR and MMSE that go with kind and severity; none for Down syndrome, where the scales do not hold.

    ``deviations`` are those of the MMSE, in SDs of the kind.
    """
    cdr, mmse = [], []
    for kind, severity, deviation in zip(kinds, severities, deviations, strict=True):
        mean, spread = {"ad": (26 - 4 * severity, 2.0), "mci": (27.0, 1.5), "ds": (np.nan, 0.0)}.get(kind, (29.0, 0.9))
        mmse.append(float(np.clip(np.round(mean + spread * deviation), 0, 30)))
        cdr.append(
            {"ad": 0.5 if severity < 1 else 1.0 if severity < 1.75 else 2.0, "mci": 0.5, "ds": np.nan}.get(kind, 0.0)
        )
    return scans.assign(cdr=cdr, mmse=mmse, severity=scans["severity"].round(4))
