"""Pictures of all visits: the course of one person's regions, and the rates of groups."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gen3d.core import words as spell
from gen3d.figures import names as wording
from gen3d.figures import style

LABELLED = 4
COLUMNS = 4
DOTS_PER_INCH = 130


def draw_trajectories(visits: pd.DataFrame, rates: pd.DataFrame, q: float, num_shown: int) -> bytes:
    """A PNG: the volume of the regions that change fastest at every visit, and the person's rate with its interval.

    Args:
        visits: rows of trajectories.tsv of one person.
        rates: rows of rates.tsv of the person.
        q: rates with a smaller q are coloured: they differ from those of controls.
        num_shown: regions, those furthest from controls, or fastest where there are no controls.
    """
    order = rates["z"].abs() if rates["z"].notna().any() else rates["percent_per_year"].abs()
    shown = rates.loc[order.sort_values(ascending=False, kind="stable").index[:num_shown]]
    columns = min(COLUMNS, len(shown))
    num_rows = int(np.ceil(len(shown) / columns))
    height = 0.45 + 1.45 * num_rows
    first = rates.iloc[0]
    title = f"{first['subject']}, {spell.count(int(first['num_visits']), 'visit')} over {spell.number(first['years'], 1)} years"
    with style.canvas(height) as figure:
        figure.text(0.01, 1 - 0.08 / height, title, va="top", fontsize=9, fontweight="bold")
        grid = figure.subplots(num_rows, columns, squeeze=False, sharex=True)
        figure.subplots_adjust(
            left=0.06, right=0.99, top=1 - 0.48 / height, bottom=0.42 / height, hspace=0.45, wspace=0.28
        )
        for axes in grid.ravel()[len(shown) :]:
            axes.set_visible(False)
        for axes, (_, row) in zip(grid.ravel(), shown.iterrows(), strict=False):
            own = visits[visits["region"] == row["region"]].sort_values("years")
            rate, differs = float(row["percent_per_year"]), bool(row["q"] < q)
            colour = (style.MORE if rate > 0 else style.LESS) if differs else style.GREY
            years = np.linspace(0, float(row["years"]), 40)
            middle = float(own["years"].mean()), float(own["change_percent"].mean())
            if np.isfinite([row["low"], row["high"]]).all():
                edges = [middle[1] + float(row[name]) * (years - middle[0]) for name in ("low", "high")]
                axes.fill_between(years, np.minimum(*edges), np.maximum(*edges), color=style.BAND, linewidth=0)
            axes.plot(years, middle[1] + rate * (years - middle[0]), color=colour, linewidth=1.2)
            axes.plot(own["years"], own["change_percent"], "o", color=style.INK, markersize=3.2)
            axes.axhline(0, color=style.FAINT, linewidth=0.7, zorder=0)
            axes.set_title(wording.region(str(row["region"])), fontsize=7.5)
        for axes in grid[-1]:
            axes.set_xlabel("years")
        grid[0, 0].set_ylabel("% of first visit")
        return style.png_bytes(figure, DOTS_PER_INCH)


def draw_group_rates(groups: pd.DataFrame, num_shown: int) -> bytes:
    """A PNG: the rate of every diagnosis with its 95 % interval, in the regions that change fastest in any of them.

    Args:
        groups: rows of group_rates.tsv.
        num_shown: regions.
    """
    fastest = groups.assign(size=groups["percent_per_year"].abs()).groupby("region", sort=False)["size"].max()
    regions = fastest.sort_values(ascending=False, kind="stable").index[:num_shown].tolist()
    names = groups["diagnosis"].drop_duplicates().tolist()
    colours = style.category_colours([str(name) for name in names])
    height = 0.85 + 0.2 * len(regions)
    with style.canvas(height, 6.4) as figure:
        axes = figure.add_axes((0.33, 0.45 / height, 0.64, 1 - 0.85 / height))
        for place, name in enumerate(names):
            part = groups[groups["diagnosis"] == name].set_index("region").loc[regions]
            at = np.arange(len(regions)) + 0.6 * ((place + 0.5) / len(names) - 0.5)
            label = f"{wording.group(str(name))}, n = {int(part['num_people'].iloc[0])}"
            axes.hlines(at, part["low"], part["high"], color=colours[str(name)], linewidth=1.4)
            axes.plot(part["percent_per_year"], at, "o", color=colours[str(name)], markersize=3.6, label=label)
        axes.axvline(0, color=style.INK, linewidth=0.7)
        axes.set_yticks(np.arange(len(regions)), [wording.region(str(name)) for name in regions], fontsize=7)
        axes.set(ylim=(len(regions) - 0.4, -0.6), xlabel="% per year")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        style.light_grid(axes, "x")
        figure.legend(loc="upper left", ncols=min(len(names), 3), fontsize=7)
        return style.png_bytes(figure, DOTS_PER_INCH)
