"""What a sweep found: its table, the line of each trial, the best settings, the last words."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from gen3d.core.artefact import write_atomic
from gen3d.core.progress import duration
from gen3d.sweep.search import label
from gen3d.sweep.settings import Objective
from gen3d.sweep.trial import Command, Trial

DIGITS = 6


def write_table(path: Path, trials: Iterable[Trial], keys: list[str]) -> None:
    """One row per trial: its number, status, values, objective, seconds, error and folder; n/a where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["trial", "status", *keys, "objective", "seconds", "error", "folder"])
    for trial in sorted(trials, key=lambda trial: trial.number):
        values = [label(trial.values[key]) if key in trial.values else "n/a" for key in keys]
        found = figure(trial.objective)
        error = " ".join(trial.error.split()) or "n/a"
        writer.writerow([trial.number, trial.status, *values, found, trial.seconds, error, trial.folder])
    write_atomic(path, text.getvalue())


def figure(value: float | None) -> str:
    """A figure with six digits, or n/a."""
    return "n/a" if value is None else f"{value:.{DIGITS}g}"


def best_of(trials: Iterable[Trial], objective: Objective) -> Trial | None:
    """The trial with the best objective, the earliest of equals, or None if no trial has one."""
    found = [(objective.sign * t.objective, t.number, t) for t in trials if t.objective is not None]
    return min(found)[2] if found else None


def counts(trials: Iterable[Trial]) -> dict[str, int]:
    """Number of trials by status."""
    return dict(Counter(trial.status for trial in trials).most_common())


def values_in_words(values: dict[str, Any]) -> str:
    """'train.model.beta = 0.3, train.seed = 1'."""
    return ", ".join(f"{key} = {label(value)}" for key, value in values.items())


def line(trial: Trial, trials: Iterable[Trial], objective: Objective) -> str:
    """What a trial came to, and where it stands among those so far."""
    said = f"trial {trial.number} ({values_in_words(trial.values)}): {trial.status}"
    if trial.objective is not None:
        said += f", {objective.short} {figure(trial.objective)}"
        best = best_of(trials, objective)
        if best is not None:
            said += (
                " (best so far)" if best is trial else f" (best so far: {figure(best.objective)}, trial {best.number})"
            )
    if trial.error:
        said += f": {trial.error.splitlines()[0]}"
    return f"{said}; {duration(trial.seconds)}"


def write_best(path: Path, best: Trial, command: Command, objective: Objective) -> None:
    """The best trial's settings of a verb, without `out`, ready to start from."""
    settings = {key: value for key, value in command.settings.items() if key != "out"}
    head = (
        f"# The best trial of a sweep: number {best.number}, {objective.words()} = {figure(best.objective)}.\n"
        f"# {values_in_words(best.values)}\n# gen3d {command.verb} {path} out=FOLDER\n"
    )
    write_atomic(path, head + yaml.safe_dump(settings, sort_keys=False))


def last_words(out: Path, best: Trial, command: Command, trials: Collection[Trial], objective: Objective) -> list[str]:
    """How many trials did what, which was best, and how to use it."""
    by_status = ", ".join(f"{number} {status}" for status, number in counts(trials).items())
    told = [
        f"{len(trials)} trials: {by_status}. Table: {out / 'trials.tsv'}; picture: {out / 'sweep.png'}",
        f"best: trial {best.number} with {objective.words()} = {figure(best.objective)} "
        f"({values_in_words(best.values)}), in {best.folder / command.name}",
        f"again or for longer: gen3d {command.verb} {out / 'best.yaml'} out=FOLDER",
    ]
    if any(trial.status == "failed" for trial in trials):
        told.insert(1, "failed trials have their sentence in the table; retry_failed=true tries them again.")
    return told
