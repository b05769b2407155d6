"""The compiled demons and sampling against ITK's and SciPy's, which they replace."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from gen3d.imaging.deformation import exponential, identity_grid, random_velocity, warp
from gen3d.imaging.demons import demons, kernel_of
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.registration import standardised
from gen3d.imaging.template import template_on
from gen3d.imaging.warping import combined, sampled, warped

PLAN = plan_grid(4.0)


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template and a deformed copy of it, standardised, and a velocity that has nothing to do with them."""
    template = template_on(PLAN)
    rng = np.random.default_rng(3)
    velocity, other = (random_velocity(PLAN.shape, 4.0, 0.8, rng, template.mask) for _ in range(2))
    return standardised(template.t1w, 4.0), standardised(warp(template.t1w, exponential(-velocity)), 4.0), other


def with_itk(
    fixed: np.ndarray, moving: np.ndarray, iterations: int, step: float, update: float, field: float
) -> np.ndarray:
    """Displacement [3, X, Y, Z] of ITK's filter."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    filter_ = sitk.DiffeomorphicDemonsRegistrationFilter()
    filter_.SetNumberOfIterations(iterations)
    filter_.SetMaximumUpdateStepLength(step)
    filter_.SetSmoothUpdateField(update > 0)
    filter_.SetUpdateFieldStandardDeviations(update or 1.0)
    filter_.SetSmoothDisplacementField(field > 0)
    filter_.SetStandardDeviations(field or 1.0)
    images = [sitk.GetImageFromArray(np.ascontiguousarray(array.T)) for array in (fixed, moving)]
    return sitk.GetArrayFromImage(filter_.Execute(*images)).transpose(3, 2, 1, 0)


@pytest.mark.parametrize(("step", "update", "field"), [(2.0, 2.0, 0.5), (0.5, 1.0, 0.0), (0.2, 0.0, 0.5)])
def test_demons_are_those_of_itk(step: float, update: float, field: float) -> None:
    fixed, moving, _ = pair()
    start = np.zeros((3, *fixed.shape), np.float32)
    for iterations, tolerance in ((1, 1e-5), (4, 0.05)):  # voxels: rounding grows where a fold is near
        wanted = with_itk(fixed, moving, iterations, step, update, field)
        found = demons(
            fixed,
            moving,
            start,
            num_iterations=iterations,
            step_voxels=step,
            update_sigma=update,
            field_sigma=field,
        )
        assert np.abs(wanted).max() > 0.1
        difference = np.abs(found - wanted)
        assert difference.max() < tolerance
        assert np.quantile(difference, 0.99) < tolerance / 5


def test_equal_images_exert_no_force() -> None:
    fixed, _, _ = pair()
    start = np.zeros((3, *fixed.shape), np.float32)
    found = demons(fixed, fixed, start, num_iterations=5, step_voxels=2.0, update_sigma=2.0, field_sigma=0.5)
    assert not found.any()


def test_kernels_are_those_of_itk() -> None:
    point = np.zeros((1, 1, 41), np.float32)
    point[0, 0, 20] = 1
    for sigma in (0.5, 1.0, 2.0, 3.0):
        filtered = sitk.DiscreteGaussian(
            sitk.GetImageFromArray(point), [sigma**2, 0.0, 0.0], 32, [0.1, 0.1, 0.1], False
        )
        kernel = kernel_of(sigma)
        assert np.allclose(sitk.GetArrayFromImage(filtered)[0, 0, 20 : 20 + len(kernel)], kernel, atol=1e-6)


def test_sampling_is_that_of_scipy() -> None:
    _, volume, displacement = pair()
    displacement = displacement * 3  # also beyond the grid
    places = identity_grid(volume.shape) + displacement
    wanted = ndimage.map_coordinates(volume, places, order=1, mode="constant")
    assert np.allclose(warped(volume, displacement), wanted, atol=1e-5)
    nearest = ndimage.map_coordinates(volume, places, order=1, mode="nearest")
    points = places.reshape(3, -1)
    assert np.allclose(sampled(volume[..., None], points)[:, 0], nearest.ravel(), atol=1e-5)
    field = np.stack([volume, 2 * volume, -volume])
    wanted = 0.25 * displacement + 3 * np.stack([nearest, 2 * nearest, -nearest])
    assert np.allclose(combined(field, displacement, 0.25, 3.0), wanted, atol=1e-4)
    still = np.zeros_like(displacement)
    assert np.array_equal(combined(field, still, 1.0, 1.0), field)
