"""How the heads are fitted at a setting, and scored on people held out, each on a set of problems.

A problem is a target per row: whether a scan is of a class (two classes: one problem; several: one for each against the
rest; ordered: one for each grade that can be exceeded), or a number. Classes are balanced in every problem, but for boosted
trees, whose scores start from the shares of the classes; calibration makes all of them refer to those shares.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVC, SVR

from gen3d.classify.heads.linear_fits import balanced_weights, logistic_path, ridge_path
from gen3d.classify.heads.settings import BoostingSettings, LinearSettings, MlpSettings, SvmSettings, TableHead

Values = NDArray[np.float64]
SVM_TOLERANCE = 1e-6
"""Tighter than the default of libsvm (0.001), so that the order of the rows hardly changes a fit."""
SVM_STEPS = 200_000
"""Bounds the time at high costs, where classes that overlap converge slowly."""
EPSILON = 0.1
"""Half the width of the tube of support vector regression, in standard deviations of the number."""
MOST_COPIES = 20
"""Bounds the training set of a perceptron where one class is very rare."""


class Scorer(Protocol):
    """A fitted estimator."""

    def scores(self, values: Values) -> Values:
        """One score per problem and row, [B, n]: log odds or distances from a plane, or numbers."""
        ...


class Estimator(Protocol):
    """What can be fitted to values [n, k] and targets [B, n] (0 and 1, or numbers)."""

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """The settings tried, the simplest first."""
        ...

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """Scores of every row from the people of the other folds, at every setting, [S, B, n]."""
        ...

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> Scorer:
        """Fit all rows at one setting."""
        ...


def estimator_of(settings: TableHead, is_number: bool) -> Estimator:
    """The estimator of some settings, for classes or for a number."""
    match settings:
        case LinearSettings():
            return Ridge(settings) if is_number else Logistic(settings)
        case SvmSettings():
            return SupportVectors(settings, is_number)
        case BoostingSettings():
            return Boosting(settings, is_number)
        case MlpSettings():
            return Perceptron(settings, is_number)


@dataclass(frozen=True)
class Planes:
    """Linear scores: coefficients [B, k] and intercepts [B]."""

    coefficients: Values
    intercepts: Values

    def scores(self, values: Values) -> Values:
        """[B, n]."""
        return self.coefficients @ values.T + self.intercepts[:, None]


@dataclass(frozen=True)
class Logistic:
    """L2 logistic regression; all folds, problems and penalties in one batch."""

    settings: LinearSettings

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Penalties, the strongest first."""
        return tuple({"penalty": penalty} for penalty in sorted(self.settings.penalties, reverse=True))

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """[S, B, n]."""
        num_folds, num_problems = int(folds.max()) + 1, len(targets)
        positive = np.tile(targets > 0.5, (num_folds, 1))
        used = np.repeat(folds != np.arange(num_folds)[:, None], num_problems, axis=0)
        penalties = [setting["penalty"] for setting in self.grid]
        coefficients, intercepts = logistic_path(values, positive, balanced_weights(positive, used), penalties)
        every = coefficients @ values.T + intercepts[:, :, None]
        every = every.reshape(len(penalties), num_folds, num_problems, len(values))
        held_out: Values = np.moveaxis(every[:, folds, :, np.arange(len(values))], 0, -1)
        return held_out

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> Planes:
        """All rows at one penalty."""
        positive = targets > 0.5
        weights = balanced_weights(positive, np.ones(len(values), dtype=bool))
        coefficients, intercepts = logistic_path(values, positive, weights, [setting["penalty"]])
        return Planes(coefficients[0], intercepts[0])


@dataclass(frozen=True)
class Ridge:
    """Ridge regression, one decomposition per fold for all penalties."""

    settings: LinearSettings

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Penalties, the strongest first."""
        return tuple({"penalty": penalty} for penalty in sorted(self.settings.penalties, reverse=True))

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """[S, 1, n]."""
        held_out = np.empty((len(self.grid), 1, len(values)))
        penalties = [setting["penalty"] for setting in self.grid]
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            coefficients, intercepts = ridge_path(values[~held], targets[0, ~held], penalties)
            held_out[:, 0, held] = coefficients @ values[held].T + intercepts[:, None]
        return held_out

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> Planes:
        """All rows at one penalty."""
        return Planes(*ridge_path(values, targets[0], [setting["penalty"]]))


@dataclass(frozen=True)
class SupportVectors:
    """Linear support vector machines on the inner products of the rows, so that many columns cost nothing more."""

    settings: SvmSettings
    is_number: bool

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Costs, the lowest first."""
        return tuple({"cost": cost} for cost in sorted(self.settings.costs))

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """[S, B, n]."""
        scaled = values / _length(values)
        products = scaled @ scaled.T
        held_out = np.empty((len(self.grid), *targets.shape))
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            kernel, across = products[np.ix_(~held, ~held)], products[np.ix_(held, ~held)]
            for row, setting in enumerate(self.grid):
                for problem, target in enumerate(targets):
                    multipliers, intercept = self._multipliers(kernel, target[~held], setting["cost"])
                    held_out[row, problem, held] = across @ multipliers + intercept
        return held_out

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> Planes:
        """All rows at one cost."""
        length = _length(values)
        scaled = values / length
        fitted = [self._multipliers(scaled @ scaled.T, target, setting["cost"]) for target in targets]
        coefficients = np.stack([multipliers @ scaled for multipliers, _ in fitted]) / length
        return Planes(coefficients, np.array([intercept for _, intercept in fitted]))

    def _multipliers(self, kernel: Values, target: Values, cost: float) -> tuple[Values, float]:
        """Multiplier of every row and the intercept: score = sum of multiplier x inner product + intercept.

        For classes the intercept puts 0 midway between the mean scores of the two. The machine's own is not determined where
        every row is on the wrong side of its margin (low costs), and then differs wildly from fold to fold, which a
        calibration on the scores of all folds could not bear. It changes no order within a fold.
        """
        options = {"kernel": "precomputed", "C": cost, "tol": SVM_TOLERANCE, "max_iter": SVM_STEPS}
        level, spread = (float(target.mean()), float(target.std()) or 1.0) if self.is_number else (0.0, 1.0)
        if self.is_number:
            machine, labels = SVR(epsilon=EPSILON, **options), (target - level) / spread
        else:
            machine, labels = SVC(class_weight="balanced", **options), (target > 0.5).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(kernel, labels)
        multipliers = np.zeros(len(kernel))
        multipliers[machine.support_] = machine.dual_coef_[0]
        if not self.is_number:
            scores = kernel @ multipliers
            return multipliers, -0.5 * float(scores[labels > 0].mean() + scores[labels == 0].mean())
        return spread * multipliers, spread * float(machine.intercept_[0]) + level


def _length(values: Values) -> float:
    """Root mean squared distance of the rows from their centre; 1 where they are all the same."""
    return float(np.sqrt(values.var(axis=0).sum())) or 1.0


@dataclass(frozen=True)
class BoostedStages:
    """Boosted trees, one model per problem."""

    models: tuple[Any, ...]
    is_number: bool

    def scores(self, values: Values) -> Values:
        """[B, n]."""
        if self.is_number:
            return np.stack([model.predict(values) for model in self.models])
        return np.stack([model.decision_function(values) for model in self.models])


@dataclass(frozen=True)
class Boosting:
    """Gradient-boosted trees; one fit per fold and problem gives every number of trees."""

    settings: BoostingSettings
    is_number: bool

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Numbers of trees, the fewest first."""
        return tuple({"num_trees": number} for number in sorted(self.settings.num_trees))

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """[S, B, n]."""
        numbers = [setting["num_trees"] for setting in self.grid]
        held_out = np.empty((len(numbers), *targets.shape))
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            for problem, target in enumerate(targets):
                model = self._fitted(values[~held], target[~held], numbers[-1], seed)
                stages = (model.staged_predict if self.is_number else model.staged_decision_function)(values[held])
                for trees, scores in enumerate(stages, start=1):
                    if trees in numbers:
                        held_out[numbers.index(trees), problem, held] = np.ravel(scores)
        return held_out

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> BoostedStages:
        """All rows with one number of trees."""
        models = [self._fitted(values, target, setting["num_trees"], seed) for target in targets]
        return BoostedStages(tuple(models), self.is_number)

    def _fitted(self, values: Values, target: Values, num_trees: int, seed: int) -> Any:
        options = {
            "max_iter": num_trees,
            "learning_rate": self.settings.learning_rate,
            "max_leaf_nodes": self.settings.num_leaves,
            "min_samples_leaf": self.settings.fewest_scans,
            "early_stopping": False,
            "random_state": seed,
        }
        if self.is_number:
            return HistGradientBoostingRegressor(**options).fit(values, target)
        return HistGradientBoostingClassifier(**options).fit(values, target > 0.5)


@dataclass(frozen=True)
class Layers:
    """Perceptrons, one per problem, as weights and offsets of their two layers; `level` and `spread` of a number."""

    networks: tuple[tuple[Values, Values, Values, Values], ...]
    level: float
    spread: float

    def scores(self, values: Values) -> Values:
        """[B, n]: log odds, or numbers."""
        raw = [
            (np.tanh(values @ inner + offsets) @ outer + offset)[:, 0]
            for inner, offsets, outer, offset in self.networks
        ]
        return np.stack(raw) * self.spread + self.level


@dataclass(frozen=True)
class Perceptron:
    """Perceptrons with one hidden layer."""

    settings: MlpSettings
    is_number: bool

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Penalties, the strongest first."""
        return tuple({"penalty": penalty} for penalty in sorted(self.settings.penalties, reverse=True))

    def out_of_fold(self, values: Values, targets: Values, folds: NDArray[np.int64], seed: int) -> Values:
        """[S, B, n]."""
        held_out = np.empty((len(self.grid), *targets.shape))
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            for row, setting in enumerate(self.grid):
                held_out[row][:, held] = self.fit(values[~held], targets[:, ~held], setting, seed).scores(values[held])
        return held_out

    def fit(self, values: Values, targets: Values, setting: dict[str, Any], seed: int) -> Layers:
        """All rows at one penalty."""
        level, spread = (float(targets.mean()), float(targets.std()) or 1.0) if self.is_number else (0.0, 1.0)
        networks = [self._weights(values, (target - level) / spread, setting["penalty"], seed) for target in targets]
        return Layers(tuple(networks), level, spread)

    def _weights(
        self, values: Values, target: Values, penalty: float, seed: int
    ) -> tuple[Values, Values, Values, Values]:
        rows = np.arange(len(values)) if self.is_number else _balanced_rows(target > 0.5)
        options = {
            "hidden_layer_sizes": (self.settings.hidden_units,),
            "activation": "tanh",
            "solver": "lbfgs",
            "alpha": penalty * len(rows),  # scikit-learn divides it by the number of rows
            "max_iter": self.settings.steps,
            "max_fun": 10 * self.settings.steps,
            "random_state": seed,
        }
        network = MLPRegressor(**options) if self.is_number else MLPClassifier(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(values[rows], target[rows] if self.is_number else target[rows] > 0.5)
        (inner, outer), (offsets, offset) = network.coefs_, network.intercepts_
        return inner, offsets, outer, offset


def _balanced_rows(positive: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Row numbers in which those of the rarer class are repeated until both classes are about as common."""
    counts = np.array([int((~positive).sum()), int(positive.sum())])
    copies: Sequence[int] = np.clip(np.rint(counts.max() / counts), 1, MOST_COPIES).astype(int)
    return np.repeat(np.arange(len(positive)), np.where(positive, copies[1], copies[0]))
