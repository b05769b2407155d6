"""`gen3d report`: one self-contained page on the results of a cohort."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from pydantic import Field

from gen3d import __version__
from gen3d.cohort.methods import METHODS, methods_text
from gen3d.core import words as spell
from gen3d.core.artefact import write_atomic, write_json
from gen3d.core.config import Folder, Folders
from gen3d.core.output_folder import Work
from gen3d.core.package_data import package_text
from gen3d.core.progress import say, track
from gen3d.core.result_folder import FIGURES, METRICS, write_picture
from gen3d.core.work import FolderVerb, Inputs
from gen3d.figures import names as wording
from gen3d.figures.blocks import Section, figures_in
from gen3d.figures.context import Context
from gen3d.report import provenance, summary
from gen3d.report.open import SHOWN, all_sections, open_context

UNBROKEN = re.compile(
    r"(?<=[\d\]]) (?=%|mm\b|dB\b|ml\b)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)|(?<=\b[zpq]) (?=[<+\d\N{MINUS SIGN}])"
)  # spaces at which a line break would separate a number from its unit or letter
OPEN = frozenset({"summary", "groups", "people"})
"""Chapters that a reader came for; the others are folded until they are opened, from the contents or by a click."""


class Report(FolderVerb):
    """Write one HTML file that needs no network and no other file, and its figures and numbers as separate files.

    Reads finished folders in any order and recognises the verb that wrote each of them. The first maps folder is shown in
    full; further maps folders appear in tables and folded parts.
    """

    inputs: Folders = Field(description=f"finished folders of {', '.join(SHOWN[:-1])} or {SHOWN[-1]}, in any order")
    out: Folder = Field(Path("report"), description="folder to write")
    title: str = Field("Normative modelling of structural brain MRI", description="title of the page")
    subjects_shown: int = Field(
        6, ge=0, description="people with a card each: the most deviating, then typical controls"
    )
    list_missing: bool = Field(True, description="list the sections that other folders would add")
    seed: int = Field(0, ge=0, description="seed of UMAP and of the jitter of dots")

    def plan(self) -> list[str]:
        """The folders that would be read, and the files that would be written."""
        context = open_context(self.inputs, self.subjects_shown, self.seed)
        inputs = [f"{artefact.folder}: gen3d {artefact.verb}" for artefact in context.artefacts]
        return [*inputs, f"writes {self.out / 'index.html'}, {self.out / FIGURES}, {self.out / METRICS}"]

    def reads(self) -> Inputs:
        """The folders that are reported on."""
        return {"inputs": list(self.inputs)}

    def open_inputs(self) -> Context:
        """The folders that are reported on."""
        return open_context(self.inputs, self.subjects_shown, self.seed)

    def write(self, work: Work, opened: Context) -> dict[str, Any]:
        """Write index.html, figures/, metrics.json and methods.md."""
        sections, missing = build(opened)
        for name, png in _pictures(sections).items():
            write_picture(self.out, name, png)
        metrics = {section.identifier: wording.plain(section.numbers) for section in sections}
        write_json(self.out / METRICS, metrics)
        write_atomic(self.out / METHODS, methods_text(opened.artefacts))
        write_atomic(self.out / "index.html", render(self.title, sections, missing if self.list_missing else []))
        say(f"{self.out / 'index.html'}: {spell.count(len(sections), 'section')}.")
        return {"sections": [section.identifier for section in sections], "not_included": [name for name, _ in missing]}


def build(context: Context) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that the inputs allow, and (title, required verb) of each section that is missing."""
    sections: list[Section] = []
    missing: list[tuple[str, str]] = []
    for page_section in track([summary.section, *all_sections()], "writing the report"):
        section = page_section(context)
        if section is None:
            missing.append((page_section.title, page_section.given_by))
        else:
            sections.append(section)
    return [*sections, provenance.section(context)], missing


def _pictures(sections: list[Section]) -> dict[str, bytes]:
    return {figure.name: figure.png for section in sections for figure in figures_in(section.blocks)}


def render(title: str, sections: list[Section], missing: list[tuple[str, str]]) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(partial(package_text, "gen3d.report")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = _with_code
    everything = {section.identifier for section in sections}
    values: dict[str, Any] = {
        "title": title,
        "sections": sections,
        "opened": everything & OPEN or everything,
        "missing": missing,
        "version": __version__,
    }
    return environment.get_template("template.html.j2").render(**values)


def _with_code(text: str) -> Markup:
    """Text as HTML: `quoted` commands as code, numbers on one line with their units."""
    if isinstance(text, Markup):
        return text
    parts = UNBROKEN.sub("\N{NO-BREAK SPACE}", str(text)).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
