"""What a scorecard shows about one model, as data: whether chance is excluded, and which baselines it beats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gen3d.classify.folder import twin_of
from gen3d.classify.scores.rows import headline_measure
from gen3d.classify.scores.sentences import Tables, measured, rows_where
from gen3d.cohort.target import Target
from gen3d.core.tables import Row
from gen3d.maths.stats import Interval

LEVEL = 0.05
FEWEST_OF_CLASS = 10
"""With fewer people the interval is too narrow to exclude chance by itself."""

NO_SKILL = "mean of the training people"
"""The baseline of a number that uses nothing of the person."""

Doubt = Literal["no skill", "no interval", "below chance", "covers chance", "few people", "permutations"]
"""Why chance is not excluded: not below the error of `NO_SKILL`; too few people for an interval; an interval below or
around chance; too few people of a class without permuted labels; no better than permuted labels."""


@dataclass(frozen=True)
class BaselineComparison:
    """A model minus one baseline: what the baseline reaches, the difference, and p of the models as fitted and fitted anew."""

    baseline: str
    value: float
    difference: Interval
    p_delong: float
    p_resampled: float


@dataclass(frozen=True)
class Verdict:
    """One model: its row of `performance` in the measure, doubts about chance, and the baselines by how they compare.

    Baselines are in order, the worst difference for the model first. `doubts` is empty where chance is excluded or the
    measure does not exist (`row` None or NaN).
    """

    model: str
    measure: str
    row: Row | None
    permutation_p: float | None
    doubts: tuple[Doubt, ...]
    beaten: tuple[BaselineComparison, ...]
    unbeaten: tuple[BaselineComparison, ...]
    worse: tuple[BaselineComparison, ...]
    """Baselines that the model is worse than."""

    compared: tuple[BaselineComparison, ...]
    """All of them."""

    @property
    def twin(self) -> BaselineComparison | None:
        """The same network trained from random weights, where it was."""
        return next((each for each in self.compared if each.baseline == twin_of(self.model)), None)


def judge(tables: Tables, target: Target, model: str) -> Verdict:
    """The verdict on one model, compared with the baselines of the same tables."""
    measure = headline_measure(target)
    row, p = measured(tables, model, measure), _permutation_p(tables, model)
    exists = row is not None and math.isfinite(row["value"])
    doubts = _doubts(tables, target, model, row, p) if row is not None and exists else ()
    compared = _compared(tables, model, measure)
    worse = tuple(each for each in compared if _is_worse(each, measure))
    above_chance = measure == "mae" or (row is not None and row["low"] > 0.5)
    beaten = tuple(each for each in compared if _is_better(each, measure) and (above_chance or each.value >= 0.5))
    # A baseline below chance predicts the wrong class more often than not; it counts as chance, so only a model above
    # chance beats it.
    unbeaten = tuple(each for each in compared if each not in beaten and each not in worse)
    return Verdict(model, measure, row, p, doubts, beaten, unbeaten, worse, compared)


def people_by_class(tables: Tables, target: Target, model: str) -> dict[str, int]:
    """People of each class, in the order of the classes."""
    if target.is_binary:
        rates = [measured(tables, model, name) for name in ("specificity", "sensitivity")]
        return {name: int(row["num_people"]) if row else 0 for name, row in zip(target.classes, rates, strict=True)}
    areas = [(name, measured(tables, model, "auc", name)) for name in target.classes]
    return {name: int(row["num_positive"]) if row else 0 for name, row in areas}


def _permutation_p(tables: Tables, model: str) -> float | None:
    rows = rows_where(tables.get("permutation"), model=model)
    return float(rows[0]["p"]) if rows and math.isfinite(rows[0]["p"]) else None


def _doubts(tables: Tables, target: Target, model: str, row: Row, p: float | None) -> tuple[Doubt, ...]:
    doubts: list[Doubt] = []
    if target.task == "number":
        skill = rows_where(tables["differences"], model=model, against=NO_SKILL)
        if skill and not skill[0]["high"] < 0:
            doubts.append("no skill")
    elif not math.isfinite(row["low"]):
        doubts.append("no interval")
    elif row["high"] < 0.5:
        doubts.append("below chance")
    elif row["low"] <= 0.5:
        doubts.append("covers chance")
    elif p is None and min(people_by_class(tables, target, model).values()) < FEWEST_OF_CLASS:
        doubts.append("few people")
    if p is not None and p > LEVEL:
        doubts.append("permutations")
    return tuple(doubts)


def _compared(tables: Tables, model: str, measure: str) -> tuple[BaselineComparison, ...]:
    """The differences from baselines, the worst for the model first; undefined differences come before all."""
    baselines = {
        row["model"]: row["value"]
        for row in rows_where(tables["performance"], measure=measure, kind="baseline", **{"class": ""})
    }
    rows = [row for row in rows_where(tables["differences"], model=model) if row["against"] in baselines]
    sign = -1.0 if measure == "mae" else 1.0

    def advantage(row: Row) -> float:
        return sign * float(row["difference"]) if math.isfinite(row["difference"]) else -math.inf

    return tuple(
        BaselineComparison(
            baseline=row["against"],
            value=float(baselines[row["against"]]),
            difference=Interval(row["difference"], row["low"], row["high"], int(row["num_people"])),
            p_delong=float(row["p_delong"]),
            p_resampled=float(row["p_resampled"]),
        )
        for row in sorted(rows, key=advantage)
    )


def _is_better(compared: BaselineComparison, measure: str) -> bool:
    return bool(compared.difference.high < 0 if measure == "mae" else compared.difference.low > 0)


def _is_worse(compared: BaselineComparison, measure: str) -> bool:
    return bool(compared.difference.low > 0 if measure == "mae" else compared.difference.high < 0)
