"""A picture of latents before and after harmonising: the same two principal components, coloured by site."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
from numpy.typing import NDArray

INK, FAINT, OTHERS = "#1c2126", "#d5dade", "#6b7783"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a6487f", "#b58900", "#3d9bd1", "#000000")
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 4.3
DOTS_PER_INCH = 130
LONGEST_NAME = 24


def draw_before_after(
    before: NDArray[np.floating], after: NDArray[np.floating], sites: NDArray[np.str_], by: str, words: tuple[str, str]
) -> bytes:
    """A PNG of two panels.

    Args:
        before, after: latents of the same scans, [n, d].
        sites: site of each scan; the seven with most scans have a colour, the others are grey.
        by: the column that the sites are from.
        words: a line under the title of each panel.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

    earlier, later = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    model = PCA(min(2, *earlier.shape), random_state=0).fit(earlier)
    shares = np.pad(100 * model.explained_variance_ratio_, (0, 2))
    points = [np.pad(model.transform(values), ((0, 0), (0, 1)))[:, :2] for values in (earlier, later)]
    named = [name for name, _ in Counter(sites.tolist()).most_common(len(COLOURS))]
    colour = np.array([COLOURS[named.index(site)] if site in named else OTHERS for site in sites])
    order = np.random.default_rng(0).permutation(len(sites))  # no site lies on top of another

    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for place, (title, panel, line) in enumerate(zip(("Before", "After"), points, words, strict=True)):
            axis = axes[place]
            axis.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
            axis.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
            axis.scatter(panel[order, 0], panel[order, 1], s=9, c=colour[order], alpha=0.7, linewidths=0)
            for name in named:
                centre = panel[sites == name].mean(axis=0)
                axis.plot(*centre, "o", color=COLOURS[named.index(name)], markersize=8, markeredgecolor="white")
            axis.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK, pad=18)
            axis.text(0, 1.02, line, transform=axis.transAxes, color=INK, va="bottom")
            axis.set_xlabel(f"component 1 ({shares[0]:.0f} % of the variance before)")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(f"component 2 ({shares[1]:.0f} %)")
        for name in named:
            short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
            label = f"{short}, n = {int((sites == name).sum())}"
            axes[1].plot([], [], "o", color=COLOURS[named.index(name)], markersize=6, label=label)
        others = int((~np.isin(sites, named)).sum())
        if others:
            axes[1].plot([], [], "o", color=OTHERS, markersize=4, label=f"other, n = {others}")
        figure.legend(
            handles=axes[1].get_legend_handles_labels()[0], loc="outside right upper", frameon=False, title=by
        )
        figure.set_layout_engine("constrained")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        return buffer.getvalue()
