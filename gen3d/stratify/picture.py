"""Pictures of a map of people, coloured by what might explain it, and of the mean anomaly maps of its clusters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.target import as_label
from gen3d.core import words as spell
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.progress import track
from gen3d.figures import names, style
from gen3d.stratify.cluster_maps import EXPECTED, ClusterMap
from gen3d.stratify.folder import write_thumbnail

MOST_LEVELS = len(style.GROUP_COLOURS)
PANEL_INCHES = 2.3
NUM_SLICES = 7
LEAST_LIMIT = 0.5
TITLES = {"cluster": "Cluster", "age_years": "Age in years", "diagnosis": "Diagnosis", "site": "Site"}


def draw_map(strata: pd.DataFrame, shares: Sequence[float]) -> bytes:
    """A PNG: UMAP above (where there is one) and the first two components, coloured by cluster, age, diagnosis, site.

    Args:
        strata: rows with pc1, pc2, umap1, umap2, cluster and the cohort's columns.
        shares: of the variance, of the first components.
    """
    planes = []
    if strata[["umap1", "umap2"]].notna().all(axis=None):
        planes.append(("UMAP 1", "UMAP 2", strata[["umap1", "umap2"]].to_numpy(dtype=float)))
    if "pc2" in strata.columns:
        across, up = (f"PC {place} ({spell.percent(share, 0)})" for place, share in enumerate(shares[:2], start=1))
        planes.append((across, up, strata[["pc1", "pc2"]].to_numpy(dtype=float)))
    columns = [name for name in TITLES if name in strata.columns]
    with style.canvas((PANEL_INCHES + 0.25) * max(1, len(planes)), PANEL_INCHES * len(columns)) as figure:
        figure.set_layout_engine("constrained")
        grid = figure.subplots(max(1, len(planes)), len(columns), squeeze=False)
        for place, (across, up, points) in enumerate(planes):
            for axes, column in zip(grid[place], columns):
                _scatter(axes, points, strata[column], column, legend=place == 0)
                axes.set(xticks=[], yticks=[])
                axes.set_xlabel(across, color=style.GREY)
                axes.set_ylabel(up, color=style.GREY)
        return style.png_bytes(figure)


def _scatter(axes: Axes, points: NDArray[np.float64], cells: pd.Series, column: str, legend: bool) -> None:
    axes.set_title(TITLES[column])
    size = float(np.clip(900 / len(points), 4, 22))
    if column == "age_years":
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)
        known = np.isfinite(values)
        axes.scatter(points[~known, 0], points[~known, 1], s=size, color=style.NO_GROUP, linewidths=0)
        if known.any():
            drawn = axes.scatter(
                points[known, 0], points[known, 1], s=size, c=values[known], cmap=style.SEQUENTIAL, linewidths=0
            )
            axes.figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.02)
        return
    labels = np.array([as_label(cell) for cell in cells])
    counts = pd.Series(labels[labels != ""]).value_counts()
    levels = sorted(counts.index[:MOST_LEVELS]) if len(counts) > MOST_LEVELS else sorted(counts.index)
    rest = ~np.isin(labels, levels)
    if rest.any():
        name = "no cluster" if column == "cluster" else "other or unknown"
        axes.scatter(
            points[rest, 0],
            points[rest, 1],
            s=size,
            color=style.NO_GROUP,
            linewidths=0,
            label=f"{name} ({int(rest.sum())})",
        )
    for colour, level in zip(style.GROUP_COLOURS, levels):
        inside = labels == level
        axes.scatter(
            points[inside, 0],
            points[inside, 1],
            s=size,
            color=colour,
            linewidths=0,
            label=f"{level} ({int(inside.sum())})",
        )
    if legend:
        axes.legend(fontsize=6, loc="best", handletextpad=0.1, borderpad=0.1)


def draw_cluster_maps(averages: list[ClusterMap], anatomy: NDArray[np.float32] | None) -> bytes:
    """A PNG: a row of axial slices per cluster and channel, mean z over anatomy, one colour scale for all.

    Args:
        found: mean maps on one grid, RAS order.
        anatomy: T1w [X, Y, Z] below them, white matter 1; None for a plain grey brain.
    """
    limit = max(LEAST_LIMIT, max(float(np.quantile(np.abs(each.mean_z[each.mask]), 0.995)) for each in averages))
    inside = np.flatnonzero(averages[0].mask.any(axis=(0, 1)))
    lowest, highest = float(np.quantile(inside, 0.12)), float(np.quantile(inside, 0.9))
    heights = np.linspace(lowest, highest, NUM_SLICES).round().astype(int)
    height = 1.25 * len(averages) + 0.5
    with style.canvas(height, 1.05 * NUM_SLICES + 1.6) as figure:
        below = 0.1 / height
        for place, each in enumerate(averages):
            bottom = 1 - (place + 1) * 1.25 / height - 0.25 / height
            title = f"Cluster {each.cluster}, {names.in_text(each.channel)} (n {each.num_people})"
            figure.text(0.01, bottom + 1.12 / height, title, fontweight="bold", color=style.INK)
            for column, level in enumerate(heights):
                width = 0.86 / NUM_SLICES
                axes = figure.add_axes((0.01 + column * width, bottom, width * 0.97, 1.05 / height))
                axes.imshow(_coloured(each, anatomy, level, limit), interpolation="nearest")
                axes.set_axis_off()
        bar = figure.add_axes((0.895, 0.25, 0.015, 0.5))
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), style.DIVERGING)
        figure.colorbar(scale, cax=bar, label="mean z")
        note = (
            "Left of the image is left of the brain. Faint: the mean of as many healthy people would be as far from 0."
        )
        figure.text(0.01, below, note, fontsize=6.5, color=style.GREY)
        return style.png_bytes(figure)


def _coloured(each: ClusterMap, anatomy: NDArray[np.float32] | None, level: int, limit: float) -> NDArray[np.float64]:
    """One axial slice as colours [rows, columns, 3]: the farther the mean z is beyond chance, the less anatomy shows."""
    mask = each.mask[:, :, level].T[::-1]
    z = each.mean_z[:, :, level].T[::-1]
    grey = np.full(mask.shape, 0.75) if anatomy is None else np.clip((anatomy[:, :, level].T[::-1] - 0.3) / 0.78, 0, 1)
    under = np.where(mask, 0.15 + 0.7 * grey, 1.0)[..., None] * np.ones(3)
    over = matplotlib.colormaps[style.DIVERGING]((z / limit + 1) / 2)[..., :3]
    chance = EXPECTED / np.sqrt(each.num_people)
    opacity = (np.clip((np.abs(z) - 0.5 * chance) / (1.5 * chance), 0, 1) * mask)[..., None]
    return np.asarray((1 - opacity) * under + opacity * over)


PIXELS = 64
GREYS = 16
BLACK, WHITE = 0.3, 1.08
"""Display window of prepared T1w volumes, whose white matter is at 1."""
FOLDER = "thumbnails"
DEEPEST = 4


def recorded_prepared(folders: tuple[Path, ...]) -> Prepared | None:
    """The scans that latents were made from, as their folders' records say; None where they no longer exist."""
    prepared: list[Path] = []
    for folder in folders:
        sources = _sources(folder, DEEPEST)
        if not sources:
            return None
        prepared += [source for source in sources if source not in prepared]
    try:
        return open_prepared(tuple(prepared))
    except UserError:
        return None


def _sources(folder: Path, depth: int) -> list[Path]:
    """Prepared folders of a latents folder, or of the latents that it was made from."""
    if depth == 0:
        return []
    try:
        artefact = read(folder)
    except UserError:
        return []
    prepared, latents = (
        [found for each in artefact.inputs.get(name, []) if (found := find_input(artefact, each)) is not None]
        for name in ("prepared", "latents")
    )
    return prepared or [source for each in latents for source in _sources(each, depth - 1)]


def write_thumbnails(folder: Path, prepared: Prepared, keys: list[str]) -> int:
    """Write thumbnails/<key>.png of every scan that is there; returns how many.

    Raises:
        UserError: a volume is damaged.
    """
    present = set(prepared.manifest["key"].astype(str))
    wanted = [key for key in keys if key in present and prepared.path(key, "t1w").is_file()]
    if not wanted:
        return 0
    box = ndimage.find_objects(prepared.mask.astype(np.uint8))[0]
    for key in track(wanted, "thumbnails"):
        picture = thumbnail(prepared.volume(key, "t1w"), box)
        write_thumbnail(folder, key, picture)
    return len(wanted)


def thumbnail(volume: NDArray[np.float32], box: tuple[slice, ...]) -> bytes:
    """The middle axial slice of a box as PNG: 64 pixels high, 16 greys, front up, left of the image is left.

    volume [X, Y, Z] in RAS order.
    """
    middle = (box[2].start + box[2].stop) // 2
    plane = volume[box[0], box[1], middle].T[::-1]
    grey = np.clip((plane - BLACK) / (WHITE - BLACK), 0, 1)
    size = (max(1, round(PIXELS * plane.shape[1] / plane.shape[0])), PIXELS)
    small = Image.fromarray(np.rint(255 * grey).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    levels = np.rint(np.asarray(small, dtype=np.float64) / 255 * (GREYS - 1)).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette([round(255 * level / (GREYS - 1)) for level in range(GREYS) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4)
    return buffer.getvalue()
