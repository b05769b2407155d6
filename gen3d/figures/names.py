"""Names for readers of codes: channels, groups, conditions, regions, effects with their units."""

from __future__ import annotations

import math
import re
from typing import Any

from gen3d.cohort.channels import LOG_VOLUMES
from gen3d.cohort.region_validity import measures_volume
from gen3d.core import words as spell
from gen3d.core.words import number
from gen3d.maths.stats import Interval

CHANNELS = {
    "residual": ("T1w intensity", "brighter than expected", "darker than expected"),
    "structural": ("Local structure (SSIM)", "less like the expectation", "more like the expectation"),
    "deformation": ("Local volume", "larger than expected", "smaller than expected"),
    "size": ("Volume with global size", "larger than expected", "smaller than expected"),
    "contrast": ("Volume against surroundings", "larger than around it", "smaller than around it"),
    "volume": ("Volume of regions", "larger than expected", "smaller than expected"),
    "latent": ("Latent distance", "further from the controls", "nearer to the controls"),
}
IN_TEXT = {
    "residual": "T1w intensity",
    "structural": "local structure (SSIM)",
    "deformation": "local volume",
    "size": "volume with global size",
    "contrast": "local volume against its surroundings",
    "volume": "volume of regions",
    "latent": "latent distance",
}
KINDS = {"regions": "strongest region", "voxels": "most deviating 5 % of voxels", "distance": "Mahalanobis distance"}
ROLES = {
    "train": "Train",
    "calibration": "Calibration",
    "test": "Test (held out)",
    "evaluation": "Evaluation",
    "excluded": "Excluded",
}
GROUPS = {
    "cn": "controls",
    "ad": "Alzheimer's disease",
    "mci": "mild cognitive impairment",
    "ds": "Down syndrome",
    "depr": "depression",
    "null": "nothing planted",
}
ABBREVIATIONS = ("ad", "mci", "ds")
NOT_ITS_VOLUME = "not its volume"
"""Mark of a reading that goes with something other than the volume of the region it is named after."""


def with_interval(interval: Interval, digits: int = 2, scale: float = 1.0) -> str:
    """A value and its 95 % interval: 0.87 [0.78, 0.94]."""
    return spell.interval(scale * interval.value, scale * interval.low, scale * interval.high, digits)


def channel(name: str) -> str:
    """A channel's name for readers."""
    return CHANNELS.get(name, (name.replace("_", " "), "", ""))[0]


def in_text(channel_name: str) -> str:
    """A channel's name inside a sentence."""
    return IN_TEXT.get(channel_name, channel_name.replace("_", " "))


def score(channel_name: str, kind: str) -> str:
    """The name of a score: its channel and how voxels or regions were reduced to one number."""
    return f"{channel(channel_name)}, {KINDS.get(kind, kind)}"


def effect(channel_name: str, effect_value: float, effect_percent: float) -> str:
    """An effect in common units: volume in %, intensity in % of the white-matter level."""
    if channel_name in LOG_VOLUMES:
        return f"{number(effect_percent, 1, signed=True)} %"
    if channel_name == "residual":
        return f"{number(100 * effect_value, 1, signed=True)} % of WM"
    return number(effect_value, 3, signed=True)


def effect_scale(channel_name: str, effect_value: float) -> float:
    """An effect as the number that `effect` writes."""
    if channel_name in LOG_VOLUMES:
        return 100.0 * math.expm1(effect_value)
    return 100.0 * effect_value if channel_name == "residual" else effect_value


def effect_unit(channel_name: str) -> str:
    """The unit of the numbers of `effect_scale`, with a space before it; "" for none."""
    return " %" if channel_name in LOG_VOLUMES else " % of WM" if channel_name == "residual" else ""


def effect_reach(channel_name: str, reach: float) -> str:
    """Half the width of a scale of effects, with its unit."""
    unit = effect_unit(channel_name)
    return f"{number(reach, 0 if reach >= 10 else 1 if reach >= 1 else 2)}{unit}"


def directions(name: str) -> tuple[str, str]:
    """The meanings of a positive and of a negative z in a channel."""
    _, up, down = CHANNELS.get(name, ("", "above the expectation", "below the expectation"))
    return up, down


def group(code: str) -> str:
    """A diagnosis code with its meaning where it is a common one."""
    meaning = GROUPS.get(code.lower())
    code = condition(code)
    return f"{code} ({meaning})" if meaning else code or "no diagnosis given"


def condition(code: str) -> str:
    """A condition's code in its usual spelling."""
    return code.upper() if code in ABBREVIATIONS else code


def region(name: str) -> str:
    """A region's name without underscores; `hippocampus (both)` becomes both sides of hippocampus."""
    return re.sub(r"^(.*) \(both\)$", r"both sides of \1", name.replace("_", " "))


def reading(region_name: str, channel_name: str) -> str:
    """A region's name beside its reading in a channel; marked where that is known not to follow the region's volume."""
    return region(region_name) + ("" if measures_volume(region_name, channel_name) else f" ({NOT_ITS_VOLUME})")


def plain(value: Any) -> Any:
    """A value that JSON can hold, NaN as null."""
    if isinstance(value, Interval):
        return {name: plain(getattr(value, name)) for name in ("value", "low", "high", "num")}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
