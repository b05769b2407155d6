"""One picture of a study: performance of heads and baselines, ROC curves, and calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gen3d.cohort.target import Target
from gen3d.figures import style

LINE_INCHES, ONE_PANEL_INCHES = 0.26, 5.5
MEASURES = {"auc": "AUC", "macro_auc": "Mean AUC of each class against the rest", "mae": "Mean absolute error"}
MOST_CURVES = 4


def draw_performance(tables: dict[str, pd.DataFrame], target: Target) -> bytes | None:
    """A PNG with the intervals of every model, and for two classes ROC curves and reliability; None with one class only."""
    measure = "mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"
    rows = tables["performance"]
    rows = rows[(rows["measure"] == measure) & rows["value"].notna()]
    if not len(rows):
        return None
    panels = 3 if target.is_binary else 1
    height = max(3.1, 1.1 + LINE_INCHES * len(rows))
    with style.canvas(height, style.WIDTH_INCHES if panels > 1 else ONE_PANEL_INCHES) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots(1, panels, squeeze=False, width_ratios=(1.5, 1, 1)[:panels])[0]
        _intervals(axes[0], rows, measure)
        if panels > 1:
            colours = dict(zip(_shown(rows), style.GROUP_COLOURS, strict=False))
            _roc(axes[1], tables["roc"], colours)
            _reliability(axes[2], tables["reliability"], colours)
        return style.png_bytes(figure)


def _shown(rows: pd.DataFrame) -> list[str]:
    """The first heads and the strongest baselines."""
    heads = rows.loc[rows["kind"] == "head", "model"].tolist()[: MOST_CURVES - 1]
    baselines = rows[rows["kind"] != "head"].sort_values("value", ascending=False)["model"].tolist()
    return heads + baselines[: MOST_CURVES - len(heads)][: max(1, 3 - len(heads))]


def _intervals(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    places = np.arange(len(rows))[::-1]
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        colour = style.GROUP_COLOURS[0] if row["kind"] == "head" else style.CONTROL_COLOUR
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["value"], place, "o", color=colour, markersize=5)
    axes.set_yticks(places, rows["model"])
    axes.set_xlabel(f"{MEASURES[measure]}, 95 % interval over people")
    if measure != "mae":
        axes.axvline(0.5, color=style.INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(min(0.4, float(rows["low"].min()) - 0.02), 1.01)
    axes.set_title("Heads (blue) and baselines (grey)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _roc(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1)
    for name, colour in colours.items():
        rows = table[table["model"] == name].sort_values(["false_positive_rate", "true_positive_rate"])
        axes.plot(rows["false_positive_rate"], rows["true_positive_rate"], color=colour, linewidth=1.4, label=name)
    _square(axes, "1 - specificity", "Sensitivity", "ROC")
    axes.legend(fontsize=6.5, loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")


def _reliability(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1)
    for name, colour in list(colours.items())[:1]:
        rows = table[table["model"] == name].dropna(subset=["predicted", "observed"])
        below, above = rows["observed"] - rows["low"], rows["high"] - rows["observed"]
        axes.errorbar(
            rows["predicted"],
            rows["observed"],
            yerr=[below.clip(0), above.clip(0)],
            fmt="o",
            color=colour,
            markersize=4,
            lw=1,
        )
    _square(axes, "Predicted probability", "Observed share", "Calibration of the first head")


def _square(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
