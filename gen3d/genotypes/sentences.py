"""What the quality control of genotypes found, as sentences. None of them says anything of one person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from gen3d.cohort.genotypes_folder import PASS
from gen3d.core import words as spell
from gen3d.genotypes.apoe import Apoe

if TYPE_CHECKING:
    from gen3d.genotypes.inputs import GeneticInputs

GENOTYPES = ("e2e2", "e2e3", "e2e4", "e3e3", "e3e4", "e4e4")
FEWEST = 5
"""People of a genotype below which only that they are few is said."""


def summary_sentences(
    opened: GeneticInputs,
    steps: pd.DataFrame,
    scores: pd.DataFrame,
    apoe: Apoe,
    people: pd.DataFrame,
    relatives: pd.DataFrame,
) -> list[str]:
    """The verdict first."""
    passed = int((people["verdict"] == PASS).sum())
    sentences = [f"{passed} of {spell.people(len(people))} passed{_and_variants(steps)}."]
    if len(opened.cohort.people) > len(people):
        num = len(opened.cohort.people) - len(people)
        sentences.append(f"{spell.people(num)} of the table have neither genotypes nor other measurements.")
    if len(relatives):
        twice = int((relatives["relation"] == "duplicate or identical twin").sum())
        same = f", {twice} of them with the same genotypes (the same person twice, or identical twins)" if twice else ""
        groups = relatives["group"].nunique()
        sentences.append(
            f"{spell.count(len(relatives), 'pair')} of people are related{same}: {spell.count(groups, 'group')}, each of which "
            "counts as one person in every split."
        )
    known = apoe.genotype[apoe.genotype != ""]
    if len(known):
        counts = Counter(known.tolist())
        listed = [
            f"{name} {counts[name] if counts[name] >= FEWEST else f'fewer than {FEWEST}'}"
            for name in GENOTYPES
            if counts[name]
        ]
        sentences.append(f"The APOE genotype of {spell.people(len(known))} is known: {spell.listed(listed)}.")
        notes = Counter(note for note in apoe.note.tolist() if note)
        if notes and len(known) < len(apoe.genotype):
            why = [f"{num} {note}" for note, num in notes.most_common(3)]
            sentences.append(f"That of {spell.people(len(apoe.genotype) - len(known))} is not: {spell.listed(why)}.")
    for row in scores[scores["region"] == "all"].to_dict("records") if len(scores) else []:
        sentences.append(
            f"Score {row['score']}: {row['used']} of {row['listed']} variants used ({spell.percent(row['share'])}); "
            f"{row['flipped']} on the other strand, {row['palindromic']} A/T or C/G and {row['no_match']} with other alleles left "
            f"out, {row['absent']} not there."
        )
    return sentences


def _and_variants(steps: pd.DataFrame) -> str:
    if not len(steps):
        return ""
    last = steps.iloc[-1]
    left = int(last["variants_before"]) - int(last["variants_out"])
    return f" quality control, and {left} of {spell.count(int(steps['variants_before'].iloc[0]), 'variant')}"
