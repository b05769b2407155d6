"""Maps and labels between the template's voxels and those of one person's affinely aligned scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.deformation import warp
from gen3d.imaging.native import inverse_of, undeformed
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.registration import deform

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PersonSpace:
    """The diffeomorphism between the template and a scan that is affinely aligned to it.

    Attributes:
        displacement: [3, X, Y, Z] in voxels on the template's voxels, template -> scan (`registration.deform`).
        inverse: the same of the inverse, on the scan's voxels, scan -> template.
        log_jacobian: [X, Y, Z] log volume of the scan relative to the template, on the template's voxels.
    """

    displacement: Floats
    inverse: Floats
    log_jacobian: Floats

    def labels(self, regions: NDArray[np.int16]) -> NDArray[np.int16]:
        """Labels [X, Y, Z] on the template's voxels, carried to the scan's (nearest)."""
        return warp(np.asarray(regions, np.int16), self.inverse, order=0)

    def to_scan(self, volume: Floats) -> Floats:
        """A map [X, Y, Z] on the template's voxels, on those of the scan."""
        return undeformed(volume, self.inverse)

    def to_template(self, volume: Floats) -> Floats:
        """A map [X, Y, Z] on the scan's voxels, on those of the template."""
        return warp(np.asarray(volume, np.float32), self.displacement)


def person_space(t1w: Floats, plan: GridPlan) -> PersonSpace:
    """The space of a scan [X, Y, Z] that is affinely aligned to the template on the grid of `plan` (WM median 1)."""
    found = deform(np.asarray(t1w, np.float32), plan)
    return PersonSpace(found.displacement, inverse_of(found.displacement), found.log_jacobian)
