"""The APOE genotype of every person, from rs429358 and rs7412 or from a column of the cohort table.

On the forward strand e2 is T T, e3 is T C and e4 is C C (rs429358, rs7412). Two calls say which pair of them a person has, but for
one: heterozygous at both is e2e4 or the very rare e1e3, and is taken for e2e4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.genotypes.alleles import match
from gen3d.genotypes.builds import GRCH37, GRCH38

E4_SITE, E2_SITE = SITES = ("rs429358", "rs7412")
POSITIONS = {GRCH37: (45411941, 45412079), GRCH38: (44908684, 44908822)}
OF_CALLS = {
    (0, 0): "e2e2",
    (0, 1): "e2e3",
    (0, 2): "e3e3",
    (1, 1): "e2e4",
    (1, 2): "e3e4",
    (2, 2): "e4e4",
}
"""By copies of C at rs429358 and at rs7412."""
NEAR_WHOLE = 0.1
"""How far a dosage may be from the whole number that it is taken for: a call with a probability of about 0.9 or more."""
LEAST_INFO = 0.8
_PAIR = re.compile(r"(?:apoe)?[\seɛεap]*([234])[\s/\-_,e|ɛε]*([234])(?:\.0)?", re.IGNORECASE)


@dataclass(frozen=True)
class Apoe:
    """Of each person: e2e2 to e4e4 or "", and why it is not known, "" where it is. [n]"""

    genotype: NDArray[np.object_]
    note: NDArray[np.object_]

    def copies(self, allele: str) -> NDArray[np.float64]:
        """Copies of e2 or e4, NaN where not known."""
        return np.array([name.count(allele) if name else np.nan for name in self.genotype], dtype=np.float64)


def apoe_sites(
    variants: pd.DataFrame, usable: NDArray[np.bool_], build: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of rs429358 and rs7412 among the variants, -1 where absent, and whether their dosage counts T instead of C."""
    listed = pd.DataFrame(
        {"variant": SITES, "chromosome": "19", "position": POSITIONS[build], "allele": "C", "other": "T"}
    )
    found = match(listed, variants, usable)
    return found.rows, found.turned


def from_calls(copies: NDArray[np.floating], info: Sequence[float]) -> Apoe:
    """APOE from copies of C.

    Args:
        copies: at rs429358 and rs7412, [n, 2], NaN where missing.
        info: quality of the imputation of both, NaN for measured.
    """
    poor = [site for site, quality in zip(SITES, info, strict=True) if quality < LEAST_INFO]
    genotype, note = np.full(len(copies), "", dtype=object), np.full(len(copies), "", dtype=object)
    if poor:
        note[:] = f"{spell.listed(poor)} imputed with a quality below {LEAST_INFO}"
        return Apoe(genotype, note)
    whole = np.rint(copies)
    sure = np.abs(copies - whole) <= NEAR_WHOLE  # false for NaN
    for person, (pair, known) in enumerate(zip(whole.tolist(), sure.tolist(), strict=True)):
        if not all(known):
            lacks = [site for site, there in zip(SITES, known, strict=True) if not there]
            note[person] = f"no sure call at {spell.listed(lacks)}"
        else:
            genotype[person] = OF_CALLS.get((int(pair[0]), int(pair[1])), "")
            note[person] = "" if genotype[person] else "no pair of e2, e3 and e4 has these calls"
    return Apoe(genotype, note)


def from_column(values: Sequence[str], column: str) -> Apoe:
    """APOE as a column of the cohort table has it: E3E4, e3/e4, 3/4, 34.

    Raises:
        UserError: no cell is one.
    """
    genotype, note = np.full(len(values), "", dtype=object), np.full(len(values), "", dtype=object)
    for person, text in enumerate(values):
        pair = _PAIR.fullmatch(str(text).strip())
        if pair is not None:
            genotype[person] = "".join(f"e{allele}" for allele in sorted(pair.groups()))
        else:
            note[person] = (
                f"{column} is empty" if str(text).strip() in ("", "n/a") else f"{column} is no pair of e2, e3 and e4"
            )
    if not any(genotype):
        raise UserError(
            f"apoe_column={column}: no cell is a pair of e2, e3 and e4 (as E3E4 or 3/4); name another column."
        )
    return Apoe(genotype, note)


def joined(called: Apoe, told: Apoe) -> Apoe:
    """The calls, else the column; where both are known and differ, neither."""
    genotype, note = called.genotype.copy(), called.note.copy()
    for person, (one, other) in enumerate(zip(called.genotype, told.genotype, strict=True)):
        if one and other and one != other:
            genotype[person], note[person] = "", "genotypes and the column differ"
        elif not one and other:
            genotype[person], note[person] = other, ""
    return Apoe(genotype, note)
