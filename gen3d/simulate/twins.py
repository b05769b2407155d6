"""Which planted copies a truth bench holds: every usable control is a base, and has one twin per condition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import is_control, is_twin, scan_key
from gen3d.cohort.session_order import first_scans
from gen3d.core.errors import UserError
from gen3d.core.progress import warn
from gen3d.simulate.conditions import DIAGNOSES, Condition
from gen3d.simulate.label_maps import open_label_maps


def usable_bases(bases: Prepared, roles: Sequence[str]) -> pd.DataFrame:
    """The first scan of every control with one of these roles, in the order of the table.

    Raises:
        UserError: there is none.
    """
    table = bases.manifest
    controls = is_control(table) & ~is_twin(table)
    usable = table[controls & table["role"].isin(list(roles))]
    usable = usable[first_scans(usable)[0]]
    if usable.empty:
        roles_there = ", ".join(f"{name} {count}" for name, count in table["role"].value_counts().items())
        raise UserError(
            f"{bases.folders[0]}: holds no control with the role {' or '.join(roles)} ({int(controls.sum())} scans of "
            f"controls; roles: {roles_there}); name other base folders, or change base_roles."
        )
    return usable.reset_index(drop=True)


def twin_table(
    bases: Prepared, conditions: Mapping[str, Condition], roles: Sequence[str], num_bases: int | None, seed: int
) -> pd.DataFrame:
    """One row per base and condition: all columns of the base, with a session, key, diagnosis and column `base` of its own.

    Severities of a condition are assigned to the bases in seeded random order. Where a condition needs label maps, bases
    without one get no twin of it, with a warning.

    Raises:
        UserError: no usable control, fewer than ``num_bases``, no condition, or no base with a label map.
    """
    usable = usable_bases(bases, roles)
    if num_bases is not None and num_bases > len(usable):
        raise UserError(
            f"the base folders hold {len(usable)} usable control people but subjects={num_bases}; "
            "lower subjects or add folders."
        )
    if not conditions:
        raise UserError("a bench on base scans needs conditions=, for instance conditions.null.kind=null.")
    chosen = usable.iloc[:num_bases].drop(columns=["folder", "condition", "severity", "index"], errors="ignore")
    parts = []
    for name, condition in conditions.items():
        part = chosen.assign(base=chosen["key"], condition=name, role="evaluation", diagnosis=DIAGNOSES[condition.kind])
        part["severity"] = _severities(condition, name, len(part), seed)
        part["session"] = [f"{session}t{short_name(name)}" for session in chosen["session"]]
        part["key"] = [scan_key(*pair) for pair in zip(part["subject"], part["session"], strict=True)]
        parts.append(part[_with_labels(condition, name, chosen["key"].tolist())])
    twins = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    return twins


def short_name(condition: str) -> str:
    """A condition's name as part of a session: its letters and digits."""
    return re.sub(r"[^0-9A-Za-z]", "", condition)


def _severities(condition: Condition, name: str, number: int, seed: int) -> np.ndarray:
    if condition.kind == "null":
        return np.zeros(number)
    rng = np.random.default_rng([seed, 19, *name.encode()])
    return rng.permutation(np.resize(np.asarray(condition.severities, dtype=float), number))


def _with_labels(condition: Condition, name: str, keys: list[str]) -> np.ndarray:
    """Which bases have the label map that the condition needs."""
    if condition.labels is None or condition.label_names is None:
        return np.ones(len(keys), bool)
    maps = open_label_maps(condition.labels, condition.label_names)
    for region in condition.changes:
        maps.find(region)
    has_map = np.array([maps.path(key) is not None for key in keys])
    if not has_map.any():
        raise UserError(
            f"{condition.labels}: holds a label map of none of the {len(keys)} bases; a map is named like its scan, "
            f"for instance {keys[0]}.nii.gz."
        )
    if not has_map.all():
        missing = [key for key, there in zip(keys, has_map, strict=True) if not there]
        ending = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
        warn(
            f"{name}: {', '.join(missing[:3])}{ending} have no label map in {condition.labels}; they get no such twin."
        )
    return has_map
