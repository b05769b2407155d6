"""One picture of what mattered: the objective against every varied key, and each key's share of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from gen3d.figures.style import CONTROL_COLOUR, DPI, GREY, GROUP_COLOURS, INK, canvas, light_grid
from gen3d.sweep.results import best_of, figure, values_in_words
from gen3d.sweep.search import importance, label
from gen3d.sweep.settings import Objective, Range, Values, Vary
from gen3d.sweep.trial import FAILED, PRUNED, Trial

MOST_COLUMNS = 3
PANEL_INCHES = 3.1
LOG_FROM_RATIO = 8.0
DONE_COLOUR, BEST_COLOUR, LINE_COLOUR = GROUP_COLOURS[0], GROUP_COLOURS[1], "#bcc4cb"
SHOWN, FAR = "shown", "far"
AT_THE_EDGE = {
    FAR: ("d", DONE_COLOUR, "far worse than shown"),
    PRUNED: ("|", CONTROL_COLOUR, "given up"),
    FAILED: ("x", GROUP_COLOURS[3], "failed"),
}
MOST_TICKS = 6
FAR_WORSE = 6.0
"""Trials worse than the median by this many times what the best is better by would flatten the rest; they are not to scale."""


def draw(path: Path, trials: list[Trial], vary: Vary, objective: Objective, search: str) -> None:
    """Save the picture as a PNG.

    Every panel has one key along it and the objective upwards; lost trials lie on a line below the others. In a grid,
    trials that differ in that key alone are joined, so that lines that cross say that keys act on each other.

    Args:
        path: file to write.
        trials: all trials; at least one has an objective.
        vary: what was varied.
        objective: what was measured.
        search: kind of search.
    """
    best = best_of(trials, objective)
    assert best is not None
    shares = importance(vary, trials, objective.sign)
    marks = _marks(trials, objective)
    order = sorted(vary, key=lambda key: -shares.get(key, 0.0))
    num_panels = len(order) + bool(shares)
    num_columns = 2 if num_panels == 4 else min(MOST_COLUMNS, num_panels)
    num_rows = -(-num_panels // num_columns)
    width = PANEL_INCHES * max(num_columns, 2) + 0.4
    with canvas(2.6 * num_rows + 1.1, width) as drawing:
        axes = drawing.subplots(num_rows, num_columns, squeeze=False).ravel()
        for panel, key in zip(axes, order):
            _panel(panel, key, vary[key], marks, best, objective, joined=search == "grid")
        for panel in axes[: len(order) : num_columns]:
            panel.set_ylabel(objective.words())
        if shares:
            _bars(axes[len(order)], [(key, shares[key]) for key in order])
        for panel in axes[num_panels:]:
            panel.set_axis_off()
        better = "higher" if objective.direction == "maximise" else "lower"
        height = drawing.get_figheight()
        lines = (
            (f"Best {objective.short}: {figure(best.objective)} (trial {best.number})", 10, INK),
            (_with_values(best), 8, INK),
            (f"{_tally(trials, marks)}; {better} is better", 8, GREY),
        )
        for index, (text, size, colour) in enumerate(lines):
            y = 1 - (0.22 + 0.21 * index + (0.03 if index else 0)) / height
            weight = "normal" if index else "bold"
            drawing.text(0.16 / width, y, text, fontsize=size, color=colour, weight=weight, va="center")
        drawing.tight_layout(rect=(0, 0, 1, 1 - 0.8 / height), w_pad=1.6, h_pad=1.4)
        _legend(drawing, axes[0], set(marks))
        buffer = io.BytesIO()
        FigureCanvasAgg(drawing)
        drawing.savefig(buffer, format="png", dpi=DPI)
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def _with_values(best: Trial) -> str:
    """'with beta = 0.3, latent_size = 96'; whole keys where their ends are the same."""
    short = {key.rpartition(".")[2]: value for key, value in best.values.items()}
    return f"with {values_in_words(short if len(short) == len(best.values) else best.values)}"


def _marks(trials: Sequence[Trial], objective: Objective) -> dict[str, list[Trial]]:
    """Trials by how they are drawn: in their place, or at the edge as far worse, given up or failed."""
    costs = {trial.number: objective.sign * _height(trial) for trial in trials if trial.objective is not None}
    middle, lowest = float(np.median(list(costs.values()))), min(costs.values())
    edge = middle + FAR_WORSE * (middle - lowest)
    found: dict[str, list[Trial]] = {SHOWN: []}
    for trial in trials:
        if trial.number in costs:
            mark = FAR if costs[trial.number] > edge > lowest else SHOWN
        else:
            mark = trial.status
        if mark == SHOWN or mark in AT_THE_EDGE:
            found.setdefault(mark, []).append(trial)
    return found


def _tally(trials: Sequence[Trial], marks: dict[str, list[Trial]]) -> str:
    """'8 trials: 6 with a result, 2 given up'."""
    counted = {"with a result": len(marks[SHOWN]) + len(marks.get(FAR, []))}
    counted |= {AT_THE_EDGE[mark][2]: len(marks[mark]) for mark in (PRUNED, FAILED) if mark in marks}
    counted["not ended"] = len(trials) - sum(counted.values())
    return f"{len(trials)} trials: " + ", ".join(f"{number} {word}" for word, number in counted.items() if number)


def _panel(
    panel: Axes,
    key: str,
    values: Values,
    marks: dict[str, list[Trial]],
    best: Trial,
    objective: Objective,
    joined: bool,
) -> None:
    place, ticks, logarithmic = _scale(values)
    shown = marks[SHOWN]
    for line in _alike(shown, key) if joined else ():
        ordered = sorted(line, key=lambda trial: place(trial.values[key]))
        xs = [place(trial.values[key]) for trial in ordered]
        panel.plot(xs, [_height(trial) for trial in ordered], color=LINE_COLOUR, linewidth=1.1, zorder=1)
    heights = [_height(trial) for trial in shown]
    xs = [place(trial.values[key]) for trial in shown]
    panel.scatter(xs, heights, s=34 if len(shown) <= 40 else 16, color=DONE_COLOUR, alpha=0.85, linewidths=0, zorder=2)
    at = (place(best.values[key]), _height(best))
    panel.scatter(*at, s=130, marker="*", color=BEST_COLOUR, linewidths=0, zorder=4)
    panel.axhline(at[1], color=BEST_COLOUR, linewidth=0.6, alpha=0.45, zorder=0)
    _edge(panel, heights, marks, objective, lambda trial: place(trial.values[key]))
    if logarithmic:
        panel.set_xscale("log")
    if ticks:
        panel.xaxis.set_major_locator(FixedLocator([x for x, _ in ticks]))
        words = dict(ticks)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: words.get(x, "")))
        panel.xaxis.set_minor_locator(NullLocator())
    elif logarithmic:
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    elif isinstance(values, Range) and values.whole:
        panel.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True))
    named = bool(ticks) and not logarithmic
    panel.margins(x=0.5 / len(ticks) if named else 0.08)
    if isinstance(values, Range):  # the whole of what was searched
        panel.update_datalim([(end, at[1]) for end in values.ends])
        panel.autoscale_view(scaley=False)
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.set_xlabel(key)
    light_grid(panel)


def _edge(
    panel: Axes,
    heights: list[float],
    marks: dict[str, list[Trial]],
    objective: Objective,
    place: Callable[[Trial], float],
) -> None:
    """The range of the axis, and on its worse side the trials that have no place on it."""
    low, high = min(heights), max(heights)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    lost = [mark for mark in AT_THE_EDGE if mark in marks]
    room = 0.38 if lost else 0.12
    down = objective.direction == "maximise"
    panel.set_ylim(low - (room if down else 0.18) * span, high + (0.18 if down else room) * span)
    edge = low - 0.24 * span if down else high + 0.24 * span
    for mark in lost:
        shape, colour, _ = AT_THE_EDGE[mark]
        xs = [place(trial) for trial in marks[mark]]
        panel.scatter(xs, [edge] * len(xs), s=30, marker=shape, color=colour, linewidths=1.2, zorder=3)


def _height(trial: Trial) -> float:
    assert trial.objective is not None
    return trial.objective


def _scale(values: Values) -> tuple[Any, list[tuple[float, str]], bool]:
    """(value -> place along the axis, ticks with their words, whether the axis is logarithmic)."""
    if isinstance(values, Range):
        return float, [], values.log
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        logarithmic = low > 0 and high / low >= LOG_FROM_RATIO
        shown = sorted(set(values))[:: max(1, -(-len(set(values)) // MOST_TICKS))]
        return float, [(float(value), label(value)) for value in shown], logarithmic
    places = {label(value): float(index) for index, value in enumerate(values)}
    return lambda value: places[label(value)], [(x, text) for text, x in places.items()], False


def _alike(trials: list[Trial], key: str) -> list[list[Trial]]:
    """Trials in groups that differ in one key alone."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(label({k: v for k, v in trial.values.items() if k != key}), []).append(trial)
    return [group for group in groups.values() if len(group) > 1]


def _bars(panel: Axes, shares: list[tuple[str, float]]) -> None:
    """What mattered: each key's share of the differences between trials."""
    positions = np.arange(len(shares))[::-1]
    panel.barh(positions, [100 * share for _, share in shares], height=0.3, color=CONTROL_COLOUR)
    for position, (key, share) in zip(positions, shares, strict=True):
        panel.text(0, position + 0.2, key, fontsize=7.5, color=INK, va="bottom")
        panel.text(100 * share + 1.5, position, f"{100 * share:.0f} %", fontsize=7.5, color=GREY, va="center")
    panel.set_xlim(0, 115)
    panel.set_ylim(-0.5, len(shares) - 0.3)
    panel.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.set_xlabel("share of the differences between trials, %")


def _legend(drawing: Figure, panel: Axes, drawn: set[str]) -> None:
    """What the marks mean, at the top right."""
    handles = [panel.scatter([], [], s=90, marker="*", color=BEST_COLOUR, linewidths=0, label="best")]
    for mark, (shape, colour, word) in AT_THE_EDGE.items():
        if mark in drawn:
            handles.append(panel.scatter([], [], s=30, marker=shape, color=colour, linewidths=1.2, label=word))
    place = (1 - 0.1 / drawing.get_figwidth(), 1 - 0.1 / drawing.get_figheight())
    drawing.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=place,
        ncols=len(handles),
        handletextpad=0.1,
        columnspacing=1.0,
    )
