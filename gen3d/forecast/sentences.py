"""What forecasts are worth, in sentences: against copying the scan forward, against the population's rate, and the intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.forecast.folder import ALL_REGIONS, COPY_FORWARD
from gen3d.maths.stats import Interval

FEWEST_FOR_90 = 9


def years_in_words(years: Sequence[float]) -> str:
    """`1, 3 and 5 years`, `1 year`."""
    listed = spell.listed([f"{year:g}" for year in years])
    return f"{listed} {'year' if list(years) == [1.0] else 'years'}"


def who(num_people: int, num_scans: int, years: Sequence[float], title: str) -> str:
    """Whose future, how far ahead, by which model."""
    scans = "" if num_scans == num_people else f" ({spell.count(num_scans, 'scan')})"
    return f"The future of {spell.people(num_people)}{scans} in {years_in_words(years)}, by the model {title}"


def skill_of(skill: pd.DataFrame, model: str, against: str, region: str = ALL_REGIONS) -> Interval | None:
    """The skill of a model against another, None where there is no row."""
    rows = skill[(skill["model"] == model) & (skill["against"] == against) & (skill["region"] == region)]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Interval(float(row["skill"]), float(row["low"]), float(row["high"]), int(row["num_people"]))


def _share(value: Interval) -> str:
    shown = [spell.number(100 * part, 1) for part in (value.value, value.low, value.high)]
    return f"{shown[0]} % [{shown[1]}, {shown[2]}]"


def verdict(skill: pd.DataFrame, model: str, against: str, title: str) -> str:
    """Whether a model errs less than another for people whom it never saw."""
    value = skill_of(skill, model, against)
    floor = "copying the scan forward" if against == COPY_FORWARD else f"the floor {title}"
    if value is None or not np.isfinite(value.value):
        return f"Whether it is better than {floor} is not known: too few people were followed whom it never saw."
    people = f"of {spell.people(value.num)} whom it never saw"
    if value.low > 0:
        return (
            f"It is better than {floor}: {people}, its error of regional volume change is {_share(value)} smaller (95 % interval "
            "over people)."
        )
    if value.high < 0:
        worse = Interval(-value.value, -value.high, -value.low, value.num)
        return f"It is worse than {floor}: {people}, its error of regional volume change is {_share(worse)} larger."
    return (
        f"It is not better than {floor}: {people}, its error of regional volume change is {_share(value)} smaller, which may be "
        "chance."
    )


def coverage_sentence(coverage: pd.DataFrame, model: str, level: int = 90) -> str:
    """What the intervals of a level held, per bin of horizons."""
    rows = rows_of(coverage[(coverage["model"] == model) & (coverage["level"] == level)])
    parts = [_covered(row) for row in rows if np.isfinite(row["coverage"])]
    if not parts:
        return (
            f"Intervals of {level} % are not available: at least {FEWEST_FOR_90} people who were followed are needed."
        )
    return f"Intervals of {level} % held, of people left out of their making, {spell.listed(parts)}."


def _covered(row: Row) -> str:
    span = f"{row['years_low']:.1f} to {row['years_high']:.1f} years"
    held = f"{spell.number(100 * row['coverage'], 0)} %"
    return f"{held} of the changes over {span} (n {int(row['num_people'])}, mean width {spell.number(100 * row['width'], 1)} %)"


def beyond(years: Sequence[float], shortest: float, longest: float) -> str:
    """Which horizons have no interval; "" for none."""
    without = [year for year in years if year > longest + 1e-9 or 0 < year < shortest - 1e-9]
    if not without:
        return ""
    return (
        f"No interval is given for {years_in_words(without)}: nobody was followed so long, or seen again so soon (people were "
        f"followed {shortest * 2:.1f} to {longest:.1f} years)."
    )


def extrapolated(years: Sequence[float], longest: float) -> str:
    """That horizons lie beyond what was learned; "" where none does."""
    far = [year for year in years if year > longest + 1e-9]
    if not far:
        return ""
    return (
        f"{years_in_words(far)} lie beyond the {longest:.1f} years that the model learned from: read them as a guess."
    )


def summary(
    begin: str,
    skill: pd.DataFrame,
    coverage: pd.DataFrame,
    titles: Sequence[tuple[str, str]],
    further: Sequence[str],
) -> list[str]:
    """All sentences of a folder, the verdict first.

    Args:
        begin: of `who`.
        skill, coverage: tables of the folder.
        titles: name and name in words, the model's own first.
        further: sentences on people and horizons, empty ones are left out.
    """
    model = titles[0][0]
    floors = [(name, title) for name, title in titles[1:] if name in set(skill["against"])]
    copied = [(name, title) for name, title in floors if name == COPY_FORWARD]
    first = f"{begin}. {verdict(skill, model, COPY_FORWARD, '')}" if copied or model != COPY_FORWARD else f"{begin}."
    others = [verdict(skill, model, name, title) for name, title in floors if name != COPY_FORWARD]
    return [first, *others, coverage_sentence(coverage, model), *(text for text in further if text)]


def among_healthy(num: int, num_without: int) -> str:
    """How many scans were placed on a norm's curves, and why others were not."""
    placed = f"{spell.count(num, 'scan')} placed on the norm's curves, today and forecast"
    if not num_without:
        return f"{placed}."
    have = "has" if num_without == 1 else "have"
    return (
        f"{placed}; {spell.count(num_without, 'scan')} {have} no place there: not among its maps, without sex, or of an age "
        "that the norm's controls do not have."
    )


def centile_in_words(centile: float) -> str:
    """A centile of healthy people of the same age and sex; tails are not told apart."""
    if not math.isfinite(centile):
        return "beyond the norm's ages"
    if centile <= 0:
        return "below 5"
    return "above 95" if centile >= 100 else f"{centile:.0f}"
