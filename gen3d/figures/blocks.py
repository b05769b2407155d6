"""What a report is made of: sections of plain blocks. The template alone decides how they look.

Text is escaped by the template; only `Markup` made inside this package passes as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Cell = str | Markup


@dataclass(frozen=True)
class Text:
    """One paragraph. `style` is "", "lead" (first sentences), "note" (smaller) or "warning"."""

    text: str
    style: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]
    kind: str = "points"


@dataclass(frozen=True)
class Table:
    """Rows under a header; `align` holds one of l, c, r, n (left, on one line) per column; the first cell of a row is its heading.

    A row of a single cell is a heading over the rows that follow it.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    sortable: bool = False
    kind: str = "table"

    def __post_init__(self) -> None:
        widths = {len(self.header), len(self.align), *(len(row) for row in self.rows if len(row) > 1)}
        if len(widths) != 1:
            raise ValueError(f"table {self.caption!r}: header, align and rows differ in length: {sorted(widths)}")


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; `png` is also written to figures/<name>.png.

    `markup` is inline SVG shown instead of the PNG where it is given.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    markup: Markup | None = None
    svg: bytes | None = None
    width_percent: int = 100
    kind: str = "figure"

    @property
    def source(self) -> str:
        """The picture as a data address, so that the page needs no other file."""
        if self.svg is not None:
            return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Code:
    """The text of a settings file."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Details:
    """Folded blocks that a reader can open; in print they are unfolded if `printed`."""

    summary: str
    blocks: Sequence[Any]
    printed: bool = True
    kind: str = "details"


@dataclass(frozen=True)
class Card:
    """One person: a titled frame with text, then figures next to tables, then folded blocks."""

    title: str
    subtitle: str
    blocks: Sequence[Any]
    identifier: str = ""
    kind: str = "card"


@dataclass(frozen=True)
class Section:
    """A numbered part of the report and every number that it shows, for metrics.json."""

    identifier: str
    title: str
    blocks: Sequence[Any]
    numbers: dict[str, Any] = field(default_factory=dict)


def figures_in(blocks: Sequence[Any]) -> list[Figure]:
    """All figures among the blocks, however deep, in order."""
    figures: list[Figure] = []
    for block in blocks:
        if isinstance(block, Figure):
            figures.append(block)
        elif isinstance(block, (Details, Card)):
            figures += figures_in(block.blocks)
    return figures
