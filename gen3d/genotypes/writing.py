"""The folder of genotypes, made from what was opened: quality control, then APOE and scores, then tables and arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.genotypes_folder import (
    COMPONENTS,
    EXCLUDED,
    FEATURES,
    KEPT,
    NO,
    PASS,
    PEOPLE,
    RELATIVES,
    SCORES,
    STEPS,
    VARIANTS,
    YES,
    write_arrays,
)
from gen3d.core import words as spell
from gen3d.core.memory import WITH_SCANS, announce_memory
from gen3d.core.progress import say
from gen3d.core.result_folder import write_picture, write_result
from gen3d.core.tables import Row
from gen3d.genotypes.apoe import SITES, Apoe, apoe_sites, from_calls, joined
from gen3d.genotypes.checked import Checked, Joined
from gen3d.genotypes.folder import PICTURE
from gen3d.genotypes.inputs import GeneticInputs, OpenedSource
from gen3d.genotypes.picture import draw_quality
from gen3d.genotypes.quality_control import check
from gen3d.genotypes.reference import OTHER_FREQUENCY, unlike_reference
from gen3d.genotypes.scores import FoundScore, filled, find_score
from gen3d.genotypes.sentences import summary_sentences
from gen3d.genotypes.settings import GenotypeSettings
from gen3d.maths.ancestry import AncestryComponents, fit_ancestry

BYTES = 12
"""Of a carried dosage: as read, in single precision with a copy, and as written."""
MOST_FITTED = 2000
"""People that components are fitted on; more of them would change the axes little and take the cube of their number."""
LEAST_ANCESTRY = 50
"""Variants from which components of ancestry are fitted."""


@dataclass(frozen=True)
class Measured:
    """Genotypes after quality control, of everybody of the cohort.

    Attributes:
        people: columns of people.tsv that genotypes give, one row per person of the cohort.
        variants: columns of variants.tsv.
        relatives, steps, scores: rows of these tables.
        dosages, pruned: of everybody, [people, columns], missing for who has no genotypes.
        sentences: what a reader should know.
        apoe: by the calls, None where a site is not there.
    """

    people: pd.DataFrame
    variants: pd.DataFrame
    relatives: pd.DataFrame
    steps: pd.DataFrame
    scores: pd.DataFrame
    dosages: NDArray[np.float32]
    pruned: NDArray[np.int8]
    sentences: tuple[str, ...]
    apoe: Apoe | None


def write_all(verb: GenotypeSettings, out: Path, opened: GeneticInputs) -> dict[str, Any]:
    """Compute and write everything; returns the summary of the record."""
    measured = _measure(verb, opened, opened.genotypes) if opened.genotypes is not None else _nothing(opened)
    apoe = _apoe(opened, measured)
    people = _people(opened, measured, apoe)
    used = (people["genotyped"] == YES) | opened.omics.present | (apoe.genotype != "")
    listed = (used | (people["reason"] != "")).to_numpy()
    passing = (people["verdict"] == PASS).to_numpy() & listed
    table = people[listed]
    PEOPLE.write(out, table)
    VARIANTS.write(out, measured.variants[list(VARIANTS.columns)])
    RELATIVES.write(out, measured.relatives)
    STEPS.write(out, measured.steps)
    SCORES.write(out, measured.scores)
    FEATURES.write(out, opened.omics.features)
    write_arrays(out, measured.dosages[passing], measured.pruned[passing], opened.omics.values[passing])
    genotyped = passing & (people["genotyped"] == YES).to_numpy()
    fitted = _fitted_on(opened, genotyped, people["related_to"].to_numpy())
    components = _components(verb, measured, fitted)
    placed = measured.pruned[genotyped]
    scores = components.project(placed) if components is not None else np.empty((len(placed), 0))
    training = fitted[genotyped]
    frame = pd.DataFrame({"subject": people.loc[genotyped, "subject"], "fitted": np.where(training, YES, NO)})
    for k in range(scores.shape[1]):
        frame[f"component_{k + 1}"] = scores[:, k]
    COMPONENTS.write(out, frame)
    sentences = summary_sentences(opened, measured.steps, measured.scores, apoe, table, measured.relatives)
    sentences += list(measured.sentences)
    write_picture(out, PICTURE, draw_quality(table, measured.variants, scores, training, verb.qc))
    write_result(out, {"summary": sentences, "variance": [] if components is None else components.shares.tolist()}, {})
    for sentence in sentences:
        say(sentence)
    return {
        "num_people": int(passing.sum()),
        "num_genotyped": int(genotyped.sum()),
        "num_variants": int((measured.variants["verdict"] == KEPT).sum()),
        "num_carried": int((measured.variants["carried"] == YES).sum()),
        "build": opened.genotypes.build if opened.genotypes is not None else "",
        "summary": sentences,
    }


def _measure(verb: GenotypeSettings, opened: GeneticInputs, genotypes: OpenedSource) -> Measured:
    cohort, source = opened.cohort, genotypes.source
    people = np.flatnonzero(genotypes.rows >= 0)
    rows = genotypes.rows[people]
    own_sex, its_sex = (
        cohort.people["sex"].to_numpy(dtype=object)[people],
        source.people["sex"].to_numpy(dtype=object)[rows],
    )
    together = Joined(
        source,
        rows,
        np.where(own_sex != "", own_sex, its_sex),
        cohort.controls(verb.controls)[people],
        genotypes.build,
        genotypes.named,
        verb.block,
        genotypes.reference is not None,
    )
    checked = check(together, verb.qc)
    if genotypes.reference is not None and verb.reference is not None:
        unlike = unlike_reference(verb.reference, checked.frequency, genotypes.reference.frequency)
        reasons = np.where(unlike, OTHER_FREQUENCY, "").astype(object)
        checked.step(
            "reference frequency",
            "alleles as frequent as in the reference",
            np.full(len(people), "", dtype=object),
            reasons,
        )
    variants = source.variants.assign(frequency=checked.frequency)
    found, score_rows = [], []
    for weights in genotypes.weights:
        score, its_rows = find_score(weights, variants, checked.kept, genotypes.build, verb.least_found)
        found.append(score)
        score_rows += its_rows
    sites, site_turned = apoe_sites(variants, checked.kept, genotypes.build)
    columns, dosages = _carried(verb, together, checked, genotypes.carried, [*(score.rows for score in found), sites])
    column_of = np.full(len(variants), -1, dtype=np.int64)
    column_of[columns] = np.arange(len(columns))
    sums = _sums(found, dosages, column_of, checked.people, cohort.training[people])
    table = _of_people(opened, genotypes, checked, people, sums)
    copies, where = np.full((len(cohort.people), 2), np.nan), column_of[sites]
    for site in np.flatnonzero(sites >= 0):
        calls = dosages[:, where[site]]
        copies[people, site] = 2 - calls if site_turned[site] else calls
    info = [checked.info[site] if site >= 0 else np.nan for site in sites]
    everybody = np.full((len(cohort.people), len(columns)), np.nan, dtype=np.float32)
    everybody[people] = dosages
    pruned = np.full((len(cohort.people), checked.calls.shape[1]), -1, dtype=np.int8)
    pruned[people] = checked.calls
    lost = [name for name, site in zip(SITES, sites.tolist(), strict=True) if site < 0]
    note = (f"APOE cannot be told from the genotypes: {spell.listed(lost)} not there or left out.",) if lost else ()
    return Measured(
        table,
        _of_variants(genotypes, checked, columns),
        _of_relatives(cohort.subjects, people, checked),
        pd.DataFrame(checked.steps, columns=list(STEPS.columns)),
        pd.DataFrame(score_rows, columns=list(SCORES.columns)),
        everybody,
        pruned,
        (*checked.sentences, *note),
        None if lost else from_calls(copies, info),
    )


def _carried(
    verb: GenotypeSettings,
    together: Joined,
    checked: Checked,
    listed: NDArray[np.bool_],
    needed: list[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns of the source that are carried on, and dosages of everybody joined, NaN for who was left out."""
    chosen = listed & checked.kept
    if checked.kept.sum() <= verb.carry_all_up_to:
        chosen = checked.kept
    chosen = chosen.copy()
    for rows in needed:
        chosen[rows[rows >= 0]] = True
    columns = np.flatnonzero(chosen)
    num = len(together.rows)
    announce_memory(
        f"the dosages of {spell.count(len(columns), 'variant')}",
        BYTES * num * len(columns),
        "carry fewer variants",
        WITH_SCANS,
    )
    dosages = np.full((num, len(columns)), np.nan, dtype=np.float32)
    place = 0
    for part, block in together.blocks(columns, checked.people, "carried variants"):
        dosages[checked.people, place : place + len(part)] = block
        place += len(part)
    return columns, dosages


def _sums(
    scores: list[FoundScore],
    dosages: NDArray[np.float32],
    column_of: NDArray[np.int64],
    people: NDArray[np.int64],
    training: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    """Polygenic scores by column, NaN for who was left out, [joined]; a missing call is twice the frequency of training people."""
    columns = {}
    for score in scores:
        used = np.unique(column_of[score.rows])
        place = np.full(dosages.shape[1], -1, dtype=np.int64)
        place[used] = np.arange(len(used))
        own = place[column_of]  # of rows that are not carried, the last column, which no score names
        values = score.sums(filled(dosages[people][:, used], training[people]), own)
        for name, value in values.items():
            columns[name] = np.full(len(dosages), np.nan)
            columns[name][people] = value
    return columns


def _of_people(
    opened: GeneticInputs,
    genotypes: OpenedSource,
    checked: Checked,
    people: NDArray[np.int64],
    sums: dict[str, NDArray[np.float64]],
) -> pd.DataFrame:
    """What genotypes say of everybody of the cohort."""
    table = pd.DataFrame(index=range(len(opened.cohort.people)))
    source = genotypes.source.people.iloc[genotypes.rows[people]]
    words = {
        "genotype_id": source["genotype_id"].to_numpy(dtype=object),
        "family": source["family"].to_numpy(dtype=object),
        "sex_check": checked.sex_check,
        "related_to": np.where(checked.group > 0, checked.group.astype(str), "").astype(object),
        "reason": checked.person_reason,
    }
    for name, own in words.items():
        column = np.full(len(table), "n/a" if name == "sex_check" else "", dtype=object)
        column[people] = own
        table[name] = column
    for name, values in {"missing": checked.person_missing, "heterozygosity": checked.heterozygosity, **sums}.items():
        numbers = np.full(len(table), np.nan)
        numbers[people] = values
        table[name] = numbers
    has = np.zeros(len(table), dtype=bool)
    has[people] = True
    table["genotyped"] = np.where(has, YES, NO)
    return table


def _of_variants(genotypes: OpenedSource, checked: Checked, columns: NDArray[np.int64]) -> pd.DataFrame:
    variants = genotypes.source.variants
    carried, pruned = np.zeros(len(variants), dtype=bool), np.zeros(len(variants), dtype=bool)
    carried[columns], pruned[checked.pruned] = True, True
    return variants.assign(
        build=genotypes.build,
        frequency=checked.frequency,
        missing=checked.variant_missing,
        hwe_p=checked.hwe_p,
        info=checked.info,
        gene=genotypes.gene,
        carried=np.where(carried, YES, NO),
        pruned=np.where(pruned, YES, NO),
        verdict=np.where(checked.kept, KEPT, EXCLUDED),
        reason=checked.variant_reason,
    )


def _of_relatives(subjects: list[str], people: NDArray[np.int64], checked: Checked) -> pd.DataFrame:
    rows: list[Row] = [
        {
            "subject_1": subjects[people[pair["first"]]],
            "subject_2": subjects[people[pair["second"]]],
            **{name: pair[name] for name in ("kinship", "relation", "group")},
        }
        for pair in checked.relatives
    ]
    return pd.DataFrame(rows, columns=list(RELATIVES.columns))


def _nothing(opened: GeneticInputs) -> Measured:
    """No genotypes: other measurements or a column of APOE alone."""
    num = len(opened.cohort.people)
    people = pd.DataFrame({"genotyped": [NO] * num, "missing": np.nan, "heterozygosity": np.nan, "sex_check": "n/a"})
    people = people.assign(genotype_id="", family="", related_to="", reason="")
    variants, relatives, steps, scores = (
        pd.DataFrame(columns=list(file.columns)) for file in (VARIANTS, RELATIVES, STEPS, SCORES)
    )
    dosages, pruned = np.empty((num, 0), np.float32), np.empty((num, 0), np.int8)
    return Measured(people, variants, relatives, steps, scores, dosages, pruned, (), None)


def _apoe(opened: GeneticInputs, measured: Measured) -> Apoe:
    """By the calls of people that pass, and the column of the table."""
    num = len(opened.cohort.people)
    unknown = Apoe(np.full(num, "", dtype=object), np.full(num, "no call of both sites", dtype=object))
    called = measured.apoe or unknown
    return joined(called, opened.told) if opened.told is not None else called


def _people(opened: GeneticInputs, measured: Measured, apoe: Apoe) -> pd.DataFrame:
    """people.tsv of everybody of the cohort."""
    table = measured.people.assign(
        subject=opened.cohort.subjects,
        apoe=apoe.genotype,
        apoe_e4=apoe.copies("e4"),
        apoe_e2=apoe.copies("e2"),
        apoe_note=apoe.note,
        verdict=np.where(measured.people["reason"] == "", PASS, EXCLUDED),
    )
    further = [name for name in table.columns if name not in PEOPLE.columns]
    return table[[*PEOPLE.columns, *further]]


def _fitted_on(opened: GeneticInputs, genotyped: NDArray[np.bool_], groups: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Training people of whom no two are related, at most `MOST_FITTED`, evenly spaced; [people of the cohort]."""
    own = pd.Series([group or f"-{row}" for row, group in enumerate(groups)])
    usable = np.flatnonzero(genotyped & opened.cohort.training)
    usable = usable[~own.iloc[usable].duplicated().to_numpy()]
    if len(usable) > MOST_FITTED:
        usable = usable[np.linspace(0, len(usable) - 1, MOST_FITTED).astype(int)]
    return np.isin(np.arange(len(groups)), usable)


def _components(verb: GenotypeSettings, measured: Measured, fitted: NDArray[np.bool_]) -> AncestryComponents | None:
    """Components of ancestry; None where there is too little to fit them on."""
    if measured.pruned.shape[1] < LEAST_ANCESTRY or fitted.sum() < 3 or not verb.qc.components:
        return None
    return fit_ancestry(measured.pruned[fitted], verb.qc.components)
