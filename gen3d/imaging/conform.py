"""One scan from its own space to the plan's grid: alignment, brain mask, bias, one resampling, intensity rule, deformation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.imaging.affine import Alignment, align
from gen3d.imaging.background import background_at_zero
from gen3d.imaging.bias import bias_field
from gen3d.imaging.brainmask import (
    TOOLS,
    MaskMethod,
    depth_share_outside,
    given_mask,
    looks_stripped,
    stripped_mask,
    template_mask,
    tool_mask,
)
from gen3d.imaging.deformation import warp
from gen3d.imaging.density import modulated_density
from gen3d.imaging.intensity import TissueLevels, apply_tissue_rule, tissue_levels
from gen3d.imaging.network_mask import LEAST_OVERLAP, NETWORK_MASKS, BrainNetwork, overlap_with_template, proposed
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.registration import Deformation, deform
from gen3d.imaging.resample import onto_plan, sample, working_copy
from gen3d.imaging.similarity import measure
from gen3d.imaging.template import Template, template_on
from gen3d.imaging.volume import Volume, read_scan

Floats = NDArray[np.float32]

REMAINS_SHARE = (
    0.015  # a stripped scan with more tissue than this far outside the template's brain still has membranes or neck
)


MASK_REMARK = "mask_remark"
"""Why a network's mask was not used, among the measures of a scan; "" where it was."""


@dataclass(frozen=True)
class BrainFound:
    """A brain mask on the working copy, a first alignment, and the method that was used in the end; see `MASK_REMARK`."""

    mask: NDArray[np.bool_]
    alignment: Alignment
    method: str
    remark: str = ""


@dataclass(frozen=True)
class Conformed:
    """A scan on the plan's grid; `brain` is the person's own mask there, `measures` the row of screening numbers.

    `stored` are the scan's voxels as its file stores them, `scan_affine` their grid; `assumed`: its axes are the user's word.
    """

    t1w: Floats
    log_jacobian: Floats | None
    density: Floats | None
    brain: NDArray[np.bool_]
    template_to_scan: NDArray[np.float64]
    scan_affine: NDArray[np.float64]
    stored: Floats
    measures: dict[str, float | str] = field(default_factory=dict)
    assumed: bool = False


def conform(
    path: Path,
    plan: GridPlan,
    brain_mask: MaskMethod = "auto",
    bias_correction: bool = True,
    mask_path: Path | None = None,
    orientation: OrientationRule | None = None,
    network: BrainNetwork | None = None,
) -> Conformed:
    """Bring one T1w scan to the plan's grid.

    Args:
        path: the scan, with or without skull.
        plan: grid, degrees of freedom and deformation settings; without the channel log_jacobian no deformation is computed.
        brain_mask: how the brain is found, see `gen3d.imaging.brainmask`.
        bias_correction: estimate and divide out the bias field.
        mask_path: the mask file of brain_mask="given".
        orientation: what the user said of orientations that headers do not tell; holds for the mask too.
        network: of a `brain_mask` that is a network's.

    Raises:
        UserError: the file is damaged, or no T1w brain can be found in it.
    """
    stored = read_scan(path, orientation)
    scan = background_at_zero(stored.volume())
    working = working_copy(scan)
    if brain_mask in NETWORK_MASKS:
        assert network is not None, "whoever chooses a network's mask brings the network"
        brain_found = brain_by_network(scan, working, plan.degrees_of_freedom, brain_mask, network)
    else:
        brain_found = find_brain(path, working, plan.degrees_of_freedom, brain_mask, mask_path, orientation)
    mask, alignment = brain_found.mask, brain_found.alignment
    if mask.sum() * np.prod(working.spacing_mm) < 2e5:
        raise UserError(f"{path}: no brain was found in it (less than 0.2 L); look at the scan, or give a brain mask.")
    bias = bias_field(working, mask) if bias_correction else np.ones_like(working.data)
    corrected = Volume(np.where(mask, working.data / bias, 0).astype(np.float32), working.affine)
    alignment = refined(corrected, alignment, plan.degrees_of_freedom)
    matrix, template = alignment.template_to_scan, template_on(plan)
    brain = on_plan_grid(mask, working.affine, matrix, plan) > 0.5
    gain = np.maximum(on_plan_grid(bias, working.affine, matrix, plan, outside=1.0), np.float32(0.1))
    near = ndimage.binary_dilation(brain, np.ones((3, 3, 3), bool))  # all that is read of the scan on the grid
    flat = (onto_plan(scan, matrix, plan, near) / gain).astype(np.float32)
    t1w, levels = apply_tissue_rule(flat, template, brain)
    deformation = deform(t1w, plan) if "log_jacobian" in plan.channels else None
    if deformation is not None:
        levels = levels_under(flat, brain, deformation, template)
        t1w, _ = apply_tissue_rule(flat, template, brain, levels)
    seen = on_plan_grid(np.ones_like(mask), working.affine, matrix, plan) > 0.5
    measures: dict[str, float | str] = {
        "brain_mask": brain_found.method,
        **({MASK_REMARK: brain_found.remark} if brain_mask in NETWORK_MASKS else {}),
        **measure(t1w, brain, template, plan.spacing_mm, matrix, alignment.mutual_information, levels),
        "coverage_percent": 100 * float(seen[template.mask].mean()),
        "remains_percent": 100 * depth_share_outside(working, mask, matrix),
        "num_starts": alignment.num_starts,
        **(deformation.quality if deformation else {}),
    }
    log_jacobian, density = None, None
    if deformation is not None:
        log_jacobian = deformation.log_jacobian
        density = modulated_density(t1w, deformation, template) if "modulated_density" in plan.channels else None
    return Conformed(
        t1w * template.mask, log_jacobian, density, brain, matrix, stored.affine, stored.data, measures, stored.assumed
    )


def levels_under(flat: Floats, brain: NDArray[np.bool_], deformation: Deformation, template: Template) -> TissueLevels:
    """Tissue levels where the deformation finds the template's tissues in this person.

    In an atrophied brain, fluid and displaced white matter lie under the template's cortex: levels read there after the affine
    alone would shift the intensities of just those people.
    """
    warped = np.asarray(warp(flat, deformation.displacement), dtype=np.float32)
    return tissue_levels(warped, template, warp(brain.astype(np.float32), deformation.displacement) > 0.5)


def on_plan_grid(
    values: NDArray[np.generic],
    affine: NDArray[np.float64],
    matrix: NDArray[np.float64],
    plan: GridPlan,
    outside: float = 0.0,
) -> Floats:
    """A smooth field or a mask of the working copy at the plan's voxels, [X, Y, Z] float32."""
    return sample(Volume(values.astype(np.float32), affine), matrix @ plan.matrix, plan.shape, outside=outside)


def find_brain(
    path: Path,
    working: Volume,
    degrees_of_freedom: int,
    brain_mask: MaskMethod,
    mask_path: Path | None,
    orientation: OrientationRule | None = None,
) -> BrainFound:
    """The brain of a scan by any method but a network."""
    if brain_mask == "given" or brain_mask in TOOLS:
        if brain_mask == "given":
            if mask_path is None:
                raise UserError(f"{path}: brain_mask=given, but there is no mask for it (column `mask` of the table).")
            mask = given_mask(mask_path, working, orientation)
        else:
            mask = tool_mask(brain_mask, path, working, orientation)
        return BrainFound(mask, align(masked(working, mask), False, degrees_of_freedom, fine=False), brain_mask)
    stripped = brain_mask == "stripped" or (brain_mask == "auto" and looks_stripped(working))
    alignment = align(working, not stripped, degrees_of_freedom, fine=False)
    if stripped:
        mask = stripped_mask(working)
        remains = depth_share_outside(working, mask, alignment.template_to_scan)
        if brain_mask == "stripped" or remains < REMAINS_SHARE:
            return BrainFound(mask, alignment, "stripped")
        alignment = align(working, True, degrees_of_freedom, alignment.template_to_scan, fine=False)
        remaining = template_mask(working, alignment.template_to_scan) & mask
        return BrainFound(remaining, alignment, "stripped, remains removed")
    return BrainFound(template_mask(working, alignment.template_to_scan), alignment, "template")


def brain_by_network(
    scan: Volume, working: Volume, degrees_of_freedom: int, method: MaskMethod, network: BrainNetwork
) -> BrainFound:
    """The brain as a network sees it, and as `auto` finds it where that cannot be right."""
    mask, doubt = proposed(network, scan)
    if not doubt:
        alignment = align(masked(working, mask), False, degrees_of_freedom, fine=False)
        overlap = overlap_with_template(mask, working.affine, alignment.template_to_scan)
        if overlap >= LEAST_OVERLAP:
            return BrainFound(mask, alignment, method)
        doubt = f"its overlap with the registered template is {overlap:.2f} (Dice), below {LEAST_OVERLAP:g}"
    other = find_brain(Path(), working, degrees_of_freedom, "auto", None)
    whose = "the registered template" if other.method == "template" else "the scan's own edge"
    return replace(other, remark=f"the mask of {method} was not used ({doubt}); that of {whose} was")


def refined(corrected: Volume, first: Alignment, degrees_of_freedom: int) -> Alignment:
    """The alignment repeated on the bias-corrected brain alone, from where the first one ended."""
    again = align(corrected, whole_head=False, degrees_of_freedom=degrees_of_freedom, start=first.template_to_scan)
    return Alignment(again.template_to_scan, again.mutual_information, first.num_starts)


def masked(scan: Volume, mask: NDArray[np.bool_]) -> Volume:
    """The scan with 0 outside the mask."""
    return Volume(np.where(mask, scan.data, 0).astype(np.float32), scan.affine)
