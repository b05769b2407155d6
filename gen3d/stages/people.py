"""Who is sent along the chain, and with whose scan the result is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import is_synthetic
from gen3d.cohort.seen import TRAINING
from gen3d.cohort.session_order import first_scans
from gen3d.cohort.target import Target
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.stages.chain import Chain


@dataclass(frozen=True)
class StagePeople:
    """The first scan of every person at every stage, those whom a fold of the chain never saw: a row each.

    `codes` [n] are places of the stages; `folds` [n] judge the rows; `num_seen` people are left out because every fold saw them.
    """

    table: pd.DataFrame
    codes: NDArray[np.int64]
    folds: NDArray[np.int64]
    blind: NDArray[np.bool_]
    stages: tuple[str, ...]
    num_seen: int

    @property
    def subjects(self) -> list[str]:
        """Of every row."""
        return [str(subject) for subject in self.table["subject"]]

    @property
    def keys(self) -> list[str]:
        """Of every row."""
        return [str(key) for key in self.table["key"]]

    def at(self, stage: int, fold: int) -> NDArray[np.int64]:
        """Rows at a stage whom a fold never saw."""
        return np.flatnonzero((self.codes == stage) & self.blind[fold])

    def own(self, row: int, stage: int) -> int | None:
        """The row of the same person at another stage; None where there is none."""
        subjects = np.array(self.subjects)
        found = np.flatnonzero((self.codes == stage) & (subjects == subjects[row]))
        return int(found[0]) if found.size else None

    def partners(self, row: int, stage: int, seed: int) -> list[int]:
        """Rows of two different other people at a stage, drawn for this scan; fewer where there are not so many."""
        subjects = self.subjects
        rows = [int(other) for other in self.at(stage, int(self.folds[row])) if subjects[other] != subjects[row]]
        order = np.random.default_rng([seed, stage, *self.keys[row].encode()]).permutation(len(rows))
        return [rows[place] for place in order[:2]]

    def sentences(self) -> list[str]:
        """Whose scans are sent along, and who is left out."""
        counts = [f"{name} {int((self.codes == code).sum())}" for code, name in enumerate(self.stages)]
        lines = [
            f"sends {words.count(len(self.table), 'scan')} along the chain; people at each stage: {', '.join(counts)}"
        ]
        if self.num_seen:
            lines.append(f"{words.people(self.num_seen)} whom every generator was trained on are left out")
        return lines


def choose_people(prepared: Prepared, chain: Chain) -> StagePeople:
    """Everybody with a stage whom a fold never saw; planted twins count as scans of their person.

    Raises:
        UserError: no such column, nobody at a stage, or nobody whom the chain never saw.
    """
    table, column = prepared.manifest, chain.config.target
    if column not in table.columns:
        raise UserError(
            f"{prepared.folders[0]}: the cohort table has no column {column}, which the chain's stages are in; add it."
        )
    used = table[(table["role"] != "excluded") & ~is_synthetic(table)].reset_index(drop=True)
    codes = Target(column, "ordered", chain.stages).codes(used[column])
    used, codes = used[np.isfinite(codes)].reset_index(drop=True), codes[np.isfinite(codes)]
    if used.empty:
        raise UserError(
            f"{prepared.folders[0]}: nobody has {column} {words.listed(chain.stages, 'or')}; give scans at a stage of the chain."
        )
    once = _first_of_each_stage(used, codes)
    used, codes = used[once].reset_index(drop=True), codes[once]
    blind = chain.blind(used)
    judged: NDArray[np.bool_] = np.asarray(blind.any(axis=0), dtype=bool)
    seen = int(used[~judged]["subject"].nunique())
    if not judged.any():
        raise UserError(
            f"{chain.run.folder}: every generator was trained on all {words.people(seen)} with {column} here ({TRAINING}); train "
            "with cross_fit=5 or model.validation=0.25, or give other people."
        )
    kept: pd.DataFrame = used.iloc[np.flatnonzero(judged)].reset_index(drop=True)
    return StagePeople(
        kept, codes[judged].astype(np.int64), blind[:, judged].argmax(axis=0), blind[:, judged], chain.stages, seen
    )


def _first_of_each_stage(table: pd.DataFrame, codes: NDArray[np.float64]) -> NDArray[np.bool_]:
    chosen = np.zeros(len(table), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        chosen[rows[first_scans(table.iloc[rows].reset_index(drop=True))[0]]] = True
    return chosen


def require_partners(people: StagePeople, stages: Sequence[str]) -> None:
    """Refuse people among whom nothing can be compared.

    Raises:
        UserError: nobody is at a stage before the last, or at one after the first.
    """
    for codes, what in (
        (people.codes < len(stages) - 1, "before the last one"),
        (people.codes > 0, "after the first one"),
    ):
        if not codes.any():
            raise UserError(
                f"nobody who may be judged is at a stage {what} ({', '.join(stages)}); give people at more stages, or train with "
                "more people held out."
            )
