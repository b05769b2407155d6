"""Simple predictors of scans: a linear model on structure volumes and principal components of coarse voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from sklearn.linear_model import LogisticRegression, RidgeCV

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared
from gen3d.core.progress import track
from gen3d.quality.structures import structure_columns

COARSE_MM = 6.0
MOST_COMPONENTS, PEOPLE_PER_COMPONENT = 20, 3
NUM_FOLDS = 5
MIN_TRAINING = 12
MIN_CLASS = 4
"""Fewest people of a category, to train on it and to test it."""

SOLVED_WHOLE = 1000
"""People whose principal components come from the inner products of all with all."""

RIDGE = np.logspace(-1, 4, 11)
INVERSE_PENALTY = 0.1
"""C of the logistic regression, for features of unit variance."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Readings:
    """What predictors see of scans: structure volumes [n, s] (ml) and coarse T1w voxels [n, v]."""

    structures: Values
    voxels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.voxels)

    def rows(self, chosen: NDArray[Any]) -> Readings:
        """Some of the scans."""
        return Readings(self.structures[chosen], self.voxels[chosen])

    def joined(self, others: Readings) -> Readings:
        """These scans, then others."""
        return Readings(
            np.concatenate([self.structures, others.structures]), np.concatenate([self.voxels, others.voxels])
        )


def read_all(cohorts: Sequence[tuple[Prepared, pd.DataFrame]]) -> list[Readings]:
    """Readings of the rows of every table; structures are those that all tables have."""
    names = structure_columns(*(table for _, table in cohorts))
    return [Readings(table[names].to_numpy(dtype=np.float64), _coarse(prepared, table)) for prepared, table in cohorts]


def _coarse(prepared: Prepared, table: pd.DataFrame) -> NDArray[np.float32]:
    block = max(1, round(COARSE_MM / prepared.plan.spacing_mm))
    inside = _block_means(prepared.mask.astype(np.float32), block) > 0.5
    rows = [_block_means(prepared.volume(str(key), T1W), block)[inside] for key in track(table["key"], "reading scans")]
    return np.stack(rows) if rows else np.empty((0, int(inside.sum())), np.float32)


def _block_means(volume: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    x, y, z = (side // block for side in volume.shape)
    cut = volume[: x * block, : y * block, : z * block]
    return np.asarray(cut.reshape(x, block, y, block, z, block).mean(axis=(1, 3, 5)), dtype=np.float32)


@dataclass(frozen=True)
class Predictor:
    """A fitted linear model of one covariate, see `fit_numeric` and `fit_categorical`."""

    model: Any
    structure_mean: Values
    structure_std: Values
    voxel_mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def inputs(self, readings: Readings) -> Values:
        """Standardised structures and components of unit variance, [n, s + k]."""
        structures = (readings.structures - self.structure_mean) / self.structure_std
        return np.column_stack([structures, (readings.voxels - self.voxel_mean) @ self.components])

    def numbers(self, readings: Readings) -> Values:
        """Predicted values [n]."""
        return np.asarray(self.model.predict(self.inputs(readings)), dtype=np.float64)

    def shares(self, readings: Readings, codes: Sequence[str]) -> Values:
        """Probability of each code [n, codes]; 0 for codes that the training people lack."""
        shares = np.zeros((len(readings), len(codes)))
        shares[:, [list(codes).index(str(code)) for code in self.model.classes_]] = self.model.predict_proba(
            self.inputs(readings)
        )
        return shares


def fit_numeric(readings: Readings, values: Values) -> Predictor:
    """Ridge regression; its penalty is chosen by leave-one-out."""
    return _fitted(RidgeCV(alphas=RIDGE), readings, values)


def fit_categorical(readings: Readings, codes: NDArray[np.object_]) -> Predictor:
    """Logistic regression with balanced class weights."""
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=5000)
    return _fitted(model, readings, codes.astype(str))


def _fitted(model: Any, readings: Readings, target: NDArray[Any]) -> Predictor:
    num = len(readings)
    centre = readings.voxels.mean(axis=0)
    centred = readings.voxels - centre
    kept = min(MOST_COMPONENTS, max(1, num // PEOPLE_PER_COMPONENT))
    vectors, scale = _leading(centred, kept)
    directions = (centred.T @ vectors / scale).astype(np.float32)
    std = readings.structures.std(axis=0) if readings.structures.size else np.ones(readings.structures.shape[1])
    predictor = Predictor(
        model,
        readings.structures.mean(axis=0),
        np.where(std > 0, std, 1.0),
        centre,
        (directions / (scale / np.sqrt(num - 1))).astype(np.float32),
    )
    model.fit(predictor.inputs(readings), target)
    return predictor


def _leading(centred: NDArray[np.float32], num: int) -> tuple[Values, Values]:
    """The people's coordinates [n, k] on the leading principal components, of length 1, and their singular values [k].

    From the inner products of all people; of more than SOLVED_WHOLE people by Lanczos iteration (ARPACK), whose time and memory
    grow with people and not with their square.
    """
    if len(centred) <= SOLVED_WHOLE:
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        return vectors[:, -num:], np.sqrt(np.maximum(values[-num:], 1e-12))
    first = np.random.default_rng(0).standard_normal(min(centred.shape)).astype(np.float32)
    vectors, scale, _ = svds(centred, k=num, v0=first, return_singular_vectors="u")
    return vectors.astype(np.float64), np.maximum(scale.astype(np.float64), 1e-6)


def folds(num: int, seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of each fold."""
    order = np.random.default_rng(seed).permutation(num)
    return [np.sort(part) for part in np.array_split(order, min(NUM_FOLDS, num))]
