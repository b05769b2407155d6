"""The cohort table: one typed row per scan, and the split by subject written into it.

Columns: subject, session, site, age_years, sex, diagnosis, cdr, mmse, role, key; every further column is kept.
Roles: `train`, `calibration`, `test` (controls only, a subject has one role), `evaluation` (everyone else),
`excluded` (a scan whose verdict was exclude).
A row with a non-empty column `base` is a twin: that scan of the same person with something planted in it. Its role is
always `evaluation`, whatever the person's role is, so that no model is trained on it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from gen3d.core.artefact import write_atomic
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.core.exact_columns import read_exact
from gen3d.core.names import require_file_names
from gen3d.core.safe_cells import disarmed

AGES_DIFFER_YEARS = 1.5
"""Two ages of one scan differ by more than rounding, and a visit within the year, can make."""
FILE = "manifest.tsv"
HEALTHY, NULL = "none", "null"
"""Planted conditions of scans in which nothing is planted: people as they are, and twins made like the others."""
SCAN_HASH, SOURCE_SUBJECT = "scan_hash", "source_subject"
"""The scan by its content (see `scan_hash`), and the id as the source writes it; tables of earlier versions may lack them."""
TEXT = ("subject", "session", "site", "sex", "diagnosis", "role", "key", "base", SCAN_HASH, SOURCE_SUBJECT)
NUMBERS = ("age_years", "cdr", "mmse")
REQUIRED = ("subject", "session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse", "role", "key")
ROLES = ("train", "calibration", "test", "evaluation", "excluded")
CONTROL_NAMES = ("control", "controls", "ctl", "ctrl", "cn", "hc", "healthy", "normal", "nc", "euploid", "nondemented")


class Split(Config):
    """How controls are shared out, by subject, before anything is fitted."""

    train: float = Field(0.6, ge=0, le=1, description="share of control subjects that models are trained on")
    calibration: float = Field(
        0.25, ge=0, le=1, description="share of control subjects that calibrate z scores and thresholds"
    )
    test: float = Field(0.15, ge=0, le=1, description="share of control subjects held out, to count false positives")
    seed: int = Field(0, description="seed of the split")

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = self.train + self.calibration + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + calibration + test must be 1, they are {total:g}.")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share by role."""
        return {"train": self.train, "calibration": self.calibration, "test": self.test}


def subject_hash(subject: str) -> str:
    """The identity of a person as models record it: not the id itself, but equal for equal ids."""
    return hashlib.sha256(f"gen3d subject {subject}".encode()).hexdigest()[:16]


def scan_key(subject: str, session: str) -> str:
    """The name of a scan in every folder: `sub-X_ses-Y`."""
    return f"sub-{subject}_ses-{session}"


def is_control(frame: pd.DataFrame, controls: Sequence[str] | None = None) -> pd.Series:
    """Which rows are healthy controls.

    Args:
        frame: cohort table.
        controls: diagnoses that count as control (any case); None for the usual names; ("all",) for all people.

    Raises:
        UserError: names were given but none occurs in the table.
    """
    if controls is not None and [name.lower() for name in controls] == ["all"]:
        return pd.Series(True, index=frame.index)
    names = {name.lower() for name in (controls or CONTROL_NAMES)}
    has_name = frame["diagnosis"].fillna("").astype(str).str.lower().isin(names)
    if controls is not None and not has_name.any():
        counts = ", ".join(
            f"{name or '(none)'} {n}" for name, n in frame["diagnosis"].value_counts(dropna=False).items()
        )
        raise UserError(f"controls={list(controls)} matches no row; the diagnoses in the table are: {counts}.")
    return has_name


def assign_roles(
    frame: pd.DataFrame, split: Split, controls: Sequence[str] | pd.Series | None = None, excluded: Sequence[str] = ()
) -> pd.DataFrame:
    """Write a role into every row, by subject.

    Control subjects (control at every session) are shared out over train, calibration and test so that each role has
    about the same sites, ages and sexes: within site and sex, subjects are sorted by age and dealt out in small
    blocks, in seeded random order within a block. Everyone else is `evaluation`; scans in `excluded` are `excluded`.

    Args:
        frame: cohort table, one row per scan.
        split: shares and seed.
        controls: see `is_control`; or whether every row is one, boolean.
        excluded: keys of scans that are not to be used.

    Returns:
        A copy with the column `role`; all scans of a subject that are used have the same role.
    """
    result = frame.copy()
    control_scan = controls if isinstance(controls, pd.Series) else is_control(frame, controls)
    usable = ~frame["key"].isin(list(excluded))
    by_subject = control_scan[usable].groupby(frame.loc[usable, "subject"]).all()
    people = frame.loc[usable].drop_duplicates("subject").set_index("subject")
    dealt = _deal(people.loc[by_subject.index[by_subject.to_numpy()]], split)
    result["role"] = [dealt.get(subject, "evaluation") for subject in result["subject"]]
    result.loc[~usable, "role"] = "excluded"
    return result


def _deal(people: pd.DataFrame, split: Split) -> dict[str, str]:
    """Role by control subject: largest-deficit dealing along site, sex, age order keeps every stratum balanced."""
    generator = np.random.default_rng(split.seed)
    order = people.assign(_tie=generator.random(len(people))).sort_values(["site", "sex", "age_years", "_tie"])
    shares = {role: share for role, share in split.shares.items() if share > 0}
    dealt = dict.fromkeys(shares, 0.0)
    roles: dict[str, str] = {}
    for position, subject in enumerate(order.index, start=1):
        jitter = {role: generator.uniform(-0.35, 0.35) for role in shares}
        deficit = {role: share * position - dealt[role] + jitter[role] for role, share in shares.items()}
        chosen = max(deficit, key=lambda role: deficit[role])
        dealt[chosen] += 1
        roles[str(subject)] = chosen
    return roles


def assign_folds(frame: pd.DataFrame, num_folds: int, seed: int) -> pd.Series:
    """Fold 0..num_folds-1 of every row, by subject, balanced over diagnosis (where there are several), site, sex and age.

    Raises:
        UserError: fewer subjects than folds.
    """
    people = frame.drop_duplicates("subject").set_index("subject")
    if len(people) < num_folds:
        raise UserError(f"{num_folds} folds need at least {num_folds} subjects, there are {len(people)}.")
    generator = np.random.default_rng(seed)
    by = ["diagnosis", "site", "sex", "age_years", "_tie"]
    order = people.assign(_tie=generator.random(len(people))).sort_values(by[1:] if _healthy(people) else by)
    fold: dict[str, int] = {}
    for start in range(0, len(order), num_folds):
        block = order.index[start : start + num_folds]
        fold |= {str(s): int(f) for s, f in zip(block, generator.permutation(num_folds), strict=False)}
    return frame["subject"].map(fold).astype(int)


def _healthy(people: pd.DataFrame) -> bool:
    """Whether all are controls, whatever their diagnosis is called."""
    return bool((people["role"] != "evaluation").all())


def is_synthetic(frame: pd.DataFrame) -> pd.Series:
    """Which rows are scans that a generator drew (column generator)."""
    if "generator" not in frame.columns:
        return pd.Series(False, index=frame.index)
    named = frame["generator"].astype(object)
    return named.where(named.notna(), "").astype(str).str.strip() != ""


def is_twin(frame: pd.DataFrame) -> pd.Series:
    """Which rows are planted copies of another scan of the same person (column `base`)."""
    if "base" not in frame.columns:
        return pd.Series(False, index=frame.index)
    named = frame["base"].astype(object)
    return named.where(named.notna(), "").astype(str).str.strip() != ""


def check_split(frame: pd.DataFrame) -> None:
    """Refuse a table in which one person has two roles; twins do not count, but must be `evaluation`.

    Raises:
        UserError: naming the subjects.
    """
    twins = is_twin(frame)
    astray = frame.loc[twins & ~frame["role"].isin(["evaluation", "excluded"]), "key"]
    if len(astray):
        raise UserError(
            f"{', '.join(astray.iloc[:3])}: a planted copy of a scan (column base) has the role "
            f"{frame.loc[astray.index[0], 'role']} in {FILE}; its role is always evaluation, so that no model is trained on it."
        )
    used = frame[(frame["role"] != "excluded") & ~twins]
    roles = used.groupby("subject")["role"].nunique()
    torn = [str(subject) for subject in roles.index[roles > 1]]
    if torn:
        raise UserError(
            f"{', '.join(torn[:5])}{' and others' if len(torn) > 5 else ''}: sessions of one person have different "
            f"roles in {FILE}; a split is by subject, give all of a person's rows the same role."
        )
    unknown = sorted({str(role) for role in frame["role"]} - set(ROLES))
    if unknown:
        raise UserError(f"{FILE}: unknown role {', '.join(unknown)}; the roles are {', '.join(ROLES)}.")


def write_manifest(folder: Path, frame: pd.DataFrame) -> None:
    """Write the cohort table into a folder, after checking that the split is by subject."""
    check_split(frame)
    first = [*REQUIRED, *[column for column in frame.columns if column not in REQUIRED]]
    buffer = io.StringIO()
    disarmed(frame[first]).to_csv(buffer, sep="\t", index=False, na_rep="n/a")
    write_atomic(folder / FILE, buffer.getvalue())


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read a folder's cohort table.

    Raises:
        UserError: no table, a damaged one, missing columns, or a person with two roles.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{path}: no cohort table there; an output folder of `gen3d prepare` is needed.")
    try:
        frame = read_exact(path, TEXT, ["n/a"])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); run `gen3d prepare` again.") from None
    missing = [column for column in REQUIRED if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: lacks the column {', '.join(missing)}; run `gen3d prepare` again.")
    typed(frame, path, "run `gen3d prepare` again")
    check_split(frame)
    return frame


def typed(frame: pd.DataFrame, path: Path, again: str) -> None:
    """Give the columns of a cohort table that was read their types, in place: numbers, NaN where unknown, and text, "" there.

    Raises:
        UserError: a number that is infinite, or a key, subject or session that cannot be part of a file's name.
    """
    for column in (name for name in NUMBERS if name in frame.columns):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
        if np.isinf(frame[column]).any():
            raise UserError(f"{path}: {column} is infinite for a scan, which nobody's is; {again}.")
    for column in (name for name in TEXT if name in frame.columns):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    require_file_names(frame, path, again)
