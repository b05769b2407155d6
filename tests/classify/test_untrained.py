"""A baseline whose weights were drawn and never learned: the published program's features, and what they tell of scans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import uncnn

from gen3d.classify.classify import Classify
from gen3d.classify.study import untrained
from gen3d.classify.study.untrained import NAME, untrained_features
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import read_manifest
from gen3d.core.errors import UserError
from gen3d.nets.untrained import NUM_FEATURES, UntrainedNetwork, three_views
from tests.classify.test_classify import performance
from tests.cohorts import write_cohort
from tests.latents_folder import write_latents

ASKED: dict[str, Any] = {
    "untrained": True,
    "voxels": False,
    "permutations": 0,
    "bootstrap": 100,
    "repeats": 1,
    "folds": 3,
}
ASKED |= {"target": "diagnosis", "volumes": [], "covariates": ["age_years"]}


def scan(shape: tuple[int, int, int] = (33, 40, 36)) -> np.ndarray:
    """A bright ball with noise, and nothing around it."""
    generator = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    volume = (1 + 0.3 * generator.standard_normal(shape)).clip(0.1) * (np.linalg.norm(places, axis=0) < 0.9)
    return volume.astype(np.float32)


def test_features_are_those_of_the_authors_program() -> None:
    volume = scan()
    views = three_views(volume, volume > 0)
    scaled = uncnn.scale_robust(
        volume
    )  # of volumes of another size the program makes 91 x 109 x 91, so its parts are called
    theirs = np.stack([scaled, uncnn.rank_filter(scaled, size=3), uncnn.norm(uncnn.sobel_mag(scaled))])
    np.testing.assert_allclose(views, theirs, atol=1e-6)
    inputs = torch.from_numpy(views)[None]
    before = torch.random.get_rng_state()
    network = UntrainedNetwork()
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers stay as they were"
    found = network(inputs)
    assert found.shape == (1, NUM_FEATURES)
    torch.testing.assert_close(found, uncnn.load_model(device="cpu")(inputs).detach())
    assert not torch.allclose(found, UntrainedNetwork(seed=1)(inputs), atol=0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted disease, latents that hold nothing of it, and a study of it."""
    root = tmp_path_factory.mktemp("told")
    write_cohort(root / "ill", 9, 9, effect=-0.8)
    latents(root / "ill", root / "latents", 0)
    Classify.model_validate(ASKED | {"latents": root / "latents", "prepared": root / "ill", "out": root / "head"}).run()
    return root


def latents(cohort: Path, folder: Path, seed: int) -> Path:
    """Latents of a cohort that hold nothing."""
    table = read_manifest(cohort)
    return write_latents(folder, np.random.default_rng(seed).standard_normal((len(table), 24)), table)


def test_a_planted_region_is_seen_by_weights_that_never_learned(told: Path) -> None:
    metrics = json.loads((told / "head" / "metrics.json").read_text())
    assert performance(metrics, NAME)["value"] > 0.9
    assert NAME in metrics["summary"][0]


def test_it_is_a_baseline_of_an_external_test_and_its_labels_decide(told: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "others", 8, 8, seed=1, effect=0.0, prefix="e")
    asked = ASKED | {"latents": told / "latents", "prepared": [told / "ill", tmp_path / "others"]}
    asked |= {"fit": told / "head", "external": latents(tmp_path / "others", tmp_path / "latents", 1)}
    Classify.model_validate(asked | {"out": tmp_path / "out"}).run()
    rows = pd.read_csv(tmp_path / "out" / "predictions.tsv", sep="\t").query("model == @NAME")
    assert set(rows["subject"].str[0]) == {"e"}
    assert len(rows) == 16
    ill = rows["y_true"] == "AD"
    assert (
        abs(rows.loc[ill, "y_score"].mean() - rows.loc[~ill, "y_score"].mean()) < 0.25
    )  # nothing was planted in these people


@pytest.mark.parametrize(
    ("shape", "missing", "sentence"),
    [
        ((31, 40, 36), "", "31 x 40 x 36 voxels are too few for untrained=true, which needs 32 along every axis"),
        ((33, 40, 36), "t1w", "holds no t1w volumes, which untrained=true reads"),
        ((33, 40, 36), "scan", "lacks the scan nobody"),
    ],
)
def test_what_cannot_be_read_is_refused(shape: tuple[int, int, int], missing: str, sentence: str, told: Path) -> None:
    prepared = open_prepared(told / "ill")
    channels = ("log_jacobian",) if missing == "t1w" else prepared.plan.channels
    other = replace(prepared, plan=prepared.plan.model_copy(update={"shape": shape, "channels": channels}))
    keys = ["nobody"] if missing == "scan" else [str(key) for key in prepared.manifest["key"]]
    with pytest.raises(UserError, match=sentence):
        untrained_features(other, keys)


def test_finer_grids_are_read_at_two_millimetres(told: Path) -> None:
    prepared = open_prepared(told / "ill")
    fine = replace(prepared, plan=prepared.plan.model_copy(update={"spacing_mm": 1.25, "shape": (64, 80, 72)}))
    volume = torch.ones(64, 80, 72)
    assert untrained._resized(volume, fine).shape == (40, 50, 45)
    assert untrained._resized(volume, fine).eq(1).all()


def test_a_test_whose_scans_are_gone_says_so_unless_it_was_asked_for(told: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "others", 8, 8, seed=1, prefix="e")
    asked = {"latents": told / "latents", "target": "diagnosis", "out": tmp_path / "out", "bootstrap": 100}
    asked |= {"fit": told / "head", "external": latents(tmp_path / "others", tmp_path / "latents", 1)}
    Classify.model_validate(asked).run()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert any("the untrained network could not be run" in note for note in metrics["people"]["left_out"])
    assert NAME not in {row["model"] for row in metrics["tables"]["performance"]}
    with pytest.raises(UserError, match="prepared=FOLDER"):
        Classify.model_validate(asked | {"untrained": True, "out": tmp_path / "asked"}).run()
