"""Maps of one scan in the scan's own space, made in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gen3d.anomaly.native import ON_TEMPLATE, inverse_of, read_native_space, undeformed, write_native
from gen3d.imaging.plan import GridPlan, read_plan
from gen3d.imaging.registration import deform
from gen3d.imaging.volume import read_map, read_stored

_PLAN: list[GridPlan] = []


@dataclass(frozen=True)
class NativeScan:
    """A scan of a prepared folder, its z maps on the template by channel, and where each goes."""

    folder: Path
    key: str
    maps: dict[str, Path]
    targets: dict[str, Path]


def start_worker(plan: str) -> None:
    """Read the plan of the grid once per process."""
    _PLAN[:] = [read_plan(Path(plan))]


def write_scan(scan: NativeScan) -> str:
    """Write the missing maps of one scan in its own space; its key."""
    plan = _PLAN[0]
    missing = [channel for channel in scan.maps if not scan.targets[channel].is_file()]
    native = read_native_space(scan.folder, scan.key)
    assert native is not None
    inverse = None
    if any(channel in ON_TEMPLATE for channel in missing):
        t1w = read_stored(scan.folder / "volumes" / f"{scan.key}_t1w.nii")
        inverse = inverse_of(deform(t1w, plan).displacement)
    for channel in missing:
        z = read_map(scan.maps[channel])
        if channel in ON_TEMPLATE and inverse is not None:
            z = undeformed(z, inverse)
        write_native(scan.targets[channel], native, z, plan.matrix)
    return scan.key
