"""Charts of numbers: ages, losses, scores, calibration, severity. Each returns the figure as PNG and as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gen3d.figures import style
from gen3d.maths.stats import Interval

Floats = NDArray[np.float64]
Chart = tuple[bytes, bytes]
UNNAMED = "none given"
DASHES = (0, (3, 2))


def finished(figure: Canvas) -> Chart:
    """A drawn figure as PNG and SVG."""
    return style.png_bytes(figure), style.svg_bytes(figure)


def ages(by_group: Mapping[str, Floats], colours: Mapping[str, str], bin_years: float = 5.0) -> Chart:
    """One row of bars per group on a common age axis."""
    finite = {group: values[np.isfinite(values)] for group, values in by_group.items()}
    everyone = np.concatenate([values for values in finite.values() if len(values)])
    low = bin_years * math.floor(everyone.min() / bin_years)
    high = bin_years * (math.floor(everyone.max() / bin_years) + 1)
    edges = np.arange(low, high + bin_years / 2, bin_years)
    tallest = max((np.histogram(values, edges)[0].max() for values in finite.values()), default=1)
    with style.canvas(0.55 + 0.5 * len(finite), 6.2) as figure:
        rows = figure.subplots(len(finite), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=0.2, right=0.98, top=0.97, bottom=0.42 / (0.55 + 0.5 * len(finite)), hspace=0.25)
        for axes, (group, values) in zip(rows, finite.items(), strict=True):
            axes.hist(values, edges, color=colours[group], edgecolor="white", linewidth=0.8)
            axes.set_ylim(0, tallest * 1.05)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.text(
                -0.02, 0.15, f"{group or UNNAMED}  n = {len(values)}", transform=axes.transAxes, ha="right", va="bottom"
            )
            axes.tick_params(axis="x", length=0)
        rows[-1].tick_params(axis="x", length=3)
        rows[-1].set_xlabel("Age (years)")
        return finished(figure)


@dataclass(frozen=True)
class Curve:
    """One line: x [n], y [n], a name, a colour; the other members of a family are drawn thin."""

    x: Floats
    y: Floats
    name: str
    colour: str
    thin: bool = False
    dashed: bool = False


def curves(panels: Mapping[str, Sequence[Curve]], x_label: str, logarithmic: Sequence[str] = ()) -> Chart:
    """Small panels of lines side by side, at most four in a row; the panels named in `logarithmic` have a log axis."""
    columns = 3 if len(panels) > 4 else max(1, len(panels))  # more would cut the titles
    rows = math.ceil(len(panels) / columns)
    with style.canvas(0.35 + 1.75 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0.06, right=0.99, top=1 - 0.24 / (0.35 + 1.75 * rows), hspace=0.5, wspace=0.3)
        figure.subplots_adjust(bottom=0.42 / (0.35 + 1.75 * rows))
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(grid.ravel(), panels.items(), strict=False):
            for line in lines:
                width, alpha = (0.7, 0.55) if line.thin else (1.4, 1.0)
                shape = (0, (4, 2)) if line.dashed else "-"
                axes.plot(line.x, line.y, color=line.colour, linewidth=width, alpha=alpha, linestyle=shape)
            if title in logarithmic:
                axes.set_yscale("log")
            axes.set_title(title)
            axes.set_xlabel(x_label)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            style.light_grid(axes)
        return finished(figure)


@dataclass(frozen=True)
class ScoreDots:
    """One panel of scores: values [n] by group, in the order of the axis."""

    title: str
    by_group: Mapping[str, Floats]
    reference: str


def strips(panels: Sequence[ScoreDots], colours: Mapping[str, str], y_label: str, seed: int) -> Chart:
    """Every person's score as a dot, with the group's median and quartiles; the band spans 95 % of the reference group."""
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    generator = np.random.default_rng(seed)
    height = 0.2 + 2.35 * rows
    with style.canvas(height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.055, right=0.99, top=1 - 0.25 / height, bottom=0.45 / height, hspace=0.42, wspace=0.2
        )
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            _strip_panel(axes, panel, colours, generator)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        return finished(figure)


def _strip_panel(axes: Axes, panel: ScoreDots, colours: Mapping[str, str], generator: np.random.Generator) -> None:
    reference = panel.by_group.get(panel.reference, np.empty(0))
    reference = reference[np.isfinite(reference)]
    if len(reference) >= 5:
        low, high = np.percentile(reference, [2.5, 97.5])
        axes.axhspan(low, high, color=style.FAINT, alpha=0.45, linewidth=0)
    for position, (group, values) in enumerate(panel.by_group.items()):
        values = values[np.isfinite(values)]
        spread = generator.uniform(-0.17, 0.17, len(values))
        axes.plot(position + spread, values, "o", markersize=3.6, color=colours[group], alpha=0.75, markeredgewidth=0)
        if len(values) >= 3:
            low, middle, high = np.percentile(values, [25, 50, 75])
            axes.plot([position + 0.3] * 2, [low, high], color=colours[group], linewidth=1.6, solid_capstyle="butt")
            axes.plot([position + 0.23, position + 0.37], [middle] * 2, color=style.INK, linewidth=1.6)
    counts = [int(np.isfinite(values).sum()) for values in panel.by_group.values()]
    labels = [f"{group or UNNAMED}\nn = {n}" for group, n in zip(panel.by_group, counts, strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_title(panel.title)
    style.light_grid(axes)


@dataclass(frozen=True)
class QuantilePanel:
    """One panel of a quantile plot: theoretical [q], one row of observed quantiles per person [n, q]."""

    title: str
    theoretical: Floats
    observed: Floats


def quantile_plots(panels: Sequence[QuantilePanel], colour: str, columns: int = 3) -> Chart:
    """Observed quantiles of z against those of a standard normal; each thin line is one person, the thick one their mean."""
    columns = min(columns, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    height, width = 0.3 + 2.3 * rows, 3.0 * columns
    with style.canvas(height, width) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0.5 / width, right=1 - 0.1 / width, hspace=0.5, wspace=0.25)
        figure.subplots_adjust(top=1 - 0.25 / height, bottom=0.45 / height)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            reach = float(np.abs(panel.theoretical).max())
            axes.plot([-reach, reach], [-reach, reach], color=style.INK, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.plot(panel.theoretical, panel.observed.T, color=colour, linewidth=0.6, alpha=0.35)
            axes.plot(panel.theoretical, panel.observed.mean(axis=0), color=colour, linewidth=2.0)
            axes.set(xlim=(-reach, reach), ylim=(-1.6 * reach, 1.6 * reach), title=panel.title)
            axes.set_xlabel("Expected z")
            axes.set_xticks([-2, 0, 2])
            axes.set_yticks([-4, -2, 0, 2, 4])
            style.light_grid(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel("Observed z")
        return finished(figure)


@dataclass(frozen=True)
class SeverityLine:
    """One line of a severity chart: severity [k] and a value with interval at each."""

    name: str
    colour: str
    severity: Sequence[float]
    values: Sequence[Interval]


def severity_lines(
    panels: Mapping[str, Sequence[SeverityLine]],
    x_label: str,
    y_label: str,
    chance: float | Mapping[str, float] | None,
    top: float | None = 1.03,
) -> Chart:
    """Values against severity with their intervals, one panel per condition, one line per model or channel.

    `chance` is the dashed line, one for all or by panel; `top` the upper end of the axis, None for as high as needed.
    """
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    height = 0.75 + 2.2 * rows
    with style.canvas(height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.06, right=0.99, top=1 - 0.25 / height, bottom=0.85 / height, hspace=0.5, wspace=0.2
        )
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        names: dict[str, str] = {}
        for axes, (title, lines) in zip(grid.ravel(), panels.items(), strict=False):
            _severity_panel(axes, lines, chance.get(title) if isinstance(chance, Mapping) else chance, top)
            axes.set_title(title)
            axes.set_xlabel(x_label)
            names |= {line.name: line.colour for line in lines}
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        handles = [axes.plot([], [], color=colour, marker="o", markersize=4)[0] for colour in names.values()]
        figure.legend(handles, list(names), loc="lower center", ncols=min(5, len(names)), bbox_to_anchor=(0.5, 0.0))
        return finished(figure)


def _severity_panel(axes: Axes, lines: Sequence[SeverityLine], chance: float | None, top: float | None) -> None:
    if chance is not None:
        axes.axhline(chance, color=style.INK, linewidth=0.8, linestyle=(0, (3, 2)))
    xs = sorted({x for line in lines for x in line.severity})
    step = min(np.diff(xs), default=1.0) * 0.04
    for index, line in enumerate(lines):
        shifted = np.asarray(line.severity, dtype=np.float64) + (index - (len(lines) - 1) / 2) * step
        middle = np.array([interval.value for interval in line.values])
        low = np.array([interval.low for interval in line.values])
        high = np.array([interval.high for interval in line.values])
        axes.vlines(shifted, low, high, color=line.colour, linewidth=1.0)
        axes.plot(shifted, middle, "-o", color=line.colour, markersize=4)
    axes.set_xticks(xs, [f"{x:.3g}" for x in xs])
    axes.set_ylim(min(0.4, float(np.nanmin([i.low for line in lines for i in line.values] + [0.4]))) - 0.03, top)
    style.light_grid(axes)


@dataclass(frozen=True)
class Line:
    """One line of a chart of intervals: its name, the value, a colour; baselines are hollow."""

    name: str
    value: Interval
    colour: str
    hollow: bool = False


def intervals(lines: Sequence[Line], x_label: str, reference: float | None, label: str = "") -> Chart:
    """Values with their 95 % intervals, one under the other; a dashed line at `reference` with `label` above it."""
    height = 0.62 + 0.2 * len(lines)
    longest = max(len(line.name) for line in lines)
    with style.canvas(height, 7.2) as figure:
        axes = figure.subplots()
        left = min(0.45, 0.03 + 0.0095 * longest)
        figure.subplots_adjust(left=left, right=0.98, top=1 - 0.2 / height, bottom=0.4 / height)
        if reference is not None:
            axes.axvline(reference, color=style.INK, linewidth=0.8, linestyle=DASHES)
            axes.text(reference, -0.75, label, ha="center", va="bottom", fontsize=7, color=style.GREY)
        for place, line in enumerate(lines):
            if math.isfinite(line.value.low) and math.isfinite(line.value.high):
                axes.plot([line.value.low, line.value.high], [place] * 2, color=line.colour, linewidth=1.6)
            face = "white" if line.hollow else line.colour
            axes.plot(line.value.value, place, "o", color=line.colour, markerfacecolor=face, markersize=5)
        axes.set_yticks(range(len(lines)), [line.name for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        style.light_grid(axes, "x")
        return finished(figure)


@dataclass(frozen=True)
class Banded:
    """A line with bands around it: x [n], y [n], low and high [n] of every band from the widest to the narrowest."""

    x: Floats
    y: Floats
    bands: Sequence[tuple[Floats, Floats]]
    name: str
    colour: str
    thin: bool = False


def banded(panels: Mapping[str, Sequence[Banded]], x_label: str, y_label: str, reference: float | None) -> Chart:
    """Small panels of lines with bands, at most three in a row, one legend below; a dashed line at `reference`."""
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    height = 0.75 + 2.1 * rows
    with style.canvas(height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.065, right=0.99, top=1 - 0.25 / height, bottom=0.85 / height, hspace=0.5, wspace=0.22
        )
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        names: dict[str, tuple[str, float]] = {}
        for axes, (title, lines) in zip(grid.ravel(), panels.items(), strict=False):
            if reference is not None:
                axes.axhline(reference, color=style.INK, linewidth=0.7, linestyle=DASHES)
            for line in lines:
                for low, high in line.bands:
                    axes.fill_between(line.x, low, high, color=line.colour, alpha=0.18, linewidth=0)
                width = 0.9 if line.thin else 1.8
                marker = None if line.thin else "o"
                axes.plot(line.x, line.y, color=line.colour, linewidth=width, marker=marker, markersize=3.5)
                names[line.name] = (line.colour, width)
            axes.set_title(title)
            axes.set_xlabel(x_label)
            style.light_grid(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        listed = list(reversed(names))  # what is drawn last, on top, is named first
        handles = [axes.plot([], [], color=names[name][0], linewidth=names[name][1])[0] for name in listed]
        figure.legend(handles, listed, loc="lower center", ncols=min(5, len(names)), bbox_to_anchor=(0.5, 0.0))
        return finished(figure)


def range_strip(
    value: float, controls: tuple[float, float] | None, reach: float, z: float, significant: bool, label: str
) -> Markup:
    """A person's value as a dot on a scale from -reach to reach, over the band of the controls.

    Args:
        value, reach: in the channel's units; values beyond the scale are drawn at its end, so no dot is lost.
        controls: low and high end of their range; None for no band.
        z: gives the dot its colour, filled only where `significant`.
        significant: whether the finding survives correction.
        label: description for screen readers.
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
        '<circle cx="{x}" cy="8" r="4.2" fill="{colour}" stroke="{ink}" stroke-width="1"/></svg>'
    ).format(
        w=width,
        h=height,
        ink=style.INK,
        label=label,
        band=band,
        end=width - 6,
        zero=place(0),
        x=place(value),
        colour=style.hex_colour((np.clip(z, -6, 6) / 4 + 1) / 2, style.DIVERGING) if significant else style.PAPER,
    )


def agreement(
    panels: Mapping[str, Mapping[str, tuple[Floats, Floats]]], colours: Mapping[str, str], labels: tuple[str, str]
) -> Chart:
    """What came true against what was forecast, a dot per person, with the line on which both are equal.

    Args:
        panels: title -> group -> forecast [n] and true [n].
        colours: of the groups.
        labels: of the x axis (forecast) and the y axis (true).
    """
    columns = max(1, min(3, len(panels)))
    rows = math.ceil(len(panels) / columns)
    height = 0.75 + 2.5 * rows
    with style.canvas(height, 3.0 * columns) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.2 / columns, right=0.985, top=1 - 0.25 / height, bottom=0.85 / height, wspace=0.3, hspace=0.4
        )
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, groups) in zip(grid.ravel(), panels.items(), strict=False):
            axes.axhline(0, color=style.FAINT, linewidth=0.8)
            axes.axvline(0, color=style.FAINT, linewidth=0.8)
            for group, (forecast, true) in groups.items():
                axes.plot(forecast, true, "o", color=colours[group], markersize=3.6, alpha=0.75, markeredgewidth=0)
            both = np.concatenate([part for pair in groups.values() for part in pair])
            low, high = float(np.nanmin(both)), float(np.nanmax(both))
            axes.axline((low, low), slope=1, color=style.INK, linewidth=0.8, linestyle=DASHES) if high > low else None
            axes.set(title=title, xlabel=labels[0])
            axes.xaxis.set_major_locator(MaxNLocator(5))
            style.light_grid(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel(labels[1])
        named = {group: colours[group] for groups in panels.values() for group in groups}
        handles = [axes.plot([], [], "o", color=colour, markersize=4)[0] for colour in named.values()]
        figure.legend(
            handles, [name or UNNAMED for name in named], loc="lower center", ncols=6, bbox_to_anchor=(0.5, 0.0)
        )
        return finished(figure)
