"""Heads and baselines: performance, differences, curves and reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen3d.classify.sections import charts as heads_charts
from gen3d.classify.sections.models import CHANCE, LOWER_IS_BETTER, MEASURES, Models
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Table
from gen3d.figures.charts import Curve
from gen3d.figures.plain_tables import interval_of
from gen3d.maths.stats import Interval

SHOWN_FIRST = (
    *("auc", "macro_auc", "kappa", "mean_absolute_grade_error", "auprc", "balanced_accuracy", "macro_f1"),
    *("accuracy", "majority_share"),
    *("sensitivity", "specificity", "mae", "rmse", "r2", "pearson"),
)
RECALL = "recall"
DIFFERENCES_SHOWN = 10
NAMED_BASELINES = 1
PANELS = 8


def figures(value: Interval, measure: str) -> str:
    """A value and its interval with as many digits as the measure deserves."""
    size = abs(value.value)
    digits = 2 if measure not in ("mae", "rmse", "brier", "ece") or size >= 1 else 3
    return wording.with_interval(value, digits)


def measure_name(measure: str, of_class: str = "") -> str:
    """A measure's name, with the class that it is about."""
    title = MEASURES.get(measure, measure.replace("_", " "))
    return f"{title} of {of_class}" if of_class else title


def performance(models: Models) -> list[Any]:
    """The chart of the main measure, the table of the first measures, and the others folded."""
    if not models.performance:
        return []
    blocks: list[Any] = [Heading("Heads and baselines side by side")]
    if models.ranking:
        blocks.append(_forest(models))
    columns = list(dict.fromkeys((str(row["measure"]), models.class_of(row)) for row in models.performance))
    order = {name: index for index, name in enumerate(MEASURES)}
    columns.sort(key=lambda column: (order.get(column[0], len(order)), column[1] != ""))
    first = [column for column in columns if column[0] in SHOWN_FIRST and not column[1]]
    by_class = [column for column in columns if column[1] and column[0] != RECALL]  # which has a table of its own
    rest = [column for column in columns if column not in first and not column[1] and column[0] != RECALL]
    num = max(int(interval_of(models.head, row, "performance").num) for row in models.performance)
    size = f", n = {num} people" if num else ""
    blocks.append(_performance_table(models, first or rest, _performance_caption(models, size)))
    folded = [
        _performance_table(models, part, caption)
        for part, caption in (
            (by_class, "Each class against the rest."),
            (rest if first else [], "Calibration of the probabilities or of the values, and further measures."),
        )
        if part
    ]
    return [*blocks, Details("Further measures", folded)] if folded else blocks


def _performance_caption(models: Models, size: str) -> str:
    named = f" {models.title(models.lead)} was named beforehand as the primary head." if len(models.heads) > 1 else ""
    return f"Performance with 95 % intervals{size}. Best first.{named}"


def _performance_table(models: Models, columns: Sequence[tuple[str, str]], caption: str) -> Table:
    cells = {
        (str(row["model"]), str(row["measure"]), models.class_of(row)): interval_of(models.head, row, "performance")
        for row in models.performance
    }
    rows: list[list[str]] = []
    for title, names in (("Heads", models.heads), ("Baselines", models.baselines)):
        present = [name for name in names if any((name, *column) in cells for column in columns)]
        rows += [[title]] if present else []
        for name in present:
            values = [cells.get((name, *column)) for column in columns]
            rows.append(
                [
                    models.title(name),
                    *(
                        spell.NONE if value is None else figures(value, measure)
                        for value, (measure, _) in zip(values, columns, strict=True)
                    ),
                ]
            )
    header = ["Model", *(measure_name(*column) for column in columns)]
    return Table(caption, header, rows, "l" + "r" * len(columns))


def _forest(models: Models) -> Figure:
    measure = models.ranking
    values = [(name, models.value(name, measure)) for name in models.names]
    lines = [
        charts.Line(
            models.title(name),
            value,
            style.GREY if models.is_baseline(name) else models.colour(name),
            models.is_baseline(name),
        )
        for name, value in values
        if value is not None
    ]
    chance = CHANCE.get(measure)
    title = MEASURES[measure]
    png, svg = charts.intervals(lines, title, chance, "chance")
    caption = (
        f"{title} with 95 % intervals; filled: heads, hollow: baselines"
        + (", dashed: chance" if chance is not None else "")
        + (". Lower is better." if measure in LOWER_IS_BETTER else ".")
    )
    name = models.identifier("performance")
    return Figure(name, f"Intervals of {title} of heads and baselines.", caption, png, svg=svg, width_percent=80)


def differences(models: Models) -> list[Any]:
    """Every head against every baseline and the other heads; those of the best head first."""
    rows = models.head.rows("differences", "model", "against", "difference", "low", "high")
    rows = [row for row in rows if math.isfinite(models.head.number(row, "difference", "differences"))]
    if not rows:
        return []
    order = {name: index for index, name in enumerate(models.names)}
    last = len(order)
    rows.sort(key=lambda row: (order.get(str(row["model"]), last), order.get(str(row["against"]), last)))
    lead = [row for row in rows if row["model"] == models.lead][:DIFFERENCES_SHOWN] or rows[:DIFFERENCES_SHOWN]
    rest = [row for row in rows if not any(row is shown for shown in lead)]
    title = measure_name(str(rows[0].get("measure") or models.ranking))
    caption = (
        f"Difference in {title} with its 95 % interval, on the same people; above 0 the first is "
        + ("worse. " if str(rows[0].get("measure")) in LOWER_IS_BETTER else "better. ")
        + "p: DeLong's test of two correlated AUCs, and the t test over folds corrected for shared training people."
    )
    blocks: list[Any] = [_differences_table(models, lead, caption)]
    if rest:
        blocks.append(Details("The other differences", [_differences_table(models, rest, f"Difference in {title}.")]))
    return blocks


def _differences_table(models: Models, rows: Sequence[Row], caption: str) -> Table:
    names = ("difference", "low", "high")
    header, align = ["Model", "Against", "Difference [95 %]"], "llr"
    tests = [
        (column, title)
        for column, title in (("p_delong", "p, DeLong"), ("p_resampled", "p, corrected t over folds"))
        if any(math.isfinite(models.head.number(row, column, "differences")) for row in rows)
    ]
    cells = [
        [
            models.title(str(row["model"])),
            models.title(str(row["against"])) + (" (baseline)" if models.is_baseline(str(row["against"])) else ""),
            wording.with_interval(interval_of(models.head, row, "differences", names), 3),
            *(spell.probability(models.head.number(row, column, "differences")) for column, _ in tests),
        ]
        for row in rows
    ]
    return Table(caption, [*header, *(title for _, title in tests)], cells, align + "r" * len(tests))


def _drawn(models: Models, present: set[str]) -> list[tuple[str, bool]]:
    """Models to draw, baselines beneath heads, and whether each has a name in the legend."""
    named = models.baselines[:NAMED_BASELINES]
    chosen = [*reversed(models.baselines), *reversed(models.heads)]
    return [(name, name in named or name in models.heads) for name in chosen if name in present]


def curves(models: Models) -> list[Any]:
    """ROC curves and decision curves side by side."""
    return [*_roc(models), *_decision(models)]


def _roc(models: Models) -> list[Figure]:
    rows = models.head.rows("roc", "model", "false_positive_rate", "true_positive_rate")
    rows = [row for row in rows if not models.class_of(row)]
    lines = _lines(models, rows, "roc", "false_positive_rate", "true_positive_rate")
    if not lines:
        return []
    png, svg = heads_charts.square(lines, "1 \N{MINUS SIGN} specificity", "Sensitivity")
    caption = (
        "ROC curves. Coloured: heads; dashed: the best baseline; grey: the other baselines; the diagonal is chance."
    )
    name = models.identifier("roc")
    return [Figure(name, "ROC curves of heads and baselines.", caption, png, svg=svg, width_percent=50)]


def _lines(models: Models, rows: Sequence[Row], table: str, x: str, y: str) -> list[Curve]:
    """A line per model of two columns, in the order of x (and y)."""
    drawn = []
    for name, named in _drawn(models, {str(row["model"]) for row in rows}):
        model_rows = [row for row in rows if row["model"] == name]
        xs, ys = (models.head.numbers(model_rows, column, table) for column in (x, y))
        order = np.lexsort((ys, xs)) if table == "roc" else np.argsort(xs, kind="stable")
        baseline = models.is_baseline(name)
        drawn.append(
            Curve(
                xs[order],
                ys[order],
                models.title(name) if named else "",
                models.colour(name),
                thin=baseline and not named,
                dashed=baseline and named,
            )
        )
    return drawn


def _decision(models: Models) -> list[Figure]:
    table = "decision"
    rows = models.head.rows(table, "model", "threshold_probability", "net_benefit", "net_benefit_all")
    lines = _lines(models, rows, table, "threshold_probability", "net_benefit")
    if not lines:
        return []
    first_rows = [row for row in rows if row["model"] == rows[0]["model"]]
    xs, ys = (models.head.numbers(first_rows, column, table) for column in ("threshold_probability", "net_benefit_all"))
    order = np.argsort(xs, kind="stable")
    everybody = Curve(xs[order], ys[order], "Acting on everybody", style.INK, thin=True)
    png, svg = heads_charts.net_benefit(lines, everybody, "Probability from which one would act")
    caption = (
        "Decision curves: true positives per person minus false positives weighted by the odds at which one would act, at "
        "the prevalence in these people. A model is useful where it lies above acting on everybody and on nobody (dashed)."
    )
    name = models.identifier("decision")
    return [Figure(name, "Decision curves of heads and baselines.", caption, png, svg=svg, width_percent=50)]


def reliability(models: Models) -> list[Any]:
    """Observed share against predicted probability, per head and for the best baseline."""
    table = "reliability"
    rows = models.head.rows(table, "model", "predicted", "observed", "low", "high", "num")
    present = {str(row["model"]) for row in rows}
    names = [name for name in [*models.heads, *models.baselines[:1]] if name in present][:PANELS]
    if not names:
        return []
    panels = []
    for name in names:
        model_rows = [row for row in rows if row["model"] == name and not models.class_of(row)]
        columns = [
            models.head.numbers(model_rows, column, table) for column in ("predicted", "observed", "low", "high", "num")
        ]
        kept = np.isfinite(columns[0]) & np.isfinite(columns[1]) & (columns[4] > 0)
        if kept.any():
            predicted, observed, low, high, num = (column[kept] for column in columns)
            panels.append(
                heads_charts.Bins(models.title(name), models.colour(name), predicted, observed, low, high, num)
            )
    if not panels:
        return []
    png, svg = heads_charts.reliability(panels, "Predicted probability", "Observed share")
    several = len(models.head.classes) > 2
    caption = (
        "Reliability: of the people with a predicted probability "
        + ("of their most likely class, the share with that class" if several else "")
        + ("" if several else f"of {models.head.classes[-1]}, the share who are" if models.head.classes else "")
        + ", with 95 % intervals. On the dashed line probabilities are correct. Bars: how many people a bin holds."
    )
    name = models.identifier("reliability")
    width = min(100, 26 * min(4, len(panels)) + 4)
    return [Figure(name, "Reliability diagrams.", caption, png, svg=svg, width_percent=max(51, width))]
