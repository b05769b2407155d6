"""What the page of a scan shows: its parts, the volumes of its viewers, and every file that may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class ViewerLayer:
    """A volume of the viewer: its name for readers, the file that is asked for, and how it is drawn.

    `kind` is scan (grey), z (two colours beyond a threshold), change (two colours) or spread. `at_mm` is where the crosshair
    begins, and `finding` says what is there; `shown` is the one that is looked at first, of several over a base.
    """

    name: str
    file: str
    kind: str = "scan"
    low: float = 0.0
    high: float = 1.0
    at_mm: tuple[float, ...] = ()
    finding: str = ""
    shown: bool = False


@dataclass
class Viewer:
    """Volumes that are looked at together, side by side with one crosshair, or one over another where there is a base."""

    title: str
    layers: list[ViewerLayer]
    base: ViewerLayer | None = None
    note: str = ""


@dataclass
class Part:
    """A part of the page: a title, sentences of which the first is the verdict, tables, views, pictures by file, and text."""

    title: str
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    caption: str = ""
    marked: list[bool] = field(default_factory=list)
    views: list[Viewer] = field(default_factory=list)
    picture: str = ""
    alt: str = ""


@dataclass
class Results:
    """The parts of a page, and every file that may be asked for, by the name in its address."""

    parts: list[Part] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    downloads: list[tuple[str, str]] = field(default_factory=list)

    def offer(self, name: str, path: Path, title: str = "") -> str:
        """Allow a file to be asked for, and list it as a download where it has a title; its name."""
        self.files[name] = path
        if title:
            self.downloads.append((name, title))
        return name
