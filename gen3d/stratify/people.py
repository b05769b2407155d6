"""Who is clustered: one scan of every real person, in one latent space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.latents_folder import open_latents_folder, require_one_space
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import named
from gen3d.cohort.session_order import first_scans
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.memory import WITH_SCANS, announce_memory

COPIES = 5
"""Of all latents in double precision that are in memory together, at most (measured: 4.0 with 400 scans of 20,000 numbers)."""
MINIMUM_PEOPLE = 12
"""Just enough for two clusters of five, the smallest that count."""


@dataclass(frozen=True)
class ClusteredPeople:
    """One row per person: table, latents [n, d], the run that made them, and sentences on who was excluded."""

    folders: str
    table: pd.DataFrame
    values: NDArray[np.float64]
    run_key: str
    left_out: tuple[str, ...]


def open_people(folders: Sequence[Path], who: str) -> ClusteredPeople:
    """Open latents folders as one cohort and keep the first scan of every person.

    Raises:
        UserError: folders of different runs, members with spaces of their own, a scan given twice, latents that are not
            finite, or fewer than 12 people.
    """
    opened = [open_latents_folder(folder) for folder in folders]
    require_one_space([each.space for each in opened])
    table = pd.concat([each.table for each in opened], ignore_index=True)
    num_bytes = COPIES * 8 * len(table) * opened[0].values.shape[2]
    announce_memory(f"the latents of {len(table)} scans", num_bytes, "stratify latents of fewer numbers", WITH_SCANS)
    values = np.concatenate([np.asarray(each.values[0], dtype=np.float64) for each in opened])
    shown = ", ".join(str(folder) for folder in folders)
    twice = table["key"][table["key"].duplicated()]
    if len(twice):
        raise UserError(f"{shown}: the scan {twice.iloc[0]} is in two of the folders; give every scan once.")
    kept, left_out = _chosen(table, who)
    table, values = table.loc[kept].reset_index(drop=True), values[kept]
    bad = table["key"][~np.isfinite(values).all(axis=1)]
    if len(bad):
        raise UserError(f"{shown}: the latents of {', '.join(bad.iloc[:3])} are not finite; encode them again.")
    if len(table) < MINIMUM_PEOPLE:
        raise UserError(
            f"{shown}: {len(table)} people are left of {len(kept)} scans, and a map needs {MINIMUM_PEOPLE}"
            f"{'; ' + ' '.join(left_out) if left_out else '.'} Encode more people"
            f"{', or use people=everybody' if who != 'everybody' else ''}."
        )
    return ClusteredPeople(shown, table, values, opened[0].run_key, tuple(left_out))


def _chosen(table: pd.DataFrame, who: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Which rows are kept [n], and sentences on the others."""
    sentences: list[str] = []
    twins = is_twin(table).to_numpy()
    synthetic = _named(table, "generator")
    kept = ~twins & ~synthetic
    if twins.any():
        sentences.append(f"Excluded: {spell.count(int(twins.sum()), 'scan')} with planted changes (column base).")
    if synthetic.any():
        sentences.append(f"Excluded: {spell.count(int(synthetic.sum()), 'synthetic scan')} (column generator).")
    if who == "evaluation":
        others = kept & (table["role"] != "evaluation").to_numpy()
        if others.any():
            sentences.append(
                f"Excluded: {spell.count(int(others.sum()), 'scan')} of people with other roles than evaluation."
            )
        kept &= ~others
    first, unknown = first_scans(table[kept])
    later = int(kept.sum() - first.sum())
    kept[kept] = first
    if later:
        sentences.append(f"Excluded: {spell.count(later, 'later scan')} of the same people.")
    if unknown:
        sentences.append(
            f"Of {spell.people(len(unknown))} it is not known which session came first ({named(unknown)}); the first by name was "
            "taken."
        )
    return np.asarray(kept), sentences


def _named(table: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    if column not in table.columns:
        return np.zeros(len(table), dtype=bool)
    cells = table[column].astype(object)
    return np.asarray(cells.where(cells.notna(), "").astype(str).str.strip() != "")
