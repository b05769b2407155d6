"""What a trained classifier leaves for the people it never learned from: who is in which part, and the network's scores.

Written by `train` into the run's folder, read by `classify`, `explain` and the report without loading a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Target, as_label
from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.tables import TableFile

FILE = "classifier.json"
"""Target, network, and of every member its variant and fold."""

SCORES = "scores.tsv"
"""Per scan and member: key, subject, session, member, part, label and the network's raw scores."""

MAIN, TWIN, PERMUTED = VARIANTS = ("main", "twin", "permuted")
"""The training itself; the same with random weights where it starts from learned ones; the same with labels permuted
between people."""

VALIDATION, TEST = PARTS = ("validation", "test")
"""People of a member's training share that it is only watched by, and people that it never saw."""

SUBJECTS = "subjects.json"
"""Hashes of the people that each member was trained on or watched by, as of every run."""

AGAIN = "copy the run folder again"
TABLE = TableFile(SCORES, ("key", "subject", "session", "member", "part", "label"), AGAIN)
DIGITS = 9
"""Significant digits of the scores: those of float32."""


@dataclass(frozen=True)
class ScoredMember:
    """One network of a run: member number, variant, the fold it never saw, the number of its permutation of labels or None.

    `looks` are the steps at which the validation people were scored while it trained, with their loss; `step` is the one whose
    weights were kept, None where nobody validated.
    """

    index: int
    variant: str
    fold: int
    permutation: int | None = None
    looks: tuple[tuple[int, float], ...] = ()
    step: int | None = None

    def record(self) -> dict[str, Any]:
        """As the file holds it."""
        looks = [{"step": step, "loss": loss} for step, loss in self.looks]
        return {
            "variant": self.variant,
            "fold": self.fold,
            "permutation": self.permutation,
            "step": self.step,
            "looks": looks,
        }


@dataclass(frozen=True)
class RunScores:
    """Scores of a classifier run for people that its members did not learn from.

    `table` has a row per scan, member and part: the columns of `TABLE`, and score_0, ... (see `scores`). `label` is the class
    or value that the member was trained for: of permuted members a permuted one. A scan has one row per variant, fold member
    and part: `test` in the fold that its person belongs to, `validation` where the person only watched.
    """

    artefact: Artefact
    target: Target
    network: str
    form: str
    channels: tuple[str, ...]
    validation: float
    folds: int
    members: tuple[ScoredMember, ...]
    table: pd.DataFrame
    seen: SeenBy

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.artefact.folder

    @property
    def num_scores(self) -> int:
        """Scores per scan: a logit per class, a logit per limit between ordered grades, or one number."""
        return {"categories": len(self.target.classes), "ordered": len(self.target.classes) - 1, "number": 1}[
            self.target.task
        ]

    @property
    def columns(self) -> list[str]:
        """Names of the score columns."""
        return score_columns(self.num_scores)

    def of(self, variant: str = MAIN) -> list[ScoredMember]:
        """The members of a variant, in the order of their folds."""
        return sorted((member for member in self.members if member.variant == variant), key=lambda m: (m.fold, m.index))

    def rows(self, member: int, part: str = TEST) -> pd.DataFrame:
        """The scans of a member's part, with their scores."""
        table = self.table
        return table[(table["member"] == member) & (table["part"] == part)].reset_index(drop=True)

    def scores(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Raw scores of rows of the table, [n, num_scores]."""
        return rows[self.columns].to_numpy(dtype=np.float64)

    @cached_property
    def fold_of(self) -> dict[str, int]:
        """The fold of every person who is tested, by subject; empty for a run with one member."""
        fold_of = {member.index: member.fold for member in self.of()}
        tested = self.table[(self.table["part"] == TEST) & self.table["member"].isin(list(fold_of))]
        return {str(s): fold_of[int(m)] for s, m in zip(tested["subject"], tested["member"], strict=True)}


def score_columns(num_scores: int) -> list[str]:
    """score_0, score_1, ..."""
    return [f"score_{index}" for index in range(num_scores)]


def write_scores(folder: Path, frame: pd.DataFrame) -> None:
    """Write the table of scores, with the columns of `TABLE` and `score_columns`."""
    TABLE.write(folder, frame, DIGITS)


def write_description(
    folder: Path,
    target: Target,
    network: str,
    form: str,
    channels: Sequence[str],
    validation: float,
    folds: int,
    members: Sequence[ScoredMember],
) -> None:
    """Write classifier.json."""
    described = {"name": target.name, "task": target.task, "classes": list(target.classes)}
    record = {"target": described, "network": network, "form": form, "channels": list(channels)}
    listed = [member.record() for member in members]
    write_json(folder / FILE, {**record, "validation": validation, "folds": folds, "members": listed})


def is_classifier(folder: Path) -> bool:
    """Whether a folder is a run of a classifier."""
    return (folder / FILE).is_file()


def read_scores(folder: Path) -> RunScores:
    """Open the scores of a finished classifier run.

    Raises:
        UserError: not a finished run, a run of something else than a classifier, or a damaged file.
    """
    artefact = read(folder, ("train",))
    if not is_classifier(folder):
        raise UserError(
            f"{folder}: is not a run of a classifier (it has no {FILE}); train one with model.kind=classifier."
        )
    try:
        record = load_object(folder / FILE)
        named = record["target"]
        target = Target(str(named["name"]), named["task"], tuple(map(str, named["classes"])))
        members = tuple(_member(index, entry) for index, entry in enumerate(record["members"]))
        if target.task not in ("categories", "ordered", "number") or any(m.variant not in VARIANTS for m in members):
            raise ValueError("an unknown task or variant")
        fields = str(record["network"]), str(record["form"]), tuple(map(str, record["channels"]))
        numbers = float(record["validation"]), int(record["folds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / FILE}: missing or damaged ({error!r}); {AGAIN}.") from None
    seen = SeenBy.read(folder / SUBJECTS, AGAIN)
    run = RunScores(artefact, target, *fields, *numbers, members, pd.DataFrame(), seen)
    table = TABLE.read(folder, *run.columns)
    if target.task != "number":
        table["label"] = [as_label(value) for value in table["label"]]
    if not table["part"].isin(PARTS).all() or not table["member"].isin(range(len(members))).all():
        raise UserError(f"{folder / SCORES}: damaged (a row of no member or part); {AGAIN}.")
    if len(seen.members) != len(members) or not np.isfinite(run.scores(table)).all():
        raise UserError(f"{folder / SCORES}: damaged (not the members of {SUBJECTS}, or no number); {AGAIN}.")
    return RunScores(artefact, target, *fields, *numbers, members, table, seen)


def _member(index: int, entry: Any) -> ScoredMember:
    permutation, step = entry["permutation"], entry.get("step")
    looks = tuple((int(look["step"]), float(look["loss"])) for look in entry.get("looks", []))
    return ScoredMember(
        index,
        str(entry["variant"]),
        int(entry["fold"]),
        None if permutation is None else int(permutation),
        looks,
        None if step is None else int(step),
    )
