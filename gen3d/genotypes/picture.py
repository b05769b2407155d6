"""The picture of quality control: missing calls, heterozygosity, frequencies and components of ancestry."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from gen3d.cohort.genotypes_folder import KEPT, PASS, YES
from gen3d.figures import style
from gen3d.genotypes.settings import QualityRules

HEIGHT_INCHES = 4.6
BARS = 40


def draw_quality(
    people: pd.DataFrame,
    variants: pd.DataFrame,
    components: NDArray[np.float64],
    training: NDArray[np.bool_],
    rules: QualityRules,
) -> bytes:
    """A PNG of four panels; people are points or counts without a name.

    Args:
        people: missing, heterozygosity, genotyped and verdict of everybody.
        variants: frequency and verdict.
        components: of people with genotypes that pass, [n, k].
        training: who of them the components were fitted on, [n].
        rules: whose limits are drawn.
    """
    genotyped = people[people["genotyped"] == YES]
    passed = (genotyped["verdict"] == PASS).to_numpy()
    with style.canvas(HEIGHT_INCHES) as figure:
        axes = figure.subplots(2, 2)
        missing = 100 * genotyped["missing"].to_numpy(dtype=float)
        _bars(axes[0, 0], missing, passed, "Missing calls", "per person (%)")
        if len(missing) and np.nanmax(missing) > 50 * rules.sample_missing:
            axes[0, 0].axvline(100 * rules.sample_missing, color=style.INK, linewidth=0.8, linestyle="--")
        share = 100 * genotyped["heterozygosity"].to_numpy(dtype=float)
        _bars(axes[0, 1], share, passed, "Heterozygous calls", "per person (%)")
        frequency = variants["frequency"].to_numpy(dtype=float)
        kept = (variants["verdict"] == KEPT).to_numpy()
        _bars(axes[1, 0], np.minimum(frequency, 1 - frequency), kept, "Rarer allele", "frequency", "variants")
        _ancestry(axes[1, 1], components, training)
        handles = [
            axes[0, 0].bar([0], [0], color=colour, label=name)
            for name, colour in (("passed", style.GROUP_COLOURS[0]), ("left out", style.GROUP_COLOURS[1]))
        ]
        figure.legend(handles=handles, loc="outside right upper")
        figure.set_layout_engine("constrained")
        return style.png_bytes(figure)


def _bars(
    axes: Axes, values: NDArray[np.float64], passed: NDArray[np.bool_], title: str, label: str, counted: str = "people"
) -> None:
    known = np.isfinite(values)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel(counted)
    if not known.any():
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=style.GREY)
        return
    low, high = float(values[known].min()), float(values[known].max())
    edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    parts = [values[known & passed], values[known & ~passed]]
    axes.hist(parts, edges.tolist(), stacked=True, color=list(style.GROUP_COLOURS[:2]))
    axes.set_yscale("symlog", linthresh=10)
    tallest = axes.get_ylim()[1]
    axes.set_yticks([tick for tick in (0, 2, 5, *(10**power for power in range(1, 8))) if tick <= tallest])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _ancestry(axes: Axes, components: NDArray[np.float64], training: NDArray[np.bool_]) -> None:
    axes.set_title("Ancestry")
    axes.set_xlabel("component 1")
    axes.set_ylabel("component 2")
    if components.shape[1] < 2 or not len(components):
        axes.text(0.5, 0.5, "too few people or variants", transform=axes.transAxes, ha="center", color=style.GREY)
        return
    for chosen, colour, name in (
        (training, style.CONTROL_COLOUR, "fitted on"),
        (~training, style.GROUP_COLOURS[2], "placed"),
    ):
        if chosen.any():
            label = f"{name}, n = {int(chosen.sum())}"
            axes.scatter(
                components[chosen, 0], components[chosen, 1], s=7, c=colour, alpha=0.7, linewidths=0, label=label
            )
    axes.legend()
