"""What the pages take from the files that come with gen3d: settings to start from, and the how-tos of its documents.

They lie in a checkout, or in the installed package and in what its installer wrote about it.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass, field
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.core.package_data import CONFIGS, README, checkout, configs_folder
from gen3d.core.starting_points import StartingPoint, names_below, read_starting_point
from gen3d.verbs import VERBS

COMMAND = re.compile(r"^    gen3d ([a-z-]+) (.*)$")


@dataclass(frozen=True)
class HowTo:
    """A part of a document with commands: its title, blocks (kind, text) in order, and the verbs that it uses."""

    title: str
    identifier: str
    blocks: list[tuple[str, str]]
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Documents:
    """All of them."""

    settings: list[StartingPoint] = field(default_factory=list)
    howtos: list[HowTo] = field(default_factory=list)

    def settings_of(self, verb: str) -> list[StartingPoint]:
        """Settings to start a verb from."""
        return [one for one in self.settings if one.verb == verb]

    def howtos_of(self, verb: str) -> list[HowTo]:
        """How-tos that use a verb."""
        return [one for one in self.howtos if verb in one.verbs]

    def commands_of(self, verb: str) -> list[str]:
        """Commands of the how-tos that run a verb, each once."""
        lines = [
            line
            for one in self.howtos_of(verb)
            for kind, text in one.blocks
            if kind == "code"
            for line in text.split("\n")
        ]
        wanted = [
            line.split("  #")[0].rstrip() for line in lines if (m := COMMAND.match(f"    {line}")) and m[1] == verb
        ]
        return list(dict.fromkeys(wanted))


def read_documents(sources: Path) -> Documents:
    """Read the settings and how-tos of a checkout.

    Raises:
        UserError: it holds neither README.md nor configs/.
    """
    if not (sources / README).is_file() or not (sources / CONFIGS).is_dir():
        raise UserError(
            f"{sources}: no {README} and {CONFIGS}/ there; give the folder of gen3d's sources, or leave out checkout=."
        )
    return _documents((sources / README).read_text(encoding="utf-8"), sources / CONFIGS)


def read_own_documents() -> Documents:
    """Read the settings and how-tos that come with this gen3d; what it lacks is left out."""
    sources = checkout()
    return _documents(_installed_readme(), configs_folder()) if sources is None else read_documents(sources)


def _installed_readme() -> str:
    """The README, which a wheel carries as the description of the package; "" where nothing is installed."""
    try:
        return str(importlib.metadata.metadata("gen3d").json.get("description", ""))
    except importlib.metadata.PackageNotFoundError:
        return ""


def _documents(readme: str, configs: Path) -> Documents:
    names = [name for name in names_below(configs) if name.partition("/")[0] in VERBS]
    about = configs / README
    texts = [readme, about.read_text(encoding="utf-8") if about.is_file() else ""]
    return Documents(
        [read_starting_point(configs, name) for name in names], [one for text in texts for one in _howtos(text)]
    )


def _howtos(text: str) -> list[HowTo]:
    """The parts of a document that hold commands of gen3d."""
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    found = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        blocks = _blocks(body)
        lines = [line for kind, text in blocks if kind == "code" for line in text.split("\n")]
        verbs = tuple(dict.fromkeys(m[1] for line in lines if (m := COMMAND.match(f"    {line}")) and m[1] in VERBS))
        if verbs:
            found.append(HowTo(title, re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"), blocks, verbs))
    return found


def _blocks(body: str) -> list[tuple[str, str]]:
    """Paragraphs and commands of Markdown; tables and pictures with their captions are left to the document."""
    blocks: list[tuple[str, str]] = []
    for chunk in re.split(r"\n\s*\n", body.strip("\n")):
        captions = chunk.startswith("*") and not chunk.startswith("**")
        if not chunk.strip() or captions or chunk.lstrip().startswith(("|", "![")):
            continue
        if chunk.startswith("    "):
            text = "\n".join(line.removeprefix("    ") for line in chunk.split("\n"))
            blocks.append(("code", text))
        else:
            plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(chunk.split()))
            blocks.append(("text", plain.replace("**", "")))
    return blocks
