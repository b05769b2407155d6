"""Folders of genotypes written by hand, as `gen3d genotypes` leaves them: what genes say of people is known to the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.genotypes_folder import FEATURES, PEOPLE, VARIANTS, write_arrays
from gen3d.core.artefact import digest
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin


class GenotypesByHand(Verb):
    """Stands for the verb that reads genotypes: only its record matters here."""


def write_genes(
    folder: Path,
    subjects: Sequence[str],
    e4: NDArray[np.floating] | None = None,
    score: NDArray[np.floating] | None = None,
    pruned: NDArray[np.int8] | None = None,
    related_to: Sequence[str] | None = None,
    passed: NDArray[np.bool_] | None = None,
) -> Path:
    """Write a finished folder.

    Args:
        folder: where.
        subjects: ids, [n].
        e4: copies of APOE e4, NaN where not known; None for nobody's.
        score: a polygenic score, `prs_ad`; None for no score.
        pruned: copies of variants for ancestry, [n, m]; none by default.
        related_to: number of the family of each person, "" for none.
        passed: who passed quality control; everybody by default.
    """
    num = len(subjects)
    passed = np.ones(num, dtype=bool) if passed is None else passed
    copies = np.full(num, np.nan) if e4 is None else np.asarray(e4, dtype=float)
    people = pd.DataFrame({"subject": list(subjects), "genotype_id": list(subjects), "family": "", "genotyped": "yes"})
    people = people.assign(missing=0.0, heterozygosity=0.3, sex_check="ok", apoe="", apoe_note="", reason="")
    people["related_to"] = list(related_to) if related_to is not None else ""
    people["apoe_e4"], people["apoe_e2"] = copies, np.where(np.isfinite(copies), 0.0, np.nan)
    people["verdict"] = np.where(passed, "pass", "excluded")
    if score is not None:
        people["prs_ad"] = people["prs_ad_without_apoe"] = np.asarray(score, dtype=float)
    calls = np.zeros((num, 0), dtype=np.int8) if pruned is None else pruned
    rows = [
        {
            "variant": f"v{place}",
            "chromosome": "1",
            "position": place + 1,
            "build": "GRCh38",
            "counted": "A",
            "other": "G",
        }
        for place in range(calls.shape[1])
    ]
    variants = pd.DataFrame(rows, columns=list(VARIANTS.columns)).assign(carried="no", pruned="yes", verdict="kept")
    variants = variants.assign(frequency=0.3, missing=0.0, hwe_p=0.5, info=np.nan, gene="", reason="")
    identity = {"people": people.to_csv(), "pruned": digest(calls.tolist())}
    work = begin(GenotypesByHand(out=folder), "genotypes", {}, identity)
    further = [name for name in people.columns if name not in PEOPLE.columns]
    PEOPLE.write(folder, people[[*PEOPLE.columns, *further]], digits=9)
    VARIANTS.write(folder, variants[list(VARIANTS.columns)])
    FEATURES.write(folder, pd.DataFrame(columns=list(FEATURES.columns)))
    kept = int(passed.sum())
    write_arrays(folder, np.zeros((kept, 0), np.float32), calls[passed], np.zeros((kept, 0), np.float32))
    work.finish({"num_people": kept})
    return folder
