"""What came out, in sentences: does the forecaster beat both floors on regional change, by how much, in how many people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gen3d.core import words as spell
from gen3d.core.tables import Row

ALL = "all"
FLOORS = {"copy": "copying the scan forward", "population": "the rate of the population"}
EXACT = "What came true is known exactly, because the cohort is simulated."
MEASURED = (
    "What came true was measured by registering each later scan to the earlier one of the same person; the error of that "
    "measurement counts as an error of every forecast, and no forecast can foresee it."
)


def summary(
    skill: Sequence[Row], coverage: Sequence[Row], titles: Mapping[str, str], exact: bool, num_beyond: int
) -> list[str]:
    """The sentences on one folder of forecasts, the verdict first.

    Args:
        skill: rows of the table `skill` of this folder.
        coverage: rows of the table `coverage`.
        titles: name of a model -> its name in words.
        exact: whether the truth was simulated.
        num_beyond: later visits beyond the last forecast year.
    """
    rows = [row for row in skill if row["by"] == ALL and not row["floor"]]
    if not rows:
        return []
    lead = rows[0]
    title = titles.get(str(lead["model"]), str(lead["model"]))
    sentences = [verdict(lead, title)]
    if sentence := in_intervals([row for row in coverage if row["model"] == lead["model"] and row["by"] == ALL]):
        sentences.append(sentence)
    if sentence := of_images(lead):
        sentences.append(sentence)
    sentences.append(EXACT if exact else MEASURED)
    if num_beyond:
        noun = spell.count(num_beyond, "later visit lies", "later visits lie")
        sentences.append(f"{noun} beyond the last forecast year and {'is' if num_beyond == 1 else 'are'} left out.")
    return sentences


def verdict(row: Row, title: str) -> str:
    """Whether the forecaster beats the floors on regional change."""
    who = f"{spell.people(int(row['num']))} with {spell.count(int(row['num_pairs']), 'later visit')}"
    if not math.isfinite(float(row["region_skill_copy"])):
        size = interval_percent(row, "forecast_size")
        return (
            f"Nothing changed in the regions of {who}; {title} forecasts a change of {size} in the mean, where copying the scan "
            "forward is without error."
        )
    known = {
        name: what for name, what in FLOORS.items() if math.isfinite(float(row.get(f"region_skill_{name}", math.nan)))
    }
    better = [name for name in known if _low(row, name) > 0]
    worse = [name for name in known if _high(row, name) < 0]
    figures = spell.listed(
        [f"{interval_percent(row, f'region_skill_{name}', 0)} against {known[name]}" for name in known]
    )
    if len(better) == len(known):
        both = spell.listed(list(known.values()))
        said = f"forecasts the change of regions better than {both}"
    elif better:
        others = [name for name in known if name not in better]
        how = "worse than" if others[0] in worse else "not detectably better than"
        said = f"forecasts the change of regions better than {known[better[0]]}, and {how} {known[others[0]]}"
    else:
        how = "is worse than" if worse else "is not detectably better than"
        named = worse or list(known)
        said = f"{how} {spell.listed([known[name] for name in named], 'or')} at the change of regions"
    missing = "" if "population" in known else " The folder has no population rate to compare with."
    return f"{title} {said}: mean error smaller by {figures}, in {who}.{missing}"


def in_intervals(rows: Sequence[Row]) -> str:
    """How many true changes lie in the intervals of each level, and how wide the widest are."""
    known = [row for row in rows if math.isfinite(float(row["coverage"]))]
    if not known:
        return ""
    parts = [f"those of {int(row['level'])} % hold {interval_percent(row, 'coverage', 0)}" for row in known]
    width = f"the last are {spell.percent(float(known[-1]['width']))} of volume wide in the mean"
    return f"Intervals and the true changes: {spell.listed(parts)}; {width}."


def of_images(row: Row) -> str:
    """Whether the images are nearer to the later scan than the scan itself; SSIM never alone."""
    skill = float(row.get("image_skill_copy", math.nan))
    if not math.isfinite(skill):
        return ""
    low, high = _low(row, "copy", "image"), _high(row, "copy", "image")
    near = "nearer to" if low > 0 else "further from" if high < 0 else "no nearer to"
    than = "than the scan itself is"
    change = interval_percent(row, "image_skill_copy", 1)
    found, copied = (spell.percent(float(row[name]), 0) for name in ("rank_1", "rank_1_copy"))
    own = f"{found} find their own later scan first, {copied} by copying"
    alike = f"SSIM {spell.number(float(row['ssim']), 3)} beside {spell.number(float(row['ssim_copy']), 3)} of copying"
    people = spell.people(int(row["num_images"]))
    return f"Images of {people} are {near} the later scan {than} (squared error smaller by {change}; {alike}; {own})."


def interval_percent(row: Row, name: str, digits: int = 1) -> str:
    """A share with its interval as percent: 31 [22, 40] %."""
    value, low, high = (100 * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{spell.interval(value, low, high, digits)} %"


def _low(row: Row, name: str, what: str = "region") -> float:
    return float(row.get(f"{what}_skill_{name}_low", math.nan))


def _high(row: Row, name: str, what: str = "region") -> float:
    return float(row.get(f"{what}_skill_{name}_high", math.nan))
