"""Every defect that was built in is found, and none in a clean cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.genotypes_folder import RELATIVES, STEPS
from gen3d.core.errors import UserError
from gen3d.genotypes.folder import OpenGenotypes, open_genotypes
from gen3d.genotypes.genotypes import Genotypes
from gen3d.genotypes.variants import complement
from tests.genotypes.people import People, child_of, known_variants, make_people


@pytest.fixture(scope="module")
def clean() -> People:
    return make_people(num=150, per_chromosome=120)


def run(people: People, folder: Path, **settings: Any) -> OpenGenotypes:
    out = folder / "genotypes"
    Genotypes(table=people.write_table(folder), source=people.write_bed(folder), out=out, **settings).run()
    return open_genotypes(out)


def reasons(opened: OpenGenotypes) -> dict[str, set[str]]:
    """Subjects by the reason for which they were left out."""
    out = opened.everybody[opened.everybody["reason"] != ""]
    return {str(reason): set(group["subject"]) for reason, group in out.groupby("reason")}


def variant_reasons(opened: OpenGenotypes) -> dict[str, set[str]]:
    out = opened.all_variants[opened.all_variants["reason"] != ""]
    return {str(reason): set(group["variant"]) for reason, group in out.groupby("reason")}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_a_clean_cohort(seed: int, tmp_path: Path) -> None:
    people = make_people(num=150, per_chromosome=100, seed=10 + seed)
    opened = run(people, tmp_path)
    assert reasons(opened) == {}
    assert variant_reasons(opened) == {}
    assert not len(RELATIVES.read(opened.folder))
    assert set(opened.everybody["sex_check"]) <= {"ok", "unclear"}
    assert (opened.everybody["sex_check"] == "ok").mean() > 0.9
    steps = STEPS.read(opened.folder)
    assert list(steps["step"]) == [
        "as read",
        "missing calls of people",
        "missing calls of variants",
        "sex",
        "heterozygosity",
        "relatedness",
        "frequency",
        "equilibrium",
        "linkage",
    ]
    assert not steps[["people_out", "variants_out"]].to_numpy().any()


@pytest.fixture(scope="module")
def spoiled(clean: People, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenGenotypes, pd.DataFrame]:
    """Every defect at once, each in people or variants of its own."""
    generator = np.random.default_rng(5)
    copies, table, variants = clean.copies.copy(), clean.table.copy(), clean.variants.copy()
    autosomal = (variants["chromosome"] != "X").to_numpy()
    child = child_of(copies, 30, 31, generator)
    copies[32, autosomal] = child[autosomal]  # a child of two people
    copies[3, generator.random(copies.shape[1]) < 0.05] = np.nan  # a person of a bad sample
    copies[:, 10] = np.where(generator.random(len(copies)) < 0.1, np.nan, copies[:, 10])  # a variant of a bad probe
    table.loc[7, "sex"] = {"F": "M", "M": "F"}[str(table.loc[7, "sex"])]  # exchanged samples
    mixed = autosomal & (generator.random(copies.shape[1]) < 0.3)
    copies[12, mixed] = 1  # a contaminated sample
    copies[20] = copies[21]  # one person under two ids
    table.loc[20, "sex"] = table.loc[21, "sex"]
    copies[:, 40] = np.where(np.arange(len(copies)) == 50, 1, 0)  # one allele in 300
    copies[:, 60] = 1  # everybody heterozygous: two places of the genome read as one
    copies[:, 61:63] = copies[:, 60 - 1 : 60]  # three variants that are one
    people = People(table, variants, copies)
    return run(people, tmp_path_factory.mktemp("spoiled")), variants


def test_every_defect_of_people_is_found(spoiled: tuple[OpenGenotypes, pd.DataFrame]) -> None:
    opened, _ = spoiled
    assert reasons(opened) == {
        "missing calls": {"p0003"},
        "sex differs from X": {"p0007"},
        "heterozygosity": {"p0012"},
    }
    assert opened.everybody.set_index("subject").loc["p0007", "sex_check"] == "mismatch"
    pairs = RELATIVES.read(opened.folder)
    found = {frozenset((row.subject_1, row.subject_2)): row.relation for row in pairs.itertuples()}
    assert found == {
        frozenset(("p0020", "p0021")): "duplicate or identical twin",
        frozenset(("p0030", "p0032")): "first degree",
        frozenset(("p0031", "p0032")): "first degree",
    }
    kinship = pairs.set_index("relation")["kinship"]
    assert kinship["duplicate or identical twin"] == pytest.approx(0.5)
    assert np.allclose(kinship["first degree"], 0.25, atol=0.06)


def test_relatives_are_one_group_of_a_split(spoiled: tuple[OpenGenotypes, pd.DataFrame]) -> None:
    opened, _ = spoiled
    groups = opened.relatives(["p0020", "p0021", "p0030", "p0031", "p0032", "p0001", "stranger"])
    assert groups[0] == groups[1]
    assert groups[2] == groups[3] == groups[4] != groups[0]
    assert groups[5:].tolist() == ["p0001", "stranger"]
    assert opened.of(["p0001", "p0003", "stranger"]).tolist()[1:] == [-1, -1]
    assert opened.people.loc[opened.of(["p0021"])[0], "subject"] == "p0021"


def test_every_defect_of_variants_is_found(spoiled: tuple[OpenGenotypes, pd.DataFrame]) -> None:
    opened, variants = spoiled
    assert variant_reasons(opened) == {
        "missing calls": {variants["variant"].iat[10]},
        "rare": {variants["variant"].iat[40]},
        "Hardy-Weinberg": {variants["variant"].iat[60]},
    }
    pruned = set(opened.pruned_variants["variant"])
    assert variants["variant"].iat[59] in pruned
    assert not pruned & set(variants["variant"].iloc[61:63])


def test_one_of_each_pair_of_relatives_is_kept_on_demand(clean: People, tmp_path: Path) -> None:
    copies = clean.copies.copy()
    copies[20] = copies[22]
    people = clean.with_copies(copies)
    opened = run(people, tmp_path, qc={"relatives": "keep_one"})
    assert list(reasons(opened)) == ["relative of a person who is kept"]
    assert len(opened.people) == len(clean.table) - 1


def test_a_variant_listed_twice_or_with_more_alleles_is_left_out(clean: People, tmp_path: Path) -> None:
    variants = clean.variants.copy()
    variants.loc[101, ["chromosome", "position", "counted", "other"]] = variants.loc[
        100, ["chromosome", "position", "other", "counted"]
    ].tolist()
    variants.loc[102, "counted"] = "<DEL>"
    opened = run(People(clean.table, variants, clean.copies), tmp_path)
    assert variant_reasons(opened) == {
        "listed before": {variants["variant"].iat[101]},
        "not two alleles of known bases": {variants["variant"].iat[102]},
    }


def reference_of(people: People, path: Path) -> Path:
    frame = people.variants.rename(columns={"counted": "allele"})[["chromosome", "position", "allele", "other"]]
    frame.assign(frequency=people.copies.mean(axis=0) / 2).to_csv(path, sep="\t", index=False)
    return path


def test_strand_flips_and_foreign_and_exchanged_alleles_are_found_by_a_reference(clean: People, tmp_path: Path) -> None:
    reference = reference_of(clean, tmp_path / "reference.tsv")
    variants, copies = clean.variants.copy(), clean.copies.copy()
    for row in range(200, 230):
        variants.loc[row, ["counted", "other"]] = [complement(str(a)) for a in variants.loc[row, ["counted", "other"]]]
    unlike = {"A": "T", "G": "C", "C": "G", "T": "A"}
    variants.loc[300, ["counted", "other"]] = [variants.loc[300, "counted"], unlike[str(variants.loc[300, "counted"])]]
    exchanged = int(np.flatnonzero(copies.mean(axis=0) / 2 < 0.3)[5])
    copies[:, exchanged] = 2 - copies[:, exchanged]
    (tmp_path / "a").mkdir()
    opened = run(People(clean.table, variants, copies), tmp_path / "a", reference=reference, carry_all_up_to=5000)
    assert variant_reasons(opened) == {
        "alleles not of the reference": {variants["variant"].iat[300]},
        "frequency not of the reference": {variants["variant"].iat[exchanged]},
    }
    (tmp_path / "b").mkdir()
    plain = run(clean, tmp_path / "b", carry_all_up_to=5000)
    rows, others = opened.all_variants, plain.all_variants
    untouched = ~rows.index.isin([300, exchanged])
    columns = ["counted", "other", "frequency"]
    pd.testing.assert_frame_equal(rows.loc[untouched, columns], others.loc[untouched, columns])
    column = {str(name): place for place, name in enumerate(opened.variants["variant"])}
    other = {str(name): place for place, name in enumerate(plain.variants["variant"])}
    flipped = variants["variant"].iloc[200:230].tolist()
    np.testing.assert_array_equal(
        opened.dosages[:, [column[name] for name in flipped]], plain.dosages[:, [other[name] for name in flipped]]
    )


def test_alleles_exchanged_in_the_whole_file_are_refused(clean: People, tmp_path: Path) -> None:
    reference = reference_of(clean, tmp_path / "reference.tsv")
    with pytest.raises(UserError, match="counted and other alleles are exchanged in one of the two files"):
        run(clean.with_copies(2 - clean.copies), tmp_path, reference=reference)


def test_the_build_is_recognised_contradicted_and_asked_for(clean: People, tmp_path: Path) -> None:
    other = tmp_path / "recognised"
    other.mkdir()
    assert set(run(clean, other).all_variants["build"]) == {"GRCh38"}
    with pytest.raises(UserError, match=r"build=GRCh37, but its positions are those of GRCh38 .13 known variants"):
        run(clean, tmp_path, build="GRCh37")
    known = clean.variants["variant"].isin(known_variants("GRCh38")["variant"]).to_numpy()
    unknown = People(clean.table, clean.variants[~known].reset_index(drop=True), clean.copies[:, ~known])
    with pytest.raises(
        UserError, match=r"its build is not known .no known variant is in it.; give build=GRCh37 or build=GRCh38"
    ):
        run(unknown, tmp_path)
    other = tmp_path / "given"
    other.mkdir()
    assert set(run(unknown, other, build="GRCh37").all_variants["build"]) == {"GRCh37"}


def test_a_header_says_the_build(clean: People, tmp_path: Path) -> None:
    pytest.importorskip("cyvcf2")
    small = People(clean.table.iloc[:5], clean.variants.iloc[:3], clean.copies[:5, :3])
    source = small.write_vcf(tmp_path, lines=["##contig=<ID=1,length=249250621>"])
    out = tmp_path / "genotypes"
    Genotypes(table=small.write_table(tmp_path), source=source, out=out).run()
    assert set(open_genotypes(out).all_variants["build"]) == {"GRCh37"}


def test_the_result_does_not_depend_on_the_size_of_a_block(clean: People, tmp_path: Path) -> None:
    opened = []
    for size in (97, 5000):
        folder = tmp_path / str(size)
        folder.mkdir()
        opened.append(run(clean, folder, block=size))
    np.testing.assert_array_equal(opened[0].pruned, opened[1].pruned)
    pd.testing.assert_frame_equal(opened[0].all_variants, opened[1].all_variants)


def test_what_was_said_and_shown_holds_no_person(
    spoiled: tuple[OpenGenotypes, pd.DataFrame], capsys: pytest.CaptureFixture[str], clean: People, tmp_path: Path
) -> None:
    run(clean, tmp_path)
    said = capsys.readouterr()
    text = (
        said.out
        + said.err
        + (spoiled[0].folder / "metrics.json").read_text()
        + (spoiled[0].folder / "artefact.json").read_text()
    )
    assert "people passed quality control" in text
    for subject in clean.table["subject"]:
        assert subject not in text
