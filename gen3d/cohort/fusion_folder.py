"""What a network on genetics and images leaves besides its weights and scores: what its columns are, and what each side alone says.

`train` writes it into the run's folder. Of genotypes it holds the definitions of alleles and their hash, and no person's copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gen3d.cohort.scores_folder import AGAIN, RunScores
from gen3d.cohort.target import as_label
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.tables import TableFile

Subset = Literal["both", "genetics", "images"]
"""What of a person the network looks at; `both` is what the person has."""

ALONE: tuple[Subset, ...] = ("genetics", "images")

GENETICS = TableFile(
    "genetics.tsv", ("token", "column", "kind", "chromosome", "position", "build", "counted", "other", "source"), AGAIN
)
"""Columns of the genetic side in their order. kind: variant, score, apoe or omics; counted and other: the alleles of a variant;
source: hash of a score's tables of weights."""

IMAGES = TableFile("images.tsv", ("token", "column"), AGAIN)
"""Columns of the image side in their order: volumes of regions in ml, or latents, whose further column made_by names the
run behind them."""

MODALITIES = TableFile(
    "modalities.tsv",
    ("key", "subject", "session", "member", "part", "label", "subset", "has_genetics", "has_images"),
    AGAIN,
)
"""Raw scores of everybody in scores.tsv from one side alone: `genetics` or `images`. Who lacks that side is scored by the learned
token for it. A score by a few variants tells a person's genotype: the file is as private as the genotypes."""

ATTENTION = TableFile("attention.tsv", ("token", "region", "relevance", "p", "p_token", "p_region"), AGAIN)
"""The map of attention, where it may be believed: relevance in units of the logit, p of its cells against permuted labels, and p
that the token, and the region, tell nothing beyond all others of people whom the networks never saw."""

VERDICT = "attention.json"
PICTURE = "attention"


@dataclass(frozen=True)
class AttentionVerdict:
    """Whether attention may be shown: figures that are NaN where they could not be computed, and what is said of it."""

    shown: bool
    stability: float
    agreement: float
    p: float
    num_permuted: int
    sentence: str

    def record(self) -> dict[str, Any]:
        """As the file holds it."""
        figures = {name: getattr(self, name) for name in ("stability", "agreement", "p")}
        kept = {name: round(value, 6) if np.isfinite(value) else None for name, value in figures.items()}
        return {"shown": self.shown, **kept, "num_permuted": self.num_permuted, "sentence": self.sentence}


def write_verdict(folder: Path, verdict: AttentionVerdict) -> None:
    """Write attention.json."""
    write_json(folder / VERDICT, verdict.record())


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """attention.json of a run, None where there is none.

    Raises:
        UserError: damaged.
    """
    path = folder / VERDICT
    if not path.is_file():
        return None
    try:
        verdict = load_object(path)
        if not isinstance(verdict["shown"], bool) or not isinstance(verdict["sentence"], str):
            raise ValueError("no verdict")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}.") from None
    return verdict


def of_subset(run: RunScores, subset: Subset) -> RunScores:
    """The same run with the scores of one side alone, for a study that compares them.

    Raises:
        UserError: no run of a network on genetics and images.
    """
    if subset == "both":
        return run
    if not (run.folder / MODALITIES.file).is_file():
        raise UserError(
            f"{run.folder}: has no scores by {subset} alone (no {MODALITIES.file}); subset= is for runs of model.kind=fusion."
        )
    table = MODALITIES.read(run.folder, *run.columns)
    table = table[table["subset"] == subset].reset_index(drop=True)
    if run.target.task != "number":
        table["label"] = [as_label(value) for value in table["label"]]
    if len(table) != len(run.table) or not np.isfinite(run.scores(table)).all():
        raise UserError(f"{run.folder / MODALITIES.file}: damaged (not the people of the scores); {AGAIN}.")
    return replace(run, form=f"{run.form}, {subset} alone", table=table)
