"""The genetic side of people as columns: variants by their alleles, polygenic scores, APOE and other measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.fusion_folder import GENETICS
from gen3d.cohort.genotypes_folder import OpenGenotypes
from gen3d.core.artefact import digest
from gen3d.core.errors import UserError
from gen3d.core.words import count
from gen3d.models.supervised.fusion import FusionConfig
from gen3d.train.modalities import Columns, Side

APOE = "APOE"
APOE_VARIANTS = ("rs429358", "rs7412")
APOE_PLACES = (44908684, 44908822, 45411941, 45412079)
"""Their positions on chromosome 19, in GRCh38 and GRCh37."""


def genetic_side(genotypes: OpenGenotypes, config: FusionConfig) -> Side:
    """The columns that a configuration takes from a folder of genotypes.

    Nothing is chosen by labels: variants come from the folder or are named.

    Raises:
        UserError: a variant that is not carried, variants without a gene, nothing at all, or more tokens than allowed.
    """
    rows: list[tuple[Any, ...]] = []
    has_apoe = config.apoe and bool(genotypes.people["apoe_e4"].notna().any())
    if has_apoe:
        rows += [(APOE, name, "apoe", "", "", "", "", "", "") for name in ("apoe_e4", "apoe_e2")]
    if config.scores:
        rows += [
            (name, name, "score", "", "", "", "", "", _weights_key(genotypes))
            for name in genotypes.score_columns
            if name.endswith("_without_apoe") == (has_apoe and _has_pair(name, genotypes))
        ]
    rows += _variant_rows(genotypes, config, has_apoe)
    if config.omics:
        features = genotypes.features.astype(str)
        rows += [
            (row.table, f"{row.table}:{row.feature}", "omics", "", "", "", "", "", "") for row in features.itertuples()
        ]
    if not rows:
        raise UserError(
            f"{genotypes.folder}: nothing of genetics is left (no carried variant, score, APOE or measurement that the settings "
            "take); carry variants or compute scores with `gen3d genotypes`, or switch model.scores or model.apoe on."
        )
    side = Side(pd.DataFrame(rows, columns=list(GENETICS.columns)).astype(str))
    num = len(side.tokens)
    if num > config.most_tokens:
        raise UserError(
            f"{genotypes.folder}: {num} tokens of genetics are more than model.most_tokens={config.most_tokens}; name the variants "
            "(model.variants=[...], chosen without these people), use model.by=gene, or model.variants=[] with scores."
        )
    return side


def _has_pair(name: str, genotypes: OpenGenotypes) -> bool:
    """Whether a score is there with and without the region of APOE."""
    plain = name.removesuffix("_without_apoe")
    return {plain, f"{plain}_without_apoe"} <= set(genotypes.score_columns)


def _weights_key(genotypes: OpenGenotypes) -> str:
    return digest([item["key"] for item in genotypes.artefact.inputs.get("scores", [])])


def _variant_rows(genotypes: OpenGenotypes, config: FusionConfig, has_apoe: bool) -> list[tuple[Any, ...]]:
    table = genotypes.variants
    if config.variants is not None:
        absent = [name for name in config.variants if name not in set(table["variant"])]
        if absent:
            raise UserError(
                f"{genotypes.folder}: the variant {absent[0]} of model.variants is not carried; name it in carry= of "
                "`gen3d genotypes`, or leave it out."
            )
        table = table[table["variant"].isin(config.variants)]
    elif has_apoe:
        placed = (table["chromosome"] == "19") & table["position"].isin(APOE_PLACES)
        table = table[~placed & ~table["variant"].isin(APOE_VARIANTS)]
    if config.by == "gene":
        without = table.loc[table["gene"] == "", "variant"].astype(str).tolist()
        if without:
            raise UserError(
                f"{genotypes.folder}: model.by=gene, and {count(len(without), 'variant')} ({', '.join(without[:3])}) have no gene; "
                "give carry= of `gen3d genotypes` a column gene, name the variants of genes in model.variants, or use "
                "model.by=variant."
            )
        table = table.sort_values("gene", kind="stable")
    tokens = table["gene"] if config.by == "gene" else table["variant"]
    what = ["chromosome", "position", "build", "counted", "other"]
    cells = zip(tokens, table["variant"], table[what].astype(str).to_numpy().tolist(), strict=True)
    return [(token, variant, "variant", *defined, "") for token, variant, defined in cells]


def require_same_alleles(kept: pd.DataFrame, genotypes: OpenGenotypes) -> None:
    """Refuse genotypes in which a column of a trained network means something else.

    Args:
        kept: genetics.tsv of the run.
        genotypes: the folder that is to be read with it.

    Raises:
        UserError: a variant, score or measurement that is not there, that counts other alleles, or other weights of a score.
    """
    variants = kept[kept["kind"] == "variant"].astype(str)
    here = genotypes.variants.astype({"position": str}).set_index("variant")
    for row in variants.itertuples():
        if row.column not in here.index:
            raise UserError(
                f"{genotypes.folder}: lacks the variant {row.column} that the network was trained with; carry it with carry= of "
                "`gen3d genotypes`."
            )
        theirs = here.loc[str(row.column)]
        what = ("chromosome", "position", "build", "counted", "other")
        if any(str(theirs[name]) != str(getattr(row, name)) for name in what):
            now, then = (
                f"{chromosome}:{position} {build}, counting {counted} against {other}"
                for chromosome, position, build, counted, other in (
                    [str(theirs[name]) for name in what],
                    [str(getattr(row, name)) for name in what],
                )
            )
            raise UserError(
                f"{genotypes.folder}: {row.column} is {now}, but the network was trained with {then}; read the genotypes with the "
                "same build and alleles."
            )
    scores = kept[kept["kind"] == "score"].astype(str)
    absent = [name for name in scores["column"] if name not in genotypes.score_columns]
    if absent or (len(scores) and (scores["source"] != _weights_key(genotypes)).any()):
        what_else = (
            f"lacks the score {absent[0]} that the network was trained with"
            if absent
            else "has scores of other tables of weights than those that the network was trained with"
        )
        raise UserError(f"{genotypes.folder}: {what_else}; compute them with the same scores=.")
    features = {f"{row.table}:{row.feature}" for row in genotypes.features.astype(str).itertuples()}
    lost = [name for name in kept.loc[kept["kind"] == "omics", "column"].astype(str) if name not in features]
    if lost:
        raise UserError(f"{genotypes.folder}: lacks the measurement {lost[0]} that the network was trained with.")


def genetic_values(side: Side, genotypes: OpenGenotypes, subjects: Sequence[str]) -> Columns:
    """Columns of people [n, C], NaN for whom there is nothing; people are found by their subject.

    Raises:
        UserError: see `require_same_alleles`.
    """
    require_same_alleles(side.definitions, genotypes)
    rows = genotypes.of(subjects)
    found, called = rows >= 0, genotypes.genotyped(subjects)
    values = np.full((len(rows), side.num_columns), np.nan, dtype=np.float32)
    place_of = {str(name): place for place, name in enumerate(genotypes.variants["variant"])}
    features = genotypes.features.astype(str)
    feature_of = {f"{row.table}:{row.feature}": place for place, row in enumerate(features.itertuples())}
    for place, row in enumerate(side.definitions.itertuples()):
        name = str(row.column)
        if row.kind == "variant":
            values[called, place] = genotypes.dosages[rows[called], place_of[name]]
        elif row.kind == "omics":
            values[found, place] = genotypes.omics[rows[found], feature_of[name]]
        else:
            values[found, place] = genotypes.people[name].to_numpy(dtype=np.float32)[rows[found]]
    return values
