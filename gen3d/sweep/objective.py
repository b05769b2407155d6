"""The figure that a trial is judged by, read from what its verbs wrote."""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gen3d.core.errors import UserError
from gen3d.sweep.settings import Objective

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
        there = sorted(item.name for item in folder.glob("*") if item.suffix in READABLE) if folder.is_dir() else []
        raise UserError(f"objective.file: {path} was not written; {folder} holds {', '.join(there) or 'no figures'}.")
    numbers = [_number(found, path, objective.key) for found in _found(objective, path)]
    return math.fsum(numbers) / len(numbers)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a log in lines of JSON; a line that is being written, or was cut off, is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def _found(objective: Objective, path: Path) -> list[Any]:
    if path.suffix == ".json":
        tree = json.loads(path.read_text(encoding="utf-8"))
        found = list(_walk(tree, objective.key.split("."), objective))
        if not found:
            raise UserError(_no_path(objective, path, tree))
        return found
    if path.suffix == ".tsv":
        with path.open(encoding="utf-8", newline="") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream, delimiter="\t"))
    else:
        last = {entry.get("member"): entry for entry in read_lines(path)}
        rows = list(last.values())
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if objective.key not in columns:
        raise UserError(f"objective.key: {path} has no `{objective.key}`; there are {', '.join(columns) or 'no rows'}.")
    return [row[objective.key] for row in _counting(objective, rows, path) if objective.key in row]


def _counting(objective: Objective, rows: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows that count; none is an error that says which value matches nothing."""
    kept = list(rows)
    for column, wanted in objective.where.items():
        there = list(dict.fromkeys(str(row.get(column, "n/a")) for row in kept))
        kept = [row for row in kept if str(row.get(column, "n/a")) == str(wanted)]
        if not kept:
            raise UserError(
                f"objective.where: no row of {path} has {column} = {wanted}; there it is {', '.join(there[:MOST_LISTED])}."
            )
    return kept


def _walk(node: Any, parts: list[str], objective: Objective) -> Iterator[Any]:
    """Every value at a dotted path; in a list, of the rows that count. A key may itself hold dots."""
    if isinstance(node, list):
        for row in (row for row in node if isinstance(row, dict)):
            if all(str(row.get(column, "n/a")) == str(wanted) for column, wanted in objective.where.items()):
                yield from _walk(row, parts, objective)
    elif not parts:
        yield node
    elif isinstance(node, dict):
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in node:
                yield from _walk(node[key], parts[length:], objective)
                return


def _no_path(objective: Objective, path: Path, tree: Any) -> str:
    leaves = list(dict.fromkeys(_leaves(tree)))
    if objective.key in leaves:
        rows = ", ".join(f"{column} = {wanted}" for column, wanted in objective.where.items())
        return f"objective.where: no row of `{objective.key}` in {path} has {rows}."
    near = difflib.get_close_matches(objective.key, leaves, n=3, cutoff=0.5)
    listed = ", ".join(dict.fromkeys([*near, *leaves[:MOST_LISTED]]))
    return f"objective.key: {path} has no `{objective.key}`; there are {listed}."


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the numbers of a tree; the rows of a list share theirs."""
    if isinstance(node, dict):
        for key, below in node.items():
            yield from _leaves(below, f"{prefix}{key}.")
    elif isinstance(node, list):
        for below in node:
            yield from _leaves(below, prefix)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield prefix.removesuffix(".")


def _number(value: Any, path: Path, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"objective: `{key}` in {path} is {value!r}, not a number.") from None
    if not math.isfinite(number):
        raise UserError(f"objective: `{key}` in {path} is {number}.")
    return number
