"""A picture of latents before and after harmonising: the same two principal components, coloured by site."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.figures import style

COLOURS, OTHERS = style.GROUP_COLOURS, style.CONTROL_COLOUR
HEIGHT_INCHES = 4.3
LONGEST_NAME = 24


def draw_before_after(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    sites: NDArray[np.str_],
    by: str,
    subtitles: tuple[str, str],
) -> bytes:
    """A PNG of two panels.

    Args:
        before, after: latents of the same scans, [n, d].
        sites: site of each scan; the seven with most scans have a colour, the others are grey.
        by: the column that the sites are from.
        subtitles: the line under the title of each panel.
    """
    from sklearn.decomposition import PCA

    earlier, later = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    model = PCA(min(2, *earlier.shape), random_state=0).fit(earlier)
    shares = np.pad(model.explained_variance_ratio_, (0, 2))
    points = [np.pad(model.transform(values), ((0, 0), (0, 1)))[:, :2] for values in (earlier, later)]
    named = [name for name, _ in Counter(sites.tolist()).most_common(len(COLOURS))]
    colour = np.array([COLOURS[named.index(site)] if site in named else OTHERS for site in sites])
    order = np.random.default_rng(0).permutation(len(sites))  # no site lies on top of another

    with style.canvas(HEIGHT_INCHES) as figure:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for place, (title, panel, line) in enumerate(zip(("Before", "After"), points, subtitles, strict=True)):
            axis = axes[place]
            axis.axhline(0, color=style.FAINT, linewidth=0.6, zorder=0)
            axis.axvline(0, color=style.FAINT, linewidth=0.6, zorder=0)
            axis.scatter(panel[order, 0], panel[order, 1], s=9, c=colour[order], alpha=0.7, linewidths=0)
            for name in named:
                centre = panel[sites == name].mean(axis=0)
                axis.plot(*centre, "o", color=COLOURS[named.index(name)], markersize=8, markeredgecolor="white")
            axis.set_title(title, pad=18)
            axis.text(0, 1.02, line, transform=axis.transAxes, va="bottom")
            axis.set_xlabel(f"component 1 ({spell.percent(shares[0], 0)} of the variance before)")
        axes[0].set_ylabel(f"component 2 ({spell.percent(shares[1], 0)})")
        for name in named:
            short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
            label = f"{short}, n = {int((sites == name).sum())}"
            axes[1].plot([], [], "o", color=COLOURS[named.index(name)], markersize=6, label=label)
        others = int((~np.isin(sites, named)).sum())
        if others:
            axes[1].plot([], [], "o", color=OTHERS, markersize=4, label=f"other, n = {others}")
        figure.legend(handles=axes[1].get_legend_handles_labels()[0], loc="outside right upper", title=by)
        figure.set_layout_engine("constrained")
        return style.png_bytes(figure)
