"""Pictures of a cohort by level: mean brains, difference maps, profiles of intensity, and how alike scans are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.core import words as spell
from gen3d.explore.alike import BETWEEN, REPEAT, WITHIN
from gen3d.explore.levels import Exploring
from gen3d.explore.profiles import BANDS, LevelCurve
from gen3d.figures import style
from gen3d.figures.brain import AXES, Cut, DisplaySpace, Overlay, Strip, Tile, draw, lightbox

PLACES = {"axial": 4.0, "coronal": -20.0, "sagittal": -26.0}
"""World coordinates (mm) of the planes of mean brains: through ventricles and the left hippocampus."""

FEWEST_VOXELS = 8
"""Of a side of a slice that is worth a picture; slabs and slices have planes without."""

JACOBIAN_LIMIT, JACOBIAN_FROM = 0.3, 0.08
"""Scale of mean local volume in colour, and from where it is shown."""

MOST_INCHES = 2.6
"""Width of a slice of mean brains."""

T_AT_LEAST = 3.0
BAND_NAMES = ("fluid", "grey matter")


def level_colours(people: Exploring) -> dict[str, str]:
    """A colour per level: along a scale where levels have an order."""
    if not people.ordered:
        return style.category_colours(people.levels)
    shares = np.linspace(0.02, 0.85, len(people.levels))
    return {level: style.hex_colour(float(share)) for level, share in zip(people.levels, shares, strict=True)}


def cuts_of(space: DisplaySpace) -> list[Cut]:
    """The planes of mean brains that this grid has, moved into the brain where it does not reach the usual place."""
    box, cuts = space.cropped(), []
    for plane, axis in AXES.items():
        sides = [side for other, side in enumerate(space.mask.shape) if other != axis]
        if min(sides) < FEWEST_VOXELS:
            continue
        low, high = box[axis].start or 0, (box[axis].stop or space.mask.shape[axis]) - 1
        wanted = (PLACES[plane] - space.affine[axis, 3]) / space.affine[axis, axis]
        index = round(wanted) if low < wanted < high else (low + high) // 2
        cuts.append(Cut(plane, space.position_mm(axis, index)))
    return cuts[::-1]


def draw_means(means: Mapping[str, NDArray[np.float32]], people: Exploring, space: DisplaySpace) -> bytes:
    """A PNG: a row per level with its mean T1w in up to three planes, and its mean local volume in colour where there is one.

    Args:
        means: volumes [levels, X, Y, Z] by channel.
        people: the levels.
        space: the plan's grid.
    """
    cuts, anatomy, volume = cuts_of(space), means[T1W], means.get(LOG_JACOBIAN)
    strips = []
    for place, (level, num) in enumerate(people.counts().items()):
        tiles = [Tile(cut, anatomy[place]) for cut in cuts]
        if volume is not None:
            overlay = Overlay(volume[place], JACOBIAN_LIMIT, JACOBIAN_FROM)
            tiles += [Tile(cut, anatomy[place], overlay) for cut in cuts if cut.plane != "sagittal"]
        strips.append(Strip(f"{level}, n = {num}", tiles))
    scale = Overlay(np.zeros(1), JACOBIAN_LIMIT, JACOBIAN_FROM)
    width = min(style.WIDTH_INCHES, MOST_INCHES * len(strips[0].tiles))
    return draw(
        strips, space, None if volume is None else (scale, "Mean log-Jacobian to the template (in colour)"), width
    )


def draw_differences(
    maps: Sequence[tuple[str, NDArray[np.float32], float]], anatomy: NDArray[np.float32], space: DisplaySpace
) -> bytes:
    """A PNG: a row of slices per comparison and channel.

    Args:
        maps: title, t [X, Y, Z], and the t beyond which p corrected for the map is below 0.05 (infinite: nothing can be).
        anatomy: mean T1w of everybody.
        space: the plan's grid.
    """
    largest = max((float(np.abs(t).max()) for _, t, _ in maps), default=1.0)
    finite = [critical for *_, critical in maps if np.isfinite(critical)]
    limit = round(max(largest, T_AT_LEAST, *(1.3 * critical for critical in finite)), 1)
    threshold = round(float(np.mean(finite)), 1) if finite else limit
    strips = []
    for title, t, critical in maps:
        own = critical if np.isfinite(critical) else limit
        overlay = Overlay(t, limit, own, np.abs(t) > own)
        strips.append(Strip(title, [Tile(cut, anatomy, overlay) for cut in _slices(space)]))
    return draw(strips, space, (Overlay(np.zeros(1), limit, threshold), "t with age held fixed"))


def _slices(space: DisplaySpace) -> tuple[Cut, ...]:
    planes = {cut.plane for cut in cuts_of(space)}
    usual = tuple(cut for cut in lightbox(space) if cut.plane in planes)
    inside = tuple(cut for cut in usual if _has(space, cut))
    return inside or tuple(cuts_of(space))


def _has(space: DisplaySpace, cut: Cut) -> bool:
    axis = AXES[cut.plane]
    return bool(space.mask.take(space.index(axis, cut.position_mm), axis=axis).any())


def draw_profiles(
    densities: Sequence[LevelCurve], quantiles: Sequence[LevelCurve], intensity: pd.DataFrame, people: Exploring
) -> bytes:
    """A PNG: histograms by level with the bands, quantiles against those of the first level, and the mean by level."""
    colours = level_colours(people)
    with style.canvas(3.0) as figure:
        first, second, third = figure.subplots(1, 3, width_ratios=(1.5, 1.2, 0.9))
        figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.26, wspace=0.28)
        _densities(first, densities, colours)
        _quantiles(second, quantiles, colours)
        _means(third, intensity, people, colours)
        handles = [first.plot([], [], color=colours[level], linewidth=2)[0] for level in people.levels]
        names = [f"{level} (n = {num})" for level, num in people.counts().items()]
        figure.legend(handles, names, loc="lower center", ncols=min(6, len(names)), bbox_to_anchor=(0.5, 0.0))
        return style.png_bytes(figure)


def _densities(axes: Axes, curves: Sequence[LevelCurve], colours: Mapping[str, str]) -> None:
    for (low, high), name in zip(BANDS, BAND_NAMES, strict=True):
        axes.axvspan(low, high, color=style.BAND, linewidth=0)
        axes.text((low + high) / 2, 1.0, f"{low}\N{EN DASH}{high}\n{name}", transform=axes.get_xaxis_transform(), ha="center",
                  va="top", fontsize=6.5, color=style.GREY)  # fmt: skip
    for curve in curves:
        inner = slice(1, -1)  # the ends hold all that is darker or brighter than the scale
        axes.fill_between(
            curve.x[inner],
            100 * curve.low[inner],
            100 * curve.high[inner],
            color=colours[curve.level],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(curve.x[inner], 100 * curve.value[inner], color=colours[curve.level], linewidth=1.2)
    axes.set(xlim=(0, 255), ylim=(0, None), xlabel="Grey value (8 bits)", title="Histogram, % of voxels per grey value")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    style.light_grid(axes)


def _quantiles(axes: Axes, curves: Sequence[LevelCurve], colours: Mapping[str, str]) -> None:
    reference = curves[0].value
    for curve in curves:
        axes.fill_between(
            curve.x, curve.low - reference, curve.high - reference, color=colours[curve.level], alpha=0.25, linewidth=0
        )
        axes.plot(curve.x, curve.value - reference, color=colours[curve.level], linewidth=1.2)
    axes.set(xlim=(0, 100), xlabel="% of voxels darker", title=f"Quantiles, minus those of {curves[0].level}")
    style.light_grid(axes)


def _means(axes: Axes, intensity: pd.DataFrame, people: Exploring, colours: Mapping[str, str]) -> None:
    rows = intensity[intensity["measure"] == "mean"].set_index("level")
    for place, level in enumerate(people.levels):
        row = rows.loc[level]
        axes.plot([place, place], [row["low"], row["high"]], color=colours[level], linewidth=1.8)
        axes.plot(place, row["value"], "o", color=colours[level], markersize=5)
    axes.set_xticks(range(len(people.levels)), list(people.levels))
    if max(map(len, people.levels)) > 6:
        axes.tick_params(axis="x", labelrotation=20)
    axes.set(xlim=(-0.6, len(people.levels) - 0.4), title="Mean grey value")
    style.light_grid(axes)


def draw_similarity(cells: pd.DataFrame, people: Exploring) -> bytes:
    """A PNG: mean SSIM of two people by their levels, and all means with intervals beside two scans of one person."""
    rows = cells[cells["measure"] == "ssim"]
    height = max(2.5, 0.7 + 0.2 * len(rows))
    with style.canvas(height) as figure:
        _matrix(figure, rows, people, height)
        axes = figure.add_axes((0.56, 0.5 / height, 0.42, 1 - 0.85 / height))
        _likeness(axes, rows)
        return style.png_bytes(figure)


def _matrix(figure: Canvas, rows: pd.DataFrame, people: Exploring, height: float) -> None:
    num = len(people.levels)
    values = np.full((num, num), np.nan)
    place = {level: number for number, level in enumerate(people.levels)}
    for row in rows[rows["kind"] != REPEAT].to_dict("records"):
        a, b = place[row["level_a"]], place[row["level_b"]]
        values[a, b] = values[b, a] = row["value"]
    size = min(2.6, height - 0.75)
    axes = figure.add_axes((0.09, (height - size - 0.3) / height, size / style.WIDTH_INCHES, size / height))
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    margin = max(0.25 * (high - low), 1e-4)
    axes.imshow(values, cmap=style.SEQUENTIAL, vmin=low - margin, vmax=high + margin)
    for a in range(num):
        for b in range(num):
            dark = np.isfinite(values[a, b]) and values[a, b] < (low + high) / 2
            axes.text(b, a, spell.number(values[a, b], 3), ha="center", va="center", fontsize=7.5,
                      color="white" if dark else style.INK)  # fmt: skip
    axes.set_xticks(range(num), list(people.levels))
    axes.set_yticks(range(num), list(people.levels))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("SSIM of two people")


def _likeness(axes: Axes, rows: pd.DataFrame) -> None:
    colours = {REPEAT: style.GROUP_COLOURS[2], WITHIN: style.CONTROL_COLOUR, BETWEEN: style.GROUP_COLOURS[1]}
    names: list[str] = []
    for kind in (REPEAT, WITHIN, BETWEEN):
        for row in rows[rows["kind"] == kind].to_dict("records"):
            place = len(names)
            axes.plot([row["low"], row["high"]], [place] * 2, color=colours[kind], linewidth=1.8)
            axes.plot(row["value"], place, "o", color=colours[kind], markersize=4.5)
            a, b = row["level_a"], row["level_b"]
            names.append({REPEAT: f"One person twice, {a}", WITHIN: f"Two people, {a}", BETWEEN: f"{a} and {b}"}[kind])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("SSIM inside the brain, 95 % interval over people")
    style.light_grid(axes, "x")
