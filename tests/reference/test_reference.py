"""The reference has every key of every verb and kind, leads nowhere that is not there, and needs no network."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from gen3d.core.config import models_in, tag_of
from gen3d.core.errors import UserError
from gen3d.models.registry import KINDS, config_class
from gen3d.reference.keys import key_tables
from gen3d.reference.reference import Reference
from gen3d.reference.sources import read_documents
from gen3d.verbs import VERBS, verb_class

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = Reference(out=tmp_path_factory.mktemp("reference") / "pages", checkout=ROOT).run()
    assert (out / "style.css").is_file()
    return {path.stem: path.read_text(encoding="utf-8") for path in out.glob("*.html")}


def cells(page: str) -> set[str]:
    """The keys in the tables of a page."""
    return {html.unescape(key) for key in re.findall(r'<th scope="row"><code>(.*?)</code></th>', page)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_a_verb_is_on_its_page_with_its_meaning(pages: dict[str, str], verb: str) -> None:
    kind = verb_class(verb)
    shown = html.unescape(re.sub(r"</?code>", "`", pages[verb]))
    for name, field in kind.model_fields.items():
        assert (field.alias or name) in cells(pages[verb])
        assert (field.description or "") in shown
        nested = list(models_in(field.annotation))
        if len(nested) == 1:
            below = {inner.alias or key for key, inner in nested[0].model_fields.items()}
            assert all(any(key.endswith(f".{one}") for key in cells(pages[verb])) for one in below)
    for table in key_tables(kind, "Keys"):
        assert {row.key for row in table.rows} <= cells(pages[verb])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_its_keys(pages: dict[str, str], kind: str) -> None:
    part = pages["models"].split(f'<section id="{kind}">')[1].split("</section>")[0]
    config = config_class(kind)
    assert {f"model.{field.alias or name}" for name, field in config.model_fields.items()} <= cells(part)
    assert tag_of(config) == kind


def test_every_link_leads_to_a_place_that_is_there_and_none_to_the_network(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', page):
            target, _, anchor = link.partition("#")
            assert ":" not in link, f"{name}: {link}"
            if target == "style.css":
                continue
            there = pages[target.removesuffix(".html") if target else name]
            assert not anchor or f'id="{anchor}"' in there, f"{name}: {link}"


def test_settings_and_commands_come_from_the_files(pages: dict[str, str]) -> None:
    documents = read_documents(ROOT)
    assert len(documents.settings) == len([p for p in (ROOT / "configs").glob("*/*.yaml") if p.parent.name != "debug"])
    assert all(one.purpose and one.head["Expect"] for one in documents.settings)
    assert any(command.startswith("gen3d prepare source=BIDS_DIR") for command in documents.commands_of("prepare"))
    assert "I have scans and want maps" in pages["howto"]
    assert "configs/train/pca.yaml" in pages["train"]


def test_it_can_be_read_without_a_mouse_and_by_a_screen_reader(pages: dict[str, str]) -> None:
    for page in pages.values():
        assert '<html lang="en">' in page
        assert '<meta name="viewport"' in page
        assert page.count("<h1>") == 1
        assert 'href="#content"' in page
        assert page.count("<table") == page.count("<caption>")


def test_an_installation_without_its_settings_has_keys_and_no_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no README.md and configs/ there; give the folder of gen3d's sources"):
        Reference(out=tmp_path / "o", checkout=tmp_path).run()
    monkeypatch.setattr("gen3d.core.package_data.PACKAGE", tmp_path / "gen3d")
    out = Reference(out=tmp_path / "pages").run()
    assert "lacks its settings" in (out / "settings.html").read_text()
    assert "spacing_mm" in cells((out / "prepare.html").read_text())
