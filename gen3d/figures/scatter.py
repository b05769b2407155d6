"""Scatter of people as inline SVG: each point tells who it is when pointed at, and no script is needed to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from gen3d.figures import style

SIZE, MARGIN = 320, 14


@dataclass(frozen=True)
class Points:
    """People on a plane: coordinates [n, 2], identifier, hover text and colour of each."""

    coordinates: NDArray[np.float64]
    keys: Sequence[str]
    titles: Sequence[str]


@dataclass(frozen=True)
class Colouring:
    """How one panel is coloured: a title, a colour per person, and the legend as (colour, words) or a range."""

    title: str
    colours: Sequence[str]
    legend: Sequence[tuple[str, str]] = ()
    scale: tuple[str, str] | None = None


def panel(points: Points, colouring: Colouring, description: str) -> Markup:
    """One square scatter with its legend underneath."""
    low, high = points.coordinates.min(axis=0), points.coordinates.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    place = MARGIN + (points.coordinates - low) / span * (SIZE - 2 * MARGIN)
    marks = [
        f'<circle cx="{x:.1f}" cy="{SIZE - y:.1f}" r="4.6" fill="{colour}" data-key="{escape(key)}">'
        f"<title>{escape(title)}</title></circle>"
        for (x, y), colour, key, title in zip(place, colouring.colours, points.keys, points.titles, strict=True)
    ]
    legend = legend_of(colouring)
    return Markup(
        '<div class="scatter"><p class="scatter-title">{title}</p>'
        '<svg viewBox="0 0 {size} {size}" role="img" aria-label="{description}">'
        '<rect x="0.5" y="0.5" width="{inner}" height="{inner}" class="frame"/>{marks}</svg>{legend}</div>'
    ).format(
        title=colouring.title,
        size=SIZE,
        inner=SIZE - 1,
        description=description,
        marks=Markup("".join(marks)),
        legend=legend,
    )


def legend_of(colouring: Colouring) -> Markup:
    """The legend of a colouring: its colours with words, or its range."""
    return _scale(colouring.scale) if colouring.scale else _legend(colouring.legend)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    items = [
        Markup('<li><span style="background:{0}"></span>{1}</li>').format(colour, words) for colour, words in entries
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _scale(ends: tuple[str, str]) -> Markup:
    stops = ", ".join(style.hex_colour(fraction) for fraction in np.linspace(0, 1, 9))
    return Markup(
        '<div class="scale"><span>{0}</span><span class="ramp" style="background:linear-gradient(90deg, {1})"></span>'
        "<span>{2}</span></div>"
    ).format(ends[0], stops, ends[1])


def rows(panels: Sequence[Sequence[Markup]]) -> Markup:
    """Panels row by row."""
    lines = [Markup('<div class="scatter-row">{}</div>').format(Markup("").join(line)) for line in panels]
    return Markup("").join(lines)


def as_png(points_by_row: Sequence[tuple[str, Points]], colourings: Sequence[Colouring]) -> bytes:
    """The same scatters as a PNG, for figures/."""
    with style.canvas(3.0 * len(points_by_row)) as figure:
        grid = figure.subplots(len(points_by_row), len(colourings), squeeze=False)
        figure.subplots_adjust(left=0.03, right=0.99, top=0.95, bottom=0.02, hspace=0.12, wspace=0.08)
        for line, (name, points) in zip(grid, points_by_row, strict=True):
            for axes, colouring in zip(line, colourings, strict=True):
                axes.scatter(*points.coordinates.T, s=16, c=list(colouring.colours), linewidths=0)
                axes.set_title(f"{name}: {colouring.title}")
                axes.set_xticks([])
                axes.set_yticks([])
        return style.png_bytes(figure)


def range_strip(
    value: float, controls: tuple[float, float] | None, reach: float, z: float, significant: bool, label: str
) -> Markup:
    """A person's value as a dot on a scale from -reach to reach, over the band of the controls.

    Args:
        value, reach: in the channel's units; values beyond the scale are drawn at its end.
        controls: low and high end of their range; None for no band.
        z: gives the dot its colour, filled only where `significant`.
        significant: whether the finding survives correction.
        label: words for those who do not see it.
    """
    width, height = 148, 16

    def place(at: float) -> float:
        share = float(np.clip(at / reach, -1, 1)) if reach > 0 else 0.0
        return round(6 + (share + 1) / 2 * (width - 12), 1)

    band = Markup("")
    if controls is not None:
        left, right = place(controls[0]), place(controls[1])
        band = Markup('<rect x="{}" y="3" width="{}" height="10" class="band"/>').format(left, round(right - left, 1))
    return Markup(
        '<svg class="strip" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{label}">{band}'
        '<line x1="6" x2="{end}" y1="8" y2="8" class="axis"/><line x1="{zero}" x2="{zero}" y1="3" y2="13" class="axis"/>'
        '<circle cx="{x}" cy="8" r="4.2" fill="{colour}" stroke="#1c2126" stroke-width="1"/></svg>'
    ).format(
        w=width,
        h=height,
        label=label,
        band=band,
        end=width - 6,
        zero=place(0),
        x=place(value),
        colour=style.hex_colour((np.clip(z, -6, 6) / 4 + 1) / 2, style.DIVERGING) if significant else "#ffffff",
    )
