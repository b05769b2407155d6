"""The picture of one person's change: the regions that changed most, against what scans of the unchanged differ by."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LESS, MORE, UNSURE, BAND, INK = "#0072b2", "#d55e00", "#b3bcc4", "#e7ebee", "#1c2126"
TITLES = {"deformation": "Local volume", "residual": "T1w intensity", "structural": "Local structure"}
INCHES_PER_BAR, INCHES_AROUND, WIDTH_INCHES = 0.19, 1.05, 3.4
LIMIT = 8.0
MINUS = "\N{MINUS SIGN}"
DOTS_PER_INCH = 130


def draw_change(changes: pd.DataFrame, q: float, num_shown: int) -> bytes:
    """A PNG: per channel bars of z_change; the band holds 95 % of unchanged people, coloured bars have q below `q`.

    Args:
        changes: rows of change.tsv of one pair of scans.
        q: false discovery rate.
        num_shown: regions per channel, those with the largest |z_change|.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = set(changes["channel"])
    channels = [channel for channel in TITLES if channel in present] or sorted(present)
    num_bars = min(num_shown, int(changes["channel"].value_counts().max()))
    height = INCHES_AROUND + INCHES_PER_BAR * num_bars
    first = changes.iloc[0]
    years = first["years"]
    gap = f", {years:.1f} years apart" if years > 0 else ", at the same age" if years == 0 else ""
    title = f"{first['subject']}, session {first['session_1']} to {first['session_2']}{gap}"
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):  # a name may hold a dollar sign
        figure = Figure(figsize=(WIDTH_INCHES * len(channels), height), facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.01, 1 - 0.1 / height, title, va="top", fontsize=9, fontweight="bold", color=INK)
        for place, channel in enumerate(channels):
            left, width = (place + 0.62) / len(channels), 0.36 / len(channels)
            axes = figure.add_axes((left, 0.45 / height, width, 1 - INCHES_AROUND / height))
            _panel(axes, changes[changes["channel"] == channel], str(channel), q, num_bars)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _panel(axes: Axes, part: pd.DataFrame, channel: str, q: float, num_bars: int) -> None:
    order = part["z_change"].abs().sort_values(ascending=False, kind="stable").index[:num_bars]
    shown = part.loc[order]
    z = np.clip(shown["z_change"].to_numpy(float), -LIMIT, LIMIT)
    sure = (shown["q"] < q).to_numpy()
    colours = np.where(sure, np.where(z > 0, MORE, LESS), UNSURE)
    axes.axvspan(-1.96, 1.96, color=BAND, linewidth=0)
    axes.barh(np.arange(len(z)), z, height=0.72, color=colours.tolist())
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.set_yticks(np.arange(len(z)), [_label(row) for _, row in shown.iterrows()], fontsize=7)
    reach = max(3.0, float(np.abs(z).max(initial=0.0)) * 1.08)
    axes.set(ylim=(num_bars - 0.4, -0.6), xlim=(-reach, reach), xlabel="z of change")
    axes.set_title(TITLES.get(channel, channel), loc="left", fontsize=8.5, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _label(row: pd.Series) -> str:
    """The region with its change: percent of volume, of the white-matter level, or without unit."""
    if row["channel"] == "residual":
        amount = f"{100 * row['change']:+.1f} % of WM"
    elif np.isfinite(row["change_percent"]):
        amount = f"{row['change_percent']:+.1f} %"
    else:
        amount = f"{row['change']:+.3f}"
    return f"{row['region']}  {amount.replace('-', MINUS)}"
