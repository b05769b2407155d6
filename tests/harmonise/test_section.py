"""The section on harmonisation shows predictions before and after, with intervals, and the folder's picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.figures.blocks import Section, Table, Text, figures_in
from gen3d.harmonise import section as harmonisation
from gen3d.report.open import open_context
from tests.world_heads import harmonise

MINUS = "\N{MINUS SIGN}"


def section_of(*folders: Path) -> Section:
    found = harmonisation.section(open_context(folders, 2))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    return section_of(harmonise(tmp_path_factory.mktemp("harmonise") / "latents_h"))


def test_the_verdict_stands_first(section: Section) -> None:
    first = section.blocks[0]
    assert isinstance(first, Text)
    assert first.style == "verdict"
    assert first.text.startswith("The site is told with an AUC of 0.93")


def test_before_and_after_with_intervals_of_the_site_and_of_what_is_kept(section: Section) -> None:
    sites, kept = (block for block in section.blocks if isinstance(block, Table))
    assert list(sites.header) == [
        "Classifier", "Measure", "n", "Before [95 %]", "After [95 %]", "After minus before [95 %]", "Chance",
    ]  # fmt: skip
    difference = f"{MINUS}0.41 [{MINUS}0.46, {MINUS}0.36]"
    assert sites.rows == [
        ["Linear", "macro AUC", "60", "0.93 [0.88, 0.98]", "0.52 [0.47, 0.57]", difference, "0.50"],
    ]
    assert kept.rows[0][:5] == ["Age, years", "R²", "60", "0.61 [0.50, 0.72]", "0.60 [0.49, 0.71]"]


def test_charts_and_the_picture_of_the_folder_are_there_with_their_tables(section: Section) -> None:
    names = [figure.name.removeprefix("harmonisation_latents_h_") for figure in figures_in(section.blocks)]
    assert names == ["sites", "kept", "before_after"]
    assert {"sites", "kept", "people"} <= set(section.numbers["latents_h"]["tables"])


def test_missing_tables_and_pictures_leave_out_their_blocks(tmp_path: Path) -> None:
    folder = harmonise(tmp_path / "latents_h")
    (folder / "figures" / "before_after.png").unlink()
    for name in ("sites", "kept", "people"):
        (folder / f"{name}.tsv").unlink()
    (folder / "metrics.json").write_text(json.dumps({"summary": ["Nothing could be assessed."], "tables": {}}))
    found = section_of(folder)
    assert [block.kind for block in found.blocks] == ["text", "points"]


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    folder = harmonise(tmp_path / "latents_h")
    (folder / "metrics.json").write_text(json.dumps({"summary": [], "tables": {"sites": [{"stage": "before"}]}}))
    with pytest.raises(UserError, match=r"table sites is damaged \(no column measure\); run `gen3d harmonise` again"):
        section_of(folder)
