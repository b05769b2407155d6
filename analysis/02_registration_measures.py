"""Measures of a region from its log-Jacobian, regression on covariates, and AUC with intervals over people."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.regions import find, regions_on
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SIDES = ("left", "right", "mean")
FALSE_POSITIVES = 0.05
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Hippocampi:
    """Voxels and weights that the measures use, on one grid; arrays are [X, Y, Z]."""

    plan: GridPlan
    _kept: dict[tuple[str, str], Floats] = field(default_factory=dict, repr=False)

    @cached_property
    def inside(self) -> dict[str, NDArray[np.bool_]]:
        """Left and right hippocampus [X, Y, Z]."""
        labels = regions_on(self.plan)
        return {side: labels == find(f"{side} hippocampus")[0] for side in ("left", "right")}

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The template's brain [X, Y, Z]."""
        return template_on(self.plan).mask

    @cached_property
    def tissue_levels(self) -> tuple[float, float]:
        """T1w intensity of fluid and of grey matter in the template."""
        template = template_on(self.plan)
        fluid = float(np.median(template.t1w[template.csf > 0.9]))
        return fluid, float(np.median(template.t1w[template.gm > 0.9]))

    def weights(self, side: str, kind: str) -> Floats:
        """The result of `weights_of`, computed once."""
        if (side, kind) not in self._kept:
            self._kept[side, kind] = self.weights_of(side, kind)
        return self._kept[side, kind]

    def weights_of(self, side: str, kind: str) -> Floats:
        """Weights [X, Y, Z] that sum to 1: 'region', 'eroded', 'dilated', 'soft' (Gaussian of one voxel), 'grey', shells."""
        region, template = self.inside[side], template_on(self.plan)
        either = self.inside["left"] | self.inside["right"]
        if kind == "eroded":
            chosen: NDArray[np.generic] = ndimage.binary_erosion(region, border_value=1)
        elif kind == "dilated":
            chosen = ndimage.binary_dilation(region) & self.mask
        elif kind == "soft":
            chosen = ndimage.gaussian_filter(region.astype(np.float32), 1.0)
        elif kind == "grey":
            chosen = region * template.gm
        elif kind == "shell":
            chosen = ndimage.binary_dilation(region, iterations=3) & self.mask & ~either
        elif kind == "tissue shell":
            chosen = ndimage.binary_dilation(region, iterations=4) & self.mask & ~either & (template.csf < 0.2)
        elif kind == "brain":
            chosen = self.mask
        else:
            chosen = region
        weight = np.asarray(chosen, np.float32)
        return weight / weight.sum()


def measures(log_jacobian: Floats, warped: Floats, where: Hippocampi, side: str) -> dict[str, float]:
    """Every candidate measure of one hippocampus, as a log volume.

    Args:
        log_jacobian: [X, Y, Z] of template -> scan.
        warped: [X, Y, Z] the scan, sampled where the deformation puts the template's voxels.
    """

    def mean(kind: str, of: Floats = log_jacobian) -> float:
        return float((where.weights(side, kind) * of).sum())

    fluid, grey = where.tissue_levels
    determinant = np.exp(log_jacobian)
    tissue = np.clip((warped - fluid) / (grey - fluid), 0, 1) * determinant
    plain = mean("region")
    modulated = float(np.log(mean("region", tissue)))
    around = float(np.log(mean("dilated", tissue)))
    return {
        "mean log-J": plain,
        "log of mean J": float(np.log(mean("region", determinant))),
        "eroded": mean("eroded"),
        "dilated": mean("dilated"),
        "soft edge": mean("soft"),
        "grey-weighted": mean("grey"),
        "minus shell": plain - mean("shell"),
        "minus tissue shell": plain - mean("tissue shell"),
        "minus brain": plain - mean("brain"),
        "tissue volume": modulated,
        "tissue volume, dilated": around,
        "tissue volume minus tissue shell": modulated - mean("tissue shell"),
    }


def residuals(healthy: Doubles, changed: Doubles, people: pd.DataFrame) -> tuple[Doubles, Doubles]:
    """Distance of each person's healthy [n] and changed [n, k] values from the prediction for that age, sex and site.

    The regression on age, age squared, sex and site is fitted to the healthy values of everyone but the person. Distances
    are scaled by the square root of 1 - leverage, so that all have the same variance: where few others are of that
    age, as for a single old person, the same change counts less.
    """
    age = (people["age_years"].to_numpy(dtype=float) - 45) / 20
    sites = pd.get_dummies(people["site"], drop_first=True).to_numpy(dtype=float)
    design = np.column_stack([np.ones(len(people)), age, age**2, people["sex"] == "M", sites])
    hat = design @ np.linalg.pinv(design)
    certainty = np.sqrt(1 - np.diag(hat))
    left_out = (healthy - hat @ healthy) / certainty
    return left_out, left_out[:, None] + certainty[:, None] * (changed - healthy[:, None])


@dataclass(frozen=True)
class Scores:
    """Scaled residuals of healthy scans [n] and changed copies [n, k], their difference, and the shift of log volume [n, k]."""

    healthy: Doubles
    changed: Doubles
    scaled_shift: Doubles
    shift: Doubles
    changes_percent: tuple[int, ...]

    def of(self, chosen: NDArray[np.int_]) -> Scores:
        """The scores of a sample of people; a bootstrap sample repeats some of them."""
        parts = (self.healthy, self.changed, self.scaled_shift, self.shift)
        return Scores(*(part[chosen] for part in parts), self.changes_percent)

    def separation(self, column: int) -> float:
        """Mean shift over the SD of healthy residuals."""
        return float(-self.scaled_shift[:, column].mean() / self.healthy.std(ddof=1))

    def auc(self, column: int) -> float:
        """Changed copies against healthy people; smaller is more abnormal."""
        changed, healthy = self.changed[:, column, None], self.healthy[None, :]
        return float(((changed < healthy) + 0.5 * (changed == healthy)).mean())

    def recovered(self, column: int) -> float:
        """Share of the true log change."""
        return float(self.shift[:, column].mean() / np.log1p(self.changes_percent[column] / 100))


def detected(scores: Scores, column: int | None) -> NDArray[np.bool_]:
    """Whether a copy (or, for None, the healthy scan) is among the lowest 5 % by its rank in the other people's residuals."""
    own = scores.healthy if column is None else scores.changed[:, column]
    smaller = (scores.healthy[None, :] <= own[:, None]).astype(float)
    np.fill_diagonal(smaller, 0)
    return (1 + smaller.sum(axis=1)) / len(own) <= FALSE_POSITIVES


def resamples(num_people: int, num: int = NUM_RESAMPLES) -> NDArray[np.int_]:
    """Bootstrap samples of people [num, n]; the same ones for every row, so that rows can be compared in pairs."""
    return np.random.default_rng(2).integers(0, num_people, (num, num_people))


def interval(values: Doubles | list[float], digits: int = 2) -> str:
    """95 % interval of bootstrap values."""
    low, high = np.nanquantile(np.asarray(values), [0.025, 0.975])
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def wilson(num: int, total: int) -> str:
    """Share in percent with its 95 % Wilson interval."""
    z, share = 1.96, num / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
