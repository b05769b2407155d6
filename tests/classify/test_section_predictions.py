"""The section on new people: warnings before numbers, the most probable first, and what a probability was worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gen3d.classify.sections import predictions
from gen3d.core.errors import UserError
from gen3d.figures import style
from gen3d.figures.blocks import Card, Details, Heading, Section, Table, Text, figures_in
from gen3d.report.open import open_context
from tests.world_heads import UNUSUAL, classify, predict, stratify

SUBJECTS_SHOWN = 2


def section_of(*folders: Path) -> Section:
    found = predictions.section(open_context(folders, SUBJECTS_SHOWN))
    assert found is not None
    return found


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are laid out and not rendered."""
    monkeypatch.setattr(style, "png_bytes", lambda figure, dpi=0: b"")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(tmp_path_factory.mktemp("heads") / "ad")


@pytest.fixture(scope="module")
def section(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Section:
    return section_of(predict(tmp_path_factory.mktemp("predict") / "predictions", head), head)


def table_of(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def change(folder: Path, **columns: Any) -> None:
    """Columns of predictions.tsv replaced; None removes one."""
    table = pd.read_csv(folder / "predictions.tsv", sep="\t", dtype={"subject": str, "session": str})
    for name, value in columns.items():
        table = table.drop(columns=name) if value is None else table.assign(**{name: value})
    table.to_csv(folder / "predictions.tsv", sep="\t", index=False)


def test_warnings_stand_before_any_number_and_name_whom_they_are_about(section: Section) -> None:
    warning = next(block for block in section.blocks if isinstance(block, Text) and block.style == "warning")
    assert "new2 and new1." in warning.text
    assert section.blocks.index(warning) < section.blocks.index(table_of(section))
    by_key = {row[0]: row for row in table_of(section).rows}
    assert by_key["sub-new1_ses-1"][1] == UNUSUAL
    assert by_key["sub-new2_ses-1"][1] == "a model behind the latents was trained on this person (vae (train))"
    assert by_key["sub-new3_ses-1"][1] == "\N{EN DASH}"


def test_the_most_probable_come_first_with_call_and_typicality(section: Section) -> None:
    table = table_of(section)
    assert list(table.header) == ["Scan", "Warning", "Age", "Sex", "P(AD)", "Called", "More unusual than, %"]
    assert [row[0] for row in table.rows] == [f"sub-new{index}_ses-1" for index in reversed(range(8))]
    assert table.rows[0] == ["sub-new7_ses-1", "\N{EN DASH}", "67", "F", "0.94", "AD", "50"]
    assert table.rows[-1][4:6] == ["0.06", "CN"]


def test_cards_say_what_such_a_probability_was_worth_and_who_is_alike(section: Section) -> None:
    cards = [block for block in section.blocks if isinstance(block, Card)]
    assert [card.title for card in cards] == ["sub-new7_ses-1", "sub-new6_ses-1"]
    words = " ".join(block.text for block in cards[0].blocks if isinstance(block, Text))
    assert "Probability of AD: 0.94, at or above the threshold of 0.50: predicted AD." in words
    assert "When the head was tested, of 41 people with a similar probability 71 [56, 83] % were AD." in words
    assert "More unusual than 50 % of the training people of the head." in words
    table = next(block for block in cards[0].blocks if isinstance(block, Table))
    assert table.rows[0] == ["sub-s10_ses-1", "1.50", "CN", "71", "M", "CN"]
    assert table.rows[2][2] == "AD"


@pytest.mark.usefixtures("undrawn")
def test_without_its_own_the_reliability_is_that_of_the_head_among_the_inputs(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    change(folder, reliability_observed=None)

    def words(*folders: Path) -> str:
        card = next(block for block in section_of(*folders).blocks if isinstance(block, Card))
        return " ".join(block.text for block in card.blocks if isinstance(block, Text))

    assert "of 16 people with a similar probability 88 [74, 100] % were AD" in words(folder, head)
    assert "such a probability" not in words(folder)


@pytest.mark.usefixtures("undrawn")
def test_of_many_people_thirty_are_shown_and_the_rest_is_folded(head: Path, tmp_path: Path) -> None:
    found = section_of(predict(tmp_path / "predictions", head, num=45))
    assert len(table_of(found).rows) == 30
    rest = next(block for block in found.blocks if isinstance(block, Details))
    assert rest.summary == "The other 15 scans"
    assert len(rest.blocks[0].rows) == 15
    assert len(found.numbers["predictions"]["tables"]["predictions"]) == 45
    assert len([block for block in found.blocks if isinstance(block, Card)]) == SUBJECTS_SHOWN


def test_people_are_placed_in_the_map(head: Path, tmp_path: Path) -> None:
    strata = stratify(tmp_path / "strata")
    folder = predict(tmp_path / "predictions", head, strata)
    found = section_of(folder, strata)
    assert [row[-1] for row in table_of(found).rows[:3]] == ["2", "1", "3"]
    card = next(block for block in found.blocks if isinstance(block, Card))
    assert "in the map in cluster 2." in " ".join(block.text for block in card.blocks if isinstance(block, Text))
    names = [figure.name for figure in figures_in([card])]
    assert names == ["position_predictions_sub-new7_ses-1"]
    assert figures_in([card])[0].png.startswith(b"\x89PNG")
    assert len(figures_in(section_of(folder).blocks)) == 1  # without the map: the probabilities alone


@pytest.mark.usefixtures("undrawn")
def test_a_predicted_number_has_no_call(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    change(folder, p_CN=None, p_AD=None, y_pred=None, threshold=None, reliability_observed=None, y_score=71.25)
    found = section_of(folder)
    assert list(table_of(found).header) == ["Scan", "Warning", "Age", "Sex", "Predicted", "More unusual than, %"]
    assert table_of(found).rows[0][4] == "71.2"
    card = next(block for block in found.blocks if isinstance(block, Card))
    assert "Predicted: 71.2." in " ".join(block.text for block in card.blocks if isinstance(block, Text))
    assert figures_in(found.blocks) == []


@pytest.mark.usefixtures("undrawn")
def test_three_classes_have_a_probability_each(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    change(folder, p_MCI=0.2, threshold=None)
    found = section_of(folder)
    assert list(table_of(found).header)[4:7] == ["P(CN)", "P(AD)", "P(MCI)"]
    card = next(block for block in found.blocks if isinstance(block, Card))
    words = " ".join(block.text for block in card.blocks if isinstance(block, Text))
    assert "Probabilities: CN 0.06, AD 0.94, MCI 0.20; predicted AD." in words
    assert "71 [56, 83] % were predicted correctly" in words


@pytest.mark.usefixtures("undrawn")
def test_grades_are_called_by_their_names(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    change(folder, y_pred=1.0, p_CN=None, p_AD=None, p_0=0.2, p_1=0.8)
    found = section_of(folder)
    assert table_of(found).rows[0][4:6] == ["0.80", "1"]
    card = next(block for block in found.blocks if isinstance(block, Card))
    assert "predicted 1." in " ".join(block.text for block in card.blocks if isinstance(block, Text))


@pytest.mark.usefixtures("undrawn")
def test_several_folders_are_told_apart_by_what_they_predict(head: Path, tmp_path: Path) -> None:
    first, second = predict(tmp_path / "first", head), predict(tmp_path / "second", head)
    metrics = json.loads((first / "metrics.json").read_text())
    metrics["head"] = {"target": {"name": "age_years", "task": "number", "classes": []}}
    (first / "metrics.json").write_text(json.dumps(metrics))
    titles = [block.text for block in section_of(first, second).blocks if isinstance(block, Heading)]
    assert titles == ["Age years (first)", "second"]


@pytest.mark.usefixtures("undrawn")
def test_no_neighbours_and_no_typicality_leave_out_their_words(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    (folder / "neighbours.tsv").unlink()
    change(folder, typicality_percentile=None, out_of_distribution=None, seen=None)
    found = section_of(folder)
    assert "Warning" not in table_of(found).header
    assert not any(isinstance(block, Text) and block.style == "warning" for block in found.blocks)
    card = next(block for block in found.blocks if isinstance(block, Card))
    assert [type(block) for block in card.blocks] == [Text, Text]
    assert table_of(found).rows[0][-1] == "\N{EN DASH}"


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_table_is_one_sentence(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    (folder / "predictions.tsv").write_text('key\tsubject\n"a\tb\n')
    with pytest.raises(UserError, match=r"predictions\.tsv: damaged"):
        section_of(folder)
    (folder / "predictions.tsv").write_text("subject\ty_score\nnew0\t0.5\n")
    with pytest.raises(UserError, match=r"no column key\); run `gen3d predict` again"):
        section_of(folder)


def test_metrics_hold_every_row_even_where_only_the_file_does(head: Path, tmp_path: Path) -> None:
    folder = predict(tmp_path / "predictions", head)
    (folder / "metrics.json").write_text(json.dumps({"summary": ["4 of 8 scans are called AD."]}))
    found = section_of(folder)
    rows = found.numbers["predictions"]["tables"]
    assert (len(rows["predictions"]), len(rows["neighbours"])) == (8, 24)
