"""Background is 0 and tissue above it, whatever values an export gave both: each way back gives what the undamaged scan gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.imaging.background import background_at_zero, constant_background
from gen3d.imaging.brainmask import looks_stripped, stripped_mask
from gen3d.imaging.volume import Volume
from tests.phantoms import matrix, scan_of

Floats = NDArray[np.float32]
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def _ball(dark: float = 60.0) -> tuple[Floats, NDArray[np.bool_]]:
    """A stripped scan [40, 40, 40] and its inside: shells of 60 (fluid) to 900 with noise, exactly 0 outside."""
    places = np.stack(np.meshgrid(*[np.arange(40) - 19.5] * 3, indexing="ij"))
    radius = np.sqrt((places**2).sum(0))
    inside = radius < 16
    values = np.interp(radius, [0, 4, 5, 11, 14, 16], [dark, dark, 900, 900, 500, 2 * dark])
    noise = np.random.default_rng(0).standard_normal(radius.shape)
    return np.where(inside, np.maximum(values + 15 * noise, 5), 0).astype(np.float32), inside


def _z_scored(data: Floats, inside: NDArray[np.bool_], outside: float) -> Floats:
    z = (data - data[inside].mean()) / data[inside].std()
    return np.where(inside, z, outside).astype(np.float32)


EXPORTS: dict[str, Callable[[Floats, NDArray[np.bool_]], Floats]] = {
    "z-scored inside, 0 outside": lambda data, inside: _z_scored(data, inside, 0.0),
    "z-scored inside, -10 outside": lambda data, inside: _z_scored(data, inside, -10.0),
    "z-scored inside, 9999 outside": lambda data, inside: _z_scored(data, inside, 9999.0),
    "z-scored everywhere": lambda data, inside: (data - data.mean()) / data.std(),
    "z-scored by the white matter": lambda data, inside: np.where(inside, (data - 900) / 50, 0).astype(np.float32),
    "from -1 to 1": lambda data, inside: data / 500 - 1,
    "from -1 to 1 inside, 0 outside": lambda data, inside: np.where(inside, data / 500 - 1, 0).astype(np.float32),
    "signed export": lambda data, inside: data - 1024,
    "unsigned export with an offset": lambda data, inside: data + 1000,
    "code -1024 outside": lambda data, inside: np.where(inside, data, -1024).astype(np.float32),
    "code -32768 outside": lambda data, inside: np.where(inside, data, -32768).astype(np.float32),
    "code 9999 outside": lambda data, inside: np.where(inside, data, 9999).astype(np.float32),
    "mid-grey outside": lambda data, inside: np.where(inside, data, 500).astype(np.float32),
    "all negative": lambda data, inside: np.where(inside, data - 2000, 0).astype(np.float32),
    "code -1 outside": lambda data, inside: np.where(inside, data / 1000, -1).astype(np.float32),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_has_its_background_at_zero_and_its_tissue_in_order_above(name: str) -> None:
    data, inside = _ball()
    export = EXPORTS[name](data, inside)
    mended = background_at_zero(Volume(export.astype(np.float32), AFFINE))
    assert (mended.data[~inside] == 0).all()
    assert mended.data.min() == 0
    assert np.corrcoef(mended.data[inside], data[inside])[0, 1] > 0.999
    assert looks_stripped(mended) == looks_stripped(Volume(data, AFFINE))
    bright, fluid = np.median(mended.data[inside & (data > 700)]), np.median(mended.data[inside & (data < 100)])
    assert fluid < 0.2 * bright  # dark tissue is dark: no offset is left


def test_a_sound_scan_is_left_as_it_is() -> None:
    data, _ = _ball()
    scan = Volume(data, AFFINE)
    assert background_at_zero(scan) is scan
    noisy = Volume(data + np.float32(30) * np.random.default_rng(1).random(data.shape, dtype=np.float32), AFFINE)
    assert constant_background(noisy.data) is None
    assert background_at_zero(noisy) is noisy


def test_small_or_rare_negatives_are_ringing_and_cut_off() -> None:
    data, inside = _ball()
    ringing = data.copy()
    ringing[~inside] = 0
    ringing.ravel()[np.flatnonzero(inside)[:20]] = -400
    mended = background_at_zero(Volume(ringing, AFFINE))
    np.testing.assert_array_equal(mended.data, np.maximum(ringing, 0))
    noise = np.random.default_rng(2).normal(0, 10, data.shape).astype(np.float32)
    mended = background_at_zero(Volume(data + noise, AFFINE))
    np.testing.assert_array_equal(mended.data, np.maximum(data + noise, 0))


def test_an_offset_under_a_noisy_background_is_taken_off() -> None:
    data, _ = _ball()
    noise = np.random.default_rng(3).random(data.shape, dtype=np.float32) * 30
    mended = background_at_zero(Volume(data + noise - 1024, AFFINE))
    np.testing.assert_allclose(mended.data, data + noise - (data + noise).min(), atol=1e-3)


def test_tissue_of_the_background_s_value_stays_tissue_and_emptied_ventricles_stay_empty() -> None:
    data, inside = _ball()
    export = _z_scored(data, inside, 0.0)
    export[19:25, 19:25, 19:25] = 0  # ventricles that a mask emptied
    export[31, 20, 20] = 0  # tissue whose z-score is 0 by chance
    mended = background_at_zero(Volume(export, AFFINE)).data
    assert (mended[19:25, 19:25, 19:25] == 0).all()
    assert mended[31, 20, 20] > 1


@pytest.mark.parametrize("outside", [0.0, -1024.0, 9999.0])
def test_a_z_scored_brain_gives_the_mask_and_the_tissue_of_its_undamaged_twin(outside: float) -> None:
    twin = scan_of(matrix(), spacing_mm=4.0)
    scored = background_at_zero(Volume(_z_scored(twin.data, twin.data > 0, outside), twin.affine))
    assert looks_stripped(scored)
    expected, found = stripped_mask(twin), stripped_mask(scored)
    assert 2 * (expected & found).sum() / (expected.sum() + found.sum()) > 0.98
    assert np.corrcoef(scored.data.ravel(), twin.data.ravel())[0, 1] > 0.99
