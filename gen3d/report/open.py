"""Open finished folders for the report: each by the reader of the section of its verb, each with a name for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d.anomaly.folder import NORM
from gen3d.cohort.folder import open_prepared
from gen3d.core.artefact import Artefact, read
from gen3d.core.inputs import find_input
from gen3d.core.result_folder import ResultFolder, inputs_of
from gen3d.figures.context import Context, PageSection
from gen3d.models.registry import title
from gen3d.models.run_folder import AND, TRAIN, copied_runs, model_kind
from gen3d.verbs import VERBS, named_object

BY_NORM = ", by a norm"
"""Behind the models of maps whose people a norm judged."""

SHOWN = tuple(verb for verb, entry in VERBS.items() if entry.sections)
"""Verbs with a section on the page."""


def sections_of(verb: str) -> tuple[PageSection, ...]:
    """The sections that a verb's folders fill."""
    return tuple(named_object(place) for place in VERBS[verb].sections)


def all_sections() -> list[PageSection]:
    """Every section once, in the order of the page."""
    sections = {id(section): section for verb in SHOWN for section in sections_of(verb)}
    return sorted(sections.values(), key=lambda section: section.place)


def open_context(folders: Sequence[Path], subjects_shown: int = 6, seed: int = 0) -> Context:
    """Open finished folders, in any order.

    Raises:
        UserError: a folder that no verb of gen3d finished, or of a verb that no section shows.
    """
    artefacts = tuple(read(folder, SHOWN) for folder in folders)
    reads = {artefact.verb: sections_of(artefact.verb)[0].reads for artefact in artefacts}
    readers = {verb: reader for verb, reader in reads.items() if reader is not None}
    names = _names(artefacts, readers)
    opened = [
        readers[artefact.verb](artefact, names[artefact.folder], artefacts)
        for artefact in artefacts
        if artefact.verb in readers
    ]
    prepared = [artefact.folder for artefact in artefacts if artefact.verb not in readers]
    return Context(artefacts, tuple(opened), open_prepared(prepared) if prepared else None, subjects_shown, seed)


def _names(artefacts: Sequence[Artefact], readers: Mapping[str, type[ResultFolder]]) -> dict[Path, str]:
    """The name of each folder on the page, unique within its verb."""
    names: dict[Path, str] = {}
    kinds = {item.key: model_kind(item.folder) for item in artefacts if item.verb == TRAIN}
    for verb, reader in readers.items():
        of_verb = [item for item in artefacts if item.verb == verb]
        if reader.named_by == "model":
            models = [_model_name(item, kinds) for item in of_verb]
            names |= {
                item.folder: name if models.count(name) == 1 else f"{name}, {item.folder.name}"
                for item, name in zip(of_verb, models, strict=True)
            }
        else:
            folder_names = [item.folder.name for item in of_verb]
            names |= {
                item.folder: name if folder_names.count(name) == 1 else f"{item.folder.parent.name}/{name}"
                for item, name in zip(of_verb, folder_names, strict=True)
            }
    by_key = {item.key: names[item.folder] for item in artefacts if item.folder in names}
    for item in artefacts:
        if item.verb in readers and readers[item.verb].named_by == "input":
            inputs = [by_key[key] for key in (str(source["key"]) for source in inputs_of(item)) if key in by_key]
            names[item.folder] = inputs[0] if inputs else item.folder.name
    return names


def _model_name(artefact: Artefact, kinds: Mapping[str, str]) -> str:
    """The titles of the models of a folder; the folder's name where they cannot be read."""
    if artefact.verb == TRAIN:
        return title(kinds[artefact.key]) or artefact.folder.name
    models = [kinds.get(item["key"], "") or _kind_of(artefact, item) for item in inputs_of(artefact, (TRAIN,))]
    by_norm = inputs_of(artefact, (NORM,))
    for item in by_norm:  # a norm has copies of its runs
        norm = find_input(artefact, item)
        models += [model_kind(run) for run in copied_runs(norm)] if norm is not None else []
    if not models or not all(models):
        return artefact.folder.name
    return AND.join(title(kind) for kind in models) + (BY_NORM if by_norm else "")


def _kind_of(artefact: Artefact, item: Mapping[str, Any]) -> str:
    run = find_input(artefact, item)
    return model_kind(run) if run is not None else ""
