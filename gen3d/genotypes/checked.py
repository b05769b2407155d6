"""What quality control goes through, and what it has found so far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.progress import say, track
from gen3d.core.tables import Row
from gen3d.genotypes.sources import Columns, Dosages, Source


@dataclass
class Checked:
    """What was found so far, of people joined [n] and variants of the source [m]."""

    person_reason: NDArray[np.object_]
    variant_reason: NDArray[np.object_]
    person_missing: NDArray[np.float64]
    heterozygosity: NDArray[np.float64]
    sex_check: NDArray[np.object_]
    group: NDArray[np.int64]
    variant_missing: NDArray[np.float64]
    frequency: NDArray[np.float64]
    hwe_p: NDArray[np.float64]
    info: NDArray[np.float64]
    relatives: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    pruned: Columns = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    calls: NDArray[np.int8] = field(default_factory=lambda: np.empty((0, 0), dtype=np.int8))
    """Of the pruned variants, [people joined, pruned]; -1 where missing."""

    @property
    def people(self) -> NDArray[np.int64]:
        """People that pass, as rows of the joined ones."""
        return np.flatnonzero(self.person_reason == "")

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Variants that pass, [m]."""
        return np.asarray(self.variant_reason == "")

    def step(self, name: str, rule: str, people: NDArray[np.object_], variants: NDArray[np.object_]) -> None:
        """Take over new reasons, and count whom and what they put out."""
        before = int((self.person_reason == "").sum()), int((self.variant_reason == "").sum())
        self.person_reason = np.where(self.person_reason == "", people, self.person_reason)
        self.variant_reason = np.where(self.variant_reason == "", variants, self.variant_reason)
        after = int((self.person_reason == "").sum()), int((self.variant_reason == "").sum())
        self.steps.append(
            {
                "step": name,
                "rule": rule,
                "people_before": before[0],
                "people_out": before[0] - after[0],
                "variants_before": before[1],
                "variants_out": before[1] - after[1],
            }
        )
        out = [spell.people(before[0] - after[0]), spell.count(before[1] - after[1], "variant")]
        say(f"{name}: {' and '.join(out)} out ({rule})")


@dataclass(frozen=True)
class Joined:
    """The people of a source that count, and what is known of them.

    Attributes:
        source: of the genotypes.
        rows: of the source, one per person; [n].
        sexes: M, F or "" of each person; [n].
        controls: who is a control; [n].
        build: of the positions.
        named: variants that scores or carry= name, which may be rare; [m].
        block: variants in memory at a time.
        compared: whether its alleles were compared with a reference.
    """

    source: Source
    rows: NDArray[np.int64]
    sexes: NDArray[np.object_]
    controls: NDArray[np.bool_]
    build: str
    named: NDArray[np.bool_]
    block: int
    compared: bool = False

    def blocks(self, columns: Columns, people: NDArray[np.int64], title: str) -> Iterator[tuple[Columns, Dosages]]:
        """Dosages of these people, [people, block]."""
        rows = self.rows[people]
        total = math.ceil(len(columns) / self.block)
        for part, dosages in track(self.source.blocks(columns, self.block), title, total):
            yield part, dosages[rows]


def nothing_found(num: int, info: NDArray[np.float64]) -> Checked:
    """Before the first step, of so many people; `info` of each variant, [m]."""
    width = len(info)
    return Checked(
        person_reason=np.full(num, "", dtype=object),
        variant_reason=np.full(width, "", dtype=object),
        person_missing=np.full(num, np.nan),
        heterozygosity=np.full(num, np.nan),
        sex_check=np.full(num, "n/a", dtype=object),
        group=np.zeros(num, dtype=np.int64),
        variant_missing=np.full(width, np.nan),
        frequency=np.full(width, np.nan),
        hwe_p=np.full(width, np.nan),
        info=info.copy(),
    )
