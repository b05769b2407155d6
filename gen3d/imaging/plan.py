"""The grid every volume of a cohort lives on: planned once, stored with the data, and again with the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gen3d.core.artefact import digest
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.core.names import fault_of
from gen3d.core.plain_files import load_object

# The brain of the MNI152 template with a margin for larger heads and imperfect alignment, world mm (RAS).
FIELD_OF_VIEW_MM = ((-80.0, 80.0), (-114.0, 78.0), (-74.0, 86.0))
TEMPLATE = "MNI152 (ICBM 2009 nonlinear symmetric, as in nilearn)"

REGISTRATION = 2
"""How this version aligns and deforms scans: 1 was ITK's, 2 compares scan and template at the same blur, in compiled loops.

To be raised with every change that moves alignments: scans prepared before and after are not to be compared.
"""

LONGEST_SIDE = 512
"""Voxels; the field of view has 192 of 1 mm."""
Side = Annotated[int, Field(gt=0, le=LONGEST_SIDE)]
Grid = tuple[Side, Side, Side]


class GridPlan(Config):
    """Shape, spacing and orientation of every prepared volume, and the rules that made its values."""

    spacing_mm: float = Field(gt=0, description="edge of a cubic voxel, mm")
    shape: Grid = Field(description="voxels along x (left to right), y (back to front), z (bottom to top)")
    affine: tuple[tuple[float, float, float, float], ...] = Field(description="voxel -> MNI152 world mm (RAS), 4 x 4")
    divisible_by: int = Field(8, gt=0, description="every side is a multiple of this")
    template: str = Field(TEMPLATE, description="the space the grid is in")
    intensity: str = Field("tissue", description="rule that made intensities comparable")
    degrees_of_freedom: int = Field(12, description="of the linear alignment to the template")
    channels: tuple[str, ...] = Field(("t1w", "log_jacobian"), description="volumes stored per scan")
    deformation: dict[str, Any] = Field(default_factory=dict, description="settings of the deformation channel")
    registration: int = Field(1, ge=1, description="version of the alignment and deformation; not told: the first")

    @model_validator(mode="after")
    def _is_a_grid(self) -> GridPlan:
        if len(self.affine) != 4 or not abs(np.linalg.det(self.matrix)) > 0:
            raise ValueError("affine is not an invertible matrix of 4 x 4 numbers")
        for channel in self.channels:
            if fault := fault_of(channel) or ("" if channel else "it is empty"):
                raise ValueError(f"channel {channel!r} cannot be part of a file's name ({fault})")
        return self

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The affine as an array [4, 4]."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def key(self) -> str:
        """A hash of everything two volumes must share to be comparable."""
        rules = self.model_dump(mode="json")
        if self.registration == 1:  # the keys of folders that were made before there was another
            del rules["registration"]
        return digest(rules)

    def describe(self) -> str:
        """The plan in words."""
        sides = " x ".join(str(side) for side in self.shape)
        return f"{sides} voxels of {self.spacing_mm:g} mm, {self.degrees_of_freedom} dof, {', '.join(self.channels)}"

    def difference(self, other: GridPlan) -> str:
        """What distinguishes two plans, in words."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        parts = [f"{name} {mine[name]} against {theirs[name]}" for name in mine if mine[name] != theirs[name]]
        if self.registration != other.registration:
            parts.append("they were prepared by different versions of gen3d, whose alignments differ")
        return "; ".join(parts) if parts else "nothing"

    def require_registration(self, where: str) -> None:
        """Refuse to prepare more scans for a plan whose scans another version of this code aligned.

        Raises:
            UserError: naming `where` the plan was found.
        """
        if self.registration != REGISTRATION:
            raise UserError(
                f"{where}: its scans were aligned by registration {self.registration}, this version of gen3d has registration "
                f"{REGISTRATION}, and the two are not to be compared; prepare them again and repeat what was made from them, or "
                "use the version of gen3d that is written in its record."
            )


def plan_grid(spacing_mm: float, divisible_by: int = 8, **rules: Any) -> GridPlan:
    """Cover the brain's field of view with cubic voxels whose sides are multiples of `divisible_by`.

    The grid is centred on the field of view, and of this version's registration; `rules` are further fields of `GridPlan`.

    Raises:
        UserError: the spacing is outside 1 to 4 mm.
    """
    if not 1.0 <= spacing_mm <= 4.0:
        raise UserError(f"spacing_mm={spacing_mm:g} is outside 1 to 4 mm, the range in which maps keep their meaning.")
    shape, origin = [], []
    for low, high in FIELD_OF_VIEW_MM:
        voxels = math.ceil((high - low) / spacing_mm / divisible_by - 1e-9) * divisible_by
        shape.append(voxels)
        origin.append((low + high) / 2 - (voxels - 1) / 2 * spacing_mm)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = origin
    return GridPlan(
        spacing_mm=spacing_mm,
        shape=(shape[0], shape[1], shape[2]),
        affine=tuple((float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in affine),
        divisible_by=divisible_by,
        registration=REGISTRATION,
        **rules,
    )


def write_plan(path: Path, plan: GridPlan) -> None:
    """Store a plan as JSON."""
    path.write_text(json.dumps(plan.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_plan(path: Path) -> GridPlan:
    """Read a plan written by `write_plan`."""
    try:
        return GridPlan.model_validate_json(json.dumps(load_object(path, finite=True)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: missing or damaged ({reason}); run the verb that wrote this folder again.") from None
