"""Genotypes of a simulated cohort as files: PLINK 1 for `gen3d genotypes`, and what they do as truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gen3d.core.disk import write_whole
from gen3d.core.tables import Row
from gen3d.simulate.folder import ALLELES, FOLDER, GENOTYPES, PEOPLE_GENES, WEIGHTS
from gen3d.simulate.genes import MISSING, CohortGenes
from gen3d.simulate.haplotypes import Copies

MAGIC = bytes((0x6C, 0x1B, 0x01))
"""Of a .bed file with one variant after the other."""
CODES = {0: 0b11, 1: 0b10, 2: 0b00, MISSING: 0b01}
"""Two bits of a call by copies of allele 1."""
SEX = {"M": "1", "F": "2"}
LOG_VOLUME, LOG_ODDS = "log volume", "log odds"
RISK = "AD"


def write_genotypes(folder: Path, genes: CohortGenes) -> None:
    """Write genotypes.bed, .bim and .fam of everybody who is genotyped, and the truth of everybody.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    present = np.flatnonzero(genes.genotyped)
    people = [f"0\t{genes.subjects[row]}\t0\t0\t{SEX.get(genes.sexes[row], '0')}\t-9" for row in present]
    columns = genes.variants[["chromosome", "variant", "position", "allele_1", "allele_2"]].itertuples(index=False)
    variants = [f"{chromosome}\t{name}\t0\t{place}\t{one}\t{other}" for chromosome, name, place, one, other in columns]
    for ending, lines in ((".fam", people), (".bim", variants)):
        write_whole(folder / f"{GENOTYPES}{ending}", ("\n".join(lines) + "\n").encode())
    write_whole(folder / f"{GENOTYPES}.bed", bed_bytes(genes.called[present]))
    ALLELES.write(folder / FOLDER, _alleles(genes), digits=9)
    WEIGHTS.write(folder / FOLDER, _weights(genes), digits=9)
    PEOPLE_GENES.write(folder / FOLDER, _people(genes))


def bed_bytes(copies: Copies) -> bytes:
    """A .bed file of copies of allele 1, [people, variants], -1 where missing.

    Four people to a byte, the first in the lowest bits; a variant starts with a byte of its own (PLINK 1.9, file formats).
    """
    num = len(copies)
    padded = np.zeros((-(-num // 4) * 4, copies.shape[1]), dtype=np.uint8)
    for value, code in CODES.items():
        padded[:num][copies == value] = code
    quarters = padded.reshape(-1, 4, copies.shape[1])
    packed = quarters[:, 0] | quarters[:, 1] << 2 | quarters[:, 2] << 4 | quarters[:, 3] << 6
    return MAGIC + packed.T.astype(np.uint8).tobytes()


def _alleles(genes: CohortGenes) -> pd.DataFrame:
    rows: list[Row] = [
        {"allele": allele, "acts_on": region, "per_copy": value, "unit": LOG_VOLUME}
        for allele, regions in genes.settings.volumes.items()
        for region, value in regions.items()
    ]
    rows += [
        {"allele": allele, "acts_on": RISK, "per_copy": value, "unit": LOG_ODDS}
        for allele, value in genes.settings.risks.items()
    ]
    return pd.DataFrame(rows, columns=list(ALLELES.columns))


def _weights(genes: CohortGenes) -> pd.DataFrame:
    table = genes.weights.merge(genes.variants, on="variant", validate="one_to_one")
    names = {
        "variant": "rsID",
        "chromosome": "chr_name",
        "position": "chr_position",
        "allele_1": "effect_allele",
        "allele_2": "other_allele",
        "weight": "effect_weight",
    }
    return table.rename(columns=names)[list(WEIGHTS.columns)]


def _people(genes: CohortGenes) -> pd.DataFrame:
    siblings = [genes.subjects[row] if row >= 0 else "n/a" for row in genes.sibling_of.tolist()]
    return pd.DataFrame(
        {
            "subject": genes.subjects,
            "ancestry": genes.ancestry,
            "apoe_e4": genes.e4.astype(int),
            "apoe_e2": genes.e2.astype(int),
            "polygenic": genes.polygenic,
            "liability": genes.liability,
            "sibling": siblings,
            "genotyped": np.where(genes.genotyped, "yes", "no"),
        }
    )
