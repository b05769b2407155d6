"""`gen3d reference`: every verb, key, kind of model and starting point as HTML pages that open without a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from pydantic import Field

from gen3d import __version__
from gen3d.core.artefact import digest, write_atomic
from gen3d.core.config import Folder
from gen3d.core.output_folder import Work
from gen3d.core.package_data import package_text
from gen3d.core.progress import say
from gen3d.core.work import FolderVerb, Identity
from gen3d.models.registry import KINDS, config_class
from gen3d.reference.keys import key_tables
from gen3d.reference.sources import Documents, read_documents, read_own_documents
from gen3d.verbs import VERBS, verb_class

PARTS = {
    "From scans to maps": (
        "prepare",
        "prepare-slices",
        "simulate",
        "explore",
        "train",
        "norm",
        "anomaly",
        "change",
        "export",
    ),
    "Classifiers and latents": ("encode", "reconstruct", "harmonise", "classify", "predict", "explain", "stratify"),
    "What comes next": ("forecast", "stages"),
    "Synthetic scans": ("sample", "quality"),
}
REST = "Everything else"


class Reference(FolderVerb):
    """Write the reference of this version: a page per verb with every key, its type, default, unit and meaning; the kinds of
    model with theirs; the settings to start from; and the how-tos. The pages are made of the settings themselves, so they are
    those of the version that is installed.
    """

    out: Folder = Field(Path("reference"), description="folder to write")
    checkout: Folder | None = Field(
        None,
        description="folder of gen3d's sources, whose README.md and configs/ give examples; default: those of this gen3d",
    )

    def plan(self) -> list[str]:
        """The pages that would be written."""
        documents = self.open_inputs()
        return [
            f"pages of {len(VERBS)} verbs and {len(KINDS)} kinds of model, {len(documents.settings)} settings to start from, "
            f"{len(documents.howtos)} how-tos",
            f"writes {self.out / 'index.html'}",
        ]

    def open_inputs(self) -> Documents:
        """Settings and how-tos.

        Raises:
            UserError: `checkout` is no folder of them.
        """
        return read_own_documents() if self.checkout is None else read_documents(self.checkout)

    def identity(self, opened: Callable[[], Documents]) -> Identity:
        """The texts that are shown."""
        documents = opened()
        texts = [[one.path, one.text] for one in documents.settings] + [
            [one.title, one.blocks] for one in documents.howtos
        ]
        return Identity({}, {"texts": digest(texts)})

    def write(self, work: Work, opened: Documents) -> dict[str, Any]:
        """Write index.html, a page per verb, models.html, settings.html, howto.html and style.css."""
        pages = _Pages(opened)
        for name, text in pages.all().items():
            write_atomic(self.out / f"{name}.html", text)
        styles = (package_text("gen3d.report", "style.css"), package_text("gen3d.reference", "reference.css"))
        write_atomic(self.out / "style.css", "\n".join(styles))
        say(f"{self.out / 'index.html'}: {len(VERBS)} verbs, {len(KINDS)} kinds of model.")
        return {"num_verbs": len(VERBS), "num_kinds": len(KINDS), "num_settings": len(opened.settings)}


class _Pages:
    """Renders the pages of one set of documents."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(partial(package_text, "gen3d.reference")),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self.environment.filters["code"] = _with_code

    def all(self) -> dict[str, str]:
        """Page name -> HTML."""
        documents, parts = self.documents, _parts()
        pages = {
            "index": self._page("index", "gen3d reference", parts=parts, lines={v: e.line for v, e in VERBS.items()})
        }
        for verb, entry in VERBS.items():
            kind = verb_class(verb)
            pages[verb] = self._page(
                "verb",
                f"gen3d {verb}",
                verb=verb,
                line=entry.line,
                paragraphs=inspect.cleandoc(kind.__doc__ or "").split("\n\n"),
                tables=key_tables(kind, f"gen3d {verb}"),
                commands=documents.commands_of(verb),
                settings=documents.settings_of(verb),
                howtos=documents.howtos_of(verb),
            )
        kinds = {name: (entry.title, *_of_kind(name)) for name, entry in KINDS.items()}
        pages["models"] = self._page("models", "Kinds of model", kinds=kinds)
        pages["settings"] = self._page("settings", "Settings to start from", settings=documents.settings)
        pages["howto"] = self._page("howto", "How to", howtos=documents.howtos)
        return pages

    def _page(self, page: str, title: str, **values: Any) -> str:
        shared = {
            "page": page,
            "title": title,
            "version": __version__,
            "menu": _parts(),
            "here": values.get("verb", page),
        }
        return self.environment.get_template("page.html.j2").render(**shared, **values)


def _parts() -> dict[str, list[str]]:
    """The verbs by what they are for; a verb that no part names is in the last."""
    named = {verb for verbs in PARTS.values() for verb in verbs}
    parts = {title: [verb for verb in verbs if verb in VERBS] for title, verbs in PARTS.items()}
    return parts | {REST: [verb for verb in VERBS if verb not in named]}


def _of_kind(name: str) -> tuple[str, list[Any]]:
    config = config_class(name)
    return inspect.cleandoc(config.__doc__ or ""), key_tables(config, f"Keys of model.kind={name}", "model.")


def _with_code(text: str) -> Markup:
    """Text as HTML, `quoted` parts as code."""
    parts = str(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
