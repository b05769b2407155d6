"""`gen3d stratify` on latents whose groups are known: subtypes, a scanner, and nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.core.artefact import read
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.stratify.cluster_maps import cluster_maps
from gen3d.stratify.picture import PIXELS, thumbnail
from gen3d.stratify.sentences import explanation
from gen3d.stratify.stratify import Stratify, quality_table
from tests.latents_folder import cohort_table, write_latents
from tests.world import World, build

NUM, DIMENSIONS = 60, 12
QUICK: dict[str, Any] = {"bootstrap": 20, "null_draws": 20, "max_clusters": 3}


def latents_of(num: int = NUM, distance: float = 9.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two groups that many SD apart, and the group of everybody."""
    generator = np.random.default_rng(seed)
    groups = np.arange(num) % 2
    values = generator.standard_normal((num, DIMENSIONS))
    values[:, 3] += distance * groups
    return values, groups


def table_of(groups: np.ndarray, seed: int = 0, **columns: Any) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    num = len(groups)
    defaults = {
        "age_years": generator.uniform(60, 85, num),
        "sex": generator.choice(["F", "M"], num),
        "site": generator.choice(["A", "B"], num),
    }
    return cohort_table(num, **{**defaults, **columns})


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Prepared scans and maps of people whose latents are written here."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def scanner(world: World) -> Path:
    """Two groups that are the sites of real folders, with maps and scans."""
    table = world.manifest[world.manifest["role"] != "excluded"].reset_index(drop=True)
    values, _ = latents_of(len(table))
    groups = (table["site"] == "B").to_numpy()
    values[:, 3] = np.random.default_rng(9).standard_normal(len(table)) + 9.0 * groups
    folder = write_latents(world.root / "two_scanners", values, table)
    maps = world["maps/pca"]
    out = world.root / "strata"
    return Stratify(latents=(folder,), maps=maps, prepared=(world["prepared"],), out=out, **QUICK).run()


@pytest.fixture(scope="module")
def subtypes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups that differ in diagnosis and volume, and in nothing about the scans; a twin and a synthetic scan."""
    base = tmp_path_factory.mktemp("subtypes")
    values, groups = latents_of(NUM + 4)
    generator = np.random.default_rng(1)
    table = table_of(
        groups,
        diagnosis=np.where((groups == 1) & (generator.random(NUM + 4) < 0.9), "AD", "CN"),
        hippocampus_ml=7 - 1.2 * groups + generator.normal(0, 0.4, NUM + 4),
        base=[""] * (NUM + 2) + ["sub-p0000_ses-1", ""],
        generator=[""] * (NUM + 3) + ["ldm"],
    )
    table.loc[NUM, "subject"], table.loc[NUM, "session"], table.loc[NUM, "age_years"] = "p0001", "0", 99.0
    table["key"] = [f"sub-{s}_ses-{e}" for s, e in zip(table["subject"], table["session"], strict=True)]
    folder = write_latents(base / "latents", values, table)
    return Stratify(latents=(folder,), out=base / "strata", **QUICK).run()


def test_planted_subtypes_are_found_and_named_by_what_they_are(subtypes: Path) -> None:
    metrics = metrics_of(subtypes)
    assert metrics["structure"] is True
    assert metrics["num_clusters"] == 2
    assert metrics["follows"] is None
    assert metrics["summary"][0].startswith(f"2 stable clusters among {NUM + 1} people")
    strata = pd.read_csv(subtypes / "strata.tsv", sep="\t", na_values=["n/a"])
    agreement = pd.crosstab(strata["cluster"], strata["pc1"] > 0).to_numpy()
    assert np.sort(agreement, axis=1)[:, 0].sum() == 0
    assert {"pc1", "umap1", "umap2", "certainty", "consensus", "hippocampus_ml"} <= set(strata.columns)
    found = {row["column"]: row for row in metrics["tables"]["associations"]}
    for column in ("diagnosis", "hippocampus_ml"):
        assert found[column]["q"] < 0.01
        assert found[column]["p_adjusted"] < 0.01
    assert found["site"]["confound"] is True
    assert found["site"]["q"] > 0.05
    assert any("hippocampus_ml" in sentence and "n 61" in sentence for sentence in metrics["summary"])
    assert read(subtypes, ("stratify",)).summary["num_clusters"] == 2


def test_twins_synthetic_and_later_scans_are_excluded_with_a_note(subtypes: Path) -> None:
    summary = " ".join(metrics_of(subtypes)["summary"])
    assert "Excluded: 1 scan with planted changes" in summary
    assert "Excluded: 1 synthetic scan (column generator)." in summary
    assert "Excluded: 1 later scan of the same people" in summary
    keys = pd.read_csv(subtypes / "strata.tsv", sep="\t")["key"]
    assert "sub-p0001_ses-1" in set(keys)
    assert "sub-p0001_ses-0" not in set(keys)  # the older of the two scans by age


def test_every_table_is_a_file_and_the_map_is_better_than_chance(subtypes: Path) -> None:
    tables = metrics_of(subtypes)["tables"]
    assert {"structure", "solutions", "clusters", "associations", "map_quality"} == set(tables)
    for name in tables:
        assert len(pd.read_csv(subtypes / f"{name}.tsv", sep="\t")) == len(tables[name])
    quality = {row["map"]: row for row in tables["map_quality"]}
    assert quality["umap"]["trustworthiness"] > quality["random"]["trustworthiness"] + 0.1
    assert [row["num_people"] for row in tables["clusters"]] == [31, 30]
    assert all(row["stability"] > 0.9 for row in tables["clusters"])
    with Image.open(subtypes / "figures" / "map.png") as picture:
        assert picture.size[0] > 800


def test_a_scanner_is_not_sold_as_a_subtype(scanner: Path) -> None:
    metrics = metrics_of(scanner)
    assert metrics["structure"] is True
    assert metrics["follows"] == "site"
    assert metrics["summary"][0].startswith("The clusters follow site (Cramer's V")
    assert "a scanner, not a subtype; harmonise and run again" in metrics["summary"][0]


def test_mean_maps_are_means_of_the_clusters_people(scanner: Path, world: World) -> None:
    strata = pd.read_csv(scanner / "strata.tsv", sep="\t", dtype={"cluster": str, "subject": str})
    rows = metrics_of(scanner)["tables"]["cluster_maps"]
    channel = rows[0]["channel"]
    for cluster in ("1", "2"):
        written = nib.load(scanner / "maps" / f"cluster-{cluster}_desc-{channel}_meanz.nii.gz")
        keys = strata.loc[strata["cluster"] == cluster, "key"]
        paths = [world["maps/pca"] / "maps" / f"{key}_desc-{channel}_zmap.nii.gz" for key in keys]
        each = [np.asarray(nib.load(path).dataobj) for path in paths if path.is_file()]
        each = [z for z in each if np.isfinite(z).all() and z.any()]
        np.testing.assert_allclose(np.asarray(written.dataobj), np.mean(each, axis=0), atol=1e-5)
        np.testing.assert_allclose(written.affine, nib.load(next(p for p in paths if p.is_file())).affine)
        row = next(row for row in rows if row["cluster"] == cluster and row["channel"] == channel)
        assert row["num_people"] == len(each)
    assert (scanner / "figures" / "cluster_maps.png").stat().st_size > 5000


def test_thumbnails_are_small(scanner: Path) -> None:
    found = list((scanner / "thumbnails").glob("*.png"))
    assert len(found) == len(pd.read_csv(scanner / "strata.tsv", sep="\t"))
    assert max(path.stat().st_size for path in found) <= 3000
    with Image.open(found[0]) as picture:
        assert picture.size[1] == PIXELS


def test_a_thumbnail_shows_left_on_the_left_and_front_above() -> None:
    volume = np.zeros((16, 20, 10), dtype=np.float32)
    volume[:8, 10:] = 1.0  # left, front
    picture = Image.open(io.BytesIO(thumbnail(volume, (slice(0, 16), slice(0, 20), slice(0, 10)))))
    grey = np.asarray(picture.convert("L")).astype(float)
    rows, columns = grey.shape
    quarters = [grey[: rows // 2, : columns // 2], grey[: rows // 2, columns // 2 :], grey[rows // 2 :]]
    means = [quarter.mean() for quarter in quarters]
    assert means[0] > 200
    assert max(means[1:]) < 40


def test_a_cohort_of_one_group_has_no_cluster_column(tmp_path: Path) -> None:
    values, groups = latents_of(distance=0.0)
    folder = write_latents(tmp_path / "latents", values, table_of(groups))
    out = Stratify(latents=(folder,), out=tmp_path / "strata", **QUICK).run()
    metrics = metrics_of(out)
    assert metrics["structure"] is False
    assert metrics["num_clusters"] == 0
    assert metrics["summary"][0].startswith(f"No stable structure among {NUM} people")
    strata = pd.read_csv(out / "strata.tsv", sep="\t", na_values=["n/a"], keep_default_na=False)
    assert set(strata["cluster"].fillna("")) <= {""}
    assert metrics["tables"]["associations"] == []
    assert len(metrics["tables"]["exploratory"]) == NUM
    assert Stratify(latents=(folder,), out=out, **QUICK).run() == out  # finished: nothing is done again


def test_adjusting_takes_a_scanner_out(tmp_path: Path) -> None:
    values, groups = latents_of()
    folder = write_latents(tmp_path / "latents", values, table_of(groups, site=np.where(groups == 1, "B", "A")))
    out = Stratify(latents=(folder,), adjust=("site",), out=tmp_path / "strata", **QUICK).run()
    assert metrics_of(out)["structure"] is False


def _write(base: Path, name: str, values: np.ndarray, table: pd.DataFrame, **more: Any) -> Path:
    return write_latents(base / name, values, table, **more)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("few", "11 people are left"),
        ("constant", "are identical"),
        ("two runs", "not in one latent space"),
        ("family", "a latent space of its own"),
        ("twice", "in two of the folders"),
        ("nobody", "0 people are left"),
        ("nan", "not finite"),
        ("adjust", "has no column weight"),
        ("maps", "no such folder"),
        ("maps of another verb", "was written by `gen3d encode`"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, case: str, sentence: str) -> None:
    values, groups = latents_of(20)
    table, more, settings = table_of(groups), {}, dict(QUICK)
    folders = ("a",)
    if case == "few":
        values, table = values[:11], table.iloc[:11]
    if case == "constant":
        values[:] = 3.0
    if case == "family":
        values = np.stack([values, values])
    if case == "nan":
        values[3, 2] = np.nan
    if case == "adjust":
        settings["adjust"] = ("weight",)
    if case == "nobody":
        table = table.assign(generator="ldm")
    if case.startswith("maps"):
        settings["maps"] = tmp_path / ("none" if case == "maps" else "a")
    _write(tmp_path, "a", values, table, **more)
    if case in ("two runs", "twice"):
        _write(tmp_path, "b", values, table, run_key="other" if case == "two runs" else "k")
        folders = ("a", "b")
    verb = Stratify(latents=tuple(tmp_path / name for name in folders), out=tmp_path / "out", **settings)
    with pytest.raises(UserError, match=sentence) as caught:
        verb.run()
    assert str(caught.value).count("\n") == 0


def test_maps_of_other_people_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the clustered scans"):
        cluster_maps(world["maps/pca"], ["sub-x_ses-1"], ["1"], tmp_path)


def test_what_explains_clusters_is_said_in_the_right_words() -> None:
    assert explanation("scanner_model").startswith("a scanner")
    assert explanation("age_years").startswith("ages")
    assert explanation("qc_score").startswith("the quality")
    assert explanation("session").startswith("how scans were made")


def test_configurations_are_valid() -> None:
    configs = Path(__file__).parents[2] / "configs"
    assert load(Stratify, configs / "debug" / "stratify.yaml", []).components == 4
    assert load(Stratify, configs / "stratify" / "standard.yaml", ["latents=l", "out=o"]).null_draws == 100


def test_continuity_is_trustworthiness_with_the_spaces_exchanged() -> None:
    """A flattened block joins people that were apart: continuous, not trustworthy; the block itself is a perfect map."""
    block = np.random.default_rng(2).uniform(size=(80, 3)) * np.array([1.0, 1.0, 3.0])
    maps = {"umap": 3 * block + 1, "pc1_pc2": block[:, :2]}
    rows = quality_table(block, maps, 8, seed=0).set_index("map")
    assert rows.loc["umap", ["trustworthiness", "continuity"]].tolist() == [1, 1]
    assert rows.loc["pc1_pc2", "continuity"] > rows.loc["pc1_pc2", "trustworthiness"] + 0.05
    assert rows.loc["random", ["trustworthiness", "continuity"]].tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert rows["neighbours"].tolist() == [8, 8, 8]
