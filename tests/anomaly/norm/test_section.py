"""The page of a norm tells the figures of its record; that of one scan shows no empty groups and sends nobody the wrong way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.norm.norm import Norm
from gen3d.anomaly.norm.section import card_chapters
from gen3d.core.artefact import read
from gen3d.figures.blocks import Card, Details, Figure, Points, Section, Table, Text
from gen3d.report.open import open_context
from gen3d.report.report import build
from tests.cohorts import write_cohort
from tests.runs import fit
from tests.sealing import reseal


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A norm of two sites, and maps of new people of whom one alone, some of a site that the norm does not know."""
    home = tmp_path_factory.mktemp("page")
    cohort = write_cohort(home / "cohort", 60, 0, sites=("a", "b"), seed=3)
    run = fit(cohort, home / "run")
    Norm.model_validate(
        {"prepared": cohort, "run": run, "out": home / "norm", "cluster_z": 2.5, "licence": "CC0"}
    ).run()
    new = write_cohort(home / "new", 6, 2, sites=("a", "z"), seed=4, prefix="n")
    table = pd.read_csv(new / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    table["role"] = "evaluation"
    table.to_csv(new / "manifest.tsv", sep="\t", index=False)
    one = shutil.copytree(new, home / "one")
    table.loc[table["key"] != table.loc[table["site"] == "a", "key"].iloc[-1], "role"] = "excluded"
    table.to_csv(one / "manifest.tsv", sep="\t", index=False)
    for name in ("new", "one"):
        keys = {"norm": home / "norm", "prepared": home / name, "out": home / f"maps_{name}"}
        Anomaly.model_validate(keys).run()
    return home


def page(*folders: Path) -> dict[str, Section]:
    sections, _ = build(open_context(folders))
    return {section.identifier: section for section in sections}


def words(blocks: object) -> str:
    """All text of blocks, however deep."""
    if isinstance(blocks, (list, tuple)):
        return " ".join(words(block) for block in blocks)
    if isinstance(blocks, (Card, Details)):
        return f"{blocks.title if isinstance(blocks, Card) else blocks.summary} {words(list(blocks.blocks))}"
    if isinstance(blocks, Section):
        return words(list(blocks.blocks))
    if isinstance(blocks, Points):
        return " ".join(blocks.items)
    if isinstance(blocks, Table):
        return f"{blocks.caption} {words([list(blocks.header), *map(list, blocks.rows)])}"
    if isinstance(blocks, Figure):
        return blocks.caption
    return blocks.text if isinstance(blocks, Text) else str(blocks)


def test_the_page_of_a_norm_has_the_figures_of_its_record(home: Path) -> None:
    (section,) = [part for name, part in page(home / "norm").items() if name == "norms"]
    record = json.loads((home / "norm" / "calibration.json").read_text())
    rows = section.numbers["norm"]["null"]
    assert {row["channel"] for row in rows} == set(record)
    for row in rows:
        part = "test" if row["judged"] == "took no part" else "calibration_held_out"
        of_record = record[row["channel"]][part]
        figures = of_record if row["site"] == "all" else of_record["by_site"][row["site"]]
        assert (row["num_people"], row["share_beyond"]) == (figures["num_people"], figures["share_beyond_1.96"])
        assert row["share_positive"].low <= figures["share_people_fdr_positive"] <= row["share_positive"].high
    assert {row["site"] for row in rows} == {"all", "a", "b"}
    text = words(section)
    for part in ("No image and no id is in the folder", "CC0", "gen3d norm adapt="):
        assert part in text
    assert any(isinstance(block, Figure) and block.name == "norm_norm_ages" for block in section.blocks)


def test_a_norm_without_a_card_or_ages_has_a_page_too(home: Path, tmp_path: Path) -> None:
    norm = shutil.copytree(home / "norm", tmp_path / "norm")
    (norm / "card.md").unlink()
    record = json.loads((norm / "norm.json").read_text())
    record["who"] = [row | {"age": "", "sex": ""} for row in record["who"]]
    (norm / "norm.json").write_text(json.dumps(record))
    section = page(reseal(norm))["norms"]
    assert not [block for block in section.blocks if isinstance(block, Details)], "chapters of a card"
    assert [block.name for block in section.blocks if isinstance(block, Figure)] == ["norm_norm_curves"]
    assert "Controls of the norm by site" in words(section)


def test_chapters_of_a_card() -> None:
    assert card_chapters("# Norm\n\n## A b\n\n- one\ntext\n- two\n\n## C\n") == {"A b": ["one", "two"]}


def test_one_scan_is_a_page_without_groups(home: Path) -> None:
    sections = page(home / "maps_one", home / "one")
    assert not {"groups", "scores"} & set(sections)
    num = json.loads((home / "norm" / "norm.json").read_text())["covariates"]["num"]
    by_norm = f"judged by {sum(num)} controls of a norm"
    for name in ("summary", "people", "calibration"):
        assert by_norm in words(sections[name]), name
    people = words(sections["people"])
    assert "One scan" in people
    assert f"5th to the 95th percentile of {sum(num)} controls of a norm" in people
    for misleading in ("Above held-out", "held-out controls. ", "the other controls", "most deviating people"):
        assert misleading not in people, misleading
    assert "AUC" not in words(list(sections.values()))
    assert sections["people"].numbers["shown"][0]["regions"][0]["controls_5_95"] is not None


def test_people_of_an_unknown_site_are_sent_to_adapt(home: Path) -> None:
    limits = words(page(home / "maps_new")["limits"])
    assert "gen3d norm adapt=NORM" in limits
    assert "run `gen3d anomaly` again" not in limits


def test_maps_by_a_norm_keep_its_settings_and_its_models(home: Path) -> None:
    maps = MapsFolder(read(home / "maps_new"), "maps")
    assert maps.cluster_z == 2.5
    assert maps.smoothing_mm == 4
    assert maps.by_norm
    assert [folder.name for folder in maps.model_folders] == ["0"]
    assert maps.learned == ("t1w", "log_jacobian")
    (opened,) = open_context([home / "maps_new"]).all(MapsFolder)
    assert opened.name == "Voxelwise regression, by a norm"
    clusters = maps.clusters
    assert (clusters["peak_z"].abs() > 2.5).all()
    assert (clusters["peak_z"].abs() < 3.1).any(), "clusters begin where those of the controls do"
