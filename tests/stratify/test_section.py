"""The section on strata: every person's card is in the page, confounds come first, and nothing is drawn from nowhere."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.core.errors import UserError
from gen3d.figures import explorer as interactive
from gen3d.figures import style
from gen3d.figures.blocks import Figure, Section, Table, Text
from gen3d.figures.explorer import MOST_BYTES, MOST_THUMBNAILS, Colouring, Explorer, PersonDot
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.volume import write_nifti
from gen3d.report.open import open_context
from gen3d.stratify import section as strata
from gen3d.stratify import section_map as strata_map
from tests.world_heads import classify, cohort, predict, stratify, thumbnail


def section_of(*folders: Path) -> Section:
    found = strata.section(open_context(folders, 2))
    assert found is not None
    return found


def figure_of(section: Section) -> Figure:
    return next(block for block in section.blocks if isinstance(block, Figure) and block.markup is not None)


def data_of(markup: Any) -> dict[str, Any]:
    """The data of a scatter as its script reads them."""
    found = re.search(r'<script type="application/json" class="explore-data">(.*?)</script>', str(markup), re.S)
    assert found is not None
    content: dict[str, Any] = json.loads(found.group(1))
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stratify(tmp_path_factory.mktemp("strata") / "strata")


@pytest.fixture(scope="module")
def section(folder: Path) -> Section:
    return section_of(folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are laid out and not rendered."""
    monkeypatch.setattr(style, "png_bytes", lambda figure, dpi=0: b"")


def test_the_verdict_stands_first(section: Section) -> None:
    first = section.blocks[0]
    assert isinstance(first, Text)
    assert (first.text, first.style) == ("3 stable clusters among 60 people (n 18, 20, 20).", "verdict")


def test_everybodys_card_is_in_the_page_with_a_picture(section: Section) -> None:
    data = data_of(figure_of(section).markup)
    table = cohort()
    assert [person["title"] for person in data["people"]] == list(table["subject"])
    for person, (index, row) in zip(data["people"], table.iterrows(), strict=True):
        facts = dict(person["facts"])
        assert facts["Age"] == f"{row['age_years']:.0f} years"
        assert (facts["Sex"], facts["Diagnosis"], facts["Site"]) == (row["sex"], row["diagnosis"], row["site"])
        assert ("MMSE" in facts) == (row["diagnosis"] == "AD")
        assert isinstance(index, int)
        assert facts["Cluster"] == ("in no cluster" if index < 2 else f"{index * 3 // 60 + 1} (certainty 0.90)")
        kind, _, content = person["picture"].partition(";base64,")
        picture = base64.b64decode(content)
        assert kind == ("data:image/png" if picture.startswith(b"\x89PNG") else "data:image/jpeg")
        assert len(picture) <= MOST_BYTES
        assert Image.open(io.BytesIO(picture)).size == (64, 64)


def test_every_dot_has_its_words_without_a_script_and_lies_where_the_folder_says(
    section: Section, folder: Path
) -> None:
    markup = str(figure_of(section).markup)
    titles = re.findall(r"<title>(.*?)</title>", markup)
    assert len(titles) == 60
    assert titles[40].startswith("s40, Age ")
    table = pd.read_csv(folder / "strata.tsv", sep="\t")
    data = data_of(figure_of(section).markup)
    for plane, columns in zip(data["planes"], (["umap1", "umap2"], ["pc1", "pc2"]), strict=True):
        drawn, true = np.array(plane), table[columns].to_numpy(float)
        assert np.corrcoef(drawn[:, 0], true[:, 0])[0, 1] > 0.9999
        assert np.corrcoef(drawn[:, 1], true[:, 1])[0, 1] < -0.9999  # up in the map is up in the picture
    assert 'transform="translate({} {})"'.format(*data["planes"][0][7]) in markup


def test_colours_can_be_chosen_and_legends_count(section: Section) -> None:
    markup = str(figure_of(section).markup)
    for name in ("Cluster", "Diagnosis", "Age", "Site", "Sex"):
        assert re.search(rf'<option value="\d">{name}</option>', markup)
    assert "3 (20)" in markup
    assert "in no cluster (2)" in markup
    colours = data_of(markup)["colours"]
    assert colours[0][0] == style.NO_GROUP
    assert len({colours[0][index] for index in (5, 25, 45)}) == 3
    assert colours[1][0] == style.CONTROL_COLOUR


def test_the_page_part_refers_to_nothing_outside(section: Section) -> None:
    markup = str(figure_of(section).markup)
    assert "http" not in markup
    assert not re.search(r'(src|href)="(?!data:|#)', markup)


def test_a_name_cannot_break_out_of_the_page() -> None:
    evil = '</script><script>alert("x")</script>&'
    person = PersonDot("k", evil, [("Site", evil)])
    place = np.zeros((1, 2))
    colouring = Colouring(evil, ["#000000"], [("#000000", evil)])
    markup = str(interactive.explore(Explorer("map", [person], {evil: place}, [colouring], evil)))
    assert "<script>alert" not in markup
    assert data_of(markup)["people"][0] == {"title": evil, "facts": [["Site", evil]]}


def test_numbers_hold_what_is_drawn(section: Section) -> None:
    drawn = section.numbers["strata"]["map"]
    assert len(drawn["keys"]) == len(drawn["planes"]["UMAP"]) == len(drawn["clusters"]) == 60
    assert drawn["clusters"][:3] == ["in no cluster", "in no cluster", "1"]
    assert section.numbers["strata"]["tables"]["associations"][1]["p"] == 0.001


def test_confounds_come_before_what_may_be_wrong_with_people(section: Section) -> None:
    table = next(block for block in section.blocks if isinstance(block, Table) and block.header[0] == "Column")
    first = [str(row[0]) for row in table.rows]
    assert first == [
        "Confounds: scanner, site, scan quality, age and sex", "site", "Other columns: diagnosis, tests and the like", "diagnosis",
    ]  # fmt: skip
    assert table.rows[3] == ["diagnosis", "60", "0.71 (Cramer's V)", "0.001", "0.004", "0.001"]


def test_who_is_in_which_cluster(section: Section) -> None:
    table = next(block for block in section.blocks if isinstance(block, Table) and block.header[0] == "Cluster")
    assert [row[0] for row in table.rows] == ["Cluster 1", "Cluster 2", "Cluster 3", "In no cluster"]
    assert table.rows[1][1] == "20"
    assert table.rows[1][4:6] == ["0.92", "0.85"]
    assert table.rows[1][6] in ("CN 10, AD 10", "AD 10, CN 10")


def test_stability_with_its_interval(section: Section) -> None:
    table = next(block for block in section.blocks if isinstance(block, Table) and "ARI [95 %]" in block.header)
    assert table.rows[1] == ["3", "700", "0.61", "0.91 [0.84, 0.97]", "18", "yes"]
    assert table.rows[0][3] == "\N{EN DASH}"


def test_clusters_stand_beside_those_of_one_group(section: Section) -> None:
    table = next(block for block in section.blocks if isinstance(block, Table) and block.header[0] == "Statistic")
    assert list(table.header[2:]) == ["One group, mean", "One group, 95 % below", "p"]
    assert table.rows[1] == ["bootstrap ari", "0.91", "0.40", "0.55", "0.010"]
    assert not any("exploratory" in block.caption.lower() for block in section.blocks if isinstance(block, Table))


@pytest.mark.usefixtures("undrawn")
def test_no_structure_has_no_clusters_to_colour_or_to_count(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    table = pd.read_csv(folder / "strata.tsv", sep="\t", dtype={"subject": str, "session": str})
    table["cluster"] = ""
    table.to_csv(folder / "strata.tsv", sep="\t", index=False)
    found = section_of(folder)
    assert '<option value="0">Diagnosis</option>' in str(figure_of(found).markup)
    assert not any(isinstance(block, Table) and block.header[0] == "Cluster" for block in found.blocks)


@pytest.mark.usefixtures("undrawn")
def test_without_coordinates_there_is_no_scatter(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    table = pd.read_csv(folder / "strata.tsv", sep="\t", dtype={"subject": str, "session": str})
    table.drop(columns=["umap1", "pc2"]).to_csv(folder / "strata.tsv", sep="\t", index=False)
    found = section_of(folder)
    assert not any(isinstance(block, Figure) for block in found.blocks)
    assert "map" not in found.numbers["strata"]


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    (folder / "strata.tsv").write_text('key\tsubject\n"a\tb\n')
    with pytest.raises(UserError, match=r"strata\.tsv: damaged"):
        section_of(folder)
    (folder / "strata.tsv").unlink()
    with pytest.raises(UserError, match=r"strata\.tsv: no such table"):
        section_of(folder)


@pytest.mark.usefixtures("undrawn")
def test_new_people_stand_in_the_map_as_diamonds(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    predicted = predict(tmp_path / "predictions", classify(tmp_path / "ad"), folder)
    figure = figure_of(section_of(folder, predicted))
    data = data_of(figure.markup)
    assert str(figure.markup).count("<path") == 8
    assert [person["title"] for person in data["people"][60:]] == [f"new{index}" for index in range(8)]
    assert all(place is not None for place in data["planes"][0])
    assert all(place is not None for place in data["planes"][1])
    assert "Diamonds: 8 scans added to the finished map." in figure.caption
    assert "3 (20)" in str(figure.markup)  # legends count the people that the map was made of


@pytest.mark.usefixtures("undrawn")
def test_new_people_without_a_place_in_one_plane_are_not_on_it(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    predicted = predict(tmp_path / "predictions", classify(tmp_path / "ad"), folder)
    table = pd.read_csv(predicted / "predictions.tsv", sep="\t", dtype={"subject": str, "session": str})
    table.drop(columns=["pc1", "pc2"]).to_csv(predicted / "predictions.tsv", sep="\t", index=False)
    data = data_of(figure_of(section_of(folder, predicted)).markup)
    assert data["planes"][1][60:] == [None] * 8


@pytest.mark.usefixtures("undrawn")
def test_predictions_of_another_map_are_not_drawn_into_this_one(tmp_path: Path) -> None:
    folder, other = stratify(tmp_path / "strata"), stratify(tmp_path / "other")
    predicted = predict(tmp_path / "predictions", classify(tmp_path / "ad"), other)
    assert "<path" not in str(figure_of(section_of(folder, predicted)).markup)


@pytest.mark.usefixtures("undrawn")
def test_of_very_many_people_the_page_shows_some_pictures_and_says_so(tmp_path: Path) -> None:
    figure = figure_of(section_of(stratify(tmp_path / "strata", num=MOST_THUMBNAILS + 60)))
    data = data_of(figure.markup)
    assert len(data["people"]) == MOST_THUMBNAILS + 60
    assert sum("picture" in person for person in data["people"]) == MOST_THUMBNAILS
    assert f"Pictures are shown for {MOST_THUMBNAILS} of {MOST_THUMBNAILS + 60} scans" in figure.caption
    assert len(str(figure.markup)) < 3e6


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_picture_is_left_out_and_said(tmp_path: Path) -> None:
    folder = stratify(tmp_path / "strata")
    first, second = sorted((folder / "thumbnails").glob("*.png"))[:2]
    first.write_bytes(b"no picture")
    second.write_bytes(second.read_bytes()[:200])
    figure = figure_of(section_of(folder))
    assert sum("picture" in person for person in data_of(figure.markup)["people"]) == 58
    assert "2 pictures could not be read." in figure.caption


def test_a_large_picture_becomes_a_small_one() -> None:
    large = thumbnail(0, 400)
    small = interactive.small_picture(large)
    assert len(large) > MOST_BYTES >= len(small) > 0
    assert max(Image.open(io.BytesIO(small)).size) <= 96
    tiny = thumbnail(0, 12)
    assert interactive.small_picture(tiny) == tiny
    assert interactive.small_picture(b"") == b""


def test_more_categories_than_the_eye_tells_apart_are_one_grey() -> None:
    labels = [f"site {index:02d}" for index in range(12) for _ in range(12 - index)]
    found = strata_map.by_category("Site", labels, list(dict.fromkeys(labels)))
    assert len(set(found.colours)) == 7
    assert found.legend[-1] == (style.NO_GROUP, "6 others (21)")


def test_mean_maps_of_clusters_are_drawn_on_their_grid(tmp_path: Path) -> None:
    plan = plan_grid(4.0)
    folder = stratify(tmp_path / "strata", plan=plan)
    found = section_of(folder)
    figure = next(block for block in found.blocks if isinstance(block, Figure) and block.markup is None)
    assert figure.name == "strata_strata_deformation"
    assert "Local volume: mean z of the people of each cluster." in figure.caption
    pixels = np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)
    blue, red = (pixels[..., 2] - pixels[..., 0] > 60), (pixels[..., 0] - pixels[..., 2] > 60)
    third = len(pixels) // 3
    assert blue[:third].sum() > 500  # cluster 1: the right half at -1
    assert red[2 * third - 40 : -60].sum() > 500  # cluster 3: at +1
    write_nifti(folder / "maps" / "cluster-2_desc-deformation_meanz.nii.gz", np.zeros((9, 9, 9)), plan.matrix)
    with pytest.raises(UserError, match="cluster 2 lies on another grid"):
        section_of(folder)


def test_a_scatter_of_many_people_shows_some_of_them() -> None:
    few, many = pd.DataFrame({"key": range(5)}), pd.DataFrame({"key": range(2 * strata_map.MOST_DOTS + 1)})
    assert strata_map.shown(few) is few
    some = strata_map.shown(many)
    assert len(some) == strata_map.MOST_DOTS
    assert some["key"].iloc[[0, -1]].tolist() == [0, len(many) - 1]
    assert some["key"].is_unique
