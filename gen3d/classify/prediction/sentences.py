"""What `gen3d predict` says: sentences, and a table that a person reads in the terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from gen3d.classify.prediction.people import PredictionRequest
from gen3d.classify.prediction.tables import TAIL, training_summary
from gen3d.classify.prediction.typicality import TypicalityModel
from gen3d.core.progress import console

MOST_SHOWN = 20
"""People in the terminal's table; all are in predictions.tsv."""
PLAIN_WIDTH = 180
"""Characters per line of a table that goes to a file, where rich would assume 80 and break every cell."""


def sentences(request: PredictionRequest, predictions: pd.DataFrame, model: TypicalityModel) -> list[str]:
    """What a reader must know, what was predicted first."""
    lines = [_predicted(request, predictions)]
    if request.metrics.get("summary"):
        lines.append(f"The head's own test: {request.metrics['summary'][0]}")
    lines += _meaning(request)
    warned = int((predictions["out_of_distribution"] != "").sum())
    if warned:
        lines.append(
            f"{warned} of {_scans(len(predictions))} {'comes' if warned == 1 else 'come'} with a warning: unlike the training "
            "scans, so the prediction may not hold."
        )
    if model.smallest_tail > TAIL:
        lines.append(
            f"With {model.num_people:.0f} training people the rarest that a scan can be called is 1 in "
            f"{model.num_people + 1:.0f}, so some ordinary scans get a warning too."
        )
    seen = int((predictions["seen"] != "").sum())
    if seen:
        lines.append(
            f"{seen} of {_scans(len(predictions))} {'is' if seen == 1 else 'are'} of people that a model behind the latents saw "
            "(column seen): their latents may be unlike those of new people."
        )
    return [*lines, *(f"{note[0].upper()}{note[1:]}." for note in request.notes)]


def _predicted(request: PredictionRequest, predictions: pd.DataFrame) -> str:
    target, num = request.head.target, len(predictions)
    if target.task == "number":
        values = predictions["predicted"]
        return f"{_scans(num)}: {target.name} is predicted from {values.min():.3g} to {values.max():.3g}."
    counts = predictions["y_pred"].value_counts()
    told = ", ".join(f"{int(counts.get(name, 0))} {name}" for name in target.classes)
    rule = f" ({target.classes[-1]} from a probability of {request.family.threshold:.2f})" if target.is_binary else ""
    return f"{_scans(num)}: {told}{rule}."


def _meaning(request: PredictionRequest) -> list[str]:
    """What the probabilities refer to, or how far numbers were off in cross-validation."""
    target = request.head.target
    if target.task == "number":
        found = [
            row
            for row in request.rows_of("performance")
            if row.get("measure") == "mae" and row.get("value") is not None
        ]
        if not found:
            return []
        row = found[0]
        return [f"In cross-validation predictions of {target.name} were off by {_of(row)} on average."]
    counts = training_summary(request)["by_class"]
    shares = ", ".join(f"{100 * count / sum(counts.values()):.0f} % {name}" for name, count in counts.items())
    return [
        f"Probabilities are those among people mixed as in training ({shares}); where {target.classes[-1]} is rarer, they are "
        "lower (predictive_values.tsv of the head)."
        if target.is_binary
        else f"Probabilities are those among people mixed as in training ({shares})."
    ]


def _of(row: dict[str, Any]) -> str:
    interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if row.get("low") is not None else ""
    return f"{row['value']:.3g}{interval}"


def _scans(num: int) -> str:
    return f"{num} {'scan' if num == 1 else 'scans'}"


def show(request: PredictionRequest, predictions: pd.DataFrame, neighbours: pd.DataFrame) -> None:
    """Print the table, where there are few enough people to read it."""
    if len(predictions) > MOST_SHOWN:
        return
    target = request.head.target
    placed = "cluster" in predictions.columns
    table = Table(title=f"{target.describe()}, head {request.folder}", title_justify="left")
    for name in (
        "scan",
        *target.output_columns,
        "predicted",
        "observed",
        "nearest",
        "typicality",
        *(["cluster"] * placed),
        "warning",
    ):
        table.add_column(name, overflow="fold")
    for row in predictions.to_dict("records"):
        near = neighbours[neighbours["key"] == row["key"]]["neighbour_y"]
        cells = [str(row["key"]), *(f"{row[column]:.2f}" for column in target.output_columns)]
        cells += [str(row["y_pred"]) if target.classes else f"{row['y_pred']:.3g}", _reliable(row), _near(near)]
        cells += [f"{row['typicality_percentile']:.0f} %", *([str(row["cluster"])] if placed else [])]
        table.add_row(*cells, str(row["out_of_distribution"]))
    wide = (
        console
        if console.is_terminal
        else Console(soft_wrap=True, highlight=False, width=PLAIN_WIDTH, quiet=console.quiet)
    )
    wide.print(table)


def _reliable(row: dict[Any, Any]) -> str:
    value = row.get("reliability_observed")
    if value is None or pd.isna(value):
        return ""
    return f"{value:.2f} [{row['reliability_low']:.2f}, {row['reliability_high']:.2f}]"


def _near(labels: pd.Series) -> str:
    return ", ".join(label if isinstance(label, str) else f"{label:.3g}" for label in labels)
