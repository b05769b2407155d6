"""Baselines without latents: covariates, regional volumes, both, and a linear support vector machine on the voxels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.heads.learning import FittedHead, Learner
from gen3d.classify.heads.settings import LinearSettings, Threshold
from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.cohort.columns import PENALISED, TableCode, fit_columns
from gen3d.cohort.folder import Prepared
from gen3d.cohort.structures import SUFFIX
from gen3d.cohort.target import Rows, Target, Values, as_label
from gen3d.core.errors import UserError
from gen3d.core.memory import announce_memory
from gen3d.core.progress import track
from gen3d.maths.sketch import SKETCHED, Sketch

VOLUMES = (
    "hippocampus",
    "lateral_ventricle",
    "amygdala",
    "entorhinal",
    "inferior_lateral_ventricle",
    "cerebellar_cortex",
)
"""Structures that Alzheimer's disease and Down syndrome change, in the order in which they are taken."""
MOST_VOLUMES = 4


@dataclass(frozen=True)
class TableReducer:
    """Columns as numbers, fitted."""

    columns: TableCode

    def apply(self, rows: Rows) -> Values:
        """[n, k]."""
        return self.columns.matrix(rows.table)


@dataclass(frozen=True)
class TableRecipe:
    """Logistic or ridge regression on columns of the cohort table; the features are ignored."""

    name: str
    columns: tuple[str, ...]
    threshold: Threshold = "prevalence"
    head_size: str = ""

    @property
    def features_description(self) -> str:
        """`age_years, sex, hippocampus_ml divided by brain_ml`."""
        divided = f" divided by {self.head_size}" if self.head_size else ""
        return ", ".join(f"{name}{divided if name.endswith(SUFFIX) else ''}" for name in self.columns)

    def reduce(self, train: Rows) -> TableReducer:
        """Learn means, spreads and words from training people."""
        return TableReducer(fit_columns(train.table, self.columns, PENALISED, head_size=self.head_size))

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FittedHead:
        """Fit what needs labels."""
        return Learner(LinearSettings(), self.threshold).learn(values, codes, groups, target, seed)


@dataclass(frozen=True)
class MeanPerson:
    """Everybody is predicted the mean of the training people."""

    mean: float

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing is chosen."""
        return {}

    @property
    def threshold(self) -> float:
        """None."""
        return math.nan

    def outputs(self, values: Values) -> Values:
        """[n, 1]."""
        return np.full((len(values), 1), self.mean)


@dataclass(frozen=True)
class NoColumns:
    """Nothing of a scan."""

    def apply(self, rows: Rows) -> Values:
        """[n, 0]."""
        return np.zeros((len(rows), 0))


@dataclass(frozen=True)
class ChanceNumber:
    """Predict the mean of the training people for everybody: the error without any skill."""

    name: str = "mean of the training people"

    @property
    def features_description(self) -> str:
        """What it uses."""
        return "nothing: the mean of the training people"

    def reduce(self, train: Rows) -> NoColumns:
        """Nothing to fit."""
        return NoColumns()

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> MeanPerson:
        """The mean over people of their mean over scans."""
        _, rows = np.unique(groups, return_inverse=True)
        return MeanPerson(float((np.bincount(rows, weights=codes) / np.bincount(rows)).mean()))


def default_volumes(table: pd.DataFrame) -> list[str]:
    """Up to four volumes of structures that the table has, the hippocampus first; none where it has none."""
    return [name for name in (f"{structure}{SUFFIX}" for structure in VOLUMES) if _varies(table, name)][:MOST_VOLUMES]


def _varies(table: pd.DataFrame, name: str) -> bool:
    return name in table.columns and len({label for label in map(as_label, table[name]) if label}) > 1


def gram_factor(blocks: Iterable[NDArray[np.floating]], num_scans: int) -> Values:
    """Rows [n, r] whose inner products are those of all voxels: U sqrt(S) from the eigen-decomposition of these products.

    A linear machine on these rows is the same as on the voxels, fold by fold: it depends on its rows through their inner
    products alone, and centring on training rows commutes with an isometry.

    Args:
        blocks: the voxels of all scans, some at a time, [n, voxels of the block].
        num_scans: n.

    Raises:
        UserError: voxels that are not finite.
    """
    products = np.zeros((num_scans, num_scans))
    for block in blocks:
        values = np.asarray(block, dtype=np.float64)
        products += values @ values.T
    if not np.isfinite(products).all():
        broken = int((~np.isfinite(np.diagonal(products))).sum())
        raise UserError(f"{broken} of {num_scans} prepared scans hold voxels that are not finite; prepare them again.")
    powers, vectors = np.linalg.eigh(products)
    kept = powers > 1e-12 * max(float(powers[-1]), 1e-300)
    return np.asarray(vectors[:, kept] * np.sqrt(powers[kept]), dtype=np.float64)


NAMES = {"t1w": "T1w", "log_jacobian": "local volume"}

VOXELS_AT_ONCE = 50_000
"""Voxels of all scans that are in memory together: 200 MB per thousand scans."""

MOST_WHOLE = 2000
"""Scans whose voxels are compared whole, each with all others; the voxels of more are sketched (`maths.sketch`).

In 800 simulated people of 3,668 voxels (two repeats of five folds) the area under the curve was 0.778 and 0.769 (T1w, local volume)
by the support vector machine on all voxels, and 0.779 and 0.769 by the regression on components of 2,048 projections."""
SKETCH_COMPONENTS = 100
"""Principal components of sketched voxels: thousands of people bear more than the heads' 30."""


@dataclass(frozen=True)
class Voxels:
    """The voxels of the brain in one channel, as an isometric image [n, at most n]: inner products are those of the voxels.

    `keys` are the scans of the rows. Where the voxels are `sketched`, the rows are random projections that keep inner products on
    average (see `Sketch`).
    """

    channel: str
    values: NDArray[np.floating]
    num_voxels: int
    keys: tuple[str, ...]
    sketched: bool = False

    @property
    def name(self) -> str:
        """As tables call the baseline."""
        return f"voxels ({NAMES.get(self.channel, self.channel)})"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def of(self, keys: Iterable[str]) -> NDArray[np.float64]:
        """Rows of some scans, by key."""
        return np.asarray(self.values[[self._places[str(key)] for key in keys]], dtype=np.float64)


def read_voxels(prepared: Prepared, keys: Sequence[str]) -> tuple[Voxels, ...]:
    """The voxels of these scans, one entry per channel that was prepared; of more than MOST_WHOLE scans sketches of them.

    Raises:
        UserError: voxels that are not finite, or too little memory.
    """
    inside = np.flatnonzero(prepared.mask)
    names = [name for name in (T1W, LOG_JACOBIAN) if name in prepared.plan.channels]
    if len(keys) > MOST_WHOLE:
        sketch = Sketch.of(len(inside))
        return tuple(
            Voxels(name, _sketches(prepared, keys, name, inside, sketch), len(inside), tuple(map(str, keys)), True)
            for name in names
        )
    announce_memory(
        f"the inner products of the voxels of {len(keys)} scans",
        6 * 8 * len(keys) ** 2,
        "set voxels=false or give fewer scans",
    )
    channels = []
    for channel in names:
        factor = gram_factor(_blocks(prepared, keys, channel, inside), len(keys))
        channels.append(Voxels(channel, factor, len(inside), tuple(map(str, keys))))
    return tuple(channels)


def _sketches(
    prepared: Prepared, keys: Sequence[str], channel: str, inside: NDArray[np.int64], sketch: Sketch
) -> NDArray[np.float32]:
    """[n, SKETCHED]."""
    rows = np.empty((len(keys), SKETCHED), dtype=np.float32)
    for row, key in enumerate(track(keys, f"reading voxels ({NAMES.get(channel, channel)})")):
        rows[row] = sketch(prepared.volume(key, channel).reshape(-1)[inside])
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise UserError(f"{broken} of {len(keys)} prepared scans hold voxels that are not finite; prepare them again.")
    return rows


def _blocks(
    prepared: Prepared, keys: Sequence[str], channel: str, inside: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """[n, some voxels] at a time, so that a thousand scans need not fit into memory at once."""
    starts = range(0, len(inside), VOXELS_AT_ONCE)
    for start in track(starts, f"reading voxels ({NAMES.get(channel, channel)})"):
        places = inside[start : start + VOXELS_AT_ONCE]
        block = np.empty((len(keys), len(places)), dtype=np.float32)
        for row, key in enumerate(keys):
            block[row] = prepared.volume(key, channel).reshape(-1)[places]
        yield block
