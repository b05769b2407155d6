"""The picture of one person's change: the regions that changed most, with the range of unchanged people."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gen3d.core import words as spell
from gen3d.figures import names as wording
from gen3d.figures import style

TITLES = {"deformation": "Local volume", "residual": "T1w intensity", "structural": "Local structure"}
INCHES_PER_BAR, INCHES_AROUND, WIDTH_INCHES = 0.19, 1.05, 3.4
LIMIT = 8.0
DOTS_PER_INCH = 130


def draw_change(changes: pd.DataFrame, q: float, num_shown: int) -> bytes:
    """A PNG: bars of z_change per channel; the band spans 95 % of unchanged people, coloured bars have q below `q`.

    Args:
        changes: rows of change.tsv of one pair of scans.
        q: false discovery rate.
        num_shown: regions per channel, those with the largest |z_change|.
    """
    present = set(changes["channel"])
    channels = [channel for channel in TITLES if channel in present] or sorted(present)
    num_bars = min(num_shown, int(changes["channel"].value_counts().max()))
    height = INCHES_AROUND + INCHES_PER_BAR * num_bars
    first = changes.iloc[0]
    years = first["years"]
    gap = f", {spell.number(years, 1)} years apart" if years > 0 else ", at the same age" if years == 0 else ""
    title = f"{first['subject']}, session {first['session_1']} to {first['session_2']}{gap}"
    with style.canvas(height, WIDTH_INCHES * len(channels)) as figure:
        figure.text(0.01, 1 - 0.1 / height, title, va="top", fontsize=9, fontweight="bold")
        for place, channel in enumerate(channels):
            left, width = (place + 0.62) / len(channels), 0.36 / len(channels)
            axes = figure.add_axes((left, 0.45 / height, width, 1 - INCHES_AROUND / height))
            _panel(axes, changes[changes["channel"] == channel], str(channel), q, num_bars)
        return style.png_bytes(figure, DOTS_PER_INCH)


def _panel(axes: Axes, part: pd.DataFrame, channel: str, q: float, num_bars: int) -> None:
    order = part["z_change"].abs().sort_values(ascending=False, kind="stable").index[:num_bars]
    shown = part.loc[order]
    z = np.clip(shown["z_change"].to_numpy(float), -LIMIT, LIMIT)
    significant = (shown["q"] < q).to_numpy()
    colours = np.where(significant, np.where(z > 0, style.MORE, style.LESS), style.UNSURE)
    axes.axvspan(-1.96, 1.96, color=style.BAND, linewidth=0)
    axes.barh(np.arange(len(z)), z, height=0.72, color=colours.tolist())
    axes.axvline(0, color=style.INK, linewidth=0.7)
    axes.set_yticks(np.arange(len(z)), [_label(row) for _, row in shown.iterrows()], fontsize=7)
    reach = max(3.0, float(np.abs(z).max(initial=0.0)) * 1.08)
    axes.set(ylim=(num_bars - 0.4, -0.6), xlim=(-reach, reach), xlabel="z of change")
    axes.set_title(TITLES.get(channel, channel))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _label(row: pd.Series) -> str:
    """The region with its change in the units of the channel."""
    change = wording.effect(str(row["channel"]), float(row["change"]), float(row["change_percent"]))
    return f"{wording.reading(str(row['region']), str(row['channel']))}  {change}"
