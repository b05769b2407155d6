"""What maps cannot say, for the last section of the page."""

from __future__ import annotations

from gen3d.anomaly.folder import MapsFolder
from gen3d.core import words as spell
from gen3d.figures.context import Context


def limits_of_maps(context: Context) -> list[str]:
    """Whom the calibration covers, and what an empty map means; [] without maps."""
    maps = context.first(MapsFolder)
    if maps is None:
        return []
    sentences = []
    calibrated = maps.calibrated_on
    low, high = (calibrated.get("age_range_years") or [None, None])[:2]
    if low is not None and high is not None:
        sites = spell.listed([str(name) or "without a name" for name in calibrated.get("sites") or {}])
        sentences.append(
            f"Calibration covers ages {low:.0f} to {high:.0f} and the sites {sites}; {spell.people(maps.num_flagged)} outside "
            f"of that or with missing covariates {'is' if maps.num_flagged == 1 else 'are'} flagged."
        )
    if maps.num_without_map:
        sentences.append(
            f"{spell.people(maps.num_without_map).capitalize()} got no z map, because no control of their site calibrates; "
            "prepare at least 8 controls of that site together with them and run `gen3d anomaly` again."
        )
    sentences.append(
        "Maps show where a model and a scan disagree. A change that the model reproduces, or that is spread "
        "thinly over the whole brain, is not seen; "
        "an empty map is no proof of health. Local volume changes are underestimated by registration, more so "
        "where they are small in extent."
    )
    sentences.append(
        "Intervals and p values describe this cohort; AUCs of several scores and groups are shown without "
        "correction for looking at all of them."
    )
    return sentences
