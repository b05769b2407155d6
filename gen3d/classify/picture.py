"""One picture of a study: how heads and baselines stand, their ROC curves or predictions, and their probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.target import Target

INK, FAINT, HEAD, BASELINE = "#1c2126", "#d5dade", "#0072b2", "#6b7783"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a6487f", "#b58900", "#3d9bd1")
WIDTH_INCHES, LINE_INCHES, DOTS_PER_INCH = 9.0, 0.26, 130
MEASURES = {"auc": "AUC", "macro_auc": "Mean AUC of each class against the rest", "mae": "Mean absolute error"}
MOST_CURVES = 4


def draw_performance(folder: Path, tables: dict[str, pd.DataFrame], target: Target) -> None:
    """Write performance.png: intervals of every model; for two classes ROC curves and reliability beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = "mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"
    rows = tables["performance"]
    rows = rows[(rows["measure"] == measure) & rows["value"].notna()]
    if not len(rows):
        return  # one class only: nothing to draw
    panels = 3 if target.is_binary else 1
    height = max(3.1, 1.1 + LINE_INCHES * len(rows))
    figure = Figure(figsize=(WIDTH_INCHES if panels > 1 else 5.5, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=(1.5, 1, 1)[:panels])[0]
    _intervals(axes[0], rows, measure)
    if panels > 1:
        shown = _shown(rows)
        colours = dict(zip(shown, COLOURS, strict=False))
        _roc(axes[1], tables["roc"], colours)
        _reliability(axes[2], tables["reliability"], colours)
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "performance.png", dpi=DOTS_PER_INCH)


def _shown(rows: pd.DataFrame) -> list[str]:
    """The first heads, and the strongest baselines beside them."""
    heads = rows.loc[rows["kind"] == "head", "model"].tolist()[: MOST_CURVES - 1]
    baselines = rows[rows["kind"] != "head"].sort_values("value", ascending=False)["model"].tolist()
    return heads + baselines[: MOST_CURVES - len(heads)][: max(1, 3 - len(heads))]


def _intervals(axes: Any, rows: pd.DataFrame, measure: str) -> None:
    places = np.arange(len(rows))[::-1]
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        colour = HEAD if row["kind"] == "head" else BASELINE
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["value"], place, "o", color=colour, markersize=5)
    axes.set_yticks(places, rows["model"], fontsize=8)
    axes.set_xlabel(f"{MEASURES[measure]}, 95 % interval over people", fontsize=8)
    if measure != "mae":
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(min(0.4, float(rows["low"].min()) - 0.02), 1.01)
    axes.set_title("Heads (blue) and baselines (grey)", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=7.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _roc(axes: Any, table: pd.DataFrame, colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for name, colour in colours.items():
        rows = table[table["model"] == name].sort_values(["false_positive_rate", "true_positive_rate"])
        axes.plot(rows["false_positive_rate"], rows["true_positive_rate"], color=colour, linewidth=1.4, label=name)
    _square(axes, "1 - specificity", "Sensitivity", "ROC")
    axes.legend(fontsize=6.5, loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")


def _reliability(axes: Any, table: pd.DataFrame, colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
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


def _square(axes: Any, x: str, y: str, title: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
