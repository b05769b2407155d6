"""Who is explained, by which members, and for what: only people whom a member of the run never saw."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import is_control, is_synthetic, is_twin, subject_hash
from gen3d.cohort.scores_folder import MAIN, PERMUTED, RunScores
from gen3d.cohort.seen import identities
from gen3d.core.errors import UserError

EVERYBODY = "everybody"
"""The group of a target that is a number."""


@dataclass(frozen=True)
class ScanToExplain:
    """One scan: its person, label and group, the members that never saw the person, and what is done with it.

    `permuted` are members with permuted labels that never saw the person either; a `retest` is a second scan of a person.
    """

    key: str
    subject: str
    session: str
    label: str
    group: str
    age_years: float
    members: tuple[int, ...]
    permuted: tuple[int, ...]
    judged: bool
    shown: bool
    retest: bool


def labelled(prepared: Prepared, scores: RunScores) -> pd.DataFrame:
    """Rows of scans with a label of the run's target, with the columns `label`, `group` and `code`.

    Raises:
        UserError: no such column, or nobody of the target's classes.
    """
    target, table = scores.target, prepared.manifest
    if target.name not in table.columns:
        raise UserError(
            f"{prepared.folders[0]}: has no column {target.name}, which {scores.folder} predicts; add it to the table."
        )
    used = table[(table["role"] != "excluded") & ~is_twin(table) & ~is_synthetic(table)].reset_index(drop=True)
    codes = target.codes(used[target.name])
    known = np.isfinite(codes)
    rows, codes = used[known].reset_index(drop=True), codes[known]
    if not len(rows):
        raise UserError(
            f"{prepared.folders[0]}: nobody has a {target.name} that {scores.folder} knows; nobody can be explained."
        )
    by_class = target.task != "number"
    label = [target.classes[int(code)] if by_class else f"{code:g}" for code in codes]
    return rows.assign(label=label, group=label if by_class else EVERYBODY, code=codes)


def reference_rows(rows: pd.DataFrame, scores: RunScores) -> pd.DataFrame:
    """One scan of each person whose mean stands for a healthy brain: the target's first class; controls where it is a number."""
    if scores.target.task == "number":
        controls = is_control(rows)
        chosen = rows[controls] if controls.any() else rows
    else:
        chosen = rows[rows["label"] == scores.target.classes[0]]
    return chosen.drop_duplicates("subject").reset_index(drop=True)


def to_explain(
    rows: pd.DataFrame, scores: RunScores, subjects: Sequence[str], people: int, shown: int, judged: int
) -> list[ScanToExplain]:
    """The scans to explain, person by person, in the order of groups.

    Args:
        rows: of `labelled`.
        scores: of the run.
        subjects: people who are shown whatever the hash of their id; they come in addition.
        people, shown, judged: per group, see the settings; people are taken in the order of the hashes of their ids, but first
            those whom a member with permuted labels never saw, and of these first those with two scans: of others the judges
            of both could not be asked.

    Raises:
        UserError: a subject that there is not, or that every member saw; or nobody whom a member never saw.
    """
    main = {member.index for member in scores.of(MAIN)}
    permuted = {member.index for member in scores.of(PERMUTED)}
    persons = identities(rows)
    blind = [set(scores.seen.blind_to(person)) for person in persons]
    fits = np.array([bool(members & main) for members in blind])
    _require_known(rows, fits, subjects, scores)
    if not fits.any():
        num = rows["subject"].nunique()
        raise UserError(
            f"{scores.folder}: every member saw all {num} labelled people of these folders, so there is nobody to explain; train "
            "with cross_fit=5, or give people who were not trained on."
        )
    places = {str(name): group.index.tolist() for name, group in rows[fits].groupby("subject", sort=False)}
    tasks: list[ScanToExplain] = []
    for group in _groups(rows, scores):
        own = [name for name in places if rows.at[places[name][0], "group"] == group]
        order = sorted(own, key=lambda name: _turn(name, places[name], blind, permuted))
        wanted = [name for name in subjects if name in own]
        chosen = list(dict.fromkeys([*wanted, *(order[:people] if people else order)]))
        pictured = wanted if subjects else chosen[:shown]
        asked = chosen[:judged]
        for name in chosen:
            for session, place in enumerate(places[name][:2]):
                row, members = rows.loc[place], blind[place]
                tasks.append(
                    ScanToExplain(
                        key=str(row["key"]),
                        subject=name,
                        session=str(row["session"]),
                        label=str(row["label"]),
                        group=group,
                        age_years=float(row["age_years"]),
                        members=tuple(sorted(members & main)),
                        permuted=tuple(sorted(members & permuted)),
                        judged=name in asked and session == 0,
                        shown=name in pictured and session == 0,
                        retest=session > 0,
                    )
                )
    return tasks


def _turn(name: str, places: list[int], blind: list[set[int]], permuted: set[int]) -> tuple[bool, bool, str]:
    return not blind[places[0]] & permuted, len(places) < 2, subject_hash(name)


def _groups(rows: pd.DataFrame, scores: RunScores) -> list[str]:
    present = set(rows["group"])
    return [name for name in (*scores.target.classes, EVERYBODY) if name in present]


def _require_known(rows: pd.DataFrame, fits: np.ndarray, subjects: Sequence[str], scores: RunScores) -> None:
    known = {str(name) for name in rows["subject"]}
    for name in subjects:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"the nearest id is {near[0]}" if near else "its labelled people have other ids"
            raise UserError(f"subjects: {name} is nobody with a {scores.target.name} in these folders; {hint}.")
        if not fits[(rows["subject"].astype(str) == name).to_numpy()].any():
            raise UserError(
                f"subjects: every member of {scores.folder} saw {name}, so none can be explained for this person; leave the id "
                "out, or train with cross_fit=5."
            )
