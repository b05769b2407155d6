"""Change between two scans of one person, compared with the differences between two scans of unchanged controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen3d.anomaly.change_folder import ChangeFolder
from gen3d.anomaly.folder import CHANNEL_ORDER
from gen3d.anomaly.picture import draw_change
from gen3d.anomaly.sections.rates import rate_blocks
from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Section, Table, Text
from gen3d.figures.context import Context, page_section

Pair = tuple[str, str, str]
PAIR = ["subject", "session_1", "session_2"]
REGIONS_SHOWN = 12


@page_section("Change between sessions", "`gen3d change` on people with several sessions", place=70, reads=ChangeFolder)
def section(context: Context) -> Section | None:
    """Agreement of repeated scans, a row per pair of scans, and pictures of the pairs that changed most."""
    if not context.all(ChangeFolder):
        return None
    blocks: list[Any] = [
        Text(
            "The change of a region is compared with the differences between two scans of controls without a known change "
            "(reliable change index, Jacobson and Truax 1991); no person is compared with their own scans. z is standard "
            "normal where nothing changed; q is over a person's regions. The effect of age is removed from both scans."
        )
    ]
    numbers: dict[str, Any] = {}
    for change in context.all(ChangeFolder):
        if len(context.all(ChangeFolder)) > 1:
            blocks.append(Heading(change.name))
        agreement, pairs = agreement_of(change), changed_pairs(change)
        numbers[change.name] = {"agreement": agreement, "pairs": pairs}
        if agreement:
            blocks.append(_agreement_table(agreement))
        order = _most_changed_first(pairs)
        num_shown = max(context.subjects_shown, 1)
        shown, rest = order[:num_shown], order[num_shown:]
        blocks += [_pair_table(pairs, shown, change.q), *_figures(change, order[: context.subjects_shown])]
        if rest:
            blocks.append(Details(f"The other {len(rest)} pairs of scans", [_pair_table(pairs, rest, change.q)]))
        if len(change.rates):
            found, listed = rate_blocks(change, context.subjects_shown)
            blocks += found
            numbers[change.name] |= listed
    return Section("change", "Change between sessions", blocks, numbers)


def agreement_of(change: ChangeFolder) -> list[Row]:
    """Per channel the quartiles over regions of ICC and within-person SD of controls scanned twice."""
    rows = []
    for channel, part in sorted(change.retest.groupby("channel"), key=lambda item: _rank(str(item[0]))):
        within = [wording.effect_scale(str(channel), float(sd)) for sd in part["sd_within"]]
        rows.append(
            {
                "channel": str(channel),
                "num_pairs": int(part["num_pairs"].iloc[0]),
                "median_years": float(part["median_years"].iloc[0]),
                "num_regions": len(part),
                "icc_quartiles": np.nanpercentile(part["icc"], [25, 50, 75]).tolist(),
                "sd_within_quartiles": np.nanpercentile(within, [25, 50, 75]).tolist(),
            }
        )
    return rows


def _rank(channel: str) -> int:
    """Local volume stands first, as everywhere in the report."""
    return CHANNEL_ORDER.index(channel) if channel in CHANNEL_ORDER else len(CHANNEL_ORDER)


def _agreement_table(agreement: list[Row]) -> Table:
    cells = []
    for row in agreement:
        first, middle, third = row["icc_quartiles"]
        low, within, high = row["sd_within_quartiles"]
        digits = 3 if row["channel"] == "structural" else 1
        spread = f"{spell.number(low, digits)} to {spell.number(high, digits)}"
        cells.append(
            [
                wording.channel(row["channel"]),
                str(row["num_pairs"]),
                spell.number(row["median_years"], 1),
                f"{spell.number(middle)} ({spell.number(first)} to {spell.number(third)})",
                f"{spell.number(within, digits)} ({spread}){wording.effect_unit(row['channel'])}",
            ]
        )
    caption = (
        "How well two scans of the same control agree: median and quartiles over "
        f"{spell.count(int(agreement[0]['num_regions']), 'region')} of ICC(2,1), the share of variance that is between "
        "people, and of the standard deviation between two scans of one person."
    )
    header = ["Channel", "Controls scanned twice", "Years apart", "ICC", "SD within a person"]
    return Table(caption, header, cells, "lrrrr")


def changed_pairs(change: ChangeFolder) -> list[Row]:
    """Per pair of scans and channel: how many regions changed, and the strongest change."""
    rows = []
    for (subject, first, second, channel), part in change.changes.groupby([*PAIR, "channel"], sort=False):
        strongest = rows_of(part.loc[[part["z_change"].abs().idxmax()]])[0]
        rows.append(
            {
                "subject": str(subject),
                "session_1": str(first),
                "session_2": str(second),
                "channel": str(channel),
                "years": float(strongest["years"]),
                "num_regions": len(part),
                "num_changed": int((part["q"] < change.q).sum()),
                "strongest": {
                    name: strongest[name] for name in ("region", "change", "change_percent", "z_change", "q")
                },
            }
        )
    return rows


def _most_changed_first(pairs: list[Row]) -> list[Pair]:
    """Pairs of scans by the number of changed regions, all channels together."""
    counts: dict[Pair, int] = {}
    for row in pairs:
        pair = (row["subject"], row["session_1"], row["session_2"])
        counts[pair] = counts.get(pair, 0) + row["num_changed"]
    return sorted(counts, key=lambda pair: -counts[pair])


def _pair_table(pairs: list[Row], shown: list[Pair], q: float) -> Table:
    cells: list[list[str]] = []
    for pair in shown:
        of_pair = [row for row in pairs if (row["subject"], row["session_1"], row["session_2"]) == pair]
        of_pair.sort(key=lambda row: _rank(row["channel"]))
        years = of_pair[0]["years"]
        gap = f", {spell.number(years, 1)} years" if years > 0 else ""
        cells.append([f"{pair[0]}, session {pair[1]} to {pair[2]}{gap}"])
        for row in of_pair:
            strongest = row["strongest"]
            cells.append(
                [
                    wording.channel(row["channel"]),
                    f"{row['num_changed']} of {row['num_regions']}",
                    wording.reading(str(strongest["region"]), row["channel"]),
                    wording.effect(row["channel"], float(strongest["change"]), float(strongest["change_percent"])),
                    spell.number(float(strongest["z_change"]), 1, signed=True),
                    spell.probability(float(strongest["q"])),
                ]
            )
    caption = (
        f"Pairs of scans, most changed first: the number of changed regions (q < {q:g}), and the strongest change of each "
        "channel."
    )
    header = ["Channel", "Regions changed", "Strongest", "Change", "z", "q"]
    return Table(caption, header, cells, "lrlrrr")


def _figures(change: ChangeFolder, shown: list[Pair]) -> list[Any]:
    """A picture per pair of scans: the first in full, the others folded away."""
    figures = []
    table = change.changes
    for subject, first, second in shown:
        part = table[(table["subject"] == subject) & (table["session_1"] == first) & (table["session_2"] == second)]
        who = f"{subject}, session {first} to {second}"
        caption = (
            f"{who}: the regions that changed most. The band is the range of 95 % of unchanged people; coloured bars have "
            f"q < {change.q:g} over the person's regions."
        )
        png = draw_change(part, change.q, REGIONS_SHOWN)
        name = f"change_{change.folder.name}_{subject}_{first}_{second}"
        figures.append(Figure(name, f"Bars of the change of regions of {who}.", caption, png))
    if len(figures) < 2:
        return figures
    return [figures[0], Details(f"Pictures of the next {len(figures) - 1}", figures[1:])]
