"""One cohort in every format gives the same dosages of the same allele; what cannot be read is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.genotypes.folder import OpenGenotypes, open_genotypes
from gen3d.genotypes.genotypes import Genotypes
from gen3d.genotypes.sources import open_source
from tests.genotypes.people import People, make_people

KINDS = ("bed", "pgen", "vcf", "vcf_dosages", "tsv", "csv", "parquet")


@pytest.fixture(scope="module")
def people() -> People:
    made = make_people(num=40, per_chromosome=8, num_x=40)
    copies = made.copies.copy()
    copies[np.random.default_rng(1).random(copies.shape) < 0.005] = np.nan
    return made.with_copies(copies)


def source_of(people: People, kind: str, folder: Path) -> dict[str, Any]:
    if kind in ("bed", "pgen"):
        return {"source": getattr(people, f"write_{kind}")(folder)}
    if kind.startswith("vcf"):
        pytest.importorskip("cyvcf2")
        return {"source": people.write_vcf(folder, "DS" if kind == "vcf_dosages" else "GT")}
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path, definitions = people.write_dosages(folder, f"dosages.{kind}")
    return {"source": path, "variants": definitions}


def read(people: People, folder: Path, **settings: Any) -> OpenGenotypes:
    out, rules = folder / "genotypes", {"sample_missing": 0.1, "variant_missing": 0.2, "frequency": 0}
    Genotypes(table=people.write_table(folder), out=out, **{"qc": rules, **settings}).run()
    return open_genotypes(out)


@pytest.fixture(scope="module")
def by_bed(people: People, tmp_path_factory: pytest.TempPathFactory) -> OpenGenotypes:
    folder = tmp_path_factory.mktemp("bed")
    return read(people, folder, **source_of(people, "bed", folder))


def test_dosages_are_those_that_were_written(people: People, by_bed: OpenGenotypes) -> None:
    place = {name: column for column, name in enumerate(people.variants["variant"])}
    counted = dict(zip(people.variants["variant"], people.variants["counted"], strict=True))
    assert len(by_bed.variants) == len(people.variants)
    for column, variant in enumerate(by_bed.variants.itertuples()):
        truth = people.copies[:, place[variant.variant]]
        truth = truth if counted[variant.variant] == variant.counted else 2 - truth
        np.testing.assert_array_equal(by_bed.dosages[:, column], truth)
        assert variant.counted < variant.other
    assert (people.variants["counted"] > people.variants["other"]).mean() > 0.3, "both orders of alleles must occur"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_reader_gives_the_same_folder(kind: str, people: People, by_bed: OpenGenotypes, tmp_path: Path) -> None:
    other = read(people, tmp_path, **source_of(people, kind, tmp_path))
    np.testing.assert_array_equal(other.dosages, by_bed.dosages)
    np.testing.assert_array_equal(other.pruned, by_bed.pruned)
    pd.testing.assert_frame_equal(other.all_variants, by_bed.all_variants)
    pd.testing.assert_frame_equal(other.everybody, by_bed.everybody)


def test_exchanging_the_two_alleles_of_a_file_and_its_calls_changes_nothing(
    people: People, by_bed: OpenGenotypes, tmp_path: Path
) -> None:
    swapped = people.variants.rename(columns={"counted": "other", "other": "counted"})
    exchanged = People(people.table, swapped, 2 - people.copies)
    np.testing.assert_array_equal(
        read(exchanged, tmp_path, source=exchanged.write_bed(tmp_path)).dosages, by_bed.dosages
    )


def test_people_are_found_by_their_id_whatever_the_order(people: People, by_bed: OpenGenotypes, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(people.table))
    shuffled = People(people.table.iloc[order].reset_index(drop=True), people.variants, people.copies[order])
    source = shuffled.write_bed(tmp_path)
    np.testing.assert_array_equal(read(people, tmp_path, source=source).dosages, by_bed.dosages)


def test_ids_of_the_laboratory_are_translated(people: People, by_bed: OpenGenotypes, tmp_path: Path) -> None:
    renamed = People(people.table.assign(subject="lab" + people.table["subject"]), people.variants, people.copies)
    source = renamed.write_bed(tmp_path)
    with pytest.raises(UserError, match=r"Both have 40 people, which does not make them the same people.*ids="):
        read(people, tmp_path, source=source)
    ids = tmp_path / "ids.tsv"
    pd.DataFrame({"genotype_id": renamed.table["subject"], "subject": people.table["subject"]}).to_csv(
        ids, sep="\t", index=False
    )
    np.testing.assert_array_equal(read(people, tmp_path, source=source, ids=ids).dosages, by_bed.dosages)


def test_imputed_fractions_are_kept_and_their_quality_estimated(people: People, tmp_path: Path) -> None:
    known = np.where(np.isnan(people.copies), np.nanmean(people.copies, axis=0), people.copies)
    certain = 0.8  # what is known of a call; the rest is the mean of everybody
    copies = known.mean(axis=0) + certain * (known - known.mean(axis=0))
    other = read(people.with_copies(copies), tmp_path, source=people.with_copies(copies).write_vcf(tmp_path, "DS"))
    autosomal = other.variants["chromosome"] != "X"
    assert other.variants.loc[autosomal, "info"].median() == pytest.approx(certain**2, abs=0.06)
    assert len(np.unique(np.asarray(other.dosages))) > 100


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n19\t44908684\trs429358\tT\tC\t.\tPASS\t.\n",
            "a VCF without people",
        ),
        (
            "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tp0000\n19\t44908684\trs429358\tT\tC\t.\tPASS\t.\tGQ\t3\n",
            "a VCF without genotypes",
        ),
    ],
)
def test_a_vcf_without_genotypes(text: str, sentence: str, tmp_path: Path) -> None:
    pytest.importorskip("cyvcf2")
    path = tmp_path / "sites.vcf"
    form = '##fileformat=VCFv4.2\n##contig=<ID=19>\n##FORMAT=<ID=GQ,Number=1,Type=Integer,Description="q">\n'
    path.write_text(form + text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        open_source(path)


def test_what_is_no_source(people: People, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_source(tmp_path / "none.bed")
    (tmp_path / "a.zip").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="not a kind of genotypes"):
        open_source(tmp_path / "a.zip")
    bed = people.write_bed(tmp_path)
    bed.with_suffix(".fam").unlink()
    with pytest.raises(UserError, match=r"cohort.fam is not beside it"):
        open_source(bed)


def test_a_person_who_is_there_twice(people: People, tmp_path: Path) -> None:
    table = people.table.copy()
    table.loc[1, "subject"] = table.loc[0, "subject"]
    with pytest.raises(UserError, match="the id p0000 is there twice"):
        open_source(People(table, people.variants, people.copies).write_bed(tmp_path))


@pytest.mark.parametrize(
    ("column", "cells", "sentence"),
    [
        ("19:44908684:C:T", ("0", "3"), "values outside 0 to 2"),
        ("19:44908684:C:T", ("0", "CC"), "1 cells that are no number"),
        ("rs429358", ("0", "1"), "does not say which allele it counts"),
    ],
)
def test_a_table_that_holds_no_dosages(column: str, cells: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text(f"subject\t{column}\na\t{cells[0]}\nb\t{cells[1]}\n", encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        _ = open_source(path).variants


def test_a_table_without_ids_is_never_joined_by_its_order(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text("19:44908684:C:T\n0\n1\n", encoding="utf-8")
    with pytest.raises(UserError, match="never by their order"):
        open_source(path)
