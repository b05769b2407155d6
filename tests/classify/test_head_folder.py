"""A head that is kept and opened again is the same head, or it is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.head_folder import open_head, save_head
from gen3d.classify.heads.settings import (
    BoostingSettings,
    LinearSettings,
    MlpSettings,
    SvmSettings,
    TableHead,
)
from gen3d.classify.study.recipes import recipe_of
from gen3d.cohort.target import Rows, Target
from gen3d.core.errors import UserError
from gen3d.harmonise.recipe import Harmonisation

BINARY = Target("diagnosis", "categories", ("CN", "AD"))
GRADES = Target("cdr", "ordered", ("0", "0.5", "1"))
MMSE = Target("mmse", "number")


@dataclass(frozen=True)
class Space:
    """Stands for opened features."""

    made_by: tuple[str, ...] = ("0123456789abcdef",)
    words: str = "20 dimensions of the vae"


def _rows(num: int = 64, dtype: Any = np.float32, seed: int = 0) -> tuple[Rows, np.ndarray]:
    generator = np.random.default_rng(seed)
    severity = generator.standard_normal(num)
    values = generator.standard_normal((num, 20))
    values[:, :3] += severity[:, None]
    table = pd.DataFrame(
        {
            "subject": [f"{i:03d}" for i in range(num)],
            "session": "1",
            "site": [f"0{i % 2 + 1}" for i in range(num)],
            "age_years": generator.uniform(55, 90, num),
            "sex": generator.choice(["F", "M", ""], num),
            "diagnosis": np.where(severity > 0.3, "AD", "CN"),
            "seen": np.arange(num) % 5 == 0,
            "etiv": np.where(np.arange(num) % 9 == 0, np.nan, generator.uniform(1000, 1600, num)),
        }
    )
    return Rows(values.astype(dtype), table, (20,), (20,)), severity


def _kept(folder: Path, head: TableHead, target: Target = BINARY, dtype: Any = np.float32, **reduction: Any) -> Any:
    rows, severity = _rows(dtype=dtype)
    codes = {
        BINARY: (severity > 0.3).astype(float),
        GRADES: np.digitize(severity, [0, 0.8]).astype(float),
        MMSE: 28 - 2 * severity,
    }[target]
    recipe = recipe_of(head, 8, **reduction)
    reducer = recipe.reduce(rows)
    groups = np.arange(len(rows))
    learned = recipe.learn(reducer.apply(rows), codes, groups, target, 3)
    save_head(folder, recipe, learned, rows, codes, groups, target, 3, Space())
    return learned, reducer


@pytest.mark.parametrize("target", [BINARY, GRADES, MMSE], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "head",
    [LinearSettings(), SvmSettings(), BoostingSettings(num_trees=(10, 20)), MlpSettings(penalties=(0.1, 0.03))],
    ids=lambda head: head.kind,
)
def test_a_head_that_is_opened_gives_the_same_outputs(tmp_path: Path, head: TableHead, target: Target) -> None:
    learned, reducer = _kept(tmp_path / "head", head, target)
    opened = open_head(tmp_path / "head")
    new, _ = _rows(30, seed=1)
    np.testing.assert_allclose(opened.outputs(new), learned.outputs(reducer.apply(new)), atol=1e-9)
    assert opened.target == target
    assert opened.settings == head
    assert opened.made_by == Space().made_by
    assert np.isnan(opened.threshold) == np.isnan(learned.threshold)
    assert opened.learned.settings == learned.settings


def test_harmonisation_confounds_and_words_in_the_table_survive(tmp_path: Path) -> None:
    learned, reducer = _kept(
        tmp_path,
        LinearSettings(),
        dtype=np.float64,
        confounds=("age_years", "sex", "etiv"),
        harmonisation=Harmonisation(keep=("age_years",)),
        threshold=0.4,
    )
    opened = open_head(tmp_path)
    new, _ = _rows(30, dtype=np.float64, seed=2)
    np.testing.assert_allclose(opened.outputs(new), learned.outputs(reducer.apply(new)), atol=1e-12)
    assert opened.threshold == 0.4
    assert opened.training.table["subject"].tolist()[:2] == ["000", "001"]
    assert set(opened.training.table["site"]) == {"01", "02"}
    assert opened.training.table["etiv"].isna().sum() == 8
    assert opened.training.values.dtype == np.float64


def test_nothing_in_the_folder_is_pickled(tmp_path: Path) -> None:
    _kept(tmp_path, LinearSettings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.json", "training.npz", "training.tsv"]
    with np.load(tmp_path / "training.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["codes", "features", "groups", "outputs"]
        assert arrays["features"].dtype == np.float32
        assert arrays["outputs"].shape == (50, 2)


def test_a_head_whose_training_people_were_changed_is_refused(tmp_path: Path) -> None:
    for name in ("training.npz", "training.tsv"):
        folder = tmp_path / name
        _kept(folder, LinearSettings())
        path = folder / name
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(UserError, match=rf"{name}: missing, or not what the head was kept with"):
            open_head(folder)
        path.unlink()
        with pytest.raises(UserError, match=rf"{name}: missing"):
            open_head(folder)


def test_a_head_that_comes_out_otherwise_is_refused_and_the_versions_are_named(tmp_path: Path) -> None:
    _kept(tmp_path, LinearSettings())
    record = json.loads((tmp_path / "head.json").read_text())
    record["state"]["settings"]["penalty"] *= 1.1
    record["versions"]["scikit-learn"] = "0.1"
    (tmp_path / "head.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"other outputs than the one that was kept .*scikit-learn was 0\.1 and is"):
        open_head(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {}}', '{"files": {}, "target": 3}'])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "head.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        open_head(tmp_path)


def test_a_folder_without_a_head_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no fitted head"):
        open_head(tmp_path)
