"""APOE by its two variants, and polygenic scores against a computation of a few lines that shares no code with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.genotypes_folder import SCORES
from gen3d.core.errors import UserError
from gen3d.genotypes.apoe import from_calls, from_column, joined
from gen3d.genotypes.folder import OpenGenotypes, open_genotypes
from gen3d.genotypes.genotypes import Genotypes
from gen3d.genotypes.variants import complement
from tests.genotypes.people import People, make_people

DATA = Path(os.environ.get("GEN3D_REAL_DATA", "/nowhere")) / "tabular"
MISSING = np.nan


@pytest.fixture(scope="module")
def people() -> People:
    made = make_people(num=60, per_chromosome=10)
    copies = made.copies.copy()
    copies[np.random.default_rng(3).random(copies.shape) < 0.004] = np.nan
    return made.with_copies(copies)


def run(people: People, folder: Path, **settings: Any) -> OpenGenotypes:
    folder.mkdir(exist_ok=True)
    out, rules = folder / "genotypes", {"sample_missing": 0.1, "variant_missing": 0.2, "frequency": 0}
    Genotypes(
        table=people.write_table(folder), source=people.write_bed(folder), out=out, **{"qc": rules, **settings}
    ).run()
    return open_genotypes(out)


def weights_of(people: People, path: Path, columns: tuple[str, ...], header: str = "", seed: int = 4) -> pd.DataFrame:
    """Write a table of weights for every second autosomal variant, either allele first; returns it with `row`, of the variant."""
    generator = np.random.default_rng(seed)
    rows = np.flatnonzero((people.variants["chromosome"] != "X").to_numpy())[::2]
    chosen = people.variants.iloc[rows]
    first = generator.random(len(rows)) < 0.5
    table = pd.DataFrame(
        {
            "rsID": chosen["variant"].to_numpy(),
            "chromosome": chosen["chromosome"].to_numpy(),
            "position": chosen["position"].to_numpy(),
            "effect": np.where(first, chosen["counted"], chosen["other"]),
            "other": np.where(first, chosen["other"], chosen["counted"]),
            "weight": generator.normal(0, 0.1, len(rows)).round(4),
        }
    )
    names = dict(zip(("rsID", "chromosome", "position", "effect", "other", "weight"), columns, strict=True))
    frame = table.rename(columns=names)[[name for name in names.values() if name]]
    path.write_text(header + frame.to_csv(sep="\t", index=False), encoding="utf-8")
    return table.assign(row=rows)


CATALOG = ("rsID", "chr_name", "chr_position", "effect_allele", "other_allele", "effect_weight")
SHARED = ("", "Chromosome", "Position", "Allele1", "Allele2", "BETA")


def by_hand(people: People, table: pd.DataFrame) -> np.ndarray:
    """The score of everybody, person by person and variant by variant."""
    training = np.flatnonzero(people.table["role"] == "train")
    total = np.zeros(len(people.table))
    for entry in table.itertuples():
        copies = people.copies[:, entry.row]
        if entry.effect != people.variants["counted"].iat[entry.row]:
            copies = 2 - copies
        mean = np.nanmean(copies[training])
        for person, value in enumerate(copies):
            total[person] += entry.weight * (mean if np.isnan(value) else value)
    return total


@pytest.mark.parametrize("columns", [CATALOG, SHARED])
def test_a_score_is_the_sum_of_effect_alleles_times_weights(
    columns: tuple[str, ...], people: People, tmp_path: Path
) -> None:
    header = "#pgs_id=PGS000001\n#genome_build=GRCh38\n" if columns is CATALOG else ""
    table = weights_of(people, tmp_path / "w.tsv", columns, header)
    opened = run(people, tmp_path / "run", scores={"ad": tmp_path / "w.tsv"})
    np.testing.assert_allclose(opened.people["prs_ad"], by_hand(people, table), atol=2e-5)
    region = (table["chromosome"] == "19") & table["position"].between(43_896_743, 45_996_743)
    assert region.sum() >= 2
    np.testing.assert_allclose(opened.people["prs_ad_without_apoe"], by_hand(people, table[~region]), atol=2e-5)
    counts = SCORES.read(opened.folder).set_index("region")
    assert counts.loc["all", ["listed", "used", "absent"]].tolist() == [len(table), len(table), 0]
    assert 0.3 < counts.loc["all", "swapped"] / len(table) < 0.7


def test_other_strands_are_turned_and_palindromes_that_cannot_be_told_are_dropped(
    people: People, tmp_path: Path
) -> None:
    variants, copies = people.variants.copy(), people.copies.copy()
    table = weights_of(people, tmp_path / "plain.tsv", CATALOG)
    rows = table["row"].to_numpy()
    balanced, rarer, foreign = rows[3], rows[4], rows[5]
    for row in (balanced, rarer):
        variants.loc[row, ["counted", "other"]] = ["A", "T"]
    copies[:, balanced] = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [15, 30, 15]))
    copies[:, rarer] = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 18, 2]))
    changed = People(people.table, variants, copies)
    table.loc[table["row"].isin([balanced, rarer]), ["effect", "other"]] = ["A", "T"]
    flipped = table.assign(effect=table["effect"], other=table["other"])
    few = [0, 1]  # too few strands are other ones for A/T to mean nothing
    flipped.loc[few, "effect"] = [complement(allele) for allele in flipped.loc[few, "effect"]]
    flipped.loc[few, "other"] = [complement(allele) for allele in flipped.loc[few, "other"]]
    flipped.loc[flipped["row"] == foreign, ["effect", "other"]] = ["AC", "G"]
    names = dict(zip(("rsID", "chromosome", "position", "effect", "other", "weight"), CATALOG, strict=True))
    flipped.rename(columns=names)[list(CATALOG)].to_csv(tmp_path / "w.tsv", sep="\t", index=False)
    opened = run(changed, tmp_path / "run", scores={"ad": tmp_path / "w.tsv"})
    counts = SCORES.read(opened.folder).set_index("region").loc["all"]
    assert counts[["flipped", "palindromic", "no_match"]].tolist() == [2, 1, 1]
    used = table[~table["row"].isin([balanced, foreign])]
    np.testing.assert_allclose(opened.people["prs_ad"], by_hand(changed, used), atol=2e-5)


def test_a_table_on_other_strands_loses_its_palindromes(people: People, tmp_path: Path) -> None:
    table = weights_of(people, tmp_path / "plain.tsv", CATALOG)
    variants, row = people.variants.copy(), int(table["row"].iat[4])
    variants.loc[row, ["counted", "other"]] = ["A", "T"]
    copies = people.copies.copy()
    copies[:, row] = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 18, 2]))
    table.loc[table["row"] == row, ["effect", "other"]] = ["A", "T"]
    for column in ("effect", "other"):
        table[column] = [complement(allele) for allele in table[column]]
    names = dict(zip(("rsID", "chromosome", "position", "effect", "other", "weight"), CATALOG, strict=True))
    table.rename(columns=names)[list(CATALOG)].to_csv(tmp_path / "w.tsv", sep="\t", index=False)
    opened = run(People(people.table, variants, copies), tmp_path / "run", scores={"ad": tmp_path / "w.tsv"})
    counts = SCORES.read(opened.folder).set_index("region").loc["all"]
    assert counts[["flipped", "palindromic"]].tolist() == [len(table) - 1, 1]


def test_the_allele_that_a_weight_belongs_to_is_the_users_to_say(people: People, tmp_path: Path) -> None:
    table = weights_of(people, tmp_path / "w.tsv", SHARED)
    opened = run(people, tmp_path / "run", scores=[tmp_path / "w.tsv"], effect_allele="Allele2")
    exchanged = table.rename(columns={"effect": "other", "other": "effect"})
    np.testing.assert_allclose(opened.people["prs_w"], by_hand(people, exchanged), atol=2e-5)
    with pytest.raises(UserError, match="has no column EA"):
        run(people, tmp_path / "other", scores=[tmp_path / "w.tsv"], effect_allele="EA")


def test_a_table_of_another_build_is_used_by_ids_or_refused(people: People, tmp_path: Path) -> None:
    table = weights_of(people, tmp_path / "w.tsv", SHARED)
    moved = pd.read_csv(tmp_path / "w.tsv", sep="\t").assign(Position=lambda frame: frame["Position"] + 1000)
    moved.to_csv(tmp_path / "moved.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match=r"0 of its \d+ variants .0.0 %. are among the genotypes.*may be GRCh37 while"):
        run(people, tmp_path / "a", scores=[tmp_path / "moved.tsv"])
    text = "#genome_build=GRCh37\n" + (tmp_path / "moved.tsv").read_text(encoding="utf-8")
    (tmp_path / "stated.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is in GRCh37 and the genotypes in GRCh38, and it has no rsID"):
        run(people, tmp_path / "b", scores=[tmp_path / "stated.tsv"])
    with pytest.raises(UserError, match="scores_build=GRCh37, but known variants are at their places in GRCh38"):
        run(people, tmp_path / "c", scores=[tmp_path / "w.tsv"], scores_build="GRCh37")
    named = moved.assign(rsID=table["rsID"])
    (tmp_path / "ids.tsv").write_text("#genome_build=GRCh37\n" + named.to_csv(sep="\t", index=False), encoding="utf-8")
    opened = run(people, tmp_path / "d", scores={"ad": tmp_path / "ids.tsv"})
    np.testing.assert_allclose(opened.people["prs_ad"], by_hand(people, table), atol=2e-5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rsID\teffect_allele\nrs1\tA\n", "no column with the weight"),
        ("rsID\teffect_weight\nrs1\t1\n", "no column with the effect allele"),
        ("rsID\teffect_allele\tOR\nrs1\tA\t1.1\n", "odds ratios, but no weights"),
        ("effect_allele\teffect_weight\nA\t1\n", "neither the id nor the place"),
        (
            "rsID\teffect_allele\teffect_weight\nrs1\tA\tmuch\n",
            "1 cells of effect_weight are no number, the first is 'much'",
        ),
        ("rsID\teffect_allele\teffect_weight\nrs1\tA\t1\nrs1\tA\t1\n", "rs1 is listed twice"),
    ],
)
def test_a_table_without_weights(text: str, sentence: str, people: People, tmp_path: Path) -> None:
    (tmp_path / "w.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        run(people, tmp_path / "run", scores=[tmp_path / "w.tsv"])


def test_every_pair_of_calls_is_the_genotype_of_the_table() -> None:
    calls = np.array(
        [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2], [1, 1], [2, 0], [1, 0], [MISSING, 2], [0.4, 2], [0.05, 1.95]]
    )
    found = from_calls(calls, (MISSING, MISSING))
    names = ["e2e2", "e2e3", "e3e3", "e3e4", "e4e4", "e2e4", "", "", "", "", "e3e3"]
    assert found.genotype.tolist() == names
    assert found.note[6] == found.note[7] == "no pair of e2, e3 and e4 has these calls"
    assert found.note[8] == found.note[9] == "no sure call at rs429358"
    np.testing.assert_array_equal(found.copies("e4")[:6], [0, 0, 0, 1, 2, 1])
    np.testing.assert_array_equal(found.copies("e2")[:6], [2, 1, 0, 0, 0, 1])
    assert np.isnan(found.copies("e4")[6])


def test_poorly_imputed_calls_say_nothing() -> None:
    found = from_calls(np.array([[0.0, 2.0]]), (0.79, MISSING))
    assert (found.genotype[0], found.note[0]) == ("", "rs429358 imputed with a quality below 0.8")
    assert from_calls(np.array([[0.0, 2.0]]), (0.8, 0.95)).genotype[0] == "e3e3"


@pytest.mark.parametrize("text", ["E3E4", "e3/e4", "3/4", "34", "ε4ε3", "APOE e3 e4", "4,3", "34.0", "e3_e4"])
def test_a_column_is_read_however_it_is_written(text: str) -> None:
    assert from_column([text, ""], "apoe").genotype.tolist() == ["e3e4", ""]


def test_a_column_without_apoe_and_one_that_differs() -> None:
    with pytest.raises(UserError, match="apoe_column=group: no cell is a pair"):
        from_column(["AD", "CN", "5/4"], "group")
    called = from_calls(np.array([[0, 2], [MISSING, 2], [1, 2]]), (MISSING, MISSING))
    both = joined(called, from_column(["3/3", "2/3", "3/3"], "apoe"))
    assert both.genotype.tolist() == ["e3e3", "e2e3", ""]
    assert both.note.tolist() == ["", "", "genotypes and the column differ"]


def test_apoe_of_a_cohort_is_that_which_was_made(people: People, tmp_path: Path) -> None:
    opened = run(people, tmp_path / "run")
    e4, c = (people.copies[:, people.row(name)] for name in ("rs429358", "rs7412"))
    known = np.isfinite(e4) & np.isfinite(c)
    assert (opened.everybody["apoe"] != "").tolist() == known.tolist()
    np.testing.assert_array_equal(opened.everybody["apoe_e4"][known], e4[known])
    np.testing.assert_array_equal(opened.everybody["apoe_e2"][known], 2 - c[known])


def test_calls_of_the_other_strand_and_without_ids_are_still_apoe(people: People, tmp_path: Path) -> None:
    variants = people.variants.copy()
    for name in ("rs429358", "rs7412"):
        row = people.row(name)
        variants.loc[row, ["counted", "other"]] = [complement(str(a)) for a in variants.loc[row, ["counted", "other"]]]
        variants.loc[row, "variant"] = "."
    opened = run(People(people.table, variants, people.copies), tmp_path / "run")
    assert opened.everybody["apoe"].equals(run(people, tmp_path / "plain").everybody["apoe"])


def test_named_variants_are_carried_with_their_gene_even_where_they_are_rare(people: People, tmp_path: Path) -> None:
    copies, rare = people.copies.copy(), 7
    copies[:, rare] = np.where(np.arange(len(copies)) == 50, 1, 0)
    listed = people.variants.iloc[[rare, 20]].assign(gene=["ONE", "TWO"])
    listed[["chromosome", "position", "gene"]].to_csv(tmp_path / "carry.tsv", sep="\t", index=False)
    rules = {"sample_missing": 0.1, "variant_missing": 0.2}
    opened = run(
        people.with_copies(copies), tmp_path / "run", carry=tmp_path / "carry.tsv", carry_all_up_to=0, qc=rules
    )
    genes = dict(zip(opened.variants["variant"], opened.variants["gene"], strict=True))
    assert genes == {listed["variant"].iat[0]: "ONE", listed["variant"].iat[1]: "TWO", "rs429358": "", "rs7412": ""}
    plain = run(people.with_copies(copies), tmp_path / "plain", qc=rules)
    assert set(plain.all_variants.loc[plain.all_variants["reason"] != "", "variant"]) == {listed["variant"].iat[0]}
    (tmp_path / "carry.tsv").write_text("variant\nrs0\n", encoding="utf-8")
    with pytest.raises(UserError, match="none of its 1 variant is among the genotypes"):
        run(people, tmp_path / "other", carry=tmp_path / "carry.tsv")


def test_other_measurements_and_a_column_of_apoe_alone(tmp_path: Path) -> None:
    table = pd.DataFrame({"subject": ["a", "b", "c"], "apoe": ["E3E3", "E3E4", "n/a"]})
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    other = pd.DataFrame(
        {"subject": ["c", "x", "a"], "tau": [3.5, 9.0, 1.5], "batch": ["u", "v", "u"], "abeta": ["n/a", 1, 2]}
    )
    other.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    Genotypes(
        table=tmp_path / "t.tsv", tables={"csf": tmp_path / "m.tsv"}, apoe_column="apoe", out=tmp_path / "out"
    ).run()
    opened = open_genotypes(tmp_path / "out")
    assert opened.people["subject"].tolist() == ["a", "b", "c"]
    assert opened.people["apoe"].tolist() == ["e3e3", "e3e4", ""]
    assert opened.features["feature"].tolist() == ["csf_tau", "csf_abeta"]
    np.testing.assert_array_equal(opened.omics, [[1.5, 2], [MISSING, MISSING], [3.5, MISSING]])
    assert not opened.genotyped(["a", "b"]).any()
    other.assign(subject=["k", "l", "m"]).to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="none of its 3 people is among the 3 people of"):
        Genotypes(table=tmp_path / "t.tsv", tables={"csf": tmp_path / "m.tsv"}, out=tmp_path / "o2").run()


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "ad_prs_weights").is_dir(), reason="needs the shared tables of weights")
def test_published_tables_of_weights_are_read_and_found(tmp_path: Path) -> None:
    listed = pd.read_csv(DATA / "ad_prs_weights" / "FINNGEN.csv")
    bases = listed["Allele1"].str.fullmatch("[ACGT]+") & listed["Allele2"].str.fullmatch("[ACGT]+")
    chosen = listed[bases].drop_duplicates(["Chromosome", "Position"])
    variants = pd.DataFrame(
        {
            "variant": ".",
            "chromosome": chosen["Chromosome"].astype(str),
            "position": chosen["Position"],
            "counted": chosen["Allele2"],
            "other": chosen["Allele1"],
        }
    ).reset_index(drop=True)
    copies = np.random.default_rng(0).binomial(2, 0.3, (80, len(variants))).astype(float)
    base = make_people(num=80, per_chromosome=1, num_x=1)
    opened = run(People(base.table, variants, copies), tmp_path, scores=[DATA / "ad_prs_weights" / "FINNGEN.csv"])
    assert set(opened.all_variants["build"]) == {"GRCh38"}
    expected = (2 - copies) @ chosen["BETA"].to_numpy()
    np.testing.assert_allclose(opened.people["prs_FINNGEN"], expected, atol=1e-4)


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared table of markers")
def test_the_table_of_markers_gives_apoe_and_features_of_everybody(tmp_path: Path) -> None:
    table = pd.read_csv(DATA / "ad_biomarkers_apoe.tsv", sep="\t")
    table = pd.concat([pd.Series([f"s{number}" for number in range(len(table))], name="subject"), table], axis=1)
    table[["subject", "Genotype", "Class"]].to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    table.drop(columns=["Genotype", "Class"]).to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    settings = {
        "table": tmp_path / "t.tsv",
        "tables": [tmp_path / "m.tsv"],
        "apoe_column": "Genotype",
        "out": tmp_path / "out",
    }
    Genotypes(**settings).run()
    opened = open_genotypes(tmp_path / "out")
    assert opened.people["apoe"].value_counts().to_dict() == {
        "e3e3": 167,
        "e3e4": 106,
        "e2e3": 37,
        "e4e4": 13,
        "e2e4": 8,
        "e2e2": 2,
    }
    assert opened.omics.shape == (333, 129)
