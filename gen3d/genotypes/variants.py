"""The table of variants: each with chromosome, position, the allele that is counted and the other one.

Formats count different alleles: PLINK 1 counts the fifth column of its .bim, VCF and PLINK 2 the alternative allele, and
packages that read one file disagree. So every reader's dosages are turned to one allele, chosen by the alleles' letters alone: the
shorter, then the first in the alphabet. The same data then have the same dosages whatever file they came in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError

COLUMNS = ("variant", "chromosome", "position", "counted", "other", "info", "reason", "turned")
AUTOSOMES = tuple(str(number) for number in range(1, 23))
X = "X"
_CODES = {"23": X, "24": "Y", "25": "XY", "26": "MT", "M": "MT", "PAR1": "XY", "PAR2": "XY"}
_ALLELE = re.compile("[ACGT]+")
COMPLEMENT = str.maketrans("ACGT", "TGCA")
TWO_ALLELES = "not two alleles of known bases"
TWICE = "listed before"


def chromosome_name(text: str) -> str:
    """1 to 22, X, Y, XY (the parts that X and Y share) or MT: of chr1, 01, 23, chrX, M."""
    name = str(text).strip()
    name = name[3:] if name.lower().startswith("chr") else name
    name = name.lstrip("0").upper() or "0"
    return _CODES.get(name, name)


def complement(allele: str) -> str:
    """The same allele read from the other strand (of one base; a longer one is reversed as well)."""
    return allele.translate(COMPLEMENT)[::-1]


def is_palindromic(one: str, other: str) -> bool:
    """Whether the alleles are each other's complement (A/T, C/G), so that their strand cannot be told from them."""
    return complement(one) == other


def variant_table(
    path: Path,
    names: Sequence[str],
    chromosomes: Sequence[str],
    positions: Sequence[int],
    counted: Sequence[str],
    other: Sequence[str],
    info: NDArray[np.floating] | None = None,
    reasons: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What a reader found, each variant turned to the allele that is counted here.

    Args:
        path: of the source, for sentences.
        names: ids, "" or . where there is none.
        chromosomes, positions, counted, other: as the source has them; counted is the allele of the reader's dosages.
        info: quality of the imputation, NaN for what was measured.
        reasons: why the source itself says that a variant is not to be used, "" for none.

    Returns:
        Columns `COLUMNS`; `turned`: whether 2 minus the reader's dosage counts `counted`.

    Raises:
        UserError: no variants, or a position that is no whole number above 0.
    """
    if not len(names):
        raise UserError(f"{path}: holds no variants.")
    table = pd.DataFrame({"variant": [str(name).strip() for name in names]}, dtype=object)
    known = {text: chromosome_name(text) for text in set(map(str, chromosomes))}
    table["chromosome"] = [known[str(text)] for text in chromosomes]
    table["position"] = pd.to_numeric(pd.Series(list(positions)), errors="coerce")
    bad = table["position"].isna() | (table["position"] < 0) | (table["position"] % 1 != 0)
    if bad.any():
        raise UserError(f"{path}: the position of {table.loc[bad, 'variant'].iloc[0]} is no whole number.")
    table["position"] = table["position"].astype(np.int64)
    first, second = ([str(allele).upper() for allele in column] for column in (counted, other))
    turned = [(len(one), one) > (len(two), two) for one, two in zip(first, second, strict=True)]
    table["counted"] = [two if turn else one for one, two, turn in zip(first, second, turned, strict=True)]
    table["other"] = [one if turn else two for one, two, turn in zip(first, second, turned, strict=True)]
    table["info"] = np.full(len(table), np.nan) if info is None else np.asarray(info, dtype=np.float64)
    table["reason"] = _reasons(table, reasons)
    table["turned"] = turned
    unnamed = table["variant"].isin(["", ".", "0"])
    made = table["chromosome"] + ":" + table["position"].astype(str) + ":" + table["counted"] + ":" + table["other"]
    table["variant"] = table["variant"].where(~unnamed, made)
    return table


def _reasons(table: pd.DataFrame, given: Sequence[str] | None) -> pd.Series:
    """Why a variant is left out before anything is counted: what the source says, its alleles, or that it is there twice."""
    reason = pd.Series(list(given) if given is not None else [""] * len(table), dtype=object)
    alleles = {text: bool(_ALLELE.fullmatch(text)) for text in {*table["counted"], *table["other"]}}
    sound = table["counted"].map(alleles) & table["other"].map(alleles) & (table["counted"] != table["other"])
    reason = reason.where((reason != "") | sound.to_numpy(), TWO_ALLELES)
    usable = table[reason.to_numpy() == ""]
    again = usable[usable.duplicated(["chromosome", "position", "counted", "other"])].index
    reason.loc[again] = TWICE
    return reason
