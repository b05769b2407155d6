"""Alignments and deformations that are known exactly, and must be found again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gen3d.cohort.regions import find, regions_on
from gen3d.imaging.affine import align, without_shear
from gen3d.imaging.bias import bias_field
from gen3d.imaging.deformation import exponential, log_jacobian, random_velocity, reach_volumes, warp
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.registration import deformation_channel
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import Volume
from tests.phantoms import distance_mm, log_drift, matrix, scan_of

PLAN = plan_grid(4.0)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "true", "tolerance_mm"),
    [
        (6, matrix(scales=(1.0, 1.0, 1.0)), 1.0),
        (9, matrix(angles_degrees=(10.0, 0.0, -6.0), scales=(1.05, 0.95, 0.9)), 1.0),
        (12, matrix(shear=0.06), 1.0),
    ],
)
def test_known_affine_is_found(degrees_of_freedom: int, true: np.ndarray, tolerance_mm: float) -> None:
    found = align(scan_of(true), whole_head=False, degrees_of_freedom=degrees_of_freedom)
    assert distance_mm(found.template_to_scan, true) < tolerance_mm
    assert found.mutual_information > 0.9
    if degrees_of_freedom == 6:
        rotation = found.template_to_scan[:3, :3]
        assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)


def test_nine_degrees_of_freedom_have_no_shear() -> None:
    exact = matrix(angles_degrees=(20.0, -10.0, 15.0), scales=(1.1, 0.9, 0.8))
    assert np.allclose(without_shear(exact), exact, atol=1e-6)
    nearest = without_shear(matrix(shear=0.1))[:3, :3]
    gram = nearest.T @ nearest
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-6)


def test_whole_head_is_aligned_by_its_brain() -> None:
    true = matrix(angles_degrees=(15.0, 3.0, -5.0))
    found = align(scan_of(true, head=True), whole_head=True)
    assert distance_mm(found.template_to_scan, true) < 2.0


def test_restarts_rescue_a_head_that_lies_on_its_side() -> None:
    true = matrix(angles_degrees=(5.0, 0.0, 88.0), shift_mm=(30.0, -60.0, 90.0))
    found = align(scan_of(true), whole_head=False)
    assert found.num_starts > 3
    assert distance_mm(found.template_to_scan, true) < 1.5


def test_a_scan_far_from_the_origin_needs_no_restart() -> None:
    true = matrix(shift_mm=(300.0, -500.0, 800.0))
    found = align(scan_of(true), whole_head=False)
    assert found.num_starts == 3
    assert distance_mm(found.template_to_scan, true) < 1.0


def test_known_bias_is_found() -> None:
    drift = 0.25
    scan = scan_of(matrix(), spacing_mm=4.0, bias=drift)
    mask = scan.data > 0
    bias = bias_field(scan, mask)
    truth = drift * log_drift(scan.data.shape)
    assert np.corrcoef(np.log(bias[mask]), truth[mask])[0, 1] > 0.85
    left = np.log(bias[mask]) - truth[mask]
    assert left.std() < 0.6 * truth[mask].std()


def test_the_template_itself_is_not_deformed() -> None:
    template = template_on(PLAN)
    found, quality = deformation_channel(template.t1w, PLAN)
    assert np.abs(found).max() < 0.05
    assert (found[~template.mask] == 0).all()
    assert quality["correlation_after"] > 0.99


def test_known_deformation_is_found() -> None:
    template = template_on(PLAN)
    velocity = random_velocity(PLAN.shape, 4.0, 0.6, np.random.default_rng(1), template.mask)
    truth = log_jacobian(exponential(velocity))
    person = warp(template.t1w, exponential(-velocity))
    found, quality = deformation_channel(person, PLAN)
    labels = regions_on(PLAN)
    means = [ndimage.mean(field, labels, np.arange(1, labels.max() + 1)) for field in (found, truth)]
    assert np.corrcoef(*means)[0, 1] > 0.7
    assert np.corrcoef(found[template.mask], truth[template.mask])[0, 1] > 0.4
    assert quality["correlation_after"] > quality["correlation_before"]
    assert quality["folded_percent"] == 0


def test_shrunken_hippocampus_has_a_negative_log_jacobian() -> None:
    template, labels = template_on(PLAN), regions_on(PLAN)
    hippocampi = find("hippocampus")
    around = template.csf * ~np.isin(labels, hippocampi)
    shrunk = reach_volumes(labels, dict.fromkeys(hippocampi, float(np.log(0.76))), around)
    person = warp(template.t1w, exponential(-shrunk.velocity))
    found, _ = deformation_channel(person, PLAN)
    inside = np.isin(labels, hippocampi)
    assert found[inside].mean() < 0.25 * np.log(0.76)
    assert abs(found[template.mask & ~inside].mean()) < 0.03


def test_scan_grid_does_not_matter() -> None:
    true = matrix()
    scan = scan_of(true)
    flipped = Volume(np.ascontiguousarray(scan.data[:, ::-1]), scan.affine @ flip(scan.data.shape[1]))
    first, second = align(scan, whole_head=False), align(flipped, whole_head=False)
    assert distance_mm(first.template_to_scan, second.template_to_scan) < 0.5


def flip(side: int) -> np.ndarray:
    """Index map that reverses the second axis."""
    matrix = np.eye(4)
    matrix[1, 1], matrix[1, 3] = -1, side - 1
    return matrix
