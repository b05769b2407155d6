"""What `gen3d genotypes` reads, opened and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.genotypes.alleles import mentioned
from gen3d.genotypes.apoe import POSITIONS, SITES, Apoe, from_column
from gen3d.genotypes.builds import build_of, read_known
from gen3d.genotypes.joining import Cohort, read_cohort, read_ids, rows_of_people
from gen3d.genotypes.omics import Omics, named, read_omics
from gen3d.genotypes.reference import ComparedVariants, compare_reference
from gen3d.genotypes.scores import Weights, read_weights
from gen3d.genotypes.settings import GenotypeSettings
from gen3d.genotypes.sources import Source, open_source
from gen3d.genotypes.variants import chromosome_name


@dataclass(frozen=True)
class OpenedSource:
    """Genotypes of the cohort's people.

    Attributes:
        source: of the file.
        rows: of the source for each person of the cohort, -1 for who is not in it; [people].
        build: of the positions.
        weights: tables of weights.
        gene: the set that carry= puts a variant in, "" for none; [m].
        carried: variants that carry= names, [m].
        named: variants that carry=, a score or APOE names, [m].
        reference: what the reference says, None without one.
    """

    source: Source
    rows: NDArray[np.int64]
    build: str
    weights: tuple[Weights, ...]
    gene: NDArray[np.object_]
    carried: NDArray[np.bool_]
    named: NDArray[np.bool_]
    reference: ComparedVariants | None


@dataclass(frozen=True)
class GeneticInputs:
    """Everything that is read."""

    cohort: Cohort
    genotypes: OpenedSource | None
    omics: Omics
    told: Apoe | None
    """APOE of a column of the cohort table."""

    def sentences(self) -> list[str]:
        """Who and what was found."""
        num = len(self.cohort.people)
        lines = []
        if self.genotypes is not None:
            found, source = int((self.genotypes.rows >= 0).sum()), self.genotypes.source
            lines.append(
                f"{found} of the {spell.people(num)} of {self.cohort.path} have genotypes among the "
                f"{spell.people(len(source.people))} of {source.path.name}: {spell.count(len(source.variants), 'variant')} in "
                f"{self.genotypes.build}"
            )
            if self.genotypes.reference is not None:
                lines += self.genotypes.reference.sentences
        if len(self.omics.features):
            lines.append(
                f"{int(self.omics.present.sum())} of {spell.people(num)} have other measurements: "
                f"{spell.count(len(self.omics.features), 'feature')}"
            )
        if self.omics.words:
            lines.append(f"left out, as words are no measurements: {spell.listed(list(self.omics.words)[:5])}")
        if self.told is not None:
            lines.append(
                f"{int((self.told.genotype != '').sum())} of {spell.people(num)} have an APOE genotype in the table"
            )
        return lines


def open_all(verb: GenotypeSettings) -> GeneticInputs:
    """Open and check everything.

    Raises:
        UserError: what cannot be used.
    """
    cohort = read_cohort(verb.table)
    told = None
    if verb.apoe_column:
        if verb.apoe_column not in cohort.people.columns:
            columns = ", ".join(map(str, cohort.people.columns[:20]))
            raise UserError(f"{verb.table}: has no column {verb.apoe_column} (apoe_column=); it has {columns}.")
        told = from_column(cohort.people[verb.apoe_column].astype(str).tolist(), verb.apoe_column)
    omics = read_omics(named(verb.tables or {}), cohort)
    return GeneticInputs(cohort, _open_source(verb, cohort), omics, told)


def _open_source(verb: GenotypeSettings, cohort: Cohort) -> OpenedSource | None:
    if verb.source is None:
        return None
    source = open_source(verb.source, verb.variants, verb.field)
    subject_of = read_ids(verb.ids) if verb.ids is not None else None
    rows = rows_of_people(cohort, verb.source, source.people["genotype_id"].tolist(), subject_of)
    known = read_known(verb.known)
    variants = source.variants  # read before the build is asked for, which a header of variants may state
    build = build_of(verb.source, variants, verb.build or "", (source.stated_build,), known)
    reference = compare_reference(verb.reference, variants, build, known) if verb.reference is not None else None
    if reference is not None:
        source.replace_variants(reference.variants)
        variants = source.variants
    weights = tuple(
        read_weights(name, path, verb.effect_allele, known, verb.scores_build or "")
        for name, path in named(verb.scores or {}).items()
    )
    mentions = np.zeros(len(variants), dtype=bool)
    for table in weights:
        mentions |= mentioned(table.listed, variants, by_position=table.build in ("", build)) >= 0
    apoe = pd.DataFrame({"variant": SITES, "chromosome": "19", "position": POSITIONS[build]})
    mentions |= mentioned(apoe, variants) >= 0
    gene, carried = _carried(verb.carry, variants)
    return OpenedSource(source, rows, build, weights, gene, carried, mentions | carried, reference)


def _carried(path: Path | None, variants: pd.DataFrame) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """The gene of each variant and whether it is carried on, by the user's list."""
    gene = np.full(len(variants), "", dtype=object)
    if path is None:
        return gene, np.zeros(len(variants), dtype=bool)
    table = read_user_table(path)
    if "variant" not in table.columns and not {"chromosome", "position"} <= set(table.columns):
        raise UserError(f"{path}: needs the column variant, or chromosome and position, of the variants to carry on.")
    blank = pd.Series([""] * len(table), dtype=object)
    listed = pd.DataFrame({"variant": table.get("variant", blank), "chromosome": table.get("chromosome", blank)})
    listed["chromosome"] = listed["chromosome"].map(chromosome_name)
    positions = table.get("position", pd.Series([0] * len(table)))
    listed["position"] = pd.to_numeric(positions, errors="coerce").fillna(0).astype(np.int64)
    entries = mentioned(listed, variants)
    carried = entries >= 0
    if not carried.any():
        raise UserError(
            f"{path}: none of its {spell.count(len(table), 'variant')} is among the genotypes; look at ids and positions."
        )
    if "gene" in table.columns:
        gene[carried] = table["gene"].to_numpy(dtype=object)[entries[carried]]
    return gene, carried
