"""The planted pair is what attention shows, and where nothing was planted it shows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen3d.cohort.fusion_folder import ATTENTION, VERDICT, of_subset
from gen3d.cohort.scores_folder import read_scores
from gen3d.maths.attention_checks import LEAST_PERMUTED
from gen3d.train.train import Train
from tests.train.classifiers import mean_auc
from tests.train.fused_people import fusion, write_people

NUM = 160


def trained(folder: Path, of_genes: float = 1.0) -> Path:
    people = write_people(folder, NUM, of_genes=of_genes)
    changes: dict[str, Any] = {"model": {"permuted": LEAST_PERMUTED, "looks": 3}}
    changes["optim"] = {"steps": 30, "batch_size": 24, "learning_rate": 6e-3}
    return Train.model_validate(fusion(*people, folder / "run", log_every=30, **changes)).run()


@pytest.mark.slow
def test_apoe_and_the_hippocampus_are_found_where_they_were_planted(tmp_path: Path) -> None:
    run = trained(tmp_path)
    verdict = json.loads((run / VERDICT).read_text())
    assert verdict["shown"], verdict
    assert verdict["p"] == pytest.approx(1 / (1 + LEAST_PERMUTED))
    table = ATTENTION.read(run)
    strongest = table.loc[table["relevance"].astype(float).idxmax()]
    assert strongest[["token", "region"]].tolist() == ["APOE", "hippocampus"]
    assert float(strongest["p_token"]) < 0.05
    assert float(strongest["p_region"]) < 0.05
    others = table[~table["token"].isin(["APOE"]) | (table["region"] != "hippocampus")]
    assert (others[["p_token", "p_region"]].astype(float).max(axis=1) > 0.05).all(), "no other pair counts"
    assert verdict["sentence"].startswith("attention: APOE with hippocampus is strongest")
    assert (run / "figures" / "attention.png").stat().st_size > 5000
    scores = read_scores(run)
    both, genetics, images = (mean_auc(of_subset(scores, name)) for name in ("both", "genetics", "images"))
    assert both > 0.8
    assert 0.6 < genetics < both + 0.05
    assert 0.7 < images < both + 0.05


@pytest.mark.slow
def test_where_the_region_alone_matters_there_is_no_map(tmp_path: Path) -> None:
    """All members read the hippocampus, beside whichever gene; permuted labels lose the region too, so they do not tell."""
    run = trained(tmp_path, of_genes=0.0)
    verdict = json.loads((run / VERDICT).read_text())
    assert not verdict["shown"]
    assert "no genetic token tells anything of people whom the networks never saw" in verdict["sentence"]
    assert "no image token" not in verdict["sentence"]
    assert not (run / ATTENTION.file).exists()
    assert not (run / "figures").exists()
    scores = read_scores(run)
    genetics, images = (mean_auc(of_subset(scores, name)) for name in ("genetics", "images"))
    assert abs(genetics - 0.5) < 0.15
    assert images > 0.6
