"""How fast regions change from visit to visit: by group, by person, and faster with time.

Cited, percent of volume per year (mean and SD of controls, stable MCI, converting MCI, AD): PMC3032014, table 3, people up to 65
years, for entorhinal cortex, hippocampus, lateral ventricle, fusiform, parahippocampal and superior temporal cortex; Barnes et
al. 2009 (Neurobiol Aging 30:1711, meta-analysis) for the hippocampus of AD (4.66, interval 3.92 to 5.40) and of controls (1.41,
.52 to 2.30), which replace the means of that table. Leung et al. 2013 (Neurology 80:648): the hippocampal loss of MCI grows by
.22 % per year and year, the ventricles by .27 ml (MCI) and .88 ml (AD) per year and year, nothing else does.

Assumptions: a region without a cited rate loses, in controls, what the ageing column of the effect table says, and in patients
a share of the AD profile of that table more, such that the hippocampus has its cited rate (`profile_per_year`). SDs of papers
hold the error of measurement, of which people are free: `TRUE_SHARE_OF_SD` of them are people; regions without one have
`SD_FLOOR` and a quarter of their mean. Lateral ventricles hold 44 ml (MCI) and 51 ml (AD) where ml become percent. How much of
a person's pace is common to all regions, to left and right, or the region's own is `SHARED_PACE`. People with Down syndrome,
lesions or planted atrophy age as controls do.

Heads keep their size from visit to visit, as skulls do: rates are against the head, and an affine registration takes up none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from gen3d.cohort.regions import all_regions, find
from gen3d.simulate.anatomy import LARGEST_DEVIATION, ageing_effect
from gen3d.simulate.conditions import EFFECTS, Condition, region_effects

Group = Literal["control", "stable", "converting", "ad"]
GROUPS: tuple[Group, ...] = ("control", "stable", "converting", "ad")


class Rate(NamedTuple):
    """Percent of volume per year: mean of a group, and SD between its people."""

    mean: float
    sd: float


TRUE_SHARE_OF_SD = 0.6
SD_FLOOR, SD_OF_MEAN = 0.3, 0.25
CITED: dict[str, tuple[float, float, float, float]] = {
    "entorhinal": (-1.1, -2.3, -5.0, -5.9),
    "hippocampus": (-1.41, -2.0, -3.5, -4.66),
    "lateral ventricle": (4.2, 5.2, 8.2, 9.9),
    "fusiform": (-0.8, -1.6, -3.9, -4.0),
    "parahippocampal": (-1.0, -1.8, -3.6, -4.2),
    "superior temporal": (-0.9, -1.4, -3.0, -3.4),
}
CITED_SD: dict[str, tuple[float, float, float, float]] = {
    "entorhinal": (2.8, 3.1, 3.6, 3.9),
    "hippocampus": (1.9, 2.1, 2.2, 2.3),
    "lateral ventricle": (3.6, 4.3, 4.7, 5.3),
}
ACCELERATION: dict[Group, dict[str, float]] = {
    "control": {},
    "stable": {"hippocampus": -0.22, "lateral ventricle": 100 * 0.27 / 44},
    "converting": {"hippocampus": -0.22, "lateral ventricle": 100 * 0.27 / 44},
    "ad": {"lateral ventricle": 100 * 0.88 / 51},
}
"""Percent per year and year."""
SHARED_PACE = (0.5, 0.3)  # of the variance of paces: common to the person, common to left and right
SMALLNESS_OF = ("hippocampus", "amygdala", "entorhinal")
SMALLNESS_SD = 0.75  # of the mean of these six regions' deviations, whose own SD is 1 (`anatomy.SHARED_VARIANCE`)


def group_of(condition: Condition | None, converts: bool) -> Group:
    """Whose rates a person has."""
    kind = None if condition is None else condition.kind
    if kind == "mci":
        return "converting" if converts else "stable"
    return "ad" if kind == "ad" else "control"


def profile_per_year(group: Group) -> float:
    """Share of the AD profile that a group loses per year beyond controls, from the hippocampus."""
    place = GROUPS.index(group)
    beyond = np.log1p(CITED["hippocampus"][place] / 100) - np.log1p(CITED["hippocampus"][0] / 100)
    return abs(float(beyond / np.log1p(EFFECTS["hippocampus"].ad / 100)))


@lru_cache(maxsize=len(GROUPS))
def group_rates(group: Group) -> Mapping[int, Rate]:
    """The rate of every region by label."""
    place, share = GROUPS.index(group), profile_per_year(group)
    rates: dict[int, Rate] = {}
    for structure, effect in EFFECTS.items():
        mean = effect.ageing + 100 * np.expm1(share * np.log1p(effect.ad / 100))
        mean = CITED[structure][place] if structure in CITED else float(mean)
        sd = SD_FLOOR + SD_OF_MEAN * abs(mean)
        sd = TRUE_SHARE_OF_SD * CITED_SD[structure][place] if structure in CITED_SD else sd
        rates |= {label: Rate(mean, sd) for label in find(structure)}
    return rates


def paces(
    targets: Mapping[int, float], age_years: float, foreseeable: float, rng: np.random.Generator
) -> dict[int, float]:
    """How many SDs faster than the group's mean each region of a person changes, by label.

    Args:
        targets: of the person's healthy anatomy, see `anatomy.healthy_targets`.
        age_years: at the first visit.
        foreseeable: correlation of the pace that all regions share with how small the medial temporal structures are.
        rng: of the person's pace.
    """
    variation = region_effects("variation")
    small = [
        (ageing_effect(label, age_years) - targets[label]) / np.log1p(variation[label] / 100)
        for name in SMALLNESS_OF
        for label in find(name)
    ]
    fresh = float(rng.standard_normal())
    person = foreseeable * float(np.mean(small)) / SMALLNESS_SD + np.sqrt(1 - foreseeable**2) * fresh
    structures = {name: rng.standard_normal() for name in EFFECTS}
    own = rng.standard_normal(len(all_regions()))
    shares = np.sqrt([*SHARED_PACE, 1 - sum(SHARED_PACE)])
    drawn = {}
    for region in all_regions():
        if region.structure in EFFECTS:
            deviation = float(shares @ np.array([person, structures[region.structure], own[region.label - 1]]))
            drawn[region.label] = float(np.clip(deviation, -LARGEST_DEVIATION, LARGEST_DEVIATION))
    return drawn


def log_changes(
    group: Group, pace: Mapping[int, float], years: float, progression: float, acceleration: bool
) -> dict[int, float]:
    """Log volume change of each region of a person some years after the first visit, by label; nothing where nothing progresses.

    Whoever is faster loses more where the group loses and gains more where it gains.
    """
    if progression == 0 or years == 0:
        return {}
    faster = {label: value for name, value in ACCELERATION[group].items() for label in find(name)}
    changes = {}
    for label, rate in group_rates(group).items():
        percent = rate.mean + np.copysign(rate.sd, rate.mean) * pace[label]
        bent = 0.5 * faster.get(label, 0.0) / 100 * years**2 if acceleration else 0.0
        changes[label] = float(progression * (np.log1p(percent / 100) * years + bent))
    return changes
