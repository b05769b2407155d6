"""`gen3d report`: one self-contained page of everything that was made from a cohort."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from pydantic import Field

from gen3d import __version__
from gen3d.anomaly.sections import calibration, change, groups, people, scores
from gen3d.classify.sections import heads, predictions
from gen3d.core.artefact import Work, write_atomic, write_json
from gen3d.core.config import Folder, Folders
from gen3d.core.progress import say, track
from gen3d.core.work import FolderVerb, Inputs
from gen3d.evaluate import section as truth
from gen3d.figures import names as wording
from gen3d.figures.blocks import Section, figures_in
from gen3d.harmonise import section as harmonisation
from gen3d.latents import section as latent
from gen3d.latents import section_reconstruction as reconstruction
from gen3d.prepare import section as cohort
from gen3d.quality import section as quality
from gen3d.report import provenance, summary
from gen3d.report.context import Context
from gen3d.report.sources import Sources, open_sources
from gen3d.stratify import section as strata
from gen3d.synthesis import section as synthetic
from gen3d.train import section as training

UNBROKEN = re.compile(
    r"(?<=[\d\]]) (?=%|mm\b|dB\b|ml\b)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)|(?<=\b[zpq]) (?=[<+\d\N{MINUS SIGN}])"
)  # spaces at which a number must not part from its unit or its letter
Builder = Callable[[Context], Section | None]

SECTIONS: tuple[tuple[str, Builder, str], ...] = (
    ("Summary", summary.section, "`gen3d anomaly` or `gen3d evaluate`"),
    ("Cohort", cohort.section, "`gen3d prepare` or `gen3d simulate`"),
    ("How the models were trained", training.section, "`gen3d train`"),
    ("Reconstructions", reconstruction.section, "`gen3d reconstruct`"),
    ("Group maps", groups.section, "`gen3d anomaly` on a cohort with people other than controls"),
    ("Scores by group", scores.section, "`gen3d anomaly`"),
    ("Individual people", people.section, "`gen3d anomaly`"),
    ("Change between sessions", change.section, "`gen3d change` on people with several sessions"),
    ("Latent space", latent.section, "`gen3d encode`"),
    ("Harmonisation", harmonisation.section, "`gen3d harmonise`"),
    ("Classification from latents", heads.section, "`gen3d classify`"),
    ("Strata", strata.section, "`gen3d stratify`"),
    ("Where people stand", predictions.section, "`gen3d predict`"),
    ("Synthetic scans", synthetic.section, "`gen3d sample`"),
    ("Synthetic against real scans", quality.section, "`gen3d quality`"),
    ("Calibration", calibration.section, "`gen3d anomaly`"),
    ("Against planted truth", truth.section, "`gen3d evaluate` on a simulated cohort"),
)


class Report(FolderVerb):
    """Write one HTML file that needs no network and no other file, with its figures and every number beside it.

    Reads finished folders in any order, recognised by the verb that wrote them. The first maps folder is shown in
    full, further ones stand beside it in tables and folded parts.
    """

    inputs: Folders = Field(
        description="finished folders of prepare, simulate, train, encode, reconstruct, anomaly, change, harmonise, "
        "classify, stratify, predict, sample, quality or evaluate, in any order"
    )
    out: Folder = Field(Path("report"), description="folder to write")
    title: str = Field("Normative modelling of structural brain MRI", description="title of the page")
    subjects_shown: int = Field(
        6, ge=0, description="people with a page of their own: most deviating, then typical controls"
    )
    seed: int = Field(0, ge=0, description="seed of UMAP and of the jitter of dots")

    def plan(self) -> list[str]:
        """Which sections would be there."""
        sources = open_sources(self.inputs)
        found = [f"{artefact.folder}: gen3d {artefact.verb}" for artefact in sources.artefacts]
        return [*found, f"writes {self.out / 'index.html'}, {self.out / 'figures'}, {self.out / 'metrics.json'}"]

    def reads(self) -> Inputs:
        """The folders that are reported on."""
        return {"inputs": list(self.inputs)}

    def open_inputs(self) -> Sources:
        """The folders that are reported on."""
        return open_sources(self.inputs)

    def write(self, work: Work, opened: Sources) -> dict[str, Any]:
        """Write index.html, figures/ and metrics.json."""
        context = Context(opened, self.subjects_shown, self.seed)
        sections, missing = build(context)
        for name, png in _pictures(sections).items():
            path = self.out / "figures" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
        metrics = {section.identifier: wording.plain(section.numbers) for section in sections}
        write_json(self.out / "metrics.json", metrics)
        write_atomic(self.out / "index.html", render(self.title, sections, missing))
        say(f"{self.out / 'index.html'}: {wording.count(len(sections), 'section')}.")
        return {"sections": [section.identifier for section in sections], "not_included": [name for name, _ in missing]}


def build(context: Context) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that the inputs allow, and (title, verb that would give it) of the others."""
    sections: list[Section] = []
    missing: list[tuple[str, str]] = []
    for title, builder, verb in track(SECTIONS, "writing the report"):
        section = builder(context)
        if section is None:
            missing.append((title, verb))
        else:
            sections.append(section)
    return [*sections, provenance.section(context)], missing


def _pictures(sections: list[Section]) -> dict[str, bytes]:
    return {figure.name: figure.png for section in sections for figure in figures_in(section.blocks)}


def render(title: str, sections: list[Section], missing: list[tuple[str, str]]) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gen3d.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = _with_code
    values: dict[str, Any] = {"title": title, "sections": sections, "missing": missing, "version": __version__}
    return environment.get_template("template.html.j2").render(**values)


def _with_code(text: str) -> Markup:
    """Text with `quoted` commands set as code, and numbers that stay on one line with their units."""
    if isinstance(text, Markup):
        return text
    parts = UNBROKEN.sub("\N{NO-BREAK SPACE}", str(text)).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
