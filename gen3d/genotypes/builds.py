"""The build of a file: stated by its chromosome lengths, or recognised from positions of a few common variants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.genotypes.variants import chromosome_name, complement

GRCH37, GRCH38 = BUILDS = ("GRCh37", "GRCh38")
NAMES = {"GRCH37": GRCH37, "HG19": GRCH37, "B37": GRCH37, "37": GRCH37, "GRCH38": GRCH38, "HG38": GRCH38, "38": GRCH38}
KNOWN = Path(__file__).with_name("known_positions.tsv")
LENGTHS = {
    GRCH37: {"1": 249250621, "2": 243199373, "19": 59128983, "X": 155270560},
    GRCH38: {"1": 248956422, "2": 242193529, "19": 58617616, "X": 156040895},
}
"""Bases of some chromosomes (Genome Reference Consortium), which VCF headers state."""
SHARED_X = {GRCH37: ((60001, 2699520), (154931044, 155260560)), GRCH38: ((10001, 2781479), (155701383, 156030895))}
"""Parts of X that Y has too: there men have two copies."""


def build_name(text: str) -> str:
    """GRCh37 or GRCh38, of hg19, b37, GRCh38.p13 and the like; "" for anything else."""
    return NAMES.get(text.strip().upper().split(".")[0], "")


def build_of_contigs(header: str) -> str:
    """The build whose chromosomes have the lengths that a VCF header states, "" where it states none of them."""
    lengths = {
        chromosome_name(name): int(length)
        for name, length in re.findall(r"##contig=<ID=([^,>]+),.*?length=(\d+)", header)
    }
    agreeing = [
        build for build, known in LENGTHS.items() if any(lengths.get(name) == length for name, length in known.items())
    ]
    return agreeing[0] if len(agreeing) == 1 else ""


def read_known(path: Path | None) -> pd.DataFrame:
    """Variants whose positions are known: variant, chromosome, GRCh37, GRCh38, allele_1, allele_2.

    Raises:
        UserError: the user's own table lacks a column or has a position that is no number.
    """
    place = path or KNOWN
    table = read_user_table(place)
    absent = [name for name in ("variant", "chromosome", *BUILDS, "allele_1", "allele_2") if name not in table.columns]
    if absent:
        raise UserError(f"{place}: lacks the column {absent[0]}.")
    numbers = {build: pd.to_numeric(table[build], errors="coerce") for build in BUILDS}
    if any(column.isna().any() for column in numbers.values()):
        raise UserError(f"{place}: a position is no number.")
    return table.assign(**numbers)


@dataclass(frozen=True)
class Evidence:
    """How many known variants a table has at their place in each build."""

    found: dict[str, int]

    @property
    def build(self) -> str:
        """The build that the known variants are in, "" where there are none or they disagree."""
        best = [build for build, num in self.found.items() if num]
        return best[0] if len(best) == 1 else ""


def positions_agree(variants: pd.DataFrame, known: pd.DataFrame) -> Evidence:
    """Look known variants up by chromosome, position and alleles (of either strand).

    Args:
        variants: with chromosome, position and two columns of alleles: counted and other.
        known: see `read_known`.
    """
    chromosomes = set(known["chromosome"])
    at = variants[variants["chromosome"].isin(chromosomes)]
    near = at[at["position"].isin({int(place) for build in BUILDS for place in known[build]})]
    columns = (near[name].tolist() for name in ("chromosome", "position", "counted", "other"))
    present = {(name, int(place), frozenset(pair)) for name, place, *pair in zip(*columns, strict=True)}
    found = dict.fromkeys(BUILDS, 0)
    for chromosome, one, other, *places in known[["chromosome", "allele_1", "allele_2", *BUILDS]].to_numpy().tolist():
        pairs = (frozenset((one, other)), frozenset((complement(one), complement(other))))
        for build, place in zip(BUILDS, places, strict=True):
            found[build] += any((chromosome, int(place), pair) in present for pair in pairs)
    return Evidence(found)


def build_of(
    path: Path, variants: pd.DataFrame, given: str, stated: Sequence[str], known: pd.DataFrame, setting: str = "build"
) -> str:
    """The build of a file.

    Args:
        path: of the file, for sentences.
        variants: see `positions_agree`.
        given: by the user, "" for not.
        stated: what the file says of itself.
        known: see `read_known`.
        setting: with which the user gives it.

    Raises:
        UserError: it cannot be told, or what is given is not what the positions are in.
    """
    evidence = positions_agree(variants, known)
    said = next((build for build in stated if build), "")
    told = evidence.build or said
    if given and told and given != told:
        how = (
            f"{evidence.found[told]} known variants are at their place in it"
            if evidence.build
            else "its header says so"
        )
        raise UserError(
            f"{path}: {setting}={given}, but its positions are those of {told} ({how}); correct {setting}=."
        )
    if not given and evidence.build and said and evidence.build != said:
        raise UserError(
            f"{path}: says that its build is {said}, but {evidence.found[evidence.build]} known variants are at their place in "
            f"{evidence.build}; find out which is right and give {setting}=."
        )
    if not (given or told):
        why = (
            "known variants are found at their places in both"
            if any(evidence.found.values())
            else "no known variant is in it"
        )
        raise UserError(f"{path}: its build is not known ({why}); give {setting}=GRCh37 or {setting}=GRCh38.")
    return given or told
