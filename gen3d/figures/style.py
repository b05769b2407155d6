"""One look for every figure: typeface, sizes, colours, and how a figure becomes bytes.

Colours: the Okabe-Ito set, which people with any colour vision can distinguish; controls are always slate grey.
Maps: `managua` reversed (Crameri, Nature Communications 2020), diverging, perceptually uniform and dark in the middle,
so that blue is below expectation and orange above it, over grey anatomy.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

TYPEFACES = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
INK, GREY, FAINT = "#1c2126", "#5f6b76", "#d5dade"
PAPER, BAND, UNSURE = "#ffffff", "#e7ebee", "#b3bcc4"
"""The page, a range of reference values behind marks, and marks that are not significant."""

CONTROL_COLOUR = "#6b7783"
PALE = "#a7b0b8"
"""Outlines, and the last of the baselines."""

BASELINE_COLOURS = ("#4a545e", "#7d8790", PALE)
NO_GROUP = "#c3c9ce"
"""People in no group, without a value, or in the smallest of many groups."""

WARNING = "#b3541e"
GROUP_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a6487f", "#b58900", "#3d9bd1", "#000000")
LESS, MORE = GROUP_COLOURS[:2]
"""Below and above the reference."""

STAGES = ("#1f9e4b", "#e3b505", "#c8202f")
"""The first, a middle and the last class of a classifier (CN green, MCI yellow, AD red); only in maps of one class, whose name
stands beside the picture, because not everybody can tell green from red."""

SEQUENTIAL = "cividis"
DIVERGING = "managua_r"
WIDTH_INCHES = 9.0
DPI = 150
LEVELS = 64


def rc_settings() -> dict[str, Any]:
    """Matplotlib settings of the report; typefaces that this machine lacks are dropped, so that Matplotlib does not search."""
    present = {entry.name for entry in font_manager.fontManager.ttflist}
    return {
        "font.family": [name for name in TYPEFACES if name in present],
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "text.color": INK,
        "text.parse_math": False,  # a name may hold a dollar sign
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
        "lines.linewidth": 1.3,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.fonttype": "none",
        "svg.hashsalt": "gen3d",
    }


@contextmanager
def canvas(height_inches: float, width_inches: float = WIDTH_INCHES) -> Iterator[Canvas]:
    """A figure in the report's style, without pyplot and its global state."""
    with matplotlib.rc_context(rc_settings()):  # type: ignore[arg-type]
        yield Canvas(figsize=(width_inches, height_inches))


def png_bytes(figure: Canvas, dpi: int = DPI) -> bytes:
    """The figure as PNG with 64 levels per colour, which halves the file; the eye sees no difference from 256 levels."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    coarse = np.rint(np.rint(np.arange(256) / 255 * (LEVELS - 1)) * 255 / (LEVELS - 1)).astype(np.uint8)[pixels]
    buffer = io.BytesIO()
    Image.fromarray(coarse).save(buffer, format="PNG")
    return buffer.getvalue()


def svg_bytes(figure: Canvas) -> bytes:
    """The figure as SVG with its text kept as text, in the page's typefaces."""
    figure.set_dpi(72)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    family = ", ".join(f"'{name}'" for name in TYPEFACES) + ", sans-serif"
    present = ", ".join(f"'{name}'" for name in figure_families())
    return buffer.getvalue().decode().replace(present, family).encode()


def figure_families() -> list[str]:
    """The typefaces of the stack that this machine has."""
    return list(rc_settings()["font.family"])


def group_colours(groups: Sequence[str], controls: Sequence[str]) -> dict[str, str]:
    """A colour per group, in order; control groups are grey."""
    others = [group for group in groups if group not in controls]
    colours = {group: CONTROL_COLOUR for group in groups if group in controls}
    return colours | {group: GROUP_COLOURS[index % len(GROUP_COLOURS)] for index, group in enumerate(others)}


def category_colours(categories: Sequence[str]) -> dict[str, str]:
    """A colour per category (sites), in order."""
    return {category: GROUP_COLOURS[index % len(GROUP_COLOURS)] for index, category in enumerate(categories)}


def stage_colours(classes: Sequence[str]) -> dict[str, str]:
    """A colour per class in order: green for the first, red for the last, yellow for those between."""
    first, middle, last = STAGES
    ends = {classes[0]: first, classes[-1]: last} if len(classes) > 1 else dict.fromkeys(classes, last)
    return {name: ends.get(name, middle) for name in classes}


def rgb(colour: str) -> tuple[float, float, float]:
    """A colour #rrggbb as red, green and blue from 0 to 1."""
    return matplotlib.colors.to_rgb(colour)


def opacity(strength: Any, threshold: float, limit: float) -> Any:
    """How much of a map's colour covers the anatomy [...]: nothing below the threshold, 0.4 there, 0.92 from `limit` on."""
    share = np.clip((np.asarray(strength) - threshold) / max(limit - threshold, 1e-9), 0, 1)
    return np.where(np.asarray(strength) >= threshold, 0.4 + 0.52 * share, 0.0)


def hex_colour(fraction: float, name: str = SEQUENTIAL) -> str:
    """The colour at `fraction` (0 to 1) of a colour map, as #rrggbb."""
    clipped = float(np.clip(fraction, 0, 1))
    return matplotlib.colors.to_hex(matplotlib.colormaps[name](clipped))


def light_grid(axes: Axes, axis: str = "y") -> None:
    """Faint lines behind the data."""
    axes.grid(axis=axis, color=FAINT, linewidth=0.5)  # type: ignore[arg-type]
