"""The documentation refers to what exists: every link, every path, and one page per analysis script."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANALYSIS = ROOT / "analysis"
PAGES = sorted(ANALYSIS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md", *PAGES]
SCRIPTS = sorted(ANALYSIS.rglob("*.py"))
TREES = ("analysis", "configs", "gen3d", "launch", "tests")
HEADINGS = ["Question", "Answer", "Command", "Table", "What it does not show"]
WITHOUT_QUESTION = {"README.md", "terms.md", "not_run.md"}
MOST_LINES = {"page": 150, "index": 120}

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(TREES)})/[\w./*-]*\w")
OTHERS = [
    ROOT / "CHANGELOG.md",
    ROOT / "Makefile",
    *(path for tree in TREES for path in (ROOT / tree).rglob("*") if path.suffix in (".py", ".yaml", ".sh")),
]


def names(paths: list[Path]) -> list[str]:
    """How tests of these files are called."""
    return [str(path.relative_to(ROOT)) for path in paths]


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_links(document: Path) -> list[str]:
    """Relative links, and their anchors, that lead nowhere."""
    missing = []
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    return missing


def missing_paths(text: str) -> list[str]:
    """Paths from the repository's root that a text names and that do not exist; `*` stands for anything."""
    return [path for path in PATH.findall(text) if not (ROOT / path).exists() and not any(ROOT.glob(path))]


def commands(page: Path) -> list[str]:
    """Commands that a page shows, a continued one in one piece and without variables before it."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^    (?:[A-Z0-9_]+=\S+ )*((?:make|gen3d|python|export) .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_and_paths_of_documents_exist(document: Path) -> None:
    assert missing_links(document) == []
    assert missing_paths(document.read_text(encoding="utf-8")) == []


def test_a_wrong_link_and_a_wrong_path_are_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# Some title\n[a](#some-title) [b](page.md) [c](#other) [d](gone.md) [e](https://x.org/y)\n")
    assert missing_links(document) == ["#other", "gone.md"]
    assert missing_paths("`configs/train/pca.yaml` configs/*/pca.yaml configs/train/gone.yaml") == [
        "configs/train/gone.yaml"
    ]


def test_analysis_pages_named_in_code_and_settings_exist() -> None:
    page = re.compile(r"analysis/[\w/]+\.(?:md|py|png)")
    named = {(path, match) for path in OTHERS for match in page.findall(path.read_text(encoding="utf-8"))}
    assert len(named) >= 5
    assert [(str(path), match) for path, match in sorted(named) if not (ROOT / match).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_pages_have_their_headings_and_stay_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    index = page.name == "README.md"
    assert len(text.splitlines()) <= MOST_LINES["index" if index else "page"]
    if page.name not in WITHOUT_QUESTION:
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
        assert commands(page), "no command to type"


def test_scripts_have_the_options_that_pages_give_them() -> None:
    started = [command.split() for page in PAGES for command in commands(page) if command.startswith("python ")]
    assert len(started) >= 25
    for _, script, *words in started:
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{script} has no {option}"


def test_every_page_is_in_its_index() -> None:
    for page in PAGES:
        if page.name != "README.md":
            index = (page.parent / "README.md").read_text(encoding="utf-8")
            assert f"]({page.name})" in index, f"{page.name} is not in the index"


def test_every_script_is_on_its_page() -> None:
    """A numbered script has the page of its name; its helpers, whose name goes on, and shared modules are named on one."""
    for folder in (ANALYSIS, ANALYSIS / "benchmarks"):
        text = "".join(page.read_text(encoding="utf-8") for page in folder.glob("*.md"))
        for script in sorted(folder.glob("*.py")):
            assert script.name in text, f"no page names {script.name}"
            started = 'if __name__ == "__main__"' in script.read_text(encoding="utf-8")
            pages = [page for page in folder.glob("*.md") if script.stem.startswith(page.stem)]
            assert pages or not started, f"{script.name} has no page"


def defined(module: str) -> set[str] | None:
    """Names that a module of gen3d binds at its top level, and its submodules; None where there is no such module."""
    folder = ROOT.joinpath(*module.split("."))
    source = folder.with_suffix(".py") if folder.with_suffix(".py").is_file() else folder / "__init__.py"
    if not source.is_file():
        return None
    bound = {path.stem for path in folder.glob("*") if path.is_dir() or path.suffix == ".py"}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name for alias in node.names}
        else:
            bound |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return bound


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_what_scripts_import_of_gen3d_exists(script: Path) -> None:
    """Also imports inside functions, which starting a script does not try."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gen3d":
            bound = defined(node.module or "")
            assert bound is not None, f"no module {node.module}"
            assert {alias.name for alias in node.names} <= bound, f"line {node.lineno}"
