"""Steepest ascent over linear maps: which moves are allowed, and steps that become shorter where the direction turns back.

All parameters are in millimetres at the cortex, so that one step length suits turns, scales and shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

CORTEX_RADIUS_MM = 70.0  # turns angles and scales into millimetres
RELAXATION = 0.6  # of a step after the direction turned back
CROSS = np.array(
    [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]],
    dtype=np.float64,
)
"""The generators of turns about the axes x, y and z."""


class Metric(Protocol):
    """Value under a matrix [4, 4], and its derivative [3, 4] by the linear part about `centre` and by the place of the centre."""

    @property
    def centre(self) -> Vector: ...

    def __call__(self, matrix: Matrix) -> tuple[float, Matrix]: ...


class Moves(Protocol):
    """A family of changes of a linear map."""

    def slope(self, linear: Matrix, gradient: Matrix) -> Vector:
        """Derivative by the parameters, per mm, of a function with this derivative [3, 4], see `Metric`."""
        ...

    def change(self, linear: Matrix, step: Vector) -> Matrix:
        """The linear part [3, 3] after a step, whose last three numbers, the shift, do not concern it."""
        ...


class AllLinear:
    """Twelve parameters: every number of the linear part, and a shift."""

    def slope(self, linear: Matrix, gradient: Matrix) -> Vector:
        """See `Moves`."""
        return np.concatenate([gradient[:, :3].ravel() / CORTEX_RADIUS_MM, gradient[:, 3]])

    def change(self, linear: Matrix, step: Vector) -> Matrix:
        """See `Moves`."""
        return linear + step[:9].reshape(3, 3) / CORTEX_RADIUS_MM


@dataclass(frozen=True)
class Turns:
    """Turns, one scale if `scaled`, and a shift: six or seven parameters."""

    scaled: bool

    def slope(self, linear: Matrix, gradient: Matrix) -> Vector:
        """See `Moves`."""
        by_linear = gradient[:, :3]
        turns = [float((by_linear * (generator @ linear)).sum()) for generator in CROSS]
        scale = [float((by_linear * linear).sum())] if self.scaled else []
        return np.concatenate([np.array([*turns, *scale]) / CORTEX_RADIUS_MM, gradient[:, 3]])

    def change(self, linear: Matrix, step: Vector) -> Matrix:
        """See `Moves`."""
        turn: Matrix = expm(np.tensordot(step[:3], CROSS, axes=1) / CORTEX_RADIUS_MM)
        return turn @ linear * (np.exp(step[3] / CORTEX_RADIUS_MM) if self.scaled else 1.0)


def climb(
    metric: Metric,
    matrix: Matrix,
    moves: Moves,
    step_mm: float,
    stop_mm: float,
    iterations: int,
) -> Matrix:
    """Steepest ascent from a matrix [4, 4]: steps of `step_mm`, shorter by 0.6 whenever the direction turns back."""
    centre, before = metric.centre, None
    for _ in range(iterations):
        slope = moves.slope(matrix[:3, :3], metric(matrix)[1])
        length = float(np.linalg.norm(slope))
        if length == 0:  # no point of the template lies in the scan: a start so wrong is judged where it is
            break
        slope = slope / length
        if before is not None and float(slope @ before) < 0:
            step_mm *= RELAXATION
            if step_mm < stop_mm:
                break
        linear = moves.change(matrix[:3, :3], step_mm * slope)
        goes_to = matrix[:3, :3] @ centre + matrix[:3, 3] + step_mm * slope[-3:]
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = linear, goes_to - linear @ centre
        before = slope
    return matrix
