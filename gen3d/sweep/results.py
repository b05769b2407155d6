"""Results of a sweep: a trial's objective from the files of its verbs, the table, the best settings, the conclusion."""

from __future__ import annotations

import csv
import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gen3d.core import tables
from gen3d.core import words as spell
from gen3d.core.artefact import write_atomic
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_json, load_lines
from gen3d.core.progress import duration
from gen3d.sweep.settings import FAILED, Command, Objective, Trial, described, label

READABLE = (".tsv", ".json", ".jsonl")
MOST_LISTED = 24


def measure(objective: Objective, folder: Path) -> float:
    """The objective in the folder of a finished step: the mean over the rows that count.

    Raises:
        UserError: no such file, column, path or rows (the sentence lists what there is), or not a finite number.
    """
    path = folder / objective.file
    if path.suffix not in READABLE:
        raise UserError(f"objective.file: {objective.file} is none of {', '.join(READABLE)}.")
    if not path.is_file():
        there = sorted(item.name for item in folder.glob("*") if item.suffix in READABLE)
        raise UserError(f"objective.file: {path} was not written; {folder} holds {', '.join(there) or 'no figures'}.")
    tree = _read(path)
    values = list(_walk(tree, objective.key.split("."), objective.where))
    if not values:
        raise UserError(_missing(objective, path, tree))
    numbers = [_number(value, path, objective.key) for value in values]
    return math.fsum(numbers) / len(numbers)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a log in lines of JSON; a line that is being written, or was cut off, is left out."""
    return load_lines(path) if path.is_file() else []


def read_curve(path: Path, term: str) -> dict[int, float]:
    """{step: value} of a term of a training log, of the run's first member.

    Raises:
        UserError: the log has no such term.
    """
    entries = [entry for entry in read_lines(path) if entry.get("member", 0) == 0]
    curve = {int(entry["step"]): float(entry[term]) for entry in entries if term in entry}
    if entries and not curve:
        raise UserError(f"prune.term: {path} has no `{term}`; its entries have {', '.join(entries[-1])}.")
    return curve


def write_trials(path: Path, trials: Sequence[Trial], keys: Sequence[str]) -> None:
    """One row per trial: its number, status, values, objective, seconds, error and folder; n/a where there is none."""
    rows = [
        {"trial": trial.number, "status": trial.status}
        | {key: label(trial.values[key]) if key in trial.values else None for key in keys}
        | {"objective": trial.objective, "seconds": trial.seconds}
        | {"error": " ".join(trial.error.split()) or None, "folder": str(trial.folder)}
        for trial in trials
    ]
    columns = ["trial", "status", *keys, "objective", "seconds", "error", "folder"]
    tables.write_table(path, pd.DataFrame(rows, columns=columns))


def line(trial: Trial, best: Trial | None, objective: Objective) -> str:
    """The result of a trial, and which trial is the best so far."""
    text = f"trial {trial.number} ({described(trial.values)}): {trial.status}"
    if trial.objective is not None and best is not None:
        text += f", {objective.name or objective.key} {trial.objective:.6g}"
        is_best = best.number == trial.number
        text += " (best so far)" if is_best else f" (best so far: {best.objective:.6g}, trial {best.number})"
    if trial.error:
        text += f": {trial.error.splitlines()[0]}"
    return f"{text}; {duration(trial.seconds)}"


def write_best(path: Path, best: Trial, command: Command, objective: Objective) -> None:
    """The best trial's settings of a verb, without `out`, ready to start from."""
    settings = {key: value for key, value in command.settings.items() if key != "out"}
    head = (
        f"# The best trial of a sweep: number {best.number}, {objective.title} = {best.objective:.6g}.\n"
        f"# {described(best.values)}\n# gen3d {command.verb} {path} out=FOLDER\n"
    )
    write_atomic(path, head + yaml.safe_dump(settings, sort_keys=False))


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Number of trials by status."""
    return dict(Counter(trial.status for trial in trials).most_common())


def conclusion(
    out: Path, best: Trial, command: Command, trials: Sequence[Trial], shares: Mapping[str, float], objective: Objective
) -> list[str]:
    """Number of trials by status, the best one, the settings that matter, and the command that uses the best settings."""
    by_status = ", ".join(f"{number} {status}" for status, number in counts(trials).items())
    lines = [f"{len(trials)} trials: {by_status}. Table: {out / 'trials.tsv'}; picture: {out / 'sweep.png'}"]
    if failed := [str(trial.number) for trial in trials if trial.status == FAILED]:
        lines.append(
            f"failed: trial {', '.join(failed)}; the table holds the reasons. retry_failed=true runs them again."
        )
    if shares:
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        lines.append(
            "share of the variation explained: "
            + ", ".join(f"{key} {spell.percent(share, 0)}" for key, share in ordered)
        )
    return [
        *lines,
        f"best: trial {best.number} with {objective.title} = {best.objective:.6g} "
        f"({described(best.values)}), in {best.folder / command.name}",
        f"again or for longer: gen3d {command.verb} {out / 'best.yaml'} out=FOLDER",
    ]


def _read(path: Path) -> Any:
    """A file as a tree of JSON; a table is the list of its rows, a log that of the last entry of each member."""
    if path.suffix == ".json":
        try:
            return load_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"objective.file: {path} is damaged ({error}); run its verb again.") from None
    if path.suffix == ".jsonl":
        return list({entry.get("member"): entry for entry in read_lines(path)}.values())
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _walk(node: Any, parts: Sequence[str], where: Mapping[str, Any]) -> Iterator[Any]:
    """Every value at a dotted path; in a list, of the rows that count. A key may itself hold dots."""
    if isinstance(node, list):
        for row in (row for row in node if isinstance(row, dict)):
            if all(str(row.get(column, "n/a")) == str(value) for column, value in where.items()):
                yield from _walk(row, parts, where)
    elif not parts:
        yield node
    elif isinstance(node, dict):
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in node:
                yield from _walk(node[key], parts[length:], where)
                return


def _missing(objective: Objective, path: Path, tree: Any) -> str:
    """Why nothing was found: no such key, or no row that counts."""
    leaves = list(dict.fromkeys(_leaves(tree)))
    if objective.key not in leaves:
        near = difflib.get_close_matches(objective.key, leaves, n=3, cutoff=0.5)
        listed = ", ".join(dict.fromkeys([*near, *leaves[:MOST_LISTED]]))
        return f"objective.key: {path} has no `{objective.key}`; there are {listed or 'no rows'}."
    rows = ", ".join(f"{column} = {value}" for column, value in objective.where.items())
    prefix = objective.key.rpartition(".")[0]
    there = []
    for column in objective.where:
        path_of = [*prefix.split("."), column] if prefix else [column]
        values = dict.fromkeys(str(value) for value in _walk(tree, path_of, {}))
        there.append(f"{column} is {', '.join(list(values)[:MOST_LISTED]) or 'not a column'}")
    return f"objective.where: no row of `{objective.key}` in {path} has {rows}; there {'; '.join(there)}."


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the values of a tree; the rows of a list share theirs."""
    if isinstance(node, dict):
        for key, below in node.items():
            yield from _leaves(below, f"{prefix}{key}.")
    elif isinstance(node, list):
        for below in node:
            yield from _leaves(below, prefix)
    else:
        yield prefix.removesuffix(".")


def _number(value: Any, path: Path, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"objective: `{key}` in {path} is {value!r}, not a number.") from None
    if not math.isfinite(number):
        raise UserError(f"objective: `{key}` in {path} is {number}.")
    return number
