"""The effect of a condition on the brain: regional volume changes with their sources, and the conditions of a cohort.

Sources of the effect table: volume changes in AD and MCI, variation of controls and ageing rates are means of the ADNI and
NACC FreeSurfer tables that accompany Liu et al. 2022 (Sci Rep 12:17106), one scan per person, adjusted for age and
intracranial volume. Regions that those tables lack (temporal pole, insula, occipital, orbital and others) are interpolated
from their neighbours and from the ranking of Carmichael et al. 2013 (Simul@trophy); they are assumptions. Left and right
have the same effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from gen3d.cohort.regions import all_regions, find
from gen3d.core.config import Config, Folder


def _null_word(value: object) -> object:
    """YAML reads the word null as nothing; here it is the name of a condition."""
    return "null" if value is None else value


Name = Annotated[str, BeforeValidator(_null_word)]
Kind = Annotated[Literal["ad", "mci", "ds", "atrophy", "lesion", "null"], BeforeValidator(_null_word)]
DIAGNOSES = {"ad": "AD", "mci": "MCI", "ds": "DS", "atrophy": "atrophy", "lesion": "lesion", "null": "null"}
CONTROL = "control"
LESION_LEVELS = (0.30, 0.55)  # T1w intensity inside a lesion, between fluid and grey matter
CONVERTING_SHARE = 0.4  # of people with MCI within three years or so (ADNI); an assumption for other intervals
# Growth of severity: hippocampal loss per year beyond ageing (Barnes 2009, PMC3032014) over the loss at severity 1.
PROGRESSION_PER_YEAR = {"ad": 0.16, "mci": 0.12}


class Effect(NamedTuple):
    """Percent volume change in AD and MCI, control residual coefficient of variation (%), ageing (% per year)."""

    ad: float
    mci: float
    variation: float
    ageing: float


EFFECTS: dict[str, Effect] = {
    "hippocampus": Effect(-18.8, -10.2, 9.0, -0.62),
    "amygdala": Effect(-22.0, -10.2, 11.8, -0.58),
    "entorhinal": Effect(-22.7, -10.5, 15.2, -0.35),
    "parahippocampal": Effect(-13.0, -6.4, 12.2, -0.42),
    "fusiform": Effect(-13.6, -4.9, 9.4, -0.38),
    "inferior temporal": Effect(-16.2, -6.1, 10.4, -0.39),
    "middle temporal": Effect(-15.5, -6.6, 9.7, -0.42),
    "superior temporal": Effect(-10.7, -4.3, 9.2, -0.41),
    "temporal pole": Effect(-16.0, -6.5, 11.0, -0.40),
    "insula": Effect(-7.0, -3.0, 8.0, -0.40),
    "precuneus": Effect(-11.1, -3.4, 9.8, -0.30),
    "posterior cingulate": Effect(-9.9, -3.5, 11.8, -0.21),
    "anterior cingulate": Effect(-4.0, -1.5, 10.0, -0.30),
    "superior parietal": Effect(-9.0, -3.0, 9.5, -0.30),
    "inferior parietal": Effect(-14.2, -5.4, 10.7, -0.32),
    "supramarginal": Effect(-10.0, -3.8, 10.0, -0.35),
    "superior frontal": Effect(-7.1, -3.2, 8.2, -0.40),
    "middle frontal": Effect(-7.5, -3.0, 8.5, -0.40),
    "inferior frontal": Effect(-6.5, -2.5, 9.0, -0.40),
    "orbitofrontal": Effect(-7.0, -2.8, 8.5, -0.40),
    "precentral": Effect(-5.6, -1.9, 9.8, -0.56),
    "postcentral": Effect(-4.5, -1.5, 10.0, -0.40),
    "pericalcarine": Effect(0.0, 0.0, 15.0, -0.35),
    "cuneus": Effect(-2.5, -1.0, 11.0, -0.35),
    "lingual": Effect(-3.5, -1.5, 10.0, -0.35),
    "lateral occipital": Effect(-5.0, -2.0, 9.5, -0.35),
    "thalamus": Effect(-6.1, -3.9, 8.1, -0.37),
    "caudate": Effect(0.0, 0.0, 12.6, 0.27),
    "accumbens": Effect(-7.0, -3.0, 12.0, -0.40),
    "putamen": Effect(-7.6, -3.1, 10.7, -0.29),
    "pallidum": Effect(-2.0, -1.0, 10.0, -0.25),
    "ventral diencephalon": Effect(-2.0, -1.0, 7.0, -0.35),
    "cerebellar cortex": Effect(0.0, 0.0, 9.0, -0.40),
    "cerebellar white matter": Effect(0.0, 0.0, 9.0, -0.35),
    "brain-stem": Effect(0.0, 0.0, 9.0, -0.32),
    "cerebral white matter": Effect(-2.5, -1.5, 6.0, -0.38),
    "lateral ventricle": Effect(41.5, 18.6, 36.0, 2.55),
    # +108 % and +35 % of the fluid; only 28 % of this region is fluid on the template, the rest is its wall.
    "inferior lateral ventricle": Effect(30.0, 10.0, 15.0, 1.1),
    "third ventricle": Effect(17.6, 8.8, 24.0, 1.67),
    "fourth ventricle": Effect(0.0, 0.0, 18.0, 0.5),
}

# Down syndrome, ratios of volume after the affine part of the difference is gone: an affine registration takes up about
# -18 % of volume and the rounder head. Directions: Pinter 2001, Hamner 2018; Lee 2016 (cortex is not thinner, so no thinning
# is simulated). Magnitudes are assumptions; give `changes` to replace them.
DOWN_SYNDROME: dict[str, float] = {
    "cerebellar cortex": 0.854,
    "cerebellar white matter": 0.854,
    "hippocampus": 0.915,
    "superior frontal": 0.96,
    "middle frontal": 0.96,
    "inferior frontal": 0.96,
    "orbitofrontal": 0.96,
    "brain-stem": 0.95,
    "thalamus": 1.08,
    "caudate": 1.08,
    "putamen": 1.08,
    "pallidum": 1.08,
    "parahippocampal": 1.05,
    "lateral ventricle": 1.05,
    "third ventricle": 1.05,
}
DOWN_SYNDROME_AFFINE = (0.975, 0.885, 0.950)  # left-right, back-front, bottom-top; cephalic index 0.79 -> 0.87
DOWN_SYNDROME_VARIATION = 0.06  # between-person standard deviation of the log ratios (assumption: 5-8 %)
LARGEST_GROWTH = float(
    np.log(2.5)
)  # where the effects of AD and MCI end: thin ventricles cannot grow further on a coarse grid


class Condition(Config):
    """One group of people of a simulated cohort, besides the healthy."""

    kind: Kind = Field(
        description="ad, mci, ds (Down syndrome), atrophy (volume changes listed in `changes`), lesion (focal), null (no change)"
    )
    share: float = Field(
        0.1, ge=0, le=1, description="share of all people, 0 to 1 (not with base: there every base has one twin)"
    )
    count: int | None = Field(None, ge=0, description="number of people; replaces share")
    severity: tuple[float, ...] = Field(
        (),
        description="assigned to the people in turn; lesion: volume in ml (default 10; without one, masks keep their size); "
        "other kinds: factor on the log volume changes (default 1)",
    )
    converting: float | None = Field(
        None,
        ge=0,
        le=1,
        description="mci, with visits: share of its people whose diagnosis becomes AD at a later visit (default 0.4); they have "
        "the faster rates and 1.3 times the severity, the others 0.8 times",
    )
    changes: dict[str, float] = Field(
        default_factory=dict, description="volume change in percent by region; replaces the effect table"
    )
    masks: Folder | None = Field(
        None, description="lesion: folder of NIfTI masks in MNI152 space, drawn at random; none: irregular blobs"
    )
    sizes_ml: tuple[float, float] | None = Field(
        None, description="lesion: smallest and largest mask to use, ml inside the brain"
    )
    level: tuple[float, float] = Field(
        LESION_LEVELS, description="lesion: range of its T1w intensity, drawn per person (white matter is 1)"
    )
    labels: Folder | None = Field(
        None, description="with base: folder of label maps <key>.nii[.gz], each in its scan's own space, for `changes`"
    )
    label_names: Folder | None = Field(None, description="table of the label maps: label, name")

    @model_validator(mode="after")
    def _complete(self) -> Condition:
        self._check_lesion()
        if self.converting is not None and self.kind != "mci":
            raise ValueError(f"converting is a share of people with MCI; kind {self.kind} has none.")
        if self.kind == "atrophy" and not self.changes:
            raise ValueError("kind atrophy needs changes, for instance changes={hippocampus: -24}.")
        if self.kind in ("lesion", "null") and self.changes:
            raise ValueError(f"kind {self.kind} changes no volume; remove changes.")
        if any(value <= -90 or value > 200 for value in self.changes.values()):
            raise ValueError("changes are percent of volume, between -90 and 200.")
        if any(value <= 0 for value in self.severity):
            raise ValueError("every severity must be above 0 (for people with nothing wrong use kind null).")
        if (self.labels is None) != (self.label_names is None) or (self.labels is not None and not self.changes):
            raise ValueError("labels, label_names and changes belong together; give all three, or changes alone.")
        if self.labels is None:
            for name in self.changes:
                find(name)
        return self

    def _check_lesion(self) -> None:
        fields = type(self).model_fields
        lesion_only = [name for name in ("masks", "sizes_ml", "level") if getattr(self, name) != fields[name].default]
        if self.kind != "lesion" and lesion_only:
            raise ValueError(f"masks, sizes_ml and level are those of a lesion; kind {self.kind} has none.")
        if self.sizes_ml is not None and (self.masks is None or not 0 <= self.sizes_ml[0] < self.sizes_ml[1]):
            raise ValueError(
                "sizes_ml is the smallest and the largest volume of the masks used; give masks, and low < high."
            )
        if not 0 <= self.level[0] <= self.level[1] < 1:
            raise ValueError(
                "level is the darkest and the brightest intensity of a lesion, between 0 and 1 (white matter)."
            )

    @property
    def severities(self) -> tuple[float, ...]:
        """Severities assigned in turn; 0 is that of a mask used as it is, whose volume is known when it is planted."""
        if self.kind == "lesion":
            return self.severity or ((0.0,) if self.masks is not None else (10.0,))
        return self.severity or (1.0,)

    @property
    def converting_share(self) -> float:
        """Share of the people whose MCI becomes AD between two visits."""
        return CONVERTING_SHARE if self.converting is None and self.kind == "mci" else self.converting or 0.0

    def number(self, num_subjects: int) -> int:
        """How many people of the cohort have the condition."""
        return self.count if self.count is not None else round(self.share * num_subjects)


def default_conditions() -> dict[str, Condition]:
    """AD-like atrophy in four grades, MCI-like, focal lesions in three sizes, and a null group."""
    return {
        "ad": Condition(kind="ad", share=0.14, severity=(0.5, 1.0, 1.5, 2.0)),
        "mci": Condition(kind="mci", share=0.06),
        "lesion": Condition(kind="lesion", share=0.10, severity=(2.0, 10.0, 30.0)),
        "null": Condition(kind="null", share=0.10),
    }


def condition_targets(condition: Condition, severity: float, rng: np.random.Generator) -> dict[int, float]:
    """Log volume change by region label; empty for conditions that change no volume.

    A change of 0 holds a region (AD spares it); regions not named follow their neighbours.
    ``rng`` gives the between-person variation of Down syndrome; AD, MCI and given changes are exact.
    """
    if condition.changes:
        logs = {name: np.log1p(percent / 100) for name, percent in condition.changes.items()}
    elif condition.kind == "ad":
        logs = {name: np.log1p(effect.ad / 100) for name, effect in EFFECTS.items()}
    elif condition.kind == "mci":
        logs = {name: np.log1p(effect.mci / 100) for name, effect in EFFECTS.items()}
    elif condition.kind == "ds":
        logs = {name: np.log(ratio) + rng.normal(0, DOWN_SYNDROME_VARIATION) for name, ratio in DOWN_SYNDROME.items()}
    else:
        logs = {}
    limit = LARGEST_GROWTH if condition.kind in ("ad", "mci") and not condition.changes else np.inf
    return {label: min(float(severity * value), limit) for name, value in logs.items() for label in find(name)}


@lru_cache(maxsize=2)
def region_effects(column: Literal["variation", "ageing"]) -> Mapping[int, float]:
    """One column of the effect table by region label, in percent."""
    effects = {
        region.label: getattr(EFFECTS[region.structure], column)
        for region in all_regions()
        if region.structure in EFFECTS
    }
    return MappingProxyType(effects)
