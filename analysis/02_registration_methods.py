"""The registrations that `02_registration_settings.py` compares; every one returns the same `Estimate`.

Demons of gen3d, variations that SimpleITK offers, and, only where they can be imported, the symmetric normalisation (SyN,
Avants et al. 2008, Med Image Anal 12) of DIPY and of ANTsPy. A B-spline of 32 cells per side (SimpleITK, correlation, L-BFGS)
was left out: it needs minutes for one scan.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.imaging import registration as package
from gen3d.imaging.deformation import jacobian_determinant, warp
from gen3d.imaging.registration import DeformationSettings, register, standardised

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """Log det J of template -> scan [X, Y, Z], the scan on the template's voxels, voxels with det J <= 0, CPU seconds."""

    log_jacobian: Floats
    warped: Floats
    folded_percent: float
    seconds: float


@dataclass(frozen=True)
class Method:
    """A row of the table: ``displacements(template, scan)`` gives one or more fields whose log det J is averaged."""

    name: str
    displacements: Callable[[Floats, Floats], list[Floats]]
    spacing_mm: float = 2.5

    @property
    def slug(self) -> str:
        """The name of this method's folder."""
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in self.name)


def estimate(method: Method, template: Floats, scan: Floats, mask: NDArray[np.bool_]) -> Estimate:
    """Run one method on one scan. A field on twice as many voxels (half-voxel level) is reduced to the template's."""
    start = time.process_time()
    fields = method.displacements(template, scan)
    seconds = time.process_time() - start
    logs, folded = [], []
    for field in fields:
        determinant = jacobian_determinant(field)
        if field.shape[1:] != template.shape:
            determinant = blocks_of_two(determinant)
        folded.append(100 * float(np.mean(determinant[mask] <= 0)))
        logs.append(np.log(np.maximum(determinant, package.MINIMUM_JACOBIAN)))
    first = fields[0]
    if first.shape[1:] != template.shape:
        first = np.stack([blocks_of_two(axis) for axis in first / 2])
    warped = warp(scan, first)
    return Estimate(np.mean(logs, axis=0), np.asarray(warped, np.float32), max(folded), seconds)


def blocks_of_two(volume: Floats) -> Floats:
    """Mean over blocks of 2 x 2 x 2 voxels."""
    x, y, z = (side // 2 for side in volume.shape)
    return np.asarray(volume.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5)), np.float32)


def settings(update: float = 2.0, field: float = 0.5, around: float = 4.0, **others: Any) -> DeformationSettings:
    """Settings of the package's demons, from the three that matter most."""
    return DeformationSettings(
        update_sigma_voxels=update, field_sigma_voxels=field, neighbourhood_voxels=around, **others
    )


def demons(template: Floats, scan: Floats, several: list[DeformationSettings]) -> list[Floats]:
    """One displacement per setting."""
    return [register(template, scan, one)[0] for one in several]


def both_directions(one: DeformationSettings) -> list[DeformationSettings]:
    """The setting from template to scan, and from scan to template (inverted afterwards)."""
    return [one.model_copy(update={"direction": way}) for way in ("template_to_scan", "scan_to_template")]


def half_voxel(template: Floats, scan: Floats, one: DeformationSettings, num_iterations: int) -> list[Floats]:
    """The package's demons, then a last level on voxels of half the edge; displacement [3, 2X, 2Y, 2Z] in half voxels."""
    start = register(template, scan, one)[0]
    images = [
        sitk.Expand(package._image(standardised(volume, one.neighbourhood_voxels)), [2] * 3, sitk.sitkBSpline)
        for volume in (template, scan)
    ]
    field = sitk.GetImageFromArray(np.ascontiguousarray(start.transpose(3, 2, 1, 0), dtype=np.float64), isVector=True)
    field = sitk.Expand(field, [2] * 3)
    fine = _filter(sitk.DiffeomorphicDemonsRegistrationFilter(), one, num_iterations).Execute(*images, field)
    return [2 * _array(fine)]


def other_forces(
    template: Floats, scan: Floats, one: DeformationSettings, kind: str, gradient: int = 0
) -> list[Floats]:
    """The same pyramid with another of SimpleITK's demons, or another gradient of the diffeomorphic one."""
    make = getattr(sitk, f"{kind}RegistrationFilter")
    images = [package._image(standardised(volume, one.neighbourhood_voxels)) for volume in (template, scan)]
    field: Any = None
    for level, num_iterations in enumerate(one.iterations):
        fixed, moving = (package._reduced(image, 2 ** (len(one.iterations) - 1 - level)) for image in images)
        filter_ = _filter(make(), one, num_iterations)
        if gradient:
            filter_.SetUseGradientType(gradient)
        field = filter_.Execute(fixed, moving, *([] if field is None else [sitk.Resample(field, fixed)]))
    return [_array(field)]


def _filter(filter_: Any, one: DeformationSettings, num_iterations: int) -> Any:
    filter_.SetNumberOfThreads(1)
    filter_.SetNumberOfIterations(num_iterations)
    if hasattr(filter_, "SetMaximumUpdateStepLength"):
        filter_.SetMaximumUpdateStepLength(one.step_voxels)
    filter_.SetSmoothUpdateField(one.update_sigma_voxels > 0)
    filter_.SetUpdateFieldStandardDeviations(one.update_sigma_voxels)
    filter_.SetSmoothDisplacementField(one.field_sigma_voxels > 0)
    filter_.SetStandardDeviations(one.field_sigma_voxels)
    return filter_


def _array(field: sitk.Image) -> Floats:
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).transpose(3, 2, 1, 0), dtype=np.float32)


def dipy_syn(
    template: Floats, scan: Floats, radius: int, iterations: tuple[int, ...], sigma: float = 2.0
) -> list[Floats]:
    """DIPY's SyN with the local cross-correlation metric."""
    logging.getLogger("dipy").setLevel(logging.WARNING)
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    method = SymmetricDiffeomorphicRegistration(
        CCMetric(3, radius=radius, sigma_diff=sigma), level_iters=list(iterations)
    )
    mapping = method.optimize(template.astype(np.float64), scan.astype(np.float64))
    return [np.ascontiguousarray(np.moveaxis(np.asarray(mapping.get_forward_field()), -1, 0), dtype=np.float32)]


def ants_syn(
    template: Floats, scan: Floats, iterations: tuple[int, ...], flow: float, total: float, radius: int = 2
) -> list[Floats]:
    """ANTs' SyN with the local cross-correlation metric, without any linear stage."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            ants.from_numpy(template),
            ants.from_numpy(scan),
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            outprefix=f"{folder}/syn",
            flow_sigma=flow,
            total_sigma=total,
            syn_metric="CC",
            syn_sampling=radius,
            reg_iterations=iterations,
        )
        name = next(path for path in result["fwdtransforms"] if path.endswith(".nii.gz"))
        field = sitk.GetArrayFromImage(sitk.ReadImage(str(Path(name)))).transpose(3, 2, 1, 0)
    return [np.ascontiguousarray(field, dtype=np.float32)]


def methods_to_try() -> list[Method]:
    """Every row of the screening. DIPY and ANTsPy are included where they are installed."""
    plain = {
        "default": settings(),
        "update 1.5, neighbourhood 6": settings(1.5, around=6.0),
        "field 0": settings(field=0.0),
        "field 1": settings(field=1.0),
        "iterations 20 20 40": settings(iterations=(20, 20, 40)),
        "scan to template": settings(direction="scan_to_template"),
        "neighbourhood 3": settings(around=3.0),
        "update 1.5": settings(1.5),
        "update 3": settings(3.0),
        "histograms matched": settings(1.0, 1.0, 0.0),
    }
    rows = {name: partial(demons, several=[one]) for name, one in plain.items()}
    for kind in ("FastSymmetricForcesDemons", "SymmetricForcesDemons", "LevelSetMotion"):
        rows[kind] = partial(other_forces, one=settings(), kind=kind)
    fast = {"field 1": settings(field=1.0), "field 1, neighbourhood 6": settings(field=1.0, around=6.0)}
    fast |= {"update 1.5, field 1": settings(1.5, 1.0), "iterations 40 40 20": settings(iterations=(40, 40, 20))}
    for name, one in fast.items():
        rows[f"FastSymmetric, {name}"] = partial(other_forces, one=one, kind="FastSymmetricForcesDemons")
    rows["both directions"] = partial(demons, several=both_directions(settings()))
    rows["mean of neighbourhoods 3, 4, 6"] = partial(demons, several=[settings(around=a) for a in (3.0, 4.0, 6.0)])
    rows["half-voxel level"] = partial(half_voxel, one=settings(iterations=(20, 20, 5)), num_iterations=5)
    if importlib.util.find_spec("dipy"):
        usual = (20, 20, 10)
        rows["DIPY SyN, radius 4, sigma 2"] = partial(dipy_syn, radius=4, iterations=usual, sigma=2.0)
        rows["DIPY SyN, radius 2, sigma 1.5"] = partial(dipy_syn, radius=2, iterations=usual, sigma=1.5)
        rows["DIPY SyN, radius 2, sigma 1"] = partial(dipy_syn, radius=2, iterations=usual, sigma=1.0)
    if importlib.util.find_spec("ants"):
        rows["ANTs SyN"] = partial(ants_syn, iterations=(40, 20, 10), flow=3, total=0)
        rows["ANTs SyN, flow 1.5"] = partial(ants_syn, iterations=(40, 20, 10), flow=1.5, total=0)
    found = [Method(name, run) for name, run in rows.items()]
    return [*found, Method("grid of 2 mm", rows["default"], spacing_mm=2.0)]
