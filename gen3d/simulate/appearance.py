"""From a deformation to a T1w volume: contrast of a site, resolution, bias field, texture, noise, and focal lesions.

Ranges follow SynthSeg (Billot et al. 2023) where they apply to T1w, and the ComBat picture of sites as additive and
multiplicative effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.deformation import identity_grid
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import Template, full_template
from gen3d.imaging.warping import sampled

Floats = NDArray[np.float32]

TEXTURE_MM, TEXTURE_AMPLITUDE = 5.0, 0.02  # tissue that differs from person to person without a change of shape
BIAS_CONTROL_POINTS = 4  # of the bias field along each axis
SUPERSAMPLED_ABOVE_MM = 1.5  # coarser voxels are averages of 2 x 2 x 2 samples
FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))


@dataclass(frozen=True)
class Site:
    """A scanner: tissue levels it adds to the template's, response, resolution, noise and inhomogeneity."""

    name: str
    grey_offset: float
    fluid_offset: float
    gamma: float
    psf_mm: float
    snr: float
    bias_sd: float
    scale: float


def make_sites(num_sites: int, strength: float, seed: int) -> list[Site]:
    """Sites whose differences grow with ``strength``: 0 makes them all equal, 1 is a usual multi-centre study."""
    sites = []
    for index in range(num_sites):
        rng = np.random.default_rng([seed, 101, index])
        offsets = strength * rng.uniform(-1, 1, size=7)
        sites.append(
            Site(
                name=f"site{chr(65 + index)}" if num_sites <= 26 else f"site{index + 1:03d}",
                grey_offset=float(0.04 * offsets[0]),
                fluid_offset=float(0.08 * offsets[1]),
                gamma=float(np.exp(0.12 * offsets[2])),
                psf_mm=1.05 * float(np.exp(0.22 * offsets[3])),
                snr=25.0 * float(np.exp(0.45 * offsets[4])),
                bias_sd=0.02 * float(np.exp(0.6 * offsets[5])),
                scale=float(1.0 + 0.01 * offsets[6]),
            )
        )
    return sites


@lru_cache(maxsize=1)
def _maps() -> tuple[Template, Floats]:
    """The 1 mm template and the maps that are sampled, [X, Y, Z, 4]: T1w, grey and fluid shares, mask."""
    template = full_template()
    maps = (template.t1w, template.gm, template.csf, template.mask.astype(np.float32))
    return template, np.ascontiguousarray(np.stack(maps, axis=-1))


@dataclass(frozen=True)
class Tissue:
    """A person's brain before any scanner saw it: T1w of the template, shares of grey, fluid and brain, each [X, Y, Z]."""

    t1w: Floats
    grey: Floats
    fluid: Floats
    brain: Floats


def sample_tissue(inverse: Floats, plan: GridPlan, region: NDArray[np.bool_]) -> Tissue:
    """The template's 1 mm maps in a person, averaged over each voxel of the plan.

    ``inverse`` is the displacement person -> template [3, X, Y, Z] in plan voxels; voxels outside ``region`` stay 0.
    Sampling fine maps, and averaging afterwards, keeps shifts of a fraction of a voxel visible.
    """
    template, maps = _maps()
    to_fine = np.linalg.inv(template.affine) @ plan.matrix
    places = identity_grid(plan.shape)[:, region]
    factor = 2 if plan.spacing_mm > SUPERSAMPLED_ABOVE_MM else 1
    offsets = (np.arange(factor) + 0.5) / factor - 0.5
    here = inverse[:, region]
    slopes = np.stack([np.gradient(inverse, axis=1 + axis)[:, region] for axis in range(3)])
    total = np.zeros((places.shape[1], maps.shape[3]), np.float32)
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), axis=-1).reshape(-1, 3).astype(np.float32):
        moved = places + offset[:, None] + here + np.tensordot(offset, slopes, axes=1)
        fine = (to_fine[:3, :3] @ moved + to_fine[:3, 3:]).astype(np.float32)
        total += sampled(maps, fine)
    volumes = np.zeros((maps.shape[3], *plan.shape), np.float32)
    volumes[:, region] = total.T / factor**3
    return Tissue(*volumes)


def noiseless_scan(tissue: Tissue, site: Site, spacing_mm: float, rng: np.random.Generator) -> Floats:
    """T1w [X, Y, Z] (white matter about 1) of the site's scanner without noise; ``rng`` gives texture and bias field."""
    image = tissue.t1w + site.grey_offset * tissue.grey + site.fluid_offset * tissue.fluid
    image = np.clip(image, 0, None) ** site.gamma
    texture = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), TEXTURE_MM / spacing_mm)
    image = image * (1 + TEXTURE_AMPLITUDE * texture / texture.std())
    image = ndimage.gaussian_filter(image, site.psf_mm / FWHM_PER_SIGMA / spacing_mm)
    return (image * bias_field(image.shape, site.bias_sd, rng)).astype(np.float32)


def bias_field(shape: tuple[int, ...], bias_sd: float, rng: np.random.Generator) -> Floats:
    """Log-normal multiplicative field [X, Y, Z], smooth over about a quarter of the head: what N4 leaves behind."""
    coarse = rng.normal(0, bias_sd, size=(BIAS_CONTROL_POINTS,) * 3)
    smooth = ndimage.zoom(coarse, [n / BIAS_CONTROL_POINTS for n in shape], order=3, mode="nearest", grid_mode=True)
    return np.exp(smooth).astype(np.float32)


def add_noise(image: Floats, site: Site, spacing_mm: float, rng: np.random.Generator) -> Floats:
    """Rician noise of a 1 mm scan with the site's signal-to-noise ratio in white matter, averaged down to ``spacing_mm``.

    Averaging n voxels divides noise by sqrt(n); interpolation leaves neighbours correlated, so twice the independent noise
    is kept.
    """
    sigma = min(1.0, 2.0 / spacing_mm**1.5) / site.snr
    real, imaginary = rng.normal(0, sigma, size=(2, *image.shape))
    return np.hypot(image + real, imaginary).astype(np.float32)


def lesion_fraction(volume_ml: float, where: NDArray[np.bool_], spacing_mm: float, rng: np.random.Generator) -> Floats:
    """Share of each voxel [X, Y, Z] taken by one irregular blob of exactly ``volume_ml`` inside ``where``.

    The blob is the ``n`` voxels with the highest sum of closeness to a random centre and smooth noise; the last voxel is
    filled in part, so that the volume is exact.
    """
    voxel_ml = spacing_mm**3 / 1000
    radius = (3 * volume_ml / (4 * np.pi) * 1000) ** (1 / 3) / spacing_mm
    deep = ndimage.distance_transform_edt(where)
    candidates = np.argwhere(deep >= min(radius / 2, 0.8 * deep.max()))
    centre = candidates[rng.integers(len(candidates))].astype(np.float32)
    distance = np.sqrt(((identity_grid(where.shape) - centre[:, None, None, None]) ** 2).sum(axis=0))
    noise = ndimage.gaussian_filter(rng.standard_normal(where.shape), max(radius / 2, 0.5))
    score = np.where(where, -distance / max(radius, 0.5) + 0.35 * noise / noise.std(), -np.inf)
    order = np.argsort(score, axis=None)[::-1]
    num_full, part = divmod(volume_ml / voxel_ml, 1.0)
    if num_full >= where.sum():
        raise ValueError(f"a lesion of {volume_ml:g} ml does not fit into {where.sum() * voxel_ml:.0f} ml of tissue")
    fraction = np.zeros(where.shape, np.float32)
    fraction.ravel()[order[: int(num_full)]] = 1
    fraction.ravel()[order[int(num_full)]] = part
    return fraction


def add_lesion(image: Floats, fraction: Floats, level: float) -> Floats:
    """T1-hypointense lesion: the image blends towards ``level`` (white matter is 1), with edges softened by half a voxel."""
    blend = np.maximum(ndimage.gaussian_filter(fraction, 0.5), 0)
    return (image + blend * (np.minimum(level, image) - image)).astype(np.float32)
