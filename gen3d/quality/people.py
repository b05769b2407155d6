"""The real people that synthetic scans are compared with: never seen by the generator, and like the requested ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.folder import GENERATOR_SUBJECTS, Prepared, read_generator_subjects
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import Guard, LeaveOutPolicy, SeenBy
from gen3d.cohort.session_order import first_scans
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_json
from gen3d.models.run_folder import read_seen
from gen3d.synthesis.folder import PROVENANCE

REQUESTED = "requested_"
HELD_OUT = ("calibration", "test", "evaluation")
MIN_PEOPLE = 4
"""Fewest real people, and fewest synthetic scans, of a comparison: distances compare two halves of two people each."""

ENOUGH = 10
"""Real people that must remain for the reference to be narrowed to what was requested, other than the diagnosis."""

NEARLY_ALL = 0.9
"""Share of matching people above which the reference is not narrowed: it would lose people and gain nothing."""


@dataclass(frozen=True)
class QualityPeople:
    """The scans of one evaluation, one per person.

    Attributes:
        synthetic: all synthetic scans.
        reference: real people that the generator never saw and that match the requested conditions.
        held_out: all real people that the generator never saw.
        training: real people with role train, on which predictors are trained.
        notes: how the reference was chosen, in sentences.
    """

    synthetic: pd.DataFrame
    reference: pd.DataFrame
    held_out: pd.DataFrame
    training: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def requested(self) -> tuple[str, ...]:
        """Columns for which something was requested of at least one synthetic scan."""
        named = [str(name) for name in self.synthetic.columns if str(name).startswith(REQUESTED)]
        return tuple(name.removeprefix(REQUESTED) for name in named if self.synthetic[name].notna().any())


def choose_people(
    synthetic: Prepared, real: Prepared, match: Sequence[str], seen: LeaveOutPolicy, most: int = 2000, seed: int = 0
) -> QualityPeople:
    """Choose the people of an evaluation; a person with several sessions is represented by the first.

    Of larger groups (synthetic scans, the reference, everybody held out, training people) `most` are chosen at random.

    Args:
        synthetic: what `gen3d sample` wrote.
        real: the cohort that it is compared with.
        match: columns in which the reference is narrowed to what was requested: categories, and ranges of numbers.
        seen: what to do with held-out people that the generator saw.
        most: people of each group that are compared.
        seed: of the choice.

    Raises:
        UserError: too few synthetic scans or real people, differing plans, or people that the generator saw.
    """
    scans = synthetic.manifest[synthetic.manifest["role"] != "excluded"].reset_index(drop=True)
    if len(scans) < MIN_PEOPLE:
        raise UserError(
            f"{synthetic.folders[0]}: {len(scans)} synthetic scans; at least {MIN_PEOPLE} are needed, sample more."
        )
    if synthetic.plan.key != real.plan.key:
        raise UserError(
            f"{real.folders[0]}: its plan differs from that of {synthetic.folders[0]} "
            f"({synthetic.plan.difference(real.plan)}); give real scans that were prepared as the generator's were."
        )
    table = real.manifest[~is_twin(real.manifest)]
    table = table[first_scans(table)[0] | ~table["role"].isin([*HELD_OUT, "train"])]
    held_out = table[table["role"].isin(HELD_OUT)]
    known = _seen_by_generator(synthetic.folders[0])
    guard = Guard(
        "the generator",
        "a copy of them would count as realistic",
        "give a cohort without them",
        where=str(real.folders[0]),
    )
    cleared = guard.clear(held_out, known.seen_by(held_out), seen)
    remark = known.remark(held_out, "the generator")
    held_out, notes = held_out[cleared.testable], [*cleared.notes, *([remark] if remark else [])]
    candidates = held_out
    if f"{REQUESTED}diagnosis" not in scans.columns:
        training_diagnoses = set(table.loc[known.by_any(table), "diagnosis"].astype(str))
        alike = held_out["diagnosis"].astype(str).isin(training_diagnoses)
        if training_diagnoses and not alike.all():
            candidates = held_out[alike]
            notes.append(
                f"narrowed to the diagnoses of the generator's training people: {', '.join(sorted(training_diagnoses))}"
            )
    reference, narrowed = _like_requested(candidates, scans, match)
    if len(reference) < MIN_PEOPLE:
        also = f" ({'; '.join(narrowed)})" if narrowed else ""
        raise UserError(
            f"{real.folders[0]}: only {len(reference)} real people to compare with{also}; at least {MIN_PEOPLE} are needed "
            f"with roles {', '.join(HELD_OUT)} that the generator never saw."
        )
    training = table[table["role"] == "train"].drop_duplicates("subject")
    people = QualityPeople(scans, reference, held_out, training, (*notes, *narrowed))
    return _at_most(people, most, seed)


def _at_most(people: QualityPeople, most: int, seed: int) -> QualityPeople:
    """At most that many of each group, with their rows numbered anew; the reference stays among those held out."""
    generator = np.random.default_rng(seed)
    notes: list[str] = []

    def some(table: pd.DataFrame, num: int) -> pd.DataFrame:
        return table if len(table) <= num else table.iloc[np.sort(generator.permutation(len(table))[:num])]

    def chosen(table: pd.DataFrame, what: str) -> pd.DataFrame:
        if len(table) > most:
            notes.append(f"a random {most} of {len(table)} {what} (most_people)")
        return some(table, most)

    synthetic = chosen(people.synthetic, "synthetic scans")
    reference = chosen(people.reference, "real people to compare with")
    among = people.held_out["key"].isin(set(reference["key"]))
    others = some(people.held_out[~among], max(0, most - len(reference)))
    held_out = people.held_out[among | people.held_out["key"].isin(set(others["key"]))]
    training = chosen(people.training, "real people with role train for predictors")
    parts = [part.reset_index(drop=True) for part in (synthetic, reference, held_out, training)]
    return QualityPeople(parts[0], parts[1], parts[2], parts[3], (*people.notes, *notes))


def _seen_by_generator(folder: Path) -> SeenBy:
    """The people that the generator saw: as `gen3d sample` wrote them, else as the run that provenance names has them.

    Raises:
        UserError: neither is there.
    """
    path = folder / GENERATOR_SUBJECTS
    people = read_generator_subjects(folder)
    if people is not None:
        return SeenBy((people,))
    run, _ = generator_run(folder)
    if run is not None:
        return SeenBy(({person: role for people in read_seen(run).members for person, role in people.items()},))
    raise UserError(
        f"{path}: missing, and the run that {PROVENANCE} names is not there either, so the people that the generator saw "
        "are not known; run `gen3d sample` again."
    )


def generator_run(folder: Path) -> tuple[Path | None, str]:
    """The run that synthetic scans were drawn from: its folder, None where it is not there any more, and its key.

    Raises:
        UserError: the provenance is missing or damaged.
    """
    run = _json(folder / PROVENANCE).get("run", {})
    record, key = Path(str(run.get("folder", ""))) / "artefact.json", str(run.get("key", ""))
    there = record.is_file() and _json(record).get("key") == key
    return (record.parent if there else None), key


def _json(path: Path) -> dict[str, Any]:
    try:
        value = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); run `gen3d sample` again.") from None
    return value if isinstance(value, dict) else {}


def _like_requested(
    held_out: pd.DataFrame, scans: pd.DataFrame, match: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The held-out people who match what was requested, and a sentence for each column that decided."""
    kept, notes = held_out, []
    for name in match:
        column = f"{REQUESTED}{name}"
        if column not in scans.columns or name not in held_out.columns or scans[column].notna().sum() == 0:
            continue
        fitting, wanted = _fitting(kept[name], scans[column])
        if float(fitting.mean()) >= (1.0 if name == "diagnosis" else NEARLY_ALL):
            continue
        if name != "diagnosis" and int(fitting.sum()) < ENOUGH:
            notes.append(f"not narrowed to {name} {wanted}: only {int(fitting.sum())} people would remain")
            continue
        kept = kept[fitting]
        notes.append(f"narrowed to {name} {wanted}")
    return kept, notes


def _fitting(values: pd.Series, requested: pd.Series) -> tuple[pd.Series, str]:
    """Which people have a requested category or lie in the requested range; and a description of it."""
    wanted = pd.to_numeric(requested, errors="coerce")
    if wanted.notna().sum() == requested.notna().sum():
        low, high = float(wanted.min()), float(wanted.max())
        return pd.to_numeric(values, errors="coerce").between(low, high), f"{low:.4g} to {high:.4g}"
    codes = sorted({str(code) for code in requested.dropna()})
    return values.astype(object).map(str).isin(codes), " or ".join(codes)


def numbers_of(column: pd.Series) -> pd.Series | None:
    """The column as numbers, NaN where missing; None where something in it is no number (a category)."""
    filled = column.astype(object).where(column.notna() & (column.astype(str) != ""), np.nan)
    numbers = pd.to_numeric(filled, errors="coerce")
    return numbers if bool((numbers.notna() == filled.notna()).all()) else None
