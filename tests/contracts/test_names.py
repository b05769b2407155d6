"""A public class is named once in the package, so that its name alone says which one is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import gen3d

PACKAGE = Path(gen3d.__file__).parent


def public_classes(package: Path) -> dict[str, list[str]]:
    """Name of every public top-level class -> the files that define it, relative to the package."""
    places = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(package)))
    return dict(places)


def test_public_class_names_are_unique() -> None:
    classes = public_classes(PACKAGE)
    assert len(classes) > 100
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_a_name_that_is_taken_is_noticed_and_a_private_one_is_not(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("class Shared: ...\nclass _Private: ...\ndef f():\n    class Inner: ...\n")
    assert public_classes(tmp_path) == {"Shared": ["one.py", "two.py"]}
