"""Sample reconstructions as pictures: what went in, what the model expects, and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.core.disk import whole_file

RANGES = {"t1w": (0.0, 1.2), "log_jacobian": (-0.6, 0.6)}
DIFFERENCE, DIFFERENCE_RANGE = "difference", 0.4


Volumes = NDArray[np.float32]


def draw_reconstructions(
    path: Path, volumes: Volumes, expected: Volumes, channels: tuple[str, ...], title: str
) -> None:
    """Save a PNG: three rows (volume, expectation, difference) per channel; three mid planes per person.

    Args:
        path: file to write.
        volumes: [n, C, X, Y, Z] in stored units.
        expected: the model's expectation of them, same shape.
        channels: names of the C channels.
        title: one line above.
    """
    _draw(path, {"volume": volumes, "expected": expected, DIFFERENCE: volumes - expected}, channels, title)


def draw_samples(path: Path, real: Volumes, sampled: Volumes, channels: tuple[str, ...], title: str) -> None:
    """Save a PNG: two rows per channel, people through the autoencoder and what was sampled for their conditions.

    Args:
        path: file to write.
        real: [n, C, X, Y, Z] in stored units.
        sampled: the same shape.
        channels: names of the C channels.
        title: one line above.
    """
    _draw(path, {"person": real, "sampled": sampled}, channels, title)


def _draw(path: Path, kinds: Mapping[str, Volumes], channels: tuple[str, ...], title: str) -> None:
    """A row of pictures per channel and kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(c, kind) for c in range(len(channels)) for kind in kinds]
    columns = [(n, plane) for n in range(len(next(iter(kinds.values())))) for plane in range(3)]
    figure = Figure(figsize=(1.6 * len(columns), 1.75 * len(rows) + 0.4), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, (channel, kind) in enumerate(rows):
        for column, (person, plane) in enumerate(columns):
            shown = kinds[kind][person, channel]
            low, high = RANGES.get(channels[channel], (float(shown.min()), float(shown.max())))
            if kind == DIFFERENCE:
                low, high = -DIFFERENCE_RANGE, DIFFERENCE_RANGE
            grey = kind != DIFFERENCE and channels[channel] != "log_jacobian"
            axis = axes[row][column]
            axis.imshow(_mid_plane(shown, plane), cmap="gray" if grey else "RdBu_r", vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
            if column == 0:
                axis.set_ylabel(f"{channels[channel]}\n{kind}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=90, format="png")


def _mid_plane(volume: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The middle slice across one axis, as an image whose rows run from the slice's last axis downwards (z up, or y up)."""
    slice_: NDArray[np.float32] = np.take(volume, volume.shape[axis] // 2, axis=axis)
    return slice_.T[::-1]
