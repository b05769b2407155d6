"""Two-dimensional views of latents: principal components, which keep distances, and UMAP, which keeps neighbours."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.errors import UserError

MINIMUM_PEOPLE_FOR_UMAP = 12
MAXIMUM_COMPONENTS_FOR_UMAP = 50


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
    found = len(fitted.loadings)
    coordinates, share = np.zeros((len(fitted.coordinates), num_components)), np.zeros(num_components)
    coordinates[:, :found], share[:found] = fitted.coordinates, fitted.share_of_variance
    return PrincipalComponents(coordinates, share)


@dataclass(frozen=True)
class FittedComponents:
    """mean [d], loadings [k, d] with orthonormal rows, coordinates [n, k], share_of_variance [k]."""

    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]
    coordinates: NDArray[np.float64]
    share_of_variance: NDArray[np.float64]


def fit_components(latents: NDArray[np.floating], num_components: int) -> FittedComponents:
    """`principal_components` with what projects new people: k is at most min(n, d)."""
    values = _checked(latents)
    mean = values.mean(axis=0)
    _, singular, loadings = np.linalg.svd(values - mean, full_matrices=False)
    signs = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    kept = (loadings * signs[:, None])[:num_components]
    variance = singular**2
    share = variance / variance.sum() if variance.sum() > 0 else np.zeros_like(variance)
    return FittedComponents(mean, kept, (values - mean) @ kept.T, share[:num_components])


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
    return fit_umap(reduced, seed, num_neighbours, minimum_distance).coordinates


@dataclass(frozen=True)
class FittedUmap:
    """A map that new people can be put into. coordinates [n, 2] are those of the people it was made of."""

    coordinates: NDArray[np.float64]
    mapper: Any

    def place(self, reduced: NDArray[np.floating]) -> NDArray[np.float64]:
        """Coordinates [m, 2] of new people [m, k], one at a time: nobody's place depends on who else is placed."""
        rows = np.asarray(reduced, dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            placed = [np.asarray(self.mapper.transform(row[None]), dtype=np.float64)[0] for row in rows]
        return np.stack(placed) if placed else np.zeros((0, 2))


def fit_umap(
    reduced: NDArray[np.floating], seed: int, num_neighbours: int = 15, minimum_distance: float = 0.1
) -> FittedUmap:
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
    coordinates = mapper.fit_transform(np.asarray(reduced, dtype=np.float32))
    return FittedUmap(np.asarray(coordinates, dtype=np.float64), mapper)


def _checked(latents: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(latents, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if len(values) < 2:
        raise UserError(f"a map of latents needs at least two people, found {len(values)}; encode more scans.")
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise UserError(f"the latents of {bad} of {len(values)} people are not finite; encode them again.")
    return values
