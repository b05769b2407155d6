"""Sums over controls from which the per-voxel model is fitted: C'WC, C'Wr and r'Wr, without anybody's values.

Values are added person by person, so memory does not depend on the number of people. The sums are kept for every group of
people (`maths.covariate_sums`) in functions of age and sex that no sample decides. A design turns them into its own
cross-products, each group with its weight, the inverse square of its site's residual SD: weighted least squares. Sums of two
cohorts are merged by adding their groups. A fit without some people takes their values from the sums again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.site_variance import some_voxels
from gen3d.maths.covariate_sums import PLAIN, Group
from gen3d.maths.splines import Bends, choose_smoothing

ROUNDING = 1e-12
"""Share of r'r below which what a fit leaves is rounding."""

Array = NDArray[np.floating]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """Weighted least squares from sums: (C'WC)^-1 [p, p], coefficients [p, V], residual sum of squares [V], people.

    Where columns are penalised, the inverse holds the penalty, and the sum of squares that of the prior too: its expectation is
    that of n - p + `num_penalised` squared residuals (`maths.splines`).
    """

    gram_inverse: Floats
    coefficients: Floats
    squares: Floats
    num_people: int
    num_penalised: int = 0


class Products(NamedTuple):
    """C'WC [p, p], C'Wr [p, V] and r'Wr [V] of so many people."""

    gram: Floats
    cross: Floats
    squares: Floats
    num_people: int


@dataclass(frozen=True)
class People:
    """Some people of the sums: rows of `basis_rows` [m, b], their groups [m], weights [m] (1 / scale of each), values [m, V]."""

    rows: Floats
    group: NDArray[np.int64]
    weight: Floats
    values: Array


@dataclass
class ValueSums:
    """B'B [g, b, b], B'r [g, b, V] and r'r [g, V] of the values r of people in groups, with their number [g]."""

    groups: tuple[Group, ...]
    num: NDArray[np.int64]
    gram: Floats
    cross: Floats
    squares: Floats

    @classmethod
    def empty(cls, groups: Sequence[Group], num_values: int, width: int = len(PLAIN)) -> ValueSums:
        """Sums of nobody; rows have `width` columns, b."""
        num = len(groups)
        return cls(
            tuple(groups),
            np.zeros(num, dtype=np.int64),
            np.zeros((num, width, width)),
            np.zeros((num, width, num_values)),
            np.zeros((num, num_values)),
        )

    @classmethod
    def merged(cls, several: Iterable[ValueSums]) -> ValueSums:
        """The sums of all people of several; V must agree."""
        listed = list(several)
        groups = sorted({group for sums in listed for group in sums.groups})
        result = cls.empty(groups, listed[0].num_values, listed[0].gram.shape[1])
        for sums in listed:
            for place, group in enumerate(sums.groups):
                into = groups.index(group)
                result.num[into] += sums.num[place]
                result.gram[into] += sums.gram[place]
                result.cross[into] += sums.cross[place]
                result.squares[into] += sums.squares[place]
        return result

    @property
    def num_values(self) -> int:
        """V."""
        return self.squares.shape[1]

    def add(self, people: People) -> None:
        """Add the values of some people; one of weight w counts as w squared people."""
        for group in np.unique(people.group):
            of = people.group == group
            values = np.asarray(people.values[of], dtype=np.float64) * people.weight[of, None]
            rows = people.rows[of, : self.gram.shape[1]] * people.weight[of, None]
            self.num[group] += int(of.sum())
            self.gram[group] += rows.T @ rows
            self.cross[group] += rows.T @ values
            self.squares[group] += np.einsum("mv,mv->v", values, values)

    def moved(self, by: Array) -> ValueSums:
        """The sums of values minus a constant map [V]: near the mean they can be kept in single precision."""
        shift = np.asarray(by, dtype=np.float64)
        ones = self.gram[:, :, 0]  # sums of w^2 b
        squares = self.squares - 2 * shift * self.cross[:, 0] + self.gram[:, 0, 0, None] * shift**2
        return ValueSums(
            self.groups, self.num, self.gram, self.cross - ones[:, :, None] * shift, np.maximum(squares, 0.0)
        )

    def part(self, few: slice) -> ValueSums:
        """The sums of some of the values."""
        return ValueSums(self.groups, self.num, self.gram, self.cross[:, :, few], self.squares[:, few])

    @property
    def mean(self) -> Floats:
        """Weighted mean value of all people, [V]."""
        return np.asarray(self.cross[:, 0].sum(axis=0) / self.gram[:, 0, 0].sum())

    def fit(
        self, transforms: Sequence[Floats], weights: Floats, without: People | None = None, bends: Bends | None = None
    ) -> Fitted:
        """Weighted least squares of a design.

        Args:
            transforms: per group the matrix [p, b] of `Design.transform`.
            weights: of each group, the inverse square of its residual SD factor, [g].
            without: people of the sums who are left out.
            bends: the columns that are penalised, None for none.
        """
        gram, cross, squares, num = self.products(transforms, weights, without)
        gram_inverse = np.asarray(np.linalg.inv(gram)) if bends is None else bends.inverse(gram)
        coefficients = gram_inverse @ cross
        remaining = squares - np.einsum("pv,pv->v", cross, coefficients)
        remaining[remaining < ROUNDING * squares] = 0.0  # values that do not vary
        return Fitted(gram_inverse, coefficients, remaining, num, 0 if bends is None else len(bends.columns))

    def likeliest(self, transforms: Sequence[Floats], weights: Floats, columns: tuple[int, ...]) -> Bends | None:
        """The spline columns of a design with the smoothing that these people make most likely; None for no columns.

        Arguments of `fit`; some of the values decide for all.
        """
        if not columns:
            return None
        gram, cross, squares, num = self.part(some_voxels(self.num_values)).products(transforms, weights)
        return Bends(columns, choose_smoothing(gram, cross, squares, num, columns))

    def products(self, transforms: Sequence[Floats], weights: Floats, without: People | None = None) -> Products:
        """The cross-products of a design; arguments of `fit`.

        Raises:
            ValueError: the design has a spline of age and the sums have not, or the other way round.
        """
        (columns, wide), width = transforms[0].shape, self.gram.shape[1]
        if wide != width:
            raise ValueError(
                f"sums of {width} functions of people, and a design of {wide}: one of them has a spline of age"
            )
        scaled = np.stack([weight * of for weight, of in zip(weights, transforms, strict=True)])  # [g, p, b]
        gram = np.einsum("gpb,gbc,gqc->pq", scaled, self.gram, np.stack(transforms))
        cross = scaled.transpose(1, 0, 2).reshape(columns, -1) @ self.cross.reshape(len(weights) * width, -1)
        squares = weights @ self.squares
        num = int(self.num.sum())
        if without is not None:
            num -= len(without.rows)
            for row, group, weight, values in zip(
                without.rows, without.group, without.weight, without.values, strict=True
            ):
                design = transforms[group] @ row[:width] * weight
                errors = np.asarray(values, dtype=np.float64) * weight
                gram -= weights[group] * np.outer(design, design)
                cross -= (weights[group] * design)[:, None] * errors
                squares -= weights[group] * errors**2
        return Products(gram, cross, squares, num)
