"""A kept map: people of the map lie where they lay, and new ones join the group they belong to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.latents.embedding import membership_strengths
from gen3d.stratify.folder import PeopleMap, _read, open_map
from gen3d.stratify.stratify import Stratify
from tests.latents_folder import cohort_table, write_latents

NUM, DIMENSIONS, DISTANCE = 60, 12, 9.0
Written = tuple[Path, PeopleMap, np.ndarray]


def people(num: int, seed: int) -> np.ndarray:
    """Every second one is of the second group."""
    values = np.random.default_rng(seed).standard_normal((num, DIMENSIONS))
    values[1::2, 0] += DISTANCE
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    base = tmp_path_factory.mktemp("map")
    values = people(NUM, 0)
    age = np.random.default_rng(2).uniform(60, 80, NUM)
    folder = write_latents(base / "latents", values, cohort_table(NUM, age_years=age))
    out = Stratify(latents=(folder,), adjust=("age_years",), out=base / "strata", bootstrap=20, null_draws=20).run()
    return out, open_map(out), values


def test_people_of_the_map_lie_where_they_lay(written: Written) -> None:
    _, kept, values = written
    table = cohort_table(NUM, age_years=np.random.default_rng(2).uniform(60, 80, NUM))
    chosen = np.arange(0, NUM, 7)
    placed = kept.project(values[chosen], table.iloc[chosen])
    np.testing.assert_allclose(placed.pcs, kept.scores[chosen], atol=1e-5)
    assert [int(name) - 1 for name in placed.cluster] == kept.labels[chosen].tolist()
    np.testing.assert_allclose(placed.certainty, kept.certainty[chosen], atol=1e-4)
    np.testing.assert_allclose(placed.umap, kept.umap[chosen], atol=1e-6)


def test_new_people_land_in_their_group(written: Written) -> None:
    _, kept, _ = written
    new, table = people(6, seed=5), cohort_table(6, age_years=70.0)
    placed = kept.project(new, table)
    names = {int(kept.labels[0]): 0, int(kept.labels[1]): 1}
    assert [names[int(name) - 1] for name in placed.cluster] == [0, 1] * 3
    assert (placed.certainty > 0.95).all()
    centres = [kept.umap[kept.labels == kept.labels[group]].mean(axis=0) for group in (0, 1)]
    for row, position in enumerate(placed.umap):
        distances = [float(np.linalg.norm(position - centre)) for centre in centres]
        assert int(np.argmin(distances)) == row % 2


def test_a_place_does_not_depend_on_who_else_is_placed(written: Written) -> None:
    _, kept, _ = written
    new, table = people(3, seed=6), cohort_table(3, age_years=70.0)
    together = kept.project(new, table)
    alone = kept.project(new[1:2], table.iloc[1:2])
    np.testing.assert_allclose(together.umap[1], alone.umap[0], rtol=1e-9)
    assert together.cluster[1] == alone.cluster[0]


def test_without_structure_nobody_gets_a_cluster(written: Written) -> None:
    _, kept, _ = written
    none = np.full(len(kept.keys), -1)
    empty = replace(kept, labels=none, certainty=np.full(len(none), np.nan), mixture=None)
    assert not empty.has_clusters
    labels, certainty = empty._clusters(kept.scores[:4])
    assert labels.tolist() == [-1] * 4
    assert np.isnan(certainty).all()


def test_clusters_by_density_take_the_nearest_people(written: Written) -> None:
    _, kept, _ = written
    by_density = replace(kept, mixture=None)
    labels, certainty = by_density._clusters(kept.scores)
    assert labels.tolist() == kept.labels.tolist()
    assert (certainty == 1).all()


def test_the_file_holds_no_pickle_and_a_damaged_one_is_a_sentence(written: Written, tmp_path: Path) -> None:
    out, kept, _ = written
    with np.load(out / "map.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
        assert json.loads(str(stored["record"]))["keys"] == list(kept.keys)
    (tmp_path / "map.npz").write_bytes((out / "map.npz").read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged"):
        _read(tmp_path / "map.npz")


def test_neighbours_count_as_umap_counts_them() -> None:
    distances = np.sort(np.random.default_rng(0).gamma(4.0, size=15))
    strengths = membership_strengths(distances)
    assert strengths[0] == 1
    assert (np.diff(strengths) <= 0).all()
    assert strengths.sum() == pytest.approx(np.log2(15), rel=1e-6)
    assert membership_strengths(np.array([0.0, 1.0, 2.0])).tolist() == [1, 0, 0]  # oneself
    assert membership_strengths(np.ones(4)).tolist() == [1, 1, 1, 1]


def test_new_people_stay_within_the_map(written: Written) -> None:
    """UMAP's own transform puts most people of a small map outside of everybody else."""
    _, kept, _ = written
    placed = kept.project(people(40, seed=9), cohort_table(40, age_years=70.0)).umap
    low, high = kept.umap.min(axis=0), kept.umap.max(axis=0)
    assert ((placed >= low) & (placed <= high)).all()


def test_wrong_latents_and_missing_columns_are_sentences(written: Written) -> None:
    _, kept, values = written
    table = cohort_table(NUM, age_years=70.0)
    with pytest.raises(UserError, match="dimensions"):
        kept.project(values[:, :5], table)
    with pytest.raises(UserError, match="not finite"):
        kept.project(np.full((1, DIMENSIONS), np.nan), table.iloc[:1])
    with pytest.raises(UserError, match="give the cohort table"):
        kept.project(values[:1])
    with pytest.raises(UserError, match="have no value"):
        kept.project(values[:1], cohort_table(1))
