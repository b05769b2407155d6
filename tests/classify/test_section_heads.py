"""The section on heads shows the folder's figures, its warnings before any number, and nothing that nobody measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.sections import heads
from gen3d.core.errors import UserError
from gen3d.figures import style
from gen3d.figures.blocks import Card, Details, Points, Section, Table, Text, figures_in
from gen3d.report.open import open_context
from gen3d.report.report import Report
from tests.world_heads import (
    BASELINES,
    HEADS,
    VERDICT,
    WAIVER,
    brain_age,
    classify,
    external,
    stages,
)


def section_of(*folders: Path) -> Section:
    found = heads.section(open_context(folders, 2))
    assert found is not None
    return found


def walk(blocks: Any) -> Iterator[Any]:
    for block in blocks:
        yield block
        if isinstance(block, (Details, Card)):
            yield from walk(block.blocks)


def tables(section: Section) -> list[Table]:
    return [block for block in walk(section.blocks) if isinstance(block, Table)]


def sentences(section: Section) -> str:
    found = [block.text for block in walk(section.blocks) if isinstance(block, Text)]
    found += [item for block in walk(section.blocks) if isinstance(block, Points) for item in block.items]
    return " ".join(found)


def names(section: Section, folder: str = "ad") -> list[str]:
    return [figure.name.removeprefix(f"heads_{folder}_") for figure in figures_in(section.blocks)]


def damage(folder: Path, table: str, rows: Any) -> None:
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["tables"][table] = rows
    path.write_text(json.dumps(metrics))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are laid out and not rendered: for tests of words and tables."""
    monkeypatch.setattr(style, "png_bytes", lambda figure, dpi=0: b"")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(tmp_path_factory.mktemp("heads") / "ad", waivers=(WAIVER,))


@pytest.fixture(scope="module")
def section(folder: Path) -> Section:
    return section_of(folder)


def test_the_verdict_stands_first_and_big_and_the_waiver_before_any_number(section: Section) -> None:
    texts = [block for block in section.blocks if isinstance(block, Text)]
    assert (texts[1].text, texts[1].style) == (VERDICT, "verdict")
    assert (texts[2].text, texts[2].style) == (f"Waived: {WAIVER}.", "warning")
    assert section.blocks.index(texts[2]) < next(
        i for i, block in enumerate(section.blocks) if isinstance(block, Table)
    )


def test_who_was_tested_and_who_was_left_out(section: Section) -> None:
    words = sentences(section)
    assert "Tested: 60 people with 64 scans: CN (controls) 30 and AD (Alzheimer's disease) 30." in words
    assert "4 people without a diagnosis are left out." in words
    assert "No model behind the latents was trained on anybody of the table." in words
    assert "A search for the same person under two ids found none." in words


def test_heads_first_baselines_after_best_first_with_intervals(section: Section) -> None:
    table = next(table for table in tables(section) if table.header[:2] == ["Model", "AUC"])
    assert [row[0] for row in table.rows] == [
        "Heads", "Logistic", "Linear SVM", "MLP", "Baselines", "Hippocampus volume", "Voxelwise SVM", "Covariates",
    ]  # fmt: skip
    assert table.rows[1][1] == f"{HEADS['logistic']:.2f} [0.78, 0.90]"
    assert table.rows[7][1] == f"{BASELINES['covariates']:.2f} [0.61, 0.73]"
    assert "n = 60 people" in table.caption
    further = next(table for table in tables(section) if "Brier score" in table.header)
    assert further.rows[1][list(further.header).index("Calibration slope")] == "0.95 [0.89, 1.01]"


@pytest.mark.usefixtures("undrawn")
def test_the_head_named_first_leads_even_where_another_is_better(tmp_path: Path) -> None:
    folder = classify(tmp_path / "ad")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = metrics["tables"]["performance"]
    metrics["models"] = sorted(metrics["models"], key=lambda model: model["name"] != "mlp")
    metrics["tables"]["performance"] = sorted(rows, key=lambda row: row["model"] != "mlp")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = section_of(folder)
    table = next(table for table in tables(found) if table.header[:2] == ["Model", "AUC"])
    assert table.rows[1][0] == "Logistic"
    assert "MLP was named beforehand as the primary head." in table.caption
    differences = next(table for table in tables(found) if "Against" in table.header)
    assert {row[0] for row in differences.rows} == {"MLP"}


def test_differences_of_the_leading_head_first_and_the_others_folded(section: Section) -> None:
    shown, folded = (table for table in tables(section) if "Against" in table.header)
    assert {row[0] for row in shown.rows} == {"Logistic"}
    assert shown.rows[2][1:] == ["Hippocampus volume (baseline)", "0.070 [0.020, 0.120]", "0.021", "0.064"]
    assert {row[0] for row in folded.rows} == {"Linear SVM", "MLP"}
    assert any(isinstance(block, Details) and folded in block.blocks for block in section.blocks)


def test_every_figure_is_there_and_its_table_is_in_the_numbers(section: Section) -> None:
    assert names(section) == [
        "performance", "roc", "decision", "reliability", "predictive_values", "subgroups", "permutation",
    ]  # fmt: skip
    assert set(names(section)) <= set(section.numbers["ad"]["tables"])
    assert all(figure.png.startswith(b"\x89PNG") and len(figure.alt) > 10 for figure in figures_in(section.blocks))


def test_what_a_positive_result_means(section: Section) -> None:
    words = sentences(section)
    assert (
        "At a prevalence of 10 %: of 100 people with a positive result, 27 have AD [23, 31]; of 100 people with a negative "
        "result, 3 have AD all the same [2, 5]." in words
    )
    assert "At a prevalence of 3 %: of 100 people with a positive result, 9 have AD [5, 13]" in words


def test_settings_and_checklist_are_folded(section: Section) -> None:
    folded = {block.summary: block for block in section.blocks if isinstance(block, Details)}
    checklist = folded["Checklist for reporting (TRIPOD+AI, CLAIM)"].blocks[0]
    assert checklist.rows == [["TRIPOD+AI 5a", "Subject-level nested cross-validation", "software"]]
    models = folded["What the models are"].blocks[0]
    assert models.rows[0] == ["Logistic", "head", "latents of the VAE", "C: 0.1 (12), 1 (3)"]


def test_permuted_labels_stand_beside_what_was_found(section: Section) -> None:
    assert "Logistic 0.84 against 0.50, p = 0.001" in sentences(section)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("table", "figure"),
    [
        ("performance", "performance"),
        ("roc", "roc"),
        ("decision", "decision"),
        ("reliability", "reliability"),
        ("predictive_values", "predictive_values"),
        ("subgroups", "subgroups"),
        ("permutation", "permutation"),
        ("differences", ""),
        ("confusion", ""),
        ("predictions", ""),
        ("checklist", ""),
    ],
)
def test_a_missing_table_leaves_out_its_block_alone(folder: Path, tmp_path: Path, table: str, figure: str) -> None:
    copy = classify(tmp_path / "ad")
    (copy / f"{table}.tsv").unlink()
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["tables"].pop(table, None)
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert set(names(section_of(copy))) == set(names(section_of(folder))) - {figure}


@pytest.mark.usefixtures("undrawn")
def test_a_table_that_is_only_a_file_is_read_from_it(tmp_path: Path) -> None:
    copy = classify(tmp_path / "ad")
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["tables"] = {}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    table = next(table for table in tables(section_of(copy)) if table.header[:2] == ["Model", "AUC"])
    assert table.rows[1][1] == "0.84 [0.78, 0.90]"


@pytest.mark.usefixtures("undrawn")
def test_people_of_other_data_without_controls_give_sensitivity_only(tmp_path: Path) -> None:
    found = section_of(external(tmp_path / "ad"))
    words = sentences(found)
    assert "Saved heads were applied to them unchanged, and nothing was fitted" in words
    assert "None of them is of the class CN, so only sensitivity can be measured" in words
    assert names(found) == ["performance"]
    table = next(table for table in tables(found) if table.header[0] == "Model" and "Kind" not in table.header)
    assert list(table.header) == ["Model", "Sensitivity"]
    assert table.rows[1] == ["Logistic", "0.79 [0.73, 0.85]"]
    assert "AUC" not in " ".join(str(cell) for table in tables(found) for cell in table.header)


def test_stages_have_a_confusion_square_and_an_auc_per_class(tmp_path: Path) -> None:
    found = section_of(stages(tmp_path / "stages"))
    assert names(found, "stages") == ["performance", "confusion"]
    first, by_class = (table for table in tables(found) if table.header[0] == "Model")
    assert list(first.header[1:]) == ["Macro AUC", "Weighted kappa", "Mean error, grades", "Balanced accuracy"]
    assert list(by_class.header[1:]) == ["AUC of 0", "AUC of 0.5", "AUC of 1"]
    assert by_class.rows[1][3] == "0.74 [0.68, 0.80]"


def test_a_number_is_drawn_against_the_truth_as_means_over_repeats(tmp_path: Path) -> None:
    folder = brain_age(tmp_path / "age")
    found = section_of(folder)
    assert names(found, "age") == ["performance", "predicted"]
    drawn = found.numbers["age"]["predicted_against_true"]
    written = pd.read_csv(folder / "predictions.tsv", sep="\t").groupby("key")[["y_true", "predicted"]].mean()
    assert drawn["model"] == "ridge"
    assert [point["key"] for point in drawn["points"]] == list(written.index)
    np.testing.assert_allclose([point["predicted"] for point in drawn["points"]], written["predicted"])
    np.testing.assert_allclose([point["true"] for point in drawn["points"]], written["y_true"])
    table = next(table for table in tables(found) if "Mean absolute error" in table.header)
    assert table.rows[1][:2] == ["Ridge", "4.60 [4.30, 4.90]"]


@pytest.mark.usefixtures("undrawn")
def test_stages_are_named_alike_where_only_the_files_hold_them(tmp_path: Path) -> None:
    folder = stages(tmp_path / "stages")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.pop("tables")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = section_of(folder)
    assert names(found, "stages") == ["performance", "confusion"]
    _, by_class = (table for table in tables(found) if table.header[0] == "Model")
    assert list(by_class.header[1:]) == ["AUC of 0", "AUC of 0.5", "AUC of 1"]


@pytest.mark.usefixtures("undrawn")
def test_one_person_under_two_names_is_a_warning(tmp_path: Path) -> None:
    pairs = [{"first": "s01", "second": "s17", "similarity": 0.994, "isolation": 9.1}]
    guard = {"seen_policy": "refuse", "num_seen": 0, "waivers": [], "duplicates": pairs, "duplicates_policy": "merge"}
    found = section_of(classify(tmp_path / "ad", guard=guard))
    warning = next(block for block in found.blocks if isinstance(block, Text) and block.style == "warning")
    assert "s01 and s17 (similarity 0.994); each pair was kept together in every split." in warning.text
    assert "found none" not in sentences(found)


@pytest.mark.usefixtures("undrawn")
def test_several_folders_have_a_heading_each(folder: Path, tmp_path: Path) -> None:
    found = section_of(folder, brain_age(tmp_path / "age"))
    titles = [block.text for block in found.blocks if block.kind == "heading"]
    assert titles[0] == "Diagnosis, AD against CN (ad)"
    assert "Age years (age)" in titles
    assert set(found.numbers) == {"ad", "age"}


@pytest.mark.usefixtures("undrawn")
def test_folders_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    found = section_of(folder, classify(tmp_path / "other" / "ad"))
    assert len(found.numbers) == 2
    assert len({figure.name for figure in figures_in(found.blocks)}) == len(figures_in(found.blocks))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("table", "rows", "words"),
    [
        ("roc", [{"model": "logistic", "false_positive_rate": 0.1}], "no column true_positive_rate"),
        ("performance", "nonsense", "not a list of rows"),
        ("predictive_values", None, "ppv is 'many', not a number"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path: Path, table: str, rows: Any, words: str) -> None:
    folder = classify(tmp_path / "ad")
    if rows is None:
        rows = json.loads((folder / "metrics.json").read_text())["tables"][table]
        rows[0]["ppv"] = "many"
    damage(folder, table, rows)
    with pytest.raises(UserError, match=words) as error:
        section_of(folder)
    assert f"table {table}" in str(error.value)
    assert "gen3d classify" in str(error.value)


@pytest.mark.usefixtures("undrawn")
def test_metrics_that_are_not_json_are_one_sentence(tmp_path: Path) -> None:
    folder = classify(tmp_path / "ad")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: damaged"):
        section_of(folder)


@pytest.mark.usefixtures("undrawn")
def test_an_empty_folder_has_a_section_without_figures(tmp_path: Path) -> None:
    folder = classify(tmp_path / "ad")
    for path in folder.glob("*.tsv"):
        path.unlink()
    (folder / "metrics.json").unlink()
    found = section_of(folder)
    assert figures_in(found.blocks) == []
    assert tables(found) == []


def test_a_report_of_heads_alone_needs_no_other_folder(folder: Path, tmp_path: Path) -> None:
    out = Report(inputs=(folder,), out=tmp_path / "report").run()
    html = (out / "index.html").read_text(encoding="utf-8")
    assert f'<p class="verdict">{VERDICT}</p>' in html
    assert "http://" not in html
    numbers = json.loads((out / "metrics.json").read_text())["heads"]["ad"]["tables"]
    assert numbers["performance"][0]["value"] == HEADS["logistic"]
    drawn = {path.stem.removeprefix("heads_ad_") for path in (out / "figures").glob("heads_ad_*.png")}
    assert drawn <= set(numbers)
