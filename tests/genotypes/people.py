"""Constructed genotypes with known truth, written as PLINK 1 and 2, VCF and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.genotypes.builds import BUILDS, KNOWN
from gen3d.genotypes.genotypes import Genotypes

PAIRS = (("A", "G"), ("C", "T"), ("A", "C"), ("G", "T"))


@dataclass(frozen=True)
class People:
    """People and their genotypes.

    Attributes:
        table: subject, sex, diagnosis, role.
        variants: variant, chromosome, position, counted, other; any order of the two alleles.
        copies: of `counted`, [people, variants], NaN where missing.
    """

    table: pd.DataFrame
    variants: pd.DataFrame
    copies: NDArray[np.float64]

    def row(self, name: str) -> int:
        """The column of a variant."""
        return int(np.flatnonzero(self.variants["variant"] == name)[0])

    def with_copies(self, copies: NDArray[np.float64]) -> People:
        """The same people and variants with other calls."""
        return replace(self, copies=copies)

    def write_table(self, folder: Path) -> Path:
        """The cohort table."""
        path = folder / "cohort.tsv"
        self.table.to_csv(path, sep="\t", index=False)
        return path

    def write_bed(self, folder: Path, name: str = "cohort") -> Path:
        """PLINK 1, in which `counted` is allele 1."""
        bed_reader = pytest.importorskip("bed_reader")
        path = folder / f"{name}.bed"
        properties = {
            "iid": self.table["subject"].tolist(),
            "fid": ["0"] * len(self.table),
            "sex": [{"M": 1, "F": 2}.get(sex, 0) for sex in self.table["sex"]],
            "sid": self.variants["variant"].tolist(),
            "chromosome": self.variants["chromosome"].tolist(),
            "bp_position": self.variants["position"].tolist(),
            "allele_1": self.variants["counted"].tolist(),
            "allele_2": self.variants["other"].tolist(),
        }
        bed_reader.to_bed(path, self.copies, properties=properties)
        return path

    def write_vcf(self, folder: Path, field: str = "GT", name: str = "cohort.vcf", lines: Sequence[str] = ()) -> Path:
        """A VCF in which `counted` is the alternative allele; `lines` go into its header."""
        path = folder / name
        contigs = [f"##contig=<ID={name}>" for name in dict.fromkeys(self.variants["chromosome"])]
        form = '##FORMAT=<ID=GT,Number=1,Type=String,Description="call">'
        if field == "DS":
            form = '##FORMAT=<ID=DS,Number=A,Type=Float,Description="dosage">'
        text = [
            "##fileformat=VCFv4.2",
            *(lines or contigs),
            form,
            '##INFO=<ID=R2,Number=1,Type=Float,Description="quality">',
        ]
        text.append(
            "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *self.table["subject"]])
        )
        calls = {0.0: "0/0", 1.0: "0/1", 2.0: "1/1"}
        for row, values in zip(self.variants.itertuples(), self.copies.T, strict=True):
            if field == "GT":
                cells = [calls.get(value, "./.") for value in values.tolist()]
            else:
                cells = ["." if np.isnan(value) else f"{value:.6g}" for value in values.tolist()]
            info = f"R2={row.info:g}" if "info" in self.variants.columns and np.isfinite(row.info) else "."
            head = [row.chromosome, str(row.position), row.variant, row.other, row.counted, ".", "PASS", info, field]
            text.append("\t".join([*head, *cells]))
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return path

    def write_pgen(self, folder: Path, name: str = "cohort") -> Path:
        """PLINK 2, in which `counted` is the alternative allele."""
        pgenlib = pytest.importorskip("pgenlib")
        path = folder / f"{name}.pgen"
        writer = pgenlib.PgenWriter(bytes(path), len(self.table), variant_ct=len(self.variants), nonref_flags=False)
        for values in self.copies.T:
            writer.append_biallelic(np.where(np.isnan(values), -9, values).astype(np.int8))
        writer.close()
        pvar = ["#CHROM\tPOS\tID\tREF\tALT"]
        pvar += [
            f"{row.chromosome}\t{row.position}\t{row.variant}\t{row.other}\t{row.counted}"
            for row in self.variants.itertuples()
        ]
        path.with_suffix(".pvar").write_text("\n".join(pvar) + "\n", encoding="utf-8")
        sexes = {"M": "1", "F": "2"}
        psam = ["#IID\tSEX", *(f"{row.subject}\t{sexes.get(row.sex, 'NA')}" for row in self.table.itertuples())]
        path.with_suffix(".psam").write_text("\n".join(psam) + "\n", encoding="utf-8")
        return path

    def write_dosages(self, folder: Path, name: str = "dosages.tsv") -> tuple[Path, Path]:
        """A table of dosages by variant id, and the table that defines its columns."""
        frame = pd.DataFrame(self.copies, columns=self.variants["variant"].tolist())
        frame.insert(0, "subject", self.table["subject"].tolist())
        path, definitions = folder / name, folder / "definitions.tsv"
        if name.endswith(".parquet"):
            frame.to_parquet(path)
        else:
            frame.to_csv(path, sep="," if name.endswith(".csv") else "\t", index=False, na_rep="n/a")
        self.variants.to_csv(definitions, sep="\t", index=False)
        return path, definitions


def known_variants(build: str) -> pd.DataFrame:
    """Variants whose positions say which build it is, APOE among them."""
    known = pd.read_csv(KNOWN, sep="\t", dtype={"chromosome": str})
    return pd.DataFrame(
        {
            "variant": known["variant"],
            "chromosome": known["chromosome"],
            "position": known[build],
            "counted": known["allele_1"],
            "other": known["allele_2"],
        }
    )


def make_people(
    num: int = 200, per_chromosome: int = 60, num_x: int = 80, build: str = BUILDS[1], seed: int = 0, prefix: str = "p"
) -> People:
    """Unrelated people with all variants in equilibrium and none linked; half are women, two thirds controls."""
    generator = np.random.default_rng(seed)
    rows = []
    for chromosome in (*(str(number) for number in range(1, 23)), "X"):
        many = num_x if chromosome == "X" else per_chromosome
        places = np.sort(generator.choice(np.arange(3_000_000, 40_000_000), many, replace=False))
        for place in places.tolist():
            one, other = PAIRS[int(generator.integers(len(PAIRS)))]
            if generator.random() < 0.5:
                one, other = other, one
            rows.append((f"v{chromosome}_{place}", chromosome, place, one, other))
    variants = pd.DataFrame(rows, columns=["variant", "chromosome", "position", "counted", "other"])
    order = {str(number): number for number in range(1, 23)} | {"X": 23}
    variants = pd.concat([variants, known_variants(build)], ignore_index=True)
    variants = variants.sort_values(
        ["chromosome", "position"], key=lambda column: column.map(order) if column.name == "chromosome" else column
    )
    variants = variants.reset_index(drop=True)
    sex = np.where(np.arange(num) % 2 == 0, "F", "M")
    frequency = generator.uniform(0.1, 0.9, len(variants))
    copies = generator.binomial(2, frequency, (num, len(variants))).astype(float)
    men_x = np.ix_(sex == "M", (variants["chromosome"] == "X").to_numpy())
    copies[men_x] = 2 * generator.binomial(
        1, frequency[(variants["chromosome"] == "X").to_numpy()], (int((sex == "M").sum()), num_x)
    )
    calls = _apoe(generator, num)
    for place, name in enumerate(("rs429358", "rs7412")):
        copies[:, int(np.flatnonzero(variants["variant"] == name)[0])] = calls[:, place]
    table = pd.DataFrame(
        {
            "subject": [f"{prefix}{number:04d}" for number in range(num)],
            "sex": sex,
            "diagnosis": np.where(np.arange(num) % 3 == 0, "AD", "CN"),
            "role": np.where(np.arange(num) % 3 == 0, "evaluation", np.where(np.arange(num) % 3 == 1, "train", "test")),
        }
    )
    return People(table, variants, copies)


HAPLOTYPES = {"e2": (0, 0), "e3": (0, 1), "e4": (1, 1)}
"""Copies of C at rs429358 and rs7412."""


def _apoe(generator: np.random.Generator, num: int) -> NDArray[np.int64]:
    chosen = generator.choice(list(HAPLOTYPES), (num, 2), p=(0.08, 0.77, 0.15))
    return np.array([[sum(HAPLOTYPES[name][site] for name in pair) for site in (0, 1)] for pair in chosen])


def child_of(
    copies: NDArray[np.float64], mother: int, father: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Copies of a child, [variants]: one allele of each parent."""
    return generator.binomial(1, copies[mother] / 2) + generator.binomial(1, copies[father] / 2).astype(float)


def write_genotypes(folder: Path) -> Path:
    """A finished folder of genotypes with a score, a person and a variant left out, and relatives."""
    people = make_people(num=40, per_chromosome=20, num_x=40)
    copies = people.copies.copy()
    copies[0, ::10], copies[:8, 5], copies[3] = np.nan, np.nan, copies[5]
    source, definitions = people.with_copies(copies).write_dosages(folder)
    weights = people.variants.iloc[::4].rename(columns={"counted": "effect_allele", "other": "other_allele"})
    weights = weights.rename(columns={"chromosome": "chr_name", "position": "chr_position"}).assign(effect_weight=0.1)
    weights.to_csv(folder / "weights.tsv", sep="\t", index=False)
    settings = {"source": source, "variants": definitions, "table": people.write_table(folder)}
    return Genotypes(**settings, scores={"ad": folder / "weights.tsv"}, least_found=0.4, out=folder / "genotypes").run()
