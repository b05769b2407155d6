"""Limits of maps, for the last section of the page."""

from __future__ import annotations

from gen3d.anomaly.folder import MapsFolder
from gen3d.core import words as spell
from gen3d.figures.context import Context


def limits_of_maps(context: Context) -> list[str]:
    """Ages and sites that the calibration covers, and what an empty map means; [] without maps."""
    maps = context.first(MapsFolder)
    if maps is None:
        return []
    sentences = []
    calibrated = maps.calibrated_on
    low, high = (calibrated.get("age_range_years") or [None, None])[:2]
    if low is not None and high is not None:
        ages = f"{spell.number(low, 0)} to {spell.number(high, 0)}"
        sites = spell.listed([str(name) or "without a name" for name in calibrated.get("sites") or {}])
        flagged = f"{spell.people(maps.num_flagged)} outside this range or with missing covariates"
        are = "is" if maps.num_flagged == 1 else "are"
        sentences.append(f"Calibration covers ages {ages} and the sites {sites}. {flagged} {are} flagged.")
    if maps.num_without_map:
        remedy = (
            "add it from controls of its own (`gen3d norm adapt=NORM prepared=CONTROLS`) and judge them by that norm"
            if maps.by_norm
            else "prepare at least 8 controls of that site together with them and run `gen3d anomaly` again"
        )
        sentences.append(
            f"{spell.people(maps.num_without_map).capitalize()} got no z map, because their site has too few calibration "
            f"controls; {remedy}."
        )
    sentences.append(
        "Maps show where a scan differs from the model's expectation. They miss a change that the model reproduces, and a "
        "weak change of the whole brain; an empty map is no proof of health. Registration underestimates local volume "
        "changes, most of all small ones."
    )
    if maps.is_one_scan:
        return sentences
    sentences.append(
        "Intervals and p values describe this cohort. AUCs of several scores and groups are not corrected for multiple "
        "comparisons."
    )
    return sentences
