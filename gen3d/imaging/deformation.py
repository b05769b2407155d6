"""Diffeomorphic deformations with prescribed regional volume changes.

A deformation is ``phi(x) = x + u(x)``. The displacement ``u`` is an array [3, X, Y, Z] in voxels of its grid; it sends a
voxel of the source space (template) to a place in the target space (person), so ``log det J`` is positive where the person
is larger than the template. A stationary velocity ``v`` has the same layout; ``phi = exp(v)``.

Sources: Arsigny et al. 2006 (log-Euclidean framework, scaling and squaring); Khanal et al. 2016, NeuroImage 134 (atrophy
as a prescribed divergence), here with the curl-free solution of least energy, ``v = grad(q)`` with ``laplace(q) = d``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from gen3d.imaging.warping import combined, warped

Floats = NDArray[np.float32]
Number = TypeVar("Number", bound=np.number)
MAX_STEP_VOXELS = 0.4  # longest displacement of the first, linearised step of scaling and squaring
MINIMUM_DETERMINANT = 1e-3  # volumes are counted from here up while the iteration has not converged
LARGEST_STEP = 2.0  # of one amplitude in one iteration: an error of an early step must not tear the grid


def exponential(velocity: Floats, num_squarings: int | None = None) -> Floats:
    """Displacement [3, X, Y, Z] (voxels) of ``exp(velocity)`` by scaling and squaring.

    ``num_squarings`` defaults to the smallest number for which the first step is at most 0.4 voxels.
    ``exponential(-velocity)`` is the inverse deformation.
    """
    if num_squarings is None:
        longest = float(np.sqrt((velocity**2).sum(axis=0)).max())
        num_squarings = max(0, int(np.ceil(np.log2(max(longest / MAX_STEP_VOXELS, 1e-12)))))
    displacement = (velocity / 2.0**num_squarings).astype(np.float32)
    for _ in range(num_squarings):
        displacement = compose(displacement, displacement)
    return displacement


def identity_grid(shape: tuple[int, ...]) -> Floats:
    """Voxel coordinates [3, X, Y, Z] of every voxel."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))


def compose(outer: Floats, inner: Floats) -> Floats:
    """Displacement of ``x -> outer(inner(x))``: first ``inner``, then ``outer``."""
    return combined(outer, inner, 1.0, 1.0)


def invert(displacement: Floats, start: Floats | None = None, num_iterations: int = 6) -> Floats:
    """Displacement of the inverse deformation, by the fixed point ``w(y) = -u(y + w(y))`` (Chen et al. 2008, Med Phys 35).

    ``start`` is a first guess, for instance ``exponential(-velocity)``. Steps are halved: the plain fixed point diverges
    where lengths more than double, as in enlarged ventricles; this one converges up to four-fold lengths.
    """
    inverse = -displacement if start is None else start
    for _ in range(num_iterations):
        inverse = combined(displacement, inverse, 0.5, -0.5)
    return inverse


def warp(image: NDArray[Number], displacement: Floats, order: int = 1) -> NDArray[Number]:
    """``image`` [X, Y, Z] read at ``x + displacement(x)``; order 0 for labels.

    To carry an image from source to target space, give the displacement of the inverse deformation
    (``exponential(-velocity)``).
    """
    if order == 1 and image.dtype == np.float32:
        return warped(image, displacement)  # type: ignore[return-value, arg-type]
    places = identity_grid(image.shape) + displacement
    moved: NDArray[Number] = ndimage.map_coordinates(image, places, order=order, mode="constant", output=image.dtype)
    return moved


def jacobian_determinant(displacement: Floats) -> Floats:
    """det J [X, Y, Z] of ``x + displacement(x)`` by central differences; positive everywhere for a diffeomorphism."""
    j = np.empty((3, 3, *displacement.shape[1:]), np.float32)
    for component in range(3):
        for axis in range(3):
            j[component, axis] = np.gradient(displacement[component], axis=axis)
        j[component, component] += 1
    return (
        j[0, 0] * (j[1, 1] * j[2, 2] - j[1, 2] * j[2, 1])
        - j[0, 1] * (j[1, 0] * j[2, 2] - j[1, 2] * j[2, 0])
        + j[0, 2] * (j[1, 0] * j[2, 1] - j[1, 1] * j[2, 0])
    )


def log_jacobian(displacement: Floats) -> Floats:
    """Natural logarithm of det J [X, Y, Z]; ``ValueError`` where the deformation folds (det J <= 0)."""
    determinant = jacobian_determinant(displacement)
    if determinant.min() <= 0:
        raise ValueError(f"the deformation folds: det J falls to {determinant.min():.3g}")
    return np.log(determinant)


def velocity_from_divergence(divergence: Floats) -> Floats:
    """Curl-free velocity [3, X, Y, Z] whose divergence is ``divergence`` minus its mean, periodic at the border of the grid.

    Solves ``laplace(phi) = d`` and returns ``grad(phi)``, both exactly in Fourier space. Of all velocities with this
    divergence it has the least energy.
    """
    shape = divergence.shape
    frequencies = _frequencies(shape)
    squared = frequencies[0] ** 2 + frequencies[1] ** 2 + frequencies[2] ** 2
    squared[0, 0, 0] = 1.0
    spectrum = fft.rfftn(divergence.astype(np.float32)) / -squared
    spectrum[0, 0, 0] = 0
    return np.stack([fft.irfftn(1j * k * spectrum, s=shape) for k in frequencies]).astype(np.float32)


def _frequencies(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Angular frequencies per voxel, broadcastable to the half spectrum of a real FFT."""
    wave = [fft.fftfreq(shape[0]), fft.fftfreq(shape[1]), fft.rfftfreq(shape[2])]
    grids = np.meshgrid(*(2 * np.pi * w.astype(np.float32) for w in wave), indexing="ij", sparse=True)
    return [np.ascontiguousarray(g) for g in grids]


def random_velocity(
    shape: tuple[int, int, int],
    sigma_voxels: float,
    amplitude_voxels: float,
    rng: np.random.Generator,
    mask: NDArray[np.bool_],
) -> Floats:
    """Smooth random stationary velocity [3, X, Y, Z]: white noise under a Gaussian of ``sigma_voxels``, not affine.

    ``amplitude_voxels`` is the standard deviation of each component inside the mask. The affine part is
    removed, because an affine registration would take it away anyway.
    """
    damping = np.exp(-0.5 * sigma_voxels**2 * sum(k**2 for k in _frequencies(shape)))
    noise = rng.standard_normal((3, *shape), dtype=np.float32)
    smooth = np.stack([fft.irfftn(fft.rfftn(axis) * damping, s=shape) for axis in noise]).astype(np.float32)
    smooth = remove_affine(smooth, mask)
    return smooth * np.float32(amplitude_voxels / smooth[:, mask].std())


def remove_affine(field: Floats, mask: NDArray[np.bool_]) -> Floats:
    """``field`` [3, X, Y, Z] minus the affine function of position that fits it best (least squares) inside ``mask``."""
    places = identity_grid(field.shape[1:]).reshape(3, -1)
    design = np.concatenate([places, np.ones((1, places.shape[1]), np.float32)]).T.astype(np.float64)
    inside = mask.ravel()
    flat = field.reshape(3, -1).T
    coefficients = np.linalg.lstsq(design[inside], flat[inside].astype(np.float64), rcond=None)[0]
    return (flat - design @ coefficients).T.reshape(field.shape).astype(np.float32)


@dataclass(frozen=True)
class Reached:
    """What ``reach_volumes`` found: velocity, displacement and log det J; log volume change and amplitude by region."""

    velocity: Floats
    displacement: Floats
    log_jacobian: Floats
    log_changes: dict[int, float]
    amplitudes: dict[int, float]
    num_iterations: int


def regional_log_volumes(determinant: Floats, labels: NDArray[np.int16]) -> NDArray[np.float64]:
    """log of the volume (voxels) of each label 0..max(labels) after a deformation with this det J; -inf without a voxel."""
    with np.errstate(divide="ignore"):
        return np.log(np.bincount(labels.ravel(), weights=np.maximum(determinant, MINIMUM_DETERMINANT).ravel()))


def reach_volumes(
    labels: NDArray[np.int16],
    targets: Mapping[int, float],
    compensation: Floats,
    *,
    base: Floats | None = None,
    after: Floats | None = None,
    response: NDArray[np.float64] | None = None,
    sigma_voxels: float = 0.7,
    tolerance: float = 0.002,
    acceptance: float | None = None,
    max_iterations: int = 12,
) -> Reached:
    """Deformation under which each region's volume changes by exactly its target.

    Each region's divergence is smoothed by ``sigma_voxels``. Its amplitude starts from the linear response of all regions
    and is corrected by Broyden steps, until every log volume change is within ``tolerance`` of its target.

    Args:
        labels: regions [X, Y, Z].
        targets: log volume change ``ln(1 + change)`` by label; 0 holds a region's volume.
        compensation: weights [X, Y, Z] >= 0 of the voxels that take up the sum of all changes (CSF near the regions), so
            that the outline of the head stays.
        base: velocity to which the solution is added (inter-subject anatomy).
        after: displacement of a deformation applied afterwards (a person's anatomy); the targets then hold for the
            person's own volumes.
        response: `linear_response(labels, sigma_voxels)`, where it is known already.
        acceptance: after ``max_iterations`` the last solution is taken if every target is met within this.

    Raises:
        ValueError: a region without a voxel, no compensation, targets too large for this grid, a folded solution.
    """
    wanted = {int(label): float(value) for label, value in targets.items()}
    missing = [label for label in wanted if not (labels == label).any()]
    if missing:
        raise ValueError(f"regions {missing} have no voxel on this grid")
    if compensation.sum() <= 0:
        raise ValueError("the compensation is zero everywhere: nothing can take up the change of volume")
    regions = np.array(list(wanted), int)
    goal = np.array(list(wanted.values()))
    response = linear_response(labels, sigma_voxels) if response is None else response
    inverse = np.linalg.inv(_with_compensation(response, labels, compensation)[np.ix_(regions, regions)])
    amplitude, previous = inverse @ goal, None
    without = np.ones(labels.shape, np.float32) if after is None else jacobian_determinant(after)
    before = regional_log_volumes(without, labels)[regions]
    for iteration in range(1, max_iterations + 1):
        velocity = velocity_from_divergence(_divergence(labels, regions, amplitude, compensation, sigma_voxels))
        if base is not None:
            velocity = velocity + base
        displacement = exponential(velocity)
        determinant = jacobian_determinant(displacement if after is None else compose(after, displacement))
        reached = regional_log_volumes(determinant, labels)[regions] - before
        error = float(np.abs(reached - goal).max(initial=0.0))
        if error < tolerance or (iteration == max_iterations and acceptance is not None and error < acceptance):
            changes = dict(zip(wanted, reached.tolist(), strict=True))
            amplitudes = dict(zip(wanted, amplitude.tolist(), strict=True))
            return Reached(velocity, displacement, log_jacobian(displacement), changes, amplitudes, iteration)
        if previous is not None:
            inverse = _broyden(inverse, amplitude - previous[0], reached - previous[1])
        previous = (amplitude, reached)
        amplitude = amplitude + np.clip(inverse @ (goal - reached), -LARGEST_STEP, LARGEST_STEP)
    worst = int(np.argmax(np.abs(reached - goal)))
    raise ValueError(
        f"region {regions[worst]} reached a log volume change of {reached[worst]:.3f} instead of {goal[worst]:.3f} "
        f"after {max_iterations} iterations: the change is too large for this grid"
    )


def linear_response(labels: NDArray[np.int16], sigma_voxels: float) -> NDArray[np.float64]:
    """Log volume change of each label (row) per amplitude of each label (column), to first order and without compensation.

    It is the mean, over the row's region, of the column's region smoothed by ``sigma_voxels``: neighbours share a border.
    """
    sizes = np.bincount(labels.ravel())
    response = np.zeros((len(sizes), len(sizes)))
    margin = int(np.ceil(4 * sigma_voxels)) + 1
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            around = labels[tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)]
            smooth = ndimage.gaussian_filter((around == label).astype(np.float32), sigma_voxels, mode="constant")
            response[:, label] = np.bincount(around.ravel(), weights=smooth.ravel(), minlength=len(sizes))
    return response / np.maximum(sizes, 1)[:, None]


def _with_compensation(
    response: NDArray[np.float64], labels: NDArray[np.int16], compensation: Floats
) -> NDArray[np.float64]:
    """The response when the sum of all changes is taken up by ``compensation``, part of which may lie in the regions."""
    sizes = np.bincount(labels.ravel())
    taken = np.bincount(labels.ravel(), weights=compensation.ravel()) / np.maximum(sizes, 1)
    return response - np.outer(taken, sizes / float(compensation.sum(dtype=np.float64)))


def _broyden(
    inverse: NDArray[np.float64], moved: NDArray[np.float64], changed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Inverse Jacobian [n, n] corrected so that it explains the last step (Broyden 1965): ``inverse @ changed = moved``."""
    predicted = inverse @ changed
    scale = float(moved @ predicted)
    if abs(scale) < 1e-6 * float(moved @ moved):
        return inverse
    return inverse + np.outer(moved - predicted, moved @ inverse) / scale


def _divergence(
    labels: NDArray[np.int16],
    regions: NDArray[np.int_],
    amplitude: NDArray[np.float64],
    compensation: Floats,
    sigma_voxels: float,
) -> Floats:
    """Divergence [X, Y, Z] with the given amplitude in each region, smoothed, its sum taken up by the compensation."""
    table = np.zeros(max(int(labels.max()), int(regions.max(initial=0))) + 1, np.float32)
    table[regions] = amplitude
    divergence = ndimage.gaussian_filter(table[labels], sigma_voxels, mode="constant")
    return divergence - compensation * np.float32(divergence.sum() / compensation.sum())


def nearby_compensation(
    candidates: Floats, changed: NDArray[np.bool_], sigma_voxels: float, floor: float = 0.05
) -> Floats:
    """Where a change of volume is taken up: ``candidates`` [X, Y, Z] (the share of CSF), most of it near ``changed``.

    The weight falls off like a Gaussian of ``sigma_voxels`` around ``changed`` and never below ``floor`` of its maximum.
    """
    near = ndimage.gaussian_filter(changed.astype(np.float32), sigma_voxels, mode="constant")
    near = near / max(float(near.max()), 1e-12)
    return (candidates * np.maximum(near, floor)).astype(np.float32)
