"""What genes add to a scan: planted gains are found, nothing is nothing, and genes of other people add nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from gen3d.classify.classify import Classify
from gen3d.classify.folder import HeadFolder
from gen3d.classify.genes.fusion import pooled
from gen3d.classify.genes.study import permuted
from gen3d.classify.sections.genes import genes as genes_blocks
from gen3d.classify.sections.models import Models
from gen3d.classify.study.question import open_question
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.figures.blocks import Details, Heading, Table, Text
from tests.genotypes_folder import write_genes
from tests.latents_folder import cohort_table, write_latents

NUM, WIDTH = 240, 6
SCAN, GENES = 1.0, 1.0
"""Distance of the classes in the scan and in the score, SD."""
QUICK = {
    "target": "diagnosis",
    "voxels": False,
    "permutations": 0,
    "bootstrap": 300,
    "repeats": 1,
    "gene_permutations": 9,
}


def people(seed: int, num: int = NUM) -> tuple[np.ndarray, pd.DataFrame, np.ndarray, np.random.Generator]:
    """Latents in which AD is SCAN away along one direction, the table, and who is ill."""
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    values = generator.standard_normal((num, WIDTH))
    values[:, 2] += SCAN * ill
    values[:, 2] *= 3  # so that components keep it first
    table = cohort_table(
        num,
        diagnosis=np.where(ill, "AD", "CN"),
        age_years=generator.uniform(60, 85, num),
        sex=generator.choice(["F", "M"], num),
    )
    return values, table, ill, generator


def study(out: Path, **settings: Any) -> dict[str, Any]:
    Classify.model_validate(QUICK | {"out": out} | settings).run()
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def rows(metrics: dict[str, Any], table: str, **where: Any) -> list[dict[str, Any]]:
    return [row for row in metrics["tables"][table] if all(row[name] == value for name, value in where.items())]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("planted")
    values, table, ill, generator = people(1)
    score = GENES * ill + generator.standard_normal(NUM)
    e4 = generator.binomial(2, np.where(ill, 0.3, 0.15)).astype(float)
    ancestry = np.arange(NUM) // 2 % 2
    pruned = generator.binomial(2, np.where(ancestry[:, None] == 0, 0.2, 0.6), (NUM, 80)).astype(np.int8)
    latents = write_latents(root / "latents", values, table)
    genes = write_genes(root / "genes", table["subject"].tolist(), e4, score, pruned)
    return root, study(root / "out", latents=latents, genotypes=genes)


def test_a_planted_gain_is_found_and_its_interval_covers_the_truth(planted: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = planted
    assert metrics["genes"]["adds"]
    assert metrics["genes"]["summary"][0].startswith("Genes add to the scan: AUC of scan and genes ")
    found = {row["model"]: row for row in rows(metrics, "genes_performance", measure="auc")}
    # Two Gaussians per modality, independent within a class; of APOE's small share the bound is one-sided.
    alone, both = norm.cdf(SCAN / np.sqrt(2)), norm.cdf(np.hypot(SCAN, GENES) / np.sqrt(2))
    assert found["linear"]["low"] < alone < found["linear"]["high"]
    assert found["polygenic scores"]["low"] < norm.cdf(GENES / np.sqrt(2)) < found["polygenic scores"]["high"]
    gain = rows(metrics, "genes_gain", model="late fusion", against="linear")[0]
    assert gain["low"] < both - alone < gain["high"]
    assert gain["low"] > 0
    assert set(found) == {
        *("late fusion", "concatenation", "genetics", "APOE", "APOE and covariates", "polygenic scores", "linear"),
    }
    assert {row["num_people"] for row in found.values()} == {NUM}


def test_the_gain_vanishes_with_shuffled_keys(planted: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = planted
    shuffled = rows(metrics, "genes_controls", control="keys shuffled")[0]
    assert shuffled["high"] < shuffled["real_gain"]
    assert shuffled["gain"] < 0.02
    assert shuffled["p"] == pytest.approx(1 / 10)
    # Independent within a class: what the score says of the diagnosis is the same from anybody with that diagnosis.
    within = rows(metrics, "genes_controls", control="permuted within diagnosis and ancestry")[0]
    assert within["gain"] > 0.5 * within["real_gain"]


def test_genes_that_say_nothing_add_nothing(tmp_path: Path) -> None:
    added = []
    for seed in range(3):
        values, table, _, generator = people(seed + 10, 120)
        latents = write_latents(tmp_path / f"latents{seed}", values, table)
        e4 = generator.binomial(2, 0.2, 120).astype(float)
        genes = write_genes(tmp_path / f"genes{seed}", table["subject"].tolist(), e4, generator.standard_normal(120))
        metrics = study(tmp_path / f"out{seed}", latents=latents, genotypes=genes)
        added.append(metrics["genes"]["adds"])
        gain = rows(metrics, "genes_gain", model="late fusion", against="linear")[0]
        assert gain["low"] < 0.01
        assert metrics["genes"]["summary"][0].startswith(("No evidence that ", "Genes take away "))
    assert not any(added)


def test_a_gain_that_needs_the_own_scan_vanishes_within_diagnosis(tmp_path: Path) -> None:
    """Scan and score share noise with opposite signs, so that only their pair tells: that is lost with other people's genes."""
    values, table, ill, generator = people(5)
    noise = generator.standard_normal(NUM)
    values[:, 2] = 3 * (0.6 * ill + noise)
    score = 0.6 * ill - noise + 0.3 * generator.standard_normal(NUM)
    latents = write_latents(tmp_path / "latents", values, table)
    genes = write_genes(tmp_path / "genes", table["subject"].tolist(), None, score)
    metrics = study(tmp_path / "out", latents=latents, genotypes=genes)
    within = rows(metrics, "genes_controls", control="permuted within diagnosis and ancestry")[0]
    assert within["real_gain"] > 0.15
    assert within["high"] < 0.6 * within["real_gain"]


def test_no_genes_of_anybody_are_written(planted: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = planted
    genes = pd.read_csv(root / "genes" / "people.tsv", sep="\t")
    predictions = pd.read_csv(root / "out" / "predictions.tsv", sep="\t")
    assert set(predictions["model"]) == {"linear", "covariates"}
    both = predictions.merge(genes[["subject", "prs_ad", "apoe_e4"]], on="subject", validate="many_to_one")
    numbers = predictions.select_dtypes("number").columns
    for column in (name for name in numbers if both[name].nunique() > 1):
        assert both[[column, "prs_ad", "apoe_e4"]].corr().iloc[0, 1:].abs().max() < 0.9, column
    for name in (name for name in metrics["tables"] if name.startswith("genes")):
        assert len(metrics["tables"][name]) < 25
        assert not {"subject", "key"} & set(metrics["tables"][name][0])
    written = [path for path in (root / "out").rglob("*") if path.suffix in (".tsv", ".json", ".npz")]
    for path in written:
        assert b"prs_ad" not in path.read_bytes(), path.name


def test_families_are_never_on_both_sides_of_a_fold(tmp_path: Path) -> None:
    values, table, ill, generator = people(2, 100)
    related = ["" if place >= 40 else str(place // 4 + 1) for place in range(100)]
    genes = write_genes(
        tmp_path / "genes", table["subject"].tolist(), None, generator.standard_normal(100), None, related
    )
    latents = write_latents(tmp_path / "latents", values, table)
    settings = Classify.model_validate(QUICK | {"out": tmp_path / "out", "latents": latents, "genotypes": genes})
    question = open_question(settings)
    assert question.genes is not None
    assert (question.genes.num_families, question.genes.num_related) == (10, 40)
    family = np.array([label or f"alone {place}" for place, label in enumerate(related)])
    for fold in question.folds:
        assert not set(family[fold.train]) & set(family[fold.test])
        assert ill[fold.test].any()
    without = open_question(Classify.model_validate(QUICK | {"out": tmp_path / "out", "latents": latents}))
    assert any(set(family[fold.train]) & set(family[fold.test]) for fold in without.folds)
    metrics = study(tmp_path / "out", latents=latents, genotypes=genes, gene_permutations=0)
    assert any("40 people are related" in line for line in metrics["genes"]["summary"])
    assert metrics["people"]["num_people"] == 100
    assert "fitted on all 100 people" in metrics["head"]


def test_people_who_miss_a_modality_are_counted_and_scored_by_the_other(tmp_path: Path) -> None:
    values, table, ill, generator = people(3)
    score = 2 * ill + generator.standard_normal(NUM)
    score[:60] = np.nan  # a scan and no genes
    scanned = np.arange(NUM) < 200  # the last 40: genes and no scan
    subjects = table["subject"].tolist()
    genes = write_genes(tmp_path / "genes", subjects, None, score)
    labels = tmp_path / "labels.tsv"
    table[["subject", "diagnosis"]].to_csv(labels, sep="\t", index=False)
    part = table[scanned].reset_index(drop=True)
    latents = write_latents(tmp_path / "latents", values[scanned], part)
    metrics = study(tmp_path / "out", latents=latents, genotypes=genes, table=labels, gene_permutations=0)
    found = {(row["people"], row["inputs"]): row for row in metrics["tables"]["genes_people"]}
    counts = {key: row["num_people"] for key, row in found.items()}
    assert counts == {
        **{("scan and genes", inputs): 140 for inputs in ("I", "G", "G+I")},
        ("scan alone", "I"): 60,
        ("scan alone", "G"): 0,
        ("scan alone", "G+I"): 60,
        ("genes alone", "I"): 0,
        ("genes alone", "G"): 40,
        ("genes alone", "G+I"): 40,
        ("everybody", "I"): 200,
        ("everybody", "G"): 180,
        ("everybody", "G+I"): 240,
    }
    assert found["scan alone", "G+I"]["value"] == found["scan alone", "I"]["value"]
    assert found["scan alone", "G+I"]["scored_by"] == "the scan"
    assert found["scan alone", "G"]["scored_by"] == "nothing: they are not scored"
    expected = norm.cdf(2 / np.sqrt(2))
    assert found["genes alone", "G"]["low"] - 0.05 < expected < found["genes alone", "G"]["high"] + 0.02
    assert found["scan and genes", "G+I"]["value"] > found["scan and genes", "I"]["value"]
    assert "140 people have both; 60 have a scan and no genes, and are scored by the scan; 40 have genes" in str(
        metrics["genes"]
    )


def test_genes_are_joined_by_subject_and_never_by_order(tmp_path: Path) -> None:
    """The same people in another order give the same figures; other ids of the same number are refused."""
    values, table, ill, generator = people(4, 100)
    score = ill + generator.standard_normal(100)
    latents = write_latents(tmp_path / "latents", values, table)
    order = generator.permutation(100)
    subjects = np.array(table["subject"].tolist())
    found = [
        study(
            tmp_path / f"out{name}",
            latents=latents,
            gene_permutations=0,
            genotypes=write_genes(tmp_path / f"genes{name}", subjects[rows].tolist(), None, score[rows]),
        )
        for name, rows in (("straight", np.arange(100)), ("mixed", order))
    ]
    for table_name in ("genes_performance", "genes_gain"):
        assert found[0]["tables"][table_name] == found[1]["tables"][table_name]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            "other",
            "none of its 60 people is among the 60 people of this study, as ids such as q0000 and p0000 show. Both have 60",
        ),
        ("fewer", "none of its 30 people is among the 60 people of this study.*Rows are never joined by their order"),
        ("nothing", "holds neither APOE nor a polygenic score of anybody who passed"),
        ("unknown", "of the 60 people who are in it and in this study, none has APOE or a score that passed"),
        ("few", "12 people of this study have genes, and at least 20 are needed"),
        ("number", "age_years is a number; name classes= of it, or leave out genotypes="),
        ("one class", "people with genes, fold 1: 0 training people of class AD are left"),
    ],
)
def test_what_cannot_be_joined_is_a_sentence(tmp_path: Path, case: str, said: str) -> None:
    values, table, ill, generator = people(6, 60)
    score, subjects = generator.standard_normal(60), table["subject"].tolist()
    passed, settings = np.ones(60, dtype=bool), {}
    if case == "other":
        subjects = [name.replace("p", "q") for name in subjects]
    elif case == "fewer":
        subjects, score, passed = [name.replace("p", "q") for name in subjects[:30]], score[:30], passed[:30]
    elif case == "nothing":
        score[:] = np.nan
    elif case == "unknown":
        subjects, score = [*subjects, "x"], np.append(np.full(60, np.nan), 1.0)
        passed = np.ones(61, dtype=bool)
    elif case == "few":
        passed[12:] = False
    elif case == "number":
        settings = {"target": "age_years", "covariates": ["sex"]}
    elif case == "one class":
        score[ill] = np.nan
    genes = write_genes(tmp_path / "genes", subjects, None, score, None, None, passed)
    latents = write_latents(tmp_path / "latents", values, table)
    with pytest.raises(UserError, match=said):
        study(tmp_path / "out", latents=latents, genotypes=genes, **settings)


def test_the_report_says_first_whether_genes_add(planted: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = planted
    models = Models(HeadFolder(read(root / "out", ("classify",)), "out"))
    blocks = genes_blocks(models)
    assert [type(block) for block in blocks[:2]] == [Heading, Text]
    assert blocks[1].text == metrics["genes"]["summary"][0]
    tables = [block for block in blocks if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [7, 11, 2]
    assert isinstance(blocks[-1], Details)


def test_a_finished_head_is_not_tested_with_genes() -> None:
    with pytest.raises(ValidationError, match="the head of fit= learned from scans alone"):
        Classify.model_validate(
            {"out": "x", "latents": ["y"], "target": "diagnosis", "fit": "z", "external": ["w"], "genotypes": "g"}
        )


def test_pooling_is_the_mean_of_logits() -> None:
    one, other = np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([[0.4, 0.6], [1.0, 0.0]])
    logit = 0.5 * (np.log(0.8 / 0.2) + np.log(0.6 / 0.4))
    assert pooled(one, other)[0, 1] == pytest.approx(1 / (1 + np.exp(-logit)))
    assert np.isfinite(pooled(one, other)).all()


def test_genes_are_exchanged_within_strata_by_person() -> None:
    people_of_scans, places = np.array([0, 0, 1, 2, 3, 4]), np.array([5, 5, 6, -1, 7, 8])
    strata = np.array([0, 0, 0, 0, 1, 1])
    for seed in range(20):
        found = permuted(places, people_of_scans, strata, np.random.default_rng(seed))
        assert found[0] == found[1]
        assert found[3] == -1
        assert {found[0], found[2]} == {5, 6}
        assert {found[4], found[5]} == {7, 8}
