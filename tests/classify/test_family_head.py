"""A cross-fitted family keeps the heads that were tested, and new people get the mean of their predictions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from gen3d.classify.classify import Classify
from gen3d.classify.head_folder import open_head, open_heads
from gen3d.classify.predict import Predict
from gen3d.cohort.manifest import subject_hash
from gen3d.core.errors import UserError
from tests.latents_folder import cohort_table, write_latents
from tests.sealing import reseal

NUM, NEW, WIDTH, MEMBERS = 120, 200, 16, 4
QUICK = {"target": "diagnosis", "voxels": False, "permutations": 0, "bootstrap": 100, "repeats": 1}
ROTATIONS = [np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0] for seed in range(MEMBERS)]


def people(num: int, seed: int, prefix: str, shift: float) -> tuple[NDArray[np.float64], pd.DataFrame]:
    """Latents of a family [members, n, d]: the same people, each member with axes of its own; AD lies `shift` away."""
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    values = generator.standard_normal((num, WIDTH))
    values[:, 0] += shift * ill
    table = cohort_table(
        num,
        subject=[f"{prefix}{number:03d}" for number in range(num)],
        diagnosis=np.where(ill, "AD", "CN"),
        age_years=generator.uniform(60, 85, num),
        sex=generator.choice(["F", "M"], num),
    )
    return np.stack([values @ rotation for rotation in ROTATIONS]), table


def study(root: Path, shift: float, seed: int = 0) -> tuple[Path, Path]:
    """A finished study of a family, and latents of new people from the same run."""
    spaces, table = people(NUM, seed, "p", shift)
    seen = [
        {
            subject_hash(str(subject)): "vae (train)"
            for subject in table["subject"][np.arange(NUM) // 2 % MEMBERS != member]
        }
        for member in range(MEMBERS)
    ]
    latents = write_latents(root / "latents", spaces, table, seen=seen)
    head = Classify.model_validate(QUICK | {"latents": latents, "out": root / "head"}).run()
    new_spaces, new_table = people(NEW, seed + 1, "n", shift)
    return head, write_latents(root / "new", new_spaces, new_table, seen=seen)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return study(tmp_path_factory.mktemp("family"), 1.5)


@pytest.fixture(scope="module")
def predictions(planted: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    head, new = planted
    out = Predict.model_validate(
        {"head": head, "latents": new, "out": tmp_path_factory.mktemp("out") / "predicted"}
    ).run()
    return pd.read_csv(out / "predictions.tsv", sep="\t", na_values=["n/a"], keep_default_na=False)


def auc(table: pd.DataFrame) -> float:
    return float(roc_auc_score(np.arange(len(table)) % 2, table["p_AD"]))


def test_the_kept_heads_are_those_that_were_tested(planted: tuple[Path, Path]) -> None:
    head, _ = planted
    tested = pd.read_csv(head / "predictions.tsv", sep="\t").query("model == 'linear'")
    family = open_heads(head / "head")
    assert len(family.heads) == MEMBERS
    for fold, kept in enumerate(family.heads):
        held_out = set(tested.loc[tested["fold"] == fold, "subject"])
        assert not held_out & set(kept.training.table["subject"])
        assert held_out | set(kept.training.table["subject"]) == {f"p{number:03d}" for number in range(NUM)}
    assert family.subjects == {f"p{number:03d}" for number in range(NUM)}


def test_new_people_get_the_mean_of_the_members(planted: tuple[Path, Path], predictions: pd.DataFrame) -> None:
    head, new = planted
    spaces = np.load(new / "latents.npy")
    table = pd.read_csv(new / "latents.tsv", sep="\t")
    expected = []
    for member in range(MEMBERS):
        kept = open_head(head / "head" / str(member))
        rows = type(kept.training)(spaces[member], table, (WIDTH,), (WIDTH,))
        expected.append(kept.outputs(rows)[:, 1])
    np.testing.assert_allclose(predictions["p_AD"], np.mean(expected, axis=0), atol=1e-5)


def test_new_people_are_predicted_as_well_as_the_study_said(
    planted: tuple[Path, Path], predictions: pd.DataFrame
) -> None:
    """Bayes' AUC of two unit normals 1.5 apart is .856; the interval of 200 people is about .05 wide on each side."""
    assert 0.78 < auc(predictions) < 0.93
    assert (predictions["out_of_distribution"] != "").mean() < 0.1
    called = np.where(predictions["p_AD"] >= predictions["threshold"], "AD", "CN")
    assert (predictions["y_pred"] == called).all()


def test_where_nothing_is_planted_nothing_is_predicted(tmp_path: Path) -> None:
    head, new = study(tmp_path, 0.0)
    out = Predict.model_validate({"head": head, "latents": new, "out": tmp_path / "out"}).run()
    table = pd.read_csv(out / "predictions.tsv", sep="\t", na_values=["n/a"], keep_default_na=False)
    assert 0.4 < auc(table) < 0.6


def test_an_external_test_uses_the_same_heads(
    planted: tuple[Path, Path], predictions: pd.DataFrame, tmp_path: Path
) -> None:
    head, new = planted
    settings = QUICK | {"latents": head.parent / "latents", "fit": head, "external": new, "out": tmp_path / "external"}
    out = Classify.model_validate(settings).run()
    tested = pd.read_csv(out / "predictions.tsv", sep="\t").query("model == 'linear'")
    np.testing.assert_allclose(tested["p_AD"], predictions["p_AD"], atol=1e-6)


def test_neighbours_are_people_of_every_fold(planted: tuple[Path, Path], tmp_path: Path) -> None:
    head, new = planted
    out = Predict.model_validate({"head": head, "latents": new, "out": tmp_path / "out", "neighbours": 3}).run()
    neighbours = pd.read_csv(out / "neighbours.tsv", sep="\t")
    assert neighbours["neighbour_key"].nunique() > NUM / 2
    assert (neighbours.groupby("key")["distance"].apply(lambda part: part.is_monotonic_increasing)).all()


def test_a_missing_member_is_refused(planted: tuple[Path, Path], tmp_path: Path) -> None:
    head, new = planted
    copy = shutil.copytree(head, tmp_path / "copy")
    shutil.rmtree(copy / "head" / "2")
    reseal(copy)
    settings: dict[str, Any] = {"head": copy, "latents": new, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="2: holds no fitted head"):
        Predict.model_validate(settings).run()
    assert not (tmp_path / "out").exists()


def test_people_of_any_member_are_refused(planted: tuple[Path, Path], tmp_path: Path) -> None:
    head, _ = planted
    settings: dict[str, Any] = {"head": head, "latents": head.parent / "latents", "out": tmp_path / "out"}
    with pytest.raises(UserError, match=f"{NUM} of {NUM} people"):
        Predict.model_validate(settings).run()
