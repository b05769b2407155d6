"""The reader of every folder that a verb writes, and a look at everything that it offers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from gen3d.anomaly.norm.folder import open_norm
from gen3d.classify.head_folder import open_head
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.core.artefact import read
from gen3d.core.tables import read_cells, read_record, read_table
from gen3d.evaluate.truth import open_truth
from gen3d.exports.folder import read_model
from gen3d.exports.registered_folder import open_registered
from gen3d.genotypes.folder import open_genotypes
from gen3d.models.run import load_run
from gen3d.report.open import open_context
from gen3d.stratify.folder import open_map


def everything(reader: Any) -> list[Any]:
    """Every property of a reader; a file that is missing, damaged or of another form than it expects raises."""
    kind = type(reader)
    names = [name for name in dir(kind) if not name.startswith("_")]
    return [getattr(reader, name) for name in names if isinstance(getattr(kind, name), (property, cached_property))]


def _by_the_report(folder: Path) -> list[Any]:
    return [everything(reader) for reader in open_context([folder]).opened]


def _bids(folder: Path) -> list[Any]:
    return [len(read_cells(path)) for path in sorted(folder.rglob("*.tsv"))]


def _exported(folder: Path) -> list[Any]:
    model = read_model(folder)
    return [*everything(model), *(model.member(number) for number in model.members)]


READERS: dict[str, Callable[[Path], list[Any]]] = {
    "prepare": lambda folder: everything(open_prepared(folder)),
    "prepare-slices": lambda folder: everything(open_prepared(folder)),
    "simulate": lambda folder: [*everything(open_prepared(folder)), *everything(open_truth(folder))],
    "genotypes": lambda folder: [*everything(open_genotypes(folder)), *_by_the_report(folder)],
    "train": lambda folder: [*load_run(folder).members, *_by_the_report(folder)],
    "import-weights": lambda folder: load_run(folder).members,
    "encode": lambda folder: [*everything(open_latents_folder(folder)), *_by_the_report(folder)],
    "harmonise": lambda folder: [*everything(open_latents_folder(folder)), *_by_the_report(folder)],
    "reconstruct": _by_the_report,
    "norm": lambda folder: [*everything(open_norm(folder)), *_by_the_report(folder)],
    "anomaly": _by_the_report,
    "change": _by_the_report,
    "forecast": _by_the_report,
    "export": _bids,
    "export-model": _exported,
    "register": lambda folder: everything(open_registered(folder)),
    "sample": lambda folder: [*everything(open_prepared(folder)), *_by_the_report(folder)],
    "quality": _by_the_report,
    "stages": _by_the_report,
    "classify": lambda folder: [*everything(open_head(folder / "head")), *_by_the_report(folder)],
    "explain": _by_the_report,
    "explore": _by_the_report,
    "stratify": lambda folder: [*everything(open_map(folder)), *_by_the_report(folder)],
    "predict": _by_the_report,
    "evaluate": _by_the_report,
    "report": lambda folder: [read_record(folder / "metrics.json")],
    "reference": lambda folder: [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.html"))],
    "sweep": lambda folder: [read_table(folder / "trials.tsv")],
}


def read_all(root: Path) -> dict[str, int]:
    """Open every finished folder below `root`; returns how many there are of each verb.

    Folders below `.parts` or `trials` belong to a verb that is not finished, or to a sweep, which reads them itself.
    """
    counts: dict[str, int] = {}
    for record in sorted(root.rglob("artefact.json")):
        folder = record.parent
        verb = read(folder).verb
        assert READERS[verb](folder), f"{folder}: nothing is read from it"
        counts[verb] = counts.get(verb, 0) + 1
    return counts
