"""Pictures of an evaluation: scans for the eye, structure volumes, and what was requested against what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.figures import style
from gen3d.imaging.plan import GridPlan

COLOURS = {"real": style.CONTROL_COLOUR, "synthetic": style.GROUP_COLOURS[1]}
ROW_INCHES, AROUND_INCHES = 0.21, 0.95
PANEL_INCHES = 2.9
REACH_SD = 4.0
PLANES = ((2, 8.0), (1, -20.0), (0, 8.0))
"""Axis and world coordinate (mm) of the slices shown of a scan."""

SCANS_PER_ROW, SCAN_INCHES, BRIGHTEST = 3, 0.98, 1.2


def draw_scans(volumes: Sequence[NDArray[np.float32]], names: Sequence[str], title: str, plan: GridPlan) -> bytes:
    """A PNG of T1w scans [X, Y, Z] on the plan's grid: an axial, a coronal and a sagittal slice of each, its name above."""
    rows = -(-len(volumes) // SCANS_PER_ROW)
    height = 0.35 + rows * (SCAN_INCHES + 0.22)
    with style.canvas(height) as figure:
        figure.text(0.01, 1 - 0.08 / height, title, va="top", fontsize=9, fontweight="bold")
        for number, (volume, name) in enumerate(zip(volumes, names, strict=True)):
            row, column = divmod(number, SCANS_PER_ROW)
            left, top = (column + 0.03) / SCANS_PER_ROW, 1 - (0.35 + row * (SCAN_INCHES + 0.22)) / height
            figure.text(left, top, name, va="top", fontsize=7)
            axes = figure.add_axes(
                (left, top - (SCAN_INCHES + 0.17) / height, 0.95 / SCANS_PER_ROW, SCAN_INCHES / height)
            )
            axes.imshow(_slices(volume, plan), cmap="gray", vmin=0, vmax=BRIGHTEST, aspect="equal")
            axes.set_axis_off()
        return style.png_bytes(figure)


def _slices(volume: NDArray[np.float32], plan: GridPlan) -> NDArray[np.float32]:
    """Slices side by side, top of the head (or the front) upwards."""
    tiles = []
    for axis, position_mm in PLANES:
        index = round((position_mm - float(plan.matrix[axis, 3])) / plan.spacing_mm)
        tiles.append(np.take(volume, min(max(index, 0), volume.shape[axis] - 1), axis=axis).T[::-1])
    tallest = max(len(tile) for tile in tiles)
    return np.concatenate([np.pad(tile, ((tallest - len(tile), 0), (1, 1))) for tile in tiles], axis=1)


def draw_structures(real: pd.DataFrame, synthetic: pd.DataFrame, table: pd.DataFrame, suffix: str) -> bytes:
    """A PNG: every person's volume of every structure, in SDs of real people about their mean; a row per structure.

    Args:
        real, synthetic: people with a column per structure.
        table: rows of `structure_rows`, in the order of the picture.
        suffix: of the columns that hold volumes.
    """
    generator = np.random.default_rng(0)
    height = AROUND_INCHES + ROW_INCHES * len(table)
    with style.canvas(height) as figure:
        axes = figure.add_axes((0.2, 0.45 / height, 0.78, 1 - AROUND_INCHES / height))
        axes.axvspan(-2, 2, color=style.FAINT, alpha=0.5, linewidth=0)
        axes.axvline(0, color=style.INK, linewidth=0.6)
        for place, row in enumerate(table.to_dict("records")):
            column = str(row["structure"]).replace(" ", "_") + suffix
            for people, colour, shift in ((real, COLOURS["real"], -0.17), (synthetic, COLOURS["synthetic"], 0.17)):
                z = (people[column].to_numpy(dtype=np.float64) - row["mean_real_ml"]) / max(row["sd_real_ml"], 1e-12)
                z = np.clip(z, -REACH_SD, REACH_SD)
                jitter = generator.uniform(-0.1, 0.1, len(z))
                axes.plot(z, place + shift + jitter, "o", color=colour, markersize=2.6, alpha=0.55, markeredgewidth=0)
                # The mean in the colour of its dots, on a white line that sets it off from them.
                ends = [place + shift - 0.15, place + shift + 0.15]
                axes.plot([z.mean()] * 2, ends, color="white", linewidth=3.6)
                axes.plot([z.mean()] * 2, ends, color=colour, linewidth=1.8)
        axes.set_yticks(range(len(table)), table["structure"].tolist())
        axes.set(ylim=(len(table) - 0.4, -0.6), xlim=(-REACH_SD, REACH_SD), xlabel="SD of real people")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.plot([], [], "o", color=COLOURS["real"], label=f"real, n = {len(real)}")
        axes.plot([], [], "o", color=COLOURS["synthetic"], label=f"synthetic, n = {len(synthetic)}")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        axes.set_title("Volumes of structures")
        return style.png_bytes(figure)


def draw_fidelity(people: pd.DataFrame, names: Sequence[str]) -> bytes:
    """A PNG: measured or predicted against requested (of real people: against the true value), a panel per number.

    Args:
        people: columns covariate, people (synthetic or real), requested, measured.
        names: covariates with a panel.
    """
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    width, height = PANEL_INCHES * columns, PANEL_INCHES * rows
    with style.canvas(height, width) as figure:
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.ravel(), names, strict=False):
            part = people[people["covariate"] == name]
            for kind, colour in COLOURS.items():
                chosen = part[part["people"] == kind]
                if len(chosen):
                    axes.plot(
                        chosen["requested"], chosen["measured"], "o", color=colour, markersize=3, alpha=0.65,
                        markeredgewidth=0, label=f"{kind}, n = {len(chosen)}",
                    )  # fmt: skip
            ends = [part["requested"].min(), part["requested"].max()]
            axes.plot(ends, ends, color=style.INK, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set_title(name.replace("_", " "))
            axes.set(xlabel="requested (real people: true)", ylabel="measured or predicted")
            axes.legend(fontsize=7)
        figure.tight_layout()
        return style.png_bytes(figure)
