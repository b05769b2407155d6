"""The models of a classify folder: their order, names and colours, and the primary head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from gen3d.classify.folder import HeadFolder
from gen3d.cohort.target import as_label
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import style
from gen3d.figures.plain_tables import interval_of
from gen3d.maths.stats import Interval

MEASURES = {
    "auc": "AUC",
    "macro_auc": "Macro AUC",
    "kappa": "Weighted kappa",
    "mean_absolute_grade_error": "Mean error, grades",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mae": "Mean absolute error",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson r",
    "spearman": "Spearman r",
    "accuracy": "Accuracy",
    "majority_share": "Always the most frequent class",
    "recall": "Recall",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
RANKING = ("auc", "macro_auc", "mae", "sensitivity", "specificity")
"""The measure that models are ordered by: the first of these that the folder holds."""

LOWER_IS_BETTER = ("mae", "rmse", "brier", "ece", "mean_absolute_grade_error")
CHANCE = {"auc": 0.5, "macro_auc": 0.5}
ABBREVIATIONS = ("svm", "mlp", "pca", "icv", "tiv")


@dataclass(frozen=True)
class Models:
    """Heads and baselines of one folder."""

    head: HeadFolder

    @cached_property
    def performance(self) -> list[Row]:
        """Rows with a value, with numbers for the values of their class."""
        rows = self.head.rows("performance", "model", "kind", "measure", "value", "low", "high")
        return [row for row in rows if math.isfinite(self.head.number(row, "value", "performance"))]

    @cached_property
    def ranking(self) -> str:
        """The measure that the order follows, "" where no model has any."""
        present = {str(row["measure"]) for row in self.performance if not self.class_of(row)}
        return next((measure for measure in RANKING if measure in present), "")

    def class_of(self, row: Row) -> str:
        """The class that a row is about; "" for all together, and for the usual class of two."""
        return as_label(row.get("class")) if len(self.head.classes) > 2 else ""

    def value(self, model: str, measure: str) -> Interval | None:
        """A measure of a model over all classes, None where there is none."""
        for row in self.performance:
            if row["model"] == model and row["measure"] == measure and not self.class_of(row):
                return interval_of(self.head, row, "performance")
        return None

    @cached_property
    def kinds(self) -> dict[str, str]:
        """head or baseline of every model, in the folder's order."""
        listed = {str(row.get("name")): str(row.get("kind")) for row in self.head.metrics.get("models") or ()}
        return {**listed, **{str(row["model"]): str(row["kind"]) for row in self.performance}}

    def _ordered(self, kind: str) -> list[str]:
        names = [name for name, of in self.kinds.items() if (of == "baseline") == (kind == "baseline")]

        def rank(name: str) -> float:
            interval = self.value(name, self.ranking)
            if interval is None:
                return math.inf
            return interval.value if self.ranking in LOWER_IS_BETTER else -interval.value

        return sorted(names, key=rank)

    @cached_property
    def heads(self) -> list[str]:
        """Heads, the best first."""
        return self._ordered("head")

    @cached_property
    def baselines(self) -> list[str]:
        """Baselines, the best first."""
        return self._ordered("baseline")

    @property
    def names(self) -> list[str]:
        """Heads first, baselines after."""
        return [*self.heads, *self.baselines]

    @cached_property
    def lead(self) -> str:
        """The head that was named before the results were seen: the first of the folder, "" without heads."""
        return next((name for name, kind in self.kinds.items() if kind != "baseline"), "")

    def colour(self, name: str) -> str:
        """Heads in colours, in the order of the folder; baselines in greys."""
        named = [model for model, kind in self.kinds.items() if kind != "baseline"]
        if name in named:
            return style.GROUP_COLOURS[named.index(name) % len(style.GROUP_COLOURS)]
        if name in self.baselines:
            return style.BASELINE_COLOURS[self.baselines.index(name) % len(style.BASELINE_COLOURS)]
        return style.GREY

    def is_baseline(self, name: str) -> bool:
        """Whether a model is a baseline."""
        return self.kinds.get(name) == "baseline"

    def title(self, name: str) -> str:
        """A model's name for a reader: volumes without their unit's suffix."""
        text = name.replace("_ml", " volume").replace("_", " ")
        return spell.capital(" ".join(word.upper() if word in ABBREVIATIONS else word for word in text.split()))

    def identifier(self, figure: str) -> str:
        """The file name of a figure."""
        return f"heads_{self.head.name.replace('/', '_')}_{figure}"
