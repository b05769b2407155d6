"""Two-dimensional views of latents: principal components, which keep distances, and UMAP, which keeps neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from threadpoolctl import ThreadpoolController

from gen3d.core.errors import UserError

SOLVED_WHOLE = 1500
"""People (or dimensions, where these are fewer) whose principal components come from an exact decomposition."""
MINIMUM_PEOPLE_FOR_UMAP = 12
MAXIMUM_COMPONENTS_FOR_UMAP = 50
SIGMA_STEPS = 64
SAME_PERSON = 1e-4
"""Distance to oneself, as a share of that to the last neighbour: latents are stored in single precision."""


@dataclass(frozen=True)
class PrincipalComponents:
    """coordinates [n, k]; share_of_variance [k], each between 0 and 1."""

    coordinates: NDArray[np.float64]
    share_of_variance: NDArray[np.float64]


def principal_components(latents: NDArray[np.floating], num_components: int = 2) -> PrincipalComponents:
    """Project latents on their first principal components (exact singular value decomposition).

    Latents are centred, not scaled: a dimension that the model left unused should stay small. The sign of each
    component is fixed so that its largest loading is positive, which makes the picture the same on every machine.

    Args:
        latents: [n, d].
        num_components: k; fewer are returned as zeros where n or d is too small.

    Raises:
        UserError: fewer than two people, or values that are not finite.
    """
    fitted = fit_components(latents, num_components)
    num = len(fitted.loadings)
    coordinates, share = np.zeros((len(fitted.coordinates), num_components)), np.zeros(num_components)
    coordinates[:, :num], share[:num] = fitted.coordinates, fitted.share_of_variance
    return PrincipalComponents(coordinates, share)


@dataclass(frozen=True)
class FittedComponents:
    """mean [d], loadings [k, d] with orthonormal rows, coordinates [n, k], share_of_variance [k]."""

    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]
    coordinates: NDArray[np.float64]
    share_of_variance: NDArray[np.float64]


def fit_components(latents: NDArray[np.floating], num_components: int) -> FittedComponents:
    """`principal_components` with the mean and loadings that project new people; k is at most min(n, d)."""
    values = _checked(latents)
    mean = values.mean(axis=0)
    values -= mean
    if min(values.shape) > max(SOLVED_WHOLE, 10 * num_components):
        singular, loadings = _leading(values, num_components)
        total = float(np.einsum("ij,ij->", values, values))
    else:
        _, singular, loadings = np.linalg.svd(values, full_matrices=False)
        total = float((singular**2).sum())
    signs = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    kept = (loadings * signs[:, None])[:num_components]
    share = singular**2 / total if total > 0 else np.zeros_like(singular)
    return FittedComponents(mean, kept, values @ kept.T, share[:num_components])


def _leading(centred: NDArray[np.float64], num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values [k], the largest first, and right singular vectors [k, d], by Lanczos iteration (ARPACK).

    The exact decomposition takes n d min(n, d) operations, this n d k times a few.
    """
    first = np.random.default_rng(0).standard_normal(min(centred.shape))
    _, singular, loadings = svds(centred, k=num, v0=first, return_singular_vectors="vh")
    return singular[::-1], loadings[::-1]


def umap_coordinates(
    latents: NDArray[np.floating], seed: int, num_neighbours: int = 15, minimum_distance: float = 0.1
) -> NDArray[np.float64] | None:
    """UMAP of latents in two dimensions (McInnes, Healy, Melville 2018), seeded and on one thread.

    UMAP is given at most 50 principal components. Distances between far points in the result mean nothing.

    Args:
        latents: [n, d].
        seed: the same seed gives the same coordinates on the same machine.
        num_neighbours: size of the neighbourhood that is kept; at most n - 1 are used.
        minimum_distance: how tightly points may be packed, in units of the map.

    Returns:
        [n, 2], or None for fewer than 12 people, where the neighbourhoods would be the whole cohort.

    Raises:
        UserError: fewer than two people, or values that are not finite.
    """
    values = _checked(latents)
    if len(values) < MINIMUM_PEOPLE_FOR_UMAP:
        return None
    num_components = min(MAXIMUM_COMPONENTS_FOR_UMAP, *values.shape)
    reduced = principal_components(values, num_components).coordinates
    return fit_umap(reduced, seed, num_neighbours, minimum_distance)


def places_among(
    reduced: NDArray[np.float64], coordinates: NDArray[np.float64], num_neighbours: int, rows: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Coordinates [m, 2] of new people in a finished map: the mean of their nearest people's places, with UMAP's own weights.

    UMAP starts from these places when it transforms new points. Its further optimisation moves each new point away from all
    people while these stay fixed, which drives new people to the rim of a map of tens to hundreds, even copies of people in it.
    Without it, a person of the map gets their place in the map, and no place depends on the other new people.

    Args:
        reduced: components [n, k] that the map was made of.
        coordinates: [n, 2].
        num_neighbours: as the map was made with.
        rows: components of the new people [m, k].
    """
    placed = np.empty((len(rows), 2))
    for index, row in enumerate(np.asarray(rows, dtype=np.float64)):
        distance = np.linalg.norm(reduced - row, axis=1)
        nearest = np.argsort(distance, kind="stable")[:num_neighbours]
        weights = membership_strengths(distance[nearest])
        placed[index] = weights @ coordinates[nearest] / weights.sum()
    return placed


def membership_strengths(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(-(d - d_1) / sigma) of the k nearest, sigma such that they sum to log2 k (McInnes, Healy, Melville 2018, algorithm 3).

    distances: [k], the nearest first; a distance of 0 is the same person, who then has all the weight.
    """
    excess = distances - distances[0]
    same = distances <= SAME_PERSON * max(float(distances[-1]), 1e-12)
    if same.any() or excess[-1] <= 0:
        return np.asarray(same if same.any() else np.ones(len(distances)), dtype=np.float64)
    wanted, low, high = np.log2(max(len(distances), 2)), 0.0, float(excess[-1]) * 1e3
    for _ in range(SIGMA_STEPS):
        sigma = (low + high) / 2
        if np.exp(-excess / sigma).sum() > wanted:
            high = sigma
        else:
            low = sigma
    return np.asarray(np.exp(-excess / high))


def fit_umap(
    reduced: NDArray[np.floating], seed: int, num_neighbours: int = 15, minimum_distance: float = 0.1
) -> NDArray[np.float64]:
    """UMAP of components [n, k] in two dimensions; arguments as for `umap_coordinates`, at least 12 people."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns that its TensorFlow variant, which is not used, is absent
        from umap import UMAP  # importing it compiles for seconds, so only where it is used

    mapper = UMAP(
        n_neighbors=min(num_neighbours, len(reduced) - 1),
        min_dist=minimum_distance,
        n_components=2,
        init="pca",
        random_state=seed,
        n_jobs=1,
    )
    with _threads_kept():
        return np.asarray(mapper.fit_transform(np.asarray(reduced, dtype=np.float32)), dtype=np.float64)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Set the number of OpenMP threads back afterwards.

    numba's parallel loops set it to one per core in the library that torch computes with, too: trainings of the same process
    would then wait for each other's threads, and hold a copy of a feature map for each.
    """
    controller = ThreadpoolController()
    before = [library.num_threads for library in controller.lib_controllers]
    try:
        yield
    finally:
        for library, number in zip(controller.lib_controllers, before, strict=True):
            library.set_num_threads(number)


def _checked(latents: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.array(latents, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if len(values) < 2:
        raise UserError(f"a map of latents needs at least two people, and there are {len(values)}; encode more scans.")
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise UserError(f"the latents of {bad} of {len(values)} people are not finite; encode them again.")
    return values
