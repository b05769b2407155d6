"""What the pages take from the files that come with gen3d: settings to start from, and the how-tos of its documents.

They lie in a checkout, not in the installed package; without them the pages have keys and no examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.verbs import VERBS

README, CONFIGS, DEBUG = "README.md", "configs", "debug"
DOCUMENTS = (README, f"{CONFIGS}/{README}")
COMMAND = re.compile(r"^    gen3d ([a-z-]+) (.*)$")
HEADS = ("Purpose", "Hardware", "Time", "Expect")


@dataclass(frozen=True)
class StartingPoint:
    """A YAML file to start from: its place below configs/, verb, what its first comment says, and its text."""

    path: str
    verb: str
    head: dict[str, str]
    text: str

    @property
    def purpose(self) -> str:
        """What it is for."""
        return self.head.get("Purpose", "")


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


def read_documents(checkout: Path) -> Documents:
    """Read the settings and how-tos of a checkout.

    Raises:
        UserError: it holds neither README.md nor configs/.
    """
    if not (checkout / README).is_file() or not (checkout / CONFIGS).is_dir():
        raise UserError(
            f"{checkout}: no {README} and {CONFIGS}/ there; give the folder of gen3d's sources, or leave out checkout=."
        )
    files = sorted((checkout / CONFIGS).glob("*/*.yaml"))
    settings = [_starting_point(path) for path in files if path.parent.name in VERBS and path.parent.name != DEBUG]
    howtos = [one for name in DOCUMENTS if (checkout / name).is_file() for one in _howtos(checkout / name)]
    return Documents(settings, howtos)


def _starting_point(path: Path) -> StartingPoint:
    text = path.read_text(encoding="utf-8")
    comments = [line.removeprefix("#").strip() for line in text.split("\n") if line.startswith("#")]
    head: dict[str, str] = {}
    for line in comments:
        name, _, rest = line.partition(":")
        if name in HEADS:
            head[name] = rest.strip()
        elif head:
            head[list(head)[-1]] += f" {line}"
    return StartingPoint(f"{path.parent.name}/{path.name}", path.parent.name, head, text)


def _howtos(path: Path) -> list[HowTo]:
    """The parts of a document that hold commands of gen3d."""
    parts = re.split(r"^#{2,3} (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
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
