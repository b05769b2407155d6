"""Charts of the performance of heads: curves, reliability, people in a hundred, permuted labels. Each as PNG and as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from gen3d.figures import style
from gen3d.figures.charts import DASHES, Chart, Curve, Floats, finished
from gen3d.maths.stats import Interval

HALF_INCHES = 4.6
SHARE_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
HUNDRED = 10  # people per row and column of a field of a hundred


def square(lines: Sequence[Curve], x_label: str, y_label: str) -> Chart:
    """Curves on the unit square with the diagonal of chance; lines without a name are not in the legend."""
    height = 4.05 + 0.17 * math.ceil(sum(bool(line.name) for line in lines) / 2)
    with style.canvas(height, HALF_INCHES) as figure:
        axes = figure.subplots()
        side = 3.5
        figure.subplots_adjust(left=0.55 / HALF_INCHES, right=(0.55 + side) / HALF_INCHES, top=1 - 0.1 / height)
        figure.subplots_adjust(bottom=1 - (0.1 + side) / height)
        axes.plot([0, 1], [0, 1], color=style.INK, linewidth=0.8, linestyle=DASHES)
        _draw(axes, lines)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label)
        axes.set_xticks(SHARE_TICKS)
        axes.set_yticks(SHARE_TICKS)
        style.light_grid(axes, "both")
        _legend(figure, axes)
        return finished(figure)


def net_benefit(lines: Sequence[Curve], treat_all: Curve, x_label: str) -> Chart:
    """Net benefit against the probability from which one would act, with acting on everybody and on nobody."""
    height = 4.05 + 0.17 * math.ceil(sum(bool(line.name) for line in (*lines, treat_all)) / 2)
    top = max(float(np.nanmax(line.y)) for line in (*lines, treat_all))
    with style.canvas(height, HALF_INCHES) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.62 / HALF_INCHES, right=0.98, top=1 - 0.1 / height, bottom=1 - 3.6 / height)
        axes.axhline(0, color=style.INK, linewidth=0.8, linestyle=DASHES)
        _draw(axes, [*lines, treat_all])
        axes.set(xlim=(0, 1), ylim=(-0.25 * top - 0.01, 1.1 * top + 0.01), xlabel=x_label, ylabel="Net benefit")
        style.light_grid(axes)
        _legend(figure, axes)
        return finished(figure)


def _draw(axes: Axes, lines: Sequence[Curve]) -> None:
    for line in lines:
        width, alpha = (0.9, 0.8) if line.thin else (1.7, 1.0)
        shape = (0, (5, 2)) if line.dashed else "-"
        axes.plot(
            line.x, line.y, color=line.colour, linewidth=width, alpha=alpha, linestyle=shape, label=line.name or None
        )


def _legend(figure: Canvas, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower left", ncols=2, bbox_to_anchor=(0.05, 0.0), handlelength=1.8)


@dataclass(frozen=True)
class Bins:
    """One panel of a reliability diagram: predicted and observed share [k] with its interval, and people [k] per bin."""

    title: str
    colour: str
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    num: Floats


def reliability(panels: Sequence[Bins], x_label: str, y_label: str) -> Chart:
    """Observed share against predicted probability; bars below show how many people a bin holds."""
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = 0.45 + 2.15 * columns, 0.2 + 2.75 * rows
    with style.canvas(height, width) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0.5 / width, right=1 - 0.08 / width, top=1 - 0.25 / height, bottom=0.42 / height)
        figure.subplots_adjust(wspace=0.2, hspace=0.45)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            axes.plot([0, 1], [0, 1], color=style.INK, linewidth=0.8, linestyle=DASHES)
            tallest = max(float(np.nanmax(panel.num)), 1.0)
            axes.bar(panel.predicted, 0.18 * panel.num / tallest, width=0.045, color=style.FAINT)
            axes.vlines(panel.predicted, panel.low, panel.high, color=panel.colour, linewidth=1.2)
            axes.plot(panel.predicted, panel.observed, "-o", color=panel.colour, markersize=4, linewidth=1.0)
            axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.03), title=panel.title)
            axes.set_xticks(SHARE_TICKS)
            axes.set_yticks(SHARE_TICKS)
            axes.set_xlabel(x_label)
            style.light_grid(axes, "both")
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        return finished(figure)


@dataclass(frozen=True)
class Hundred:
    """A hundred people: a title, how many of them are the first kind, and its interval."""

    title: str
    num: Interval


def in_a_hundred(panels: Sequence[Hundred], colour: str) -> Chart:
    """Fields of a hundred dots each: as many filled as there are people of the first kind."""
    width, height = 0.3 + 2.2 * len(panels), 2.5
    with style.canvas(height, width) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        figure.subplots_adjust(left=0.02, right=0.98, top=1 - 0.25 / height, bottom=0.05 / height, wspace=0.25)
        for axes, panel in zip(grid, panels, strict=True):
            places = np.arange(HUNDRED**2)
            filled = places < round(panel.num.value)
            x, y = places % HUNDRED, places // HUNDRED
            axes.scatter(x[filled], y[filled], s=44, color=colour, linewidths=0)
            axes.scatter(x[~filled], y[~filled], s=44, facecolors="white", edgecolors=style.PALE, linewidths=0.7)
            axes.set(xlim=(-0.7, 9.7), ylim=(9.7, -0.7), aspect="equal", title=panel.title)
            axes.set_axis_off()
        return finished(figure)


@dataclass(frozen=True)
class Null:
    """The performance of a model, and its range when labels are permuted."""

    name: str
    colour: str
    value: float
    mean: float
    low: float
    high: float


def null_bands(lines: Sequence[Null], x_label: str) -> Chart:
    """The range under permuted labels as a bar with its mean, and the measured value as a dot."""
    height = 0.45 + 0.24 * len(lines)
    longest = max(len(line.name) for line in lines)
    with style.canvas(height, 7.2) as figure:
        axes = figure.subplots()
        left = min(0.45, 0.03 + 0.0095 * longest)
        figure.subplots_adjust(left=left, right=0.98, top=1 - 0.05 / height, bottom=0.4 / height)
        for place, line in enumerate(lines):
            axes.barh(place, line.high - line.low, left=line.low, height=0.6, color=style.FAINT)
            axes.plot([line.mean] * 2, [place - 0.3, place + 0.3], color=style.GREY, linewidth=1.2)
            axes.plot(line.value, place, "o", color=line.colour, markersize=6)
        ends = [end for line in lines for end in (line.low, line.high, line.value) if math.isfinite(end)]
        margin = 0.06 * (max(ends) - min(ends)) if ends else 0.0
        if margin > 0:
            axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.set_yticks(range(len(lines)), [line.name for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        return finished(figure)


def confusion(counts: NDArray[np.float64], classes: Sequence[str]) -> Chart:
    """How many of each true class (row) were predicted to be each class (column), shaded by the share of the row."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = 0.62 * len(classes)
    width, height = 1.3 + side, 0.75 + side
    with style.canvas(height, width) as figure:
        axes = figure.add_axes((1.0 / width, 0.1 / height, side / width, side / height))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*counts.shape):
            ink = "white" if shares[i, j] > 0.55 else style.INK
            axes.text(
                j, i, f"{counts[i, j]:.0f}\n{100 * shares[i, j]:.0f} %", ha="center", va="center", color=ink, fontsize=8
            )
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.xaxis.set_label_position("top")
        axes.set(xlabel="Predicted", ylabel="True")
        axes.spines[:].set_visible(False)
        return finished(figure)


def predicted_against_true(true: Floats, predicted: Floats, name: str, colour: str) -> Chart:
    """Predicted against true values with the line of equality and the fitted line."""
    with style.canvas(4.1, HALF_INCHES) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.14, right=0.98, top=0.98, bottom=0.12)
        ends = np.array([min(true.min(), predicted.min()), max(true.max(), predicted.max())])
        axes.plot(ends, ends, color=style.INK, linewidth=0.8, linestyle=DASHES)
        axes.plot(true, predicted, "o", color=colour, markersize=3.6, alpha=0.6, markeredgewidth=0)
        if len(true) > 2 and float(np.ptp(true)) > 0:
            slope, intercept = np.polyfit(true, predicted, 1)
            within = np.array([true.min(), true.max()])
            axes.plot(within, slope * within + intercept, color=colour, linewidth=1.6)
        axes.set(xlabel=f"True {name}", ylabel=f"Predicted {name}")
        style.light_grid(axes, "both")
        return finished(figure)


def position(everybody: Floats, colours: Sequence[str], place: Floats) -> bytes:
    """Where a person lies among everybody: coordinates [n, 2] with a colour each, the person's [2] as a diamond."""
    with style.canvas(2.2, 3.2) as figure:
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.scatter(everybody[:, 0], everybody[:, 1], s=9, c=list(colours), linewidths=0, alpha=0.55)
        axes.plot(place[0], place[1], "D", color=style.INK, markersize=7, markeredgecolor="white")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(style.FAINT)
        return style.png_bytes(figure, 110)


def places(values: Floats, groups: Sequence[str], colours: Sequence[str], thresholds: Floats, x_label: str) -> Chart:
    """People one under the other at their probability, most probable first; a tick marks the threshold of each."""
    height = 0.5 + 0.13 * len(values)
    with style.canvas(height, 7.2) as figure:
        axes = figure.subplots()
        left = min(0.5, 0.03 + 0.0085 * max(len(name) for name in groups))
        figure.subplots_adjust(left=left, right=0.98, top=1 - 0.05 / height, bottom=0.42 / height)
        rows = np.arange(len(values))
        axes.hlines(rows, 0, 1, color=style.FAINT, linewidth=0.5)
        axes.plot(thresholds, rows, "|", color=style.INK, markersize=7)
        axes.scatter(values, rows, s=22, c=list(colours), linewidths=0, zorder=3)
        axes.set_yticks(rows, list(groups), fontsize=6.5)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(values) - 0.4, -0.6), xlabel=x_label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return finished(figure)
