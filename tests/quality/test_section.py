"""The section on synthetic scans shows the folder's figures, each beside its floor."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gen3d.figures.blocks import Details, Table, Text, figures_in
from gen3d.quality import section as quality
from gen3d.quality.section import interval
from gen3d.report.open import open_context
from tests.world import World


@pytest.fixture(scope="module")
def section(world: World) -> quality.Section:
    found = quality.section(open_context([world["quality"]], 2))
    assert found is not None
    return found


def tables(blocks: object) -> list[Table]:
    found = []
    for block in blocks:  # type: ignore[attr-defined]
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Details):
            found += tables(block.blocks)
    return found


def test_every_distance_stands_beside_the_floor(section: quality.Section) -> None:
    table = next(table for table in tables(section.blocks) if table.header[0] == "Distance")
    assert list(table.header) == [
        "Distance", "Real people, two halves", "Synthetic", "Real, through the autoencoder", "Real, smoothed", "p",
    ]  # fmt: skip
    assert [row[0] for row in table.rows] == [f"{name}-random(n=9, z-scored brain)" for name in ("FID", "KID", "MMD")]
    last = [str(cell) for cell in table.rows[-1]]
    assert last[1:3] == ["0.012 [\N{MINUS SIGN}0.008, 0.032]", "0.234 [0.184, 0.284]"]
    assert last[-1] == "0.004"


def test_structures_that_differ_most_come_first_and_none_is_lost(section: quality.Section) -> None:
    found = [table for table in tables(section.blocks) if table.header[0] == "Structure"]
    assert [len(table.rows) for table in found] == [10, 2]
    assert found[0].rows[0][0] == "structure 0"
    names = {row[0] for table in found for row in table.rows}
    assert names == {f"structure {number}" for number in range(12)}


def test_pictures_and_the_answer_which_scans_are_real(section: quality.Section) -> None:
    names = [figure.name.removeprefix("quality_quality_") for figure in figures_in(section.blocks)]
    assert names == ["shuffled", "labelled", "distances", "structures", "fidelity"]
    folded = next(block for block in section.blocks if isinstance(block, Details))
    answer = folded.blocks[0]
    assert isinstance(answer, Text)
    assert answer.text == "Real are 1 and 4."


def test_conditions_and_usefulness(section: quality.Section) -> None:
    conditions = next(table for table in tables(section.blocks) if table.header[0] == "Condition")
    assert [row[1] for row in conditions.rows] == ["predicted in synthetic scans", "predicted in real people"]
    assert conditions.rows[0][3] == "0.61 [0.51, 0.71]"
    useful = next(table for table in tables(section.blocks) if table.header[0] == "Target")
    assert len(useful.rows) == 4


def test_a_missing_value_is_not_a_number() -> None:
    assert math.isnan(interval({"r": None}, "r").value)


def test_no_section_without_a_folder(world: World) -> None:
    assert quality.section(open_context([world["change"]], 2)) is None


def test_a_folder_without_pictures_has_a_section_all_the_same(world: World, tmp_path: Path) -> None:
    for name in ("artefact.json", "metrics.json"):
        (tmp_path / name).write_bytes((world["quality"] / name).read_bytes())
    found = quality.section(open_context([tmp_path], 2))
    assert found is not None
    assert len(figures_in(found.blocks)) == 1
