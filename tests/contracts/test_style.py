"""One look: only `gen3d.figures` knows a colour."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gen3d

PACKAGE = Path(gen3d.__file__).parent
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")


def colour_literals(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every `#rrggbb` in the strings of a module; comments do not count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, colour) for colour in COLOUR.findall(node.value))


def test_a_colour_literal_is_recognised() -> None:
    source = 'INK = "#1c2126"  # not "#ffffff"\nLABEL, PAIR = f"{INK} <b color=#D55E00>", "#rrggbb #12345"\n'
    assert list(colour_literals(source)) == [(1, "#1c2126"), (2, "#D55E00")]


def test_colours_are_defined_in_figures_alone() -> None:
    literals = [
        f"{path.relative_to(PACKAGE)}:{line}: {colour}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if PACKAGE / "figures" not in path.parents
        for line, colour in colour_literals(path.read_text(encoding="utf-8"))
    ]
    assert literals == []
