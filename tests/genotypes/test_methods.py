"""Kinship, equilibrium, pruning, ancestry and matching of alleles against computations that are written out."""

from __future__ import annotations

from math import factorial

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.genotypes.alleles import match
from gen3d.genotypes.builds import build_name, build_of_contigs, positions_agree, read_known
from gen3d.genotypes.hardy_weinberg import exact_p
from gen3d.genotypes.kinship import groups_of, related_pairs, relation, to_leave_out
from gen3d.genotypes.linkage import Pruning
from gen3d.genotypes.variants import chromosome_name, complement
from gen3d.maths.ancestry import fit_ancestry
from tests.genotypes.people import known_variants


def kinship_of(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    """Equation 11 of Manichaikul et al., call by call."""
    both = (one >= 0) & (other >= 0)
    a, b = one[both], other[both]
    het_a, het_b = int((a == 1).sum()), int((b == 1).sum())
    shared, opposite = int(((a == 1) & (b == 1)).sum()), int((np.abs(a - b) == 2).sum())
    fewer = min(het_a, het_b)
    return (shared - 2 * opposite) / (2 * fewer) + 0.5 - (het_a + het_b) / (4 * fewer)


def test_kinship_is_that_of_the_paper_in_every_pair_above_the_limit() -> None:
    generator = np.random.default_rng(0)
    calls = generator.binomial(2, generator.uniform(0.1, 0.9, 1500), (530, 1500)).astype(np.int8)
    calls[generator.random(calls.shape) < 0.02] = -1
    calls[520] = calls[4]  # in another block of rows
    calls[100, :750] = calls[101, :750]
    found = related_pairs(calls, 0.0884)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == [(4, 520), (100, 101)]
    for (one, other), kinship in zip(pairs, found.kinship.tolist(), strict=True):
        assert kinship == pytest.approx(kinship_of(calls[one], calls[other]), abs=1e-12)
    assert 0.0884 < found.limit < 0.2


def test_siblings_are_found_among_people_of_several_ancestries() -> None:
    """Ancestries move the kinship of all pairs between them; that is no chance, and hides no sibling."""
    generator = np.random.default_rng(1)
    common = generator.uniform(0.2, 0.8, 2000)
    frequencies = [np.clip(common + generator.normal(0, 0.12, 2000), 0.05, 0.95) for _ in range(3)]
    haplotypes = [generator.random((2, 200, 2000)) < frequency for frequency in frequencies]
    parents = np.concatenate([pair.transpose(1, 0, 2) for pair in haplotypes])
    calls = parents.sum(axis=1).astype(np.int8)
    for place in range(0, 580, 29):  # the next person becomes a child of the same parents, this one and the one after
        one, two = parents[place], parents[place + 2]
        for child in (place, place + 1):
            passed = [np.where(generator.random(2000) < 0.5, parent[0], parent[1]) for parent in (one, two)]
            calls[child] = np.sum(passed, axis=0)
    found = related_pairs(calls, 0.0884)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {(place, place + 1) for place in range(0, 580, 29)} <= pairs
    assert all(abs(second - first) <= 2 for first, second in pairs)  # children and a parent, and nobody else


@pytest.mark.parametrize(
    ("kinship", "name"),
    [
        (0.49, "duplicate or identical twin"),
        (0.25, "first degree"),
        (0.125, "second degree"),
        (0.06, "third degree or further"),
    ],
)
def test_what_a_kinship_is_called(kinship: float, name: str) -> None:
    assert relation(kinship) == name


def test_groups_and_who_leaves_them() -> None:
    first, second = np.array([1, 2, 5]), np.array([2, 3, 6])
    assert groups_of(8, first, second).tolist() == [0, 1, 1, 1, 0, 2, 2, 0]
    missing = np.array([0, 0, 0, 0, 0, 0.01, 0.0, 0])
    assert sorted(to_leave_out(8, first, second, missing)) == [2, 5]


def exact_by_counting(het: int, hom_1: int, hom_2: int) -> float:
    """All numbers of heterozygotes with the same alleles, each with its probability."""
    num, alleles = het + hom_1 + hom_2, 2 * hom_1 + het

    def probability(hets: int) -> float:
        ones, twos = (alleles - hets) // 2, num - hets - (alleles - hets) // 2
        ways = factorial(num) // (factorial(hets) * factorial(ones) * factorial(twos))
        return 2**hets * ways * factorial(alleles) * factorial(2 * num - alleles) / factorial(2 * num)

    possible = range(alleles % 2, min(alleles, 2 * num - alleles) + 1, 2)
    own = probability(het)
    return sum(p for p in map(probability, possible) if p <= own * (1 + 1e-9))


@pytest.mark.parametrize(
    "counts", [(0, 10, 10), (20, 0, 0), (10, 5, 5), (7, 20, 1), (3, 0, 40), (0, 30, 0), (11, 3, 17)]
)
def test_equilibrium_is_exact(counts: tuple[int, int, int]) -> None:
    p = exact_p(*(np.array([count]) for count in counts))
    assert p[0] == pytest.approx(min(1.0, exact_by_counting(*counts)), rel=1e-9)


def test_p_of_equilibrium_is_that_of_chance() -> None:
    generator = np.random.default_rng(1)
    copies = generator.binomial(2, 0.4, (200, 4000))
    het, none, two = ((copies == number).sum(axis=0) for number in (1, 0, 2))
    p = exact_p(het, none, two)
    assert 0.03 < (p < 0.05).mean() < 0.06


def test_pruning_keeps_what_a_plain_loop_keeps_whatever_the_blocks() -> None:
    generator = np.random.default_rng(2)
    dosages = generator.binomial(2, 0.5, (200, 1200)).astype(np.float32)
    for column in range(1, 1200, 3):
        dosages[:, column] = np.where(generator.random(200) < 0.9, dosages[:, column - 1], dosages[:, column])
    dosages[:, 150] = dosages[:, 100]  # near
    dosages[:, 900] = dosages[:, 600]  # far
    dosages[:, 40] = 1  # does not vary
    chromosomes = ["1"] * 700 + ["2"] * 500
    kept: list[int] = []
    for column in range(1200):
        near = [before for before in kept if column - before <= 200 and chromosomes[before] == chromosomes[column]]
        if np.std(dosages[:, column]) and all(
            np.corrcoef(dosages[:, column], dosages[:, before])[0, 1] ** 2 <= 0.2 for before in near
        ):
            kept.append(column)
    assert 150 not in kept
    assert 900 in kept
    for cuts in ([], [7, 500, 501, 1000]):
        pruning, start, stays = Pruning(200, 0.2), 0, []
        for block in np.split(dosages, cuts, axis=1):
            stays.append(pruning(chromosomes[start : start + block.shape[1]], block))
            start += block.shape[1]
        assert np.flatnonzero(np.concatenate(stays)).tolist() == kept


def test_ancestry_is_found_and_who_is_placed_does_not_shape_it() -> None:
    generator = np.random.default_rng(3)
    base = generator.uniform(0.2, 0.8, 800)
    frequency = np.clip(base + np.where([[0], [1]], 1, -1) * generator.normal(0, 0.1, 800), 0.02, 0.98)
    group = np.arange(120) % 2
    copies = generator.binomial(2, frequency[group]).astype(np.int8)
    copies[generator.random(copies.shape) < 0.01] = -1
    fitted = fit_ancestry(copies[:80], 3)
    scores = fitted.project(copies)
    assert np.ptp([np.sign(scores[group == g, 0]).mean() for g in (0, 1)]) == 2
    assert (np.abs(scores[80:, 0]).mean() / np.abs(scores[:80, 0]).mean()) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(np.linalg.norm(fitted.axes, axis=0), 1)
    other = copies.copy()
    other[80:] = 2
    np.testing.assert_array_equal(fit_ancestry(other[:80], 3).project(other)[:80], scores[:80])
    scaled = np.where(copies[:80] >= 0, (copies[:80] - fitted.means) / fitted.scales, 0)
    _, singular, axes = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.abs((axes[:3] * fitted.axes.T).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(fitted.shares, (singular**2 / (singular**2).sum())[:3])


def test_ancestry_of_unrelated_noise_has_no_strong_component() -> None:
    copies = np.random.default_rng(4).binomial(2, 0.4, (100, 1000))
    assert fit_ancestry(copies, 2).shares[0] < 0.03


@pytest.mark.parametrize(
    ("allele", "other", "how"),
    [
        ("A", "G", "same"),
        ("G", "A", "swapped"),
        ("T", "C", "flipped"),
        ("C", "T", "flipped and swapped"),
        ("A", "C", "no match"),
        ("A", "", "same"),
        ("C", "", "flipped and swapped"),
    ],
)
def test_an_entry_is_the_variant_whose_alleles_it_has(allele: str, other: str, how: str) -> None:
    variants = pd.DataFrame(
        {"variant": ["rs1"], "chromosome": ["1"], "position": [5], "counted": ["A"], "other": ["G"]}
    )
    listed = pd.DataFrame({"variant": [""], "chromosome": ["1"], "position": [5], "allele": [allele], "other": [other]})
    found = match(listed, variants.assign(frequency=0.3), np.array([True]))
    assert found.how.tolist() == [how]
    assert found.found[0] == (how != "no match")
    assert found.turned[0] == ("swapped" in how)


def test_an_entry_finds_its_own_of_several_variants_at_a_place() -> None:
    variants = pd.DataFrame(
        {
            "variant": ["a", "b"],
            "chromosome": "1",
            "position": 5,
            "counted": ["A", "A"],
            "other": ["ACC", "G"],
            "frequency": 0.3,
        }
    )
    listed = pd.DataFrame({"variant": [""], "chromosome": ["1"], "position": [5], "allele": ["G"], "other": ["A"]})
    found = match(listed, variants, np.array([True, True]))
    assert (found.rows.tolist(), found.how.tolist()) == ([1], ["swapped"])
    assert match(listed, variants, np.array([True, False])).rows.tolist() == [-1]


@pytest.mark.parametrize("build", ["GRCh37", "GRCh38"])
def test_known_variants_say_their_build_on_either_strand(build: str) -> None:
    variants, known = known_variants(build), read_known(None)
    assert positions_agree(variants, known).build == build
    flipped = variants.assign(**{name: variants[name].map(complement) for name in ("counted", "other")})
    assert positions_agree(flipped, known).build == build
    assert positions_agree(variants.assign(position=variants["position"] + 1), known).build == ""


def test_distances_between_known_variants_are_the_same_in_both_builds() -> None:
    """Within a stretch of a chromosome the builds differ by one shift: a wrong digit would not."""
    known = read_known(None)
    shift = (known["GRCh38"] - known["GRCh37"]).groupby([known["chromosome"], known["GRCh37"] // 1_000_000]).agg(np.ptp)
    assert (shift == 0).all()


def test_names_of_chromosomes_and_builds() -> None:
    assert [chromosome_name(name) for name in ("chr1", "01", "23", "chrX", "M", "25")] == [
        "1",
        "1",
        "X",
        "X",
        "MT",
        "XY",
    ]
    assert [build_name(name) for name in ("hg19", "GRCh38.p13", "b37", "NCBI36")] == ["GRCh37", "GRCh38", "GRCh37", ""]
    assert build_of_contigs("##contig=<ID=chr19,assembly=x,length=58617616>\n") == "GRCh38"
    assert build_of_contigs("##contig=<ID=19,length=5>\n") == ""
