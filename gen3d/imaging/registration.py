"""The deformation channel: a diffeomorphism from the template to an aligned scan, and the logarithm of its Jacobian determinant.

Atrophy moves edges by fractions of a voxel, which intensity residuals do not see; local volume change does.
`deformation_channel` is used by `prepare` on real scans and by `simulate` on synthetic ones, so both measure the same thing.
The default settings were chosen by a sweep against known hippocampal atrophy: `analysis/02_registration_settings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from gen3d.core.config import Config
from gen3d.imaging.deformation import jacobian_determinant, warp
from gen3d.imaging.demons import demons
from gen3d.imaging.similarity import correlation
from gen3d.imaging.template import template_on
from gen3d.imaging.warping import combined

if TYPE_CHECKING:
    from gen3d.imaging.plan import GridPlan

Floats = NDArray[np.float32]

MINIMUM_JACOBIAN = 0.05  # a voxel that keeps less than 5 % of its volume is an artefact: the logarithm stops there
OUTSIDE_LEVEL = -3.0  # standardised intensity of the background: fluid at the surface of a brain has about -2
CONTRAST_FLOOR = 0.1  # of white matter: where tissue varies less than this, standardising would only amplify noise


class DeformationSettings(Config):
    """Settings of the diffeomorphic registration; kept in the plan, because the channel means something only with them."""

    iterations: tuple[int, ...] = Field(
        (20, 20, 10), min_length=1, description="iterations per resolution level, coarse to fine"
    )
    update_sigma_voxels: float = Field(2.0, ge=0, description="smoothing of each update (fluid), SD in voxels")
    field_sigma_voxels: float = Field(0.5, ge=0, description="smoothing of the whole field (elastic), SD in voxels")
    step_voxels: float = Field(2.0, gt=0, description="longest step of one iteration, voxels")
    neighbourhood_voxels: float = Field(
        4.0,
        ge=0,
        description="SD in voxels of the Gaussian in which intensities are standardised; 0: histograms are matched instead",
    )
    direction: Literal["template_to_scan", "scan_to_template"] = Field(
        "template_to_scan", description="which image stays fixed first; scan_to_template is inverted afterwards"
    )


@dataclass(frozen=True)
class Deformation:
    """Template -> scan: displacement [3, X, Y, Z] in voxels, log det J [X, Y, Z] inside the template's mask, quality."""

    displacement: Floats
    log_jacobian: Floats
    quality: dict[str, float]


def deformation_channel(t1w_on_grid: Floats, plan: GridPlan) -> tuple[Floats, dict[str, float]]:
    """Log-Jacobian of the diffeomorphism template -> scan, on the template's voxels.

    Args:
        t1w_on_grid: [X, Y, Z] scan affinely aligned to the template on the grid of `plan`, after the intensity rule
            (WM median 1.0, GM at the template's value, background 0).
        plan: the grid; `plan.deformation` holds the `DeformationSettings` (missing keys mean defaults).

    Returns:
        log_jacobian [X, Y, Z] float32, natural logarithm of det J, positive where this person is larger, zero outside
        the template's mask; quality: correlation_before, correlation_after (inside the mask), jacobian_minimum,
        jacobian_maximum, folded_percent (share of voxels with det J <= 0), log_jacobian_sd.
    """
    deformation = deform(t1w_on_grid, plan)
    return deformation.log_jacobian, deformation.quality


def deform(t1w_on_grid: Floats, plan: GridPlan) -> Deformation:
    """As `deformation_channel`, with the displacement itself."""
    template = template_on(plan)
    displacement, warped = register(template.t1w, t1w_on_grid, settings_of(plan.deformation))
    determinant = jacobian_determinant(displacement)
    mask = template.mask
    log_jacobian = np.where(mask, np.log(np.maximum(determinant, MINIMUM_JACOBIAN)), 0.0).astype(np.float32)
    inside = determinant[mask]
    quality = {
        "correlation_before": correlation(template.t1w[mask], t1w_on_grid[mask]),
        "correlation_after": correlation(template.t1w[mask], warped[mask]),
        "jacobian_minimum": float(inside.min()),
        "jacobian_maximum": float(inside.max()),
        "folded_percent": float(100 * np.mean(inside <= 0)),
        "log_jacobian_sd": float(log_jacobian[mask].std()),
    }
    return Deformation(displacement, log_jacobian, quality)


def settings_of(deformation: Mapping[str, Any]) -> DeformationSettings:
    """The settings kept in a plan."""
    return DeformationSettings.model_validate(dict(deformation))


def register(template: Floats, scan: Floats, settings: DeformationSettings) -> tuple[Floats, Floats]:
    """Diffeomorphic demons (Vercauteren et al., NeuroImage 2009), coarse to fine.

    Args:
        template, scan: [X, Y, Z] on one grid of cubic voxels, background 0.

    Returns:
        displacement [3, X, Y, Z] in voxels, so that scan(x + u(x)) resembles template(x); the scan so warped [X, Y, Z].
    """
    sigma = settings.neighbourhood_voxels
    if sigma > 0:
        first, second = standardised(template, sigma), standardised(scan, sigma)
    else:
        matched = sitk.HistogramMatching(_image(scan), _image(template), 128, 10, True)
        first, second = template, sitk.GetArrayFromImage(matched).T
    if settings.direction == "template_to_scan":
        displacement = _demons(first, second, settings)
    else:
        displacement = inverse(_demons(second, first, settings))
    return displacement, np.asarray(warp(scan, displacement), dtype=np.float32)


def standardised(volume: Floats, sigma_voxels: float) -> Floats:
    """Each voxel's intensity relative to mean and SD of the tissue around it; the background far below.

    The force of demons grows with the difference of intensities: a drift or a contrast that differs between scanners would
    become a difference of volume.
    """
    tissue = (volume > 0.02).astype(np.float32)
    weight = ndimage.gaussian_filter(tissue, sigma_voxels) + 1e-3
    mean = ndimage.gaussian_filter(volume * tissue, sigma_voxels) / weight
    variance = ndimage.gaussian_filter((volume - mean) ** 2 * tissue, sigma_voxels) / weight
    relative = (volume - mean) / (np.sqrt(np.maximum(variance, 0)) + CONTRAST_FLOOR)
    return np.where(tissue > 0, relative, OUTSIDE_LEVEL).astype(np.float32)


def inverse(displacement: Floats, iterations: int = 15) -> Floats:
    """Displacement of the inverse deformation, by the fixed point v(y) = -u(y + v(y)) (Chen et al., Medical Physics 2008)."""
    backward = -displacement
    for _ in range(iterations):
        backward = combined(displacement, backward, 0.0, -1.0)
    return backward


def _demons(fixed: Floats, moving: Floats, settings: DeformationSettings) -> Floats:
    """Displacement [3, X, Y, Z] in voxels, coarse to fine: moving(x + u(x)) resembles fixed(x)."""
    field: Any = None
    first, second = _image(fixed), _image(moving)
    for level, num_iterations in enumerate(settings.iterations):
        factor = 2 ** (len(settings.iterations) - 1 - level)
        fixed_level, moving_level = _reduced(first, factor), _reduced(second, factor)
        start = np.zeros((3, *fixed_level.GetSize())) if field is None else _array(sitk.Resample(field, fixed_level))
        found = demons(
            sitk.GetArrayViewFromImage(fixed_level).T,
            sitk.GetArrayViewFromImage(moving_level).T,
            start / factor,
            num_iterations=num_iterations,
            step_voxels=settings.step_voxels,
            update_sigma=settings.update_sigma_voxels,
            field_sigma=settings.field_sigma_voxels,
            voxel=factor,
        )
        if factor > 1:
            field = sitk.GetImageFromArray(np.ascontiguousarray(found.transpose(3, 2, 1, 0)) * factor, isVector=True)
            field.CopyInformation(fixed_level)
    return found


def _array(field: sitk.Image) -> Floats:
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(field).transpose(3, 2, 1, 0), dtype=np.float32)


def _reduced(image: sitk.Image, factor: int) -> sitk.Image:
    """The image smoothed and sampled every `factor` voxels."""
    if factor == 1:
        return image
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, 0.5 * factor), [factor] * 3)


def _image(array: Floats) -> sitk.Image:
    """SimpleITK image with unit spacing, so that displacements are in voxels of the array's own axes."""
    return sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(array, dtype=np.float32).T))
