"""Simulated genotypes: what is planted is in the files, and where nothing is planted not one byte of a cohort changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.optimize import minimize

from gen3d.genotypes.genotypes import Genotypes
from gen3d.simulate.folder import ALLELES, FOLDER, PEOPLE_GENES, WEIGHTS
from gen3d.simulate.genes import CohortGenes
from gen3d.simulate.genotype_files import write_genotypes
from gen3d.simulate.simulate import Simulate

NULL = {"apoe_on_hippocampus": 0, "apoe_on_risk": 0, "polygenic_on_risk": 0}
HALF_AD = {"ad": {"kind": "ad", "share": 0.5}}
QUICK = {"spacing_mm": 4, "workers": 1, "figures": False}


def drawn(subjects: int = 2000, seed: int = 0, **genotypes: object) -> tuple[pd.DataFrame, CohortGenes]:
    """The people of a cohort and their genotypes, without images."""
    settings = {"subjects": subjects, "seed": seed, "conditions": HALF_AD, "genotypes": genotypes}
    verb = Simulate.model_validate(settings | {"out": Path("never_written")})
    scans = verb.people()
    genes = verb.genes(scans)
    assert genes is not None
    return scans, genes


def log_odds(columns: np.ndarray, ill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression: coefficients of the columns, and their standard errors."""
    design = np.column_stack([columns, np.ones(len(ill))])

    def loss(theta: np.ndarray) -> float:
        return float(np.logaddexp(0, -(2 * ill - 1) * (design @ theta)).sum())

    theta = minimize(loss, np.zeros(design.shape[1])).x
    chance = 1 / (1 + np.exp(-design @ theta))
    covariance = np.linalg.inv((design * (chance * (1 - chance))[:, None]).T @ design)
    return theta[:-1], np.sqrt(np.diag(covariance))[:-1]


def test_diagnosis_follows_the_planted_odds() -> None:
    scans, genes = drawn(apoe_on_risk=1.0, polygenic_on_risk=0.6, on_risk={"snp00007": 0.5})
    seventh = genes.copies[:, int(np.flatnonzero(genes.variants["variant"] == "snp00007")[0])]
    ill = (scans["condition"] == "ad").to_numpy(float)
    found, error = log_odds(np.column_stack([genes.e4, genes.polygenic, seventh]), ill)
    assert (np.abs(found - [1.0, 1.0, 0.5]) < 2.6 * error).all()
    assert genes.polygenic.std() == pytest.approx(0.6)
    assert (found > 3 * error).all()


def test_a_null_gives_no_odds_and_no_volumes() -> None:
    scans, genes = drawn(**NULL)
    ill = (scans["condition"] == "ad").to_numpy(float)
    found, error = log_odds(genes.e4[:, None], ill)
    assert abs(found[0]) < 2.6 * error[0]
    assert not genes.shifts
    assert not genes.liability.any()


def test_people_stay_as_they_are_without_genotypes() -> None:
    """Digests of the tables before there were genotypes; numbers are rounded, so they are equal on every machine."""
    found = []
    for later in ({"longitudinal": 0.25}, {"visits": (0, 1.0, 2.0)}):
        settings = {"out": Path("x"), "subjects": 40, "seed": 3, **later}
        table = Simulate.model_validate(settings).people()
        with_genes = Simulate.model_validate(settings | {"genotypes": {}}).people()
        pd.testing.assert_frame_equal(table, with_genes)
        found.append(hashlib.sha256(table.to_csv(index=False).encode()).hexdigest())
    assert found == [
        "735511f6b9a8c22b2534e767a6c0ac617feebc5aef65f348fc31e38f2e89fd16",
        "543f8d96f4c5a4439778d44a55aaa6e04a4fad3b99f3eb035b012d20136dc068",
    ]


def test_genotypes_without_effects_change_no_byte_of_the_cohort(tmp_path: Path) -> None:
    folders = []
    for name, genotypes in (("without", None), ("null", NULL), ("again", NULL)):
        settings = QUICK | {"subjects": 3, "conditions": {"ad": {"kind": "ad", "count": 1}}, "genotypes": genotypes}
        folders.append(Simulate.model_validate(settings | {"out": tmp_path / name}).run())
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    for named in files:
        for record in ("artefact.json", ".lock"):
            named.pop(record, None)
    genetic = {name for name in files[1] if name not in files[0]}
    assert genetic == {
        "genotypes.bed",
        "genotypes.bim",
        "genotypes.fam",
        "truth/truth_alleles.tsv",
        "truth/truth_genes.tsv",
        "truth/truth_weights.tsv",
    }
    assert files[0] == {name: content for name, content in files[1].items() if name not in genetic}
    assert files[1] == files[2]


def test_e4_shrinks_the_hippocampus_of_images_by_its_log_volume(tmp_path: Path) -> None:
    healthy = {"subjects": 5, "conditions": {"null": {"kind": "null", "count": 1}}}
    per_copy = -0.15
    pair = [
        Simulate.model_validate(
            QUICK | healthy | {"out": tmp_path / name, "genotypes": NULL | {"apoe_on_hippocampus": value, "seed": 1}}
        ).run()
        for name, value in (("null", 0.0), ("planted", per_copy))
    ]
    volumes = [pd.read_csv(folder / "truth" / "truth_volumes.tsv", sep="\t") for folder in pair]
    change = np.log(
        volumes[1].set_index(["key", "region"])["volume_ml"] / volumes[0].set_index(["key", "region"])["volume_ml"]
    )
    copies = PEOPLE_GENES.read(pair[1] / FOLDER)["apoe_e4"].to_numpy()
    assert set(copies.tolist()) >= {0, 1}
    for side in ("left", "right"):
        hippocampus = change.xs(f"{side} hippocampus", level="region").to_numpy()
        assert hippocampus == pytest.approx(per_copy * copies, abs=0.05 + 1e-9)
        assert (hippocampus[copies == 0] == 0).all()
    alleles = ALLELES.read(pair[1] / FOLDER)
    assert alleles.to_dict("records") == [
        {"allele": "apoe_e4", "acts_on": "hippocampus", "per_copy": per_copy, "unit": "log volume"}
    ]


def test_frequencies_linkage_and_ancestry_are_those_of_the_settings() -> None:
    _, genes = drawn(variants=400, block=10, linkage=0.9)
    assert genes.e4.mean() / 2 == pytest.approx(0.17, abs=0.03)  # of 0.14 and 0.20
    numbered = genes.variants["variant"].str.startswith("snp0").to_numpy()
    names = genes.variants["variant"].to_numpy()[numbered]
    order = np.argsort(names)
    inside = genes.ancestry == 0
    correlation = np.corrcoef(genes.copies[:, numbered][inside][:, order].T.astype(float)) ** 2
    neighbours = np.array([correlation[place, place + 1] for place in range(len(order) - 1)])
    crosses = np.arange(len(neighbours)) % 10 == 9
    assert np.median(neighbours[~crosses]) > 0.2
    assert neighbours[crosses].max() < 0.05
    frequency = np.array([genes.copies[genes.ancestry == group].mean(axis=0) / 2 for group in (0, 1)])
    assert np.corrcoef(frequency)[0, 1] < 0.98
    assert np.bincount(genes.ancestry).tolist() == [1000, 1000]
    apoe = genes.variants.set_index("variant").loc[["rs429358", "rs7412"]]
    assert apoe["position"].tolist() == [44908684, 44908822]
    assert (apoe["chromosome"] == "19").all()


def test_the_files_are_what_gen3d_genotypes_reads(tmp_path: Path) -> None:
    pytest.importorskip("bed_reader")
    scans, genes = drawn(203, ancestries=1, siblings=6, missing=0.002, genotyped=0.9, linkage=0.3)
    (tmp_path / FOLDER).mkdir()
    write_genotypes(tmp_path, genes)
    scans.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    found = Genotypes(
        source=tmp_path / "genotypes.bed",
        table=tmp_path / "cohort.tsv",
        scores={"background": tmp_path / FOLDER / WEIGHTS.file},
        out=tmp_path / "genotypes",
    ).run()
    people = pd.read_csv(found / "people.tsv", sep="\t")
    both = people.merge(PEOPLE_GENES.read(tmp_path / FOLDER), on="subject", suffixes=("", "_true"))
    assert (both["genotyped"] == both["genotyped_true"]).all()
    assert (both["genotyped"] == "yes").sum() == round(0.9 * 203)
    read = both[both["genotyped"] == "yes"]
    known = read["apoe_e4"].notna()
    assert known.mean() > 0.98
    assert (read["apoe_e4"] == read["apoe_e4_true"])[known].all()
    assert set(read["sex_check"]) <= {"ok", "unclear"}
    assert (read["sex_check"] == "ok").mean() > 0.95
    assert np.corrcoef(read["prs_background"], read["polygenic"])[0, 1] > 0.995
    relatives = pd.read_csv(found / "relatives.tsv", sep="\t")
    siblings = {
        frozenset(pair) for pair in read[["subject", "sibling"]].to_numpy().tolist() if isinstance(pair[1], str)
    }
    present = {pair for pair in siblings if pair <= set(read["subject"])}
    assert {frozenset(pair) for pair in relatives[["subject_1", "subject_2"]].to_numpy().tolist()} == present
    assert relatives["kinship"].between(0.15, 0.35).all()


def test_a_seed_gives_the_same_genotypes_and_another_one_others() -> None:
    first, again, other = (drawn(50, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.copies, again.copies)
    assert (first.copies != other.copies).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"genotypes": {"on_risk": {"rs1": 1}}}, "on_risk names rs1"),
        ({"genotypes": {"on_volumes": {"snp09999": {"amygdala": -0.1}}}}, "alleles are apoe_e4, apoe_e2"),
        ({"subjects": 10, "genotypes": {"siblings": 6}}, "genotypes.siblings=6 pairs are more people than the 10"),
        ({"base": ["somewhere"], "genotypes": {}}, "give genotypes, or base"),
    ],
)
def test_settings_that_cannot_be_are_sentences(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Simulate.model_validate({"out": "x"} | settings)
