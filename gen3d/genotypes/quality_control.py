"""Quality control of people and variants, in a fixed order, in three passes over the file that never hold it in memory.

1. missing calls of people; 2. of the people left: missing calls of variants, X chromosome, heterozygosity, and linkage among common
variants; then kinship; 3. of the people left: frequency, equilibrium in controls, quality of imputation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gen3d.core import words as spell
from gen3d.genotypes.builds import SHARED_X
from gen3d.genotypes.checked import Checked, Joined, nothing_found
from gen3d.genotypes.hardy_weinberg import exact_p
from gen3d.genotypes.imputation import estimated_info
from gen3d.genotypes.kinship import groups_of, related_pairs, relation, to_leave_out
from gen3d.genotypes.linkage import Pruning
from gen3d.genotypes.reference import NOT_ITS_ALLELES
from gen3d.genotypes.settings import QualityRules
from gen3d.genotypes.sources import Columns, Dosages
from gen3d.genotypes.variants import AUTOSOMES, X

COMMON = 0.05
"""Frequency of the rarer allele from which a variant says something of heterozygosity, kinship and ancestry."""
CANDIDATES = 5
"""Variants looked at for linkage per variant that is wanted at most."""
LEAST_X = 30
"""Common variants of X from which its heterozygosity tells women and men apart."""
WOMAN, MAN = 0.2, 0.8
"""Inbreeding coefficient of X below which a person is a woman, above which a man (PLINK's limits)."""
LEAST_AUTOSOMAL = 50
LEAST_KINSHIP = 100
"""Variants in low linkage disequilibrium from which kinship is estimated at all."""
BY_CHANCE = 0.05
"""People that may stray beyond the limit of heterozygosity by chance, in the whole cohort."""
LEAST_CONTROLS = 20
MISSING_CALLS, SEX_DIFFERS, HETEROZYGOSITY = "missing calls", "sex differs from X", "heterozygosity"
RELATED = "relative of a person who is kept"
RARE, DISEQUILIBRIUM, POORLY_IMPUTED = "rare", "Hardy-Weinberg", "poorly imputed"


def check(joined: Joined, rules: QualityRules) -> Checked:
    """Go through all steps."""
    variants = joined.source.variants
    checked = nothing_found(len(joined.rows), variants["info"].to_numpy(dtype=np.float64))
    words = np.full(len(joined.rows), "", dtype=object)
    reasons = variants["reason"].to_numpy(dtype=object)
    foreign = reasons == NOT_ITS_ALLELES
    checked.step("as read", "two known alleles, listed once, not filtered", words, np.where(foreign, "", reasons))
    if joined.compared:
        checked.step("reference", "alleles of the reference, on either strand", words, np.where(foreign, reasons, ""))
    _missing_of_people(joined, rules, checked)
    sums = _second_pass(joined, rules, checked)
    _sex(joined, rules, checked, sums)
    _heterozygosity(rules, checked, sums)
    _kinship(rules, checked)
    _third_pass(joined, rules, checked)
    _linkage(rules, checked)
    return checked


def _missing_of_people(joined: Joined, rules: QualityRules, checked: Checked) -> None:
    columns, everybody = np.flatnonzero(checked.kept), np.arange(len(joined.rows))
    missing = np.zeros(len(everybody), dtype=np.int64)
    for _, dosages in joined.blocks(columns, everybody, "missing calls of people"):
        missing += np.isnan(dosages).sum(axis=1)
    checked.person_missing = missing / max(1, len(columns))
    out = _words(checked.person_missing > rules.sample_missing, MISSING_CALLS)
    checked.step(
        "missing calls of people", f"at most {spell.percent(rules.sample_missing)}", out, _none(checked.variant_reason)
    )


@dataclass
class _Sums:
    """Per person joined: heterozygous and known calls of common autosomal variants, and of X, with those expected. [n]"""

    het: NDArray[np.float64]
    known: NDArray[np.float64]
    x_het: NDArray[np.float64]
    x_expected: NDArray[np.float64]
    num_autosomal: int = 0
    num_x: int = 0


def _second_pass(joined: Joined, rules: QualityRules, checked: Checked) -> _Sums:
    columns, people, num = np.flatnonzero(checked.kept), checked.people, len(joined.rows)
    sums = _Sums(np.zeros(num), np.zeros(num), np.zeros(num), np.zeros(num))
    variants = joined.source.variants
    chromosomes = variants["chromosome"].to_numpy(dtype=object)
    autosomal = np.isin(chromosomes, AUTOSOMES)
    own_x = (chromosomes == X) & ~_shared_x(variants["position"].to_numpy(), joined.build)
    candidates = np.zeros(len(variants), dtype=bool)
    candidates[_spaced(columns[autosomal[columns]], CANDIDATES * rules.pruned)] = True
    pruning = Pruning(rules.window, rules.r2)
    stays: list[Columns] = []
    calls: list[NDArray[np.int8]] = []
    for part, dosages in joined.blocks(columns, people, "missing calls of variants, heterozygosity, linkage"):
        missing = np.isnan(dosages)
        share = missing.mean(axis=0)
        checked.variant_missing[part] = share
        frequency = _frequency(dosages, missing)
        common = (share <= rules.variant_missing) & (np.minimum(frequency, 1 - frequency) >= COMMON)
        whole = np.where(missing, -1, np.rint(np.where(missing, 0, dosages))).astype(np.int8)
        used = common & autosomal[part]
        sums.het[people] += (whole[:, used] == 1).sum(axis=1)
        sums.known[people] += (whole[:, used] >= 0).sum(axis=1)
        sums.num_autosomal += int(used.sum())
        used = common & own_x[part]
        if used.any():
            sums.x_het[people] += (whole[:, used] == 1).sum(axis=1)
            sums.x_expected[people] += (whole[:, used] >= 0) @ (2 * frequency[used] * (1 - frequency[used]))
            sums.num_x += int(used.sum())
        chosen = np.flatnonzero(common & candidates[part])
        if len(chosen):
            stay = chosen[pruning(chromosomes[part[chosen]], dosages[:, chosen])]
            stays.append(part[stay])
            calls.append(whole[:, stay])
    out = _words(checked.variant_missing > rules.variant_missing, MISSING_CALLS)
    checked.step(
        "missing calls of variants",
        f"at most {spell.percent(rules.variant_missing)}",
        _none(checked.person_reason),
        out,
    )
    if stays:
        found = np.concatenate(stays)
        chosen = _spaced(np.arange(len(found)), rules.pruned)
        checked.pruned = found[chosen]
        checked.calls = np.full((num, len(chosen)), -1, dtype=np.int8)
        checked.calls[people] = np.concatenate(calls, axis=1)[:, chosen]
    return sums


def _sex(joined: Joined, rules: QualityRules, checked: Checked, sums: _Sums) -> None:
    """The inbreeding coefficient of X, 1 - heterozygous / expected: about 1 of men, who have one copy, and 0 of women."""
    nobody, none = _none(checked.person_reason), _none(checked.variant_reason)
    if sums.num_x < LEAST_X:
        checked.sentences.append(
            f"The sex of people could not be checked: {spell.count(sums.num_x, 'common variant')} of the X chromosome, and "
            f"{LEAST_X} are needed."
        )
        checked.step("sex", f"not checked: {spell.count(sums.num_x, 'common variant')} of X", nobody, none)
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        inbreeding = np.where(sums.x_expected > 0, 1 - sums.x_het / sums.x_expected, np.nan)
    seen = np.where(inbreeding < WOMAN, "F", np.where(inbreeding > MAN, "M", ""))
    known = np.isfinite(inbreeding)
    checked.sex_check = np.where(~known | (joined.sexes == ""), "n/a", np.where(seen == "", "unclear", "ok")).astype(
        object
    )
    mismatch = (joined.sexes != "") & (seen != "") & (seen != joined.sexes) & known
    checked.sex_check[mismatch] = "mismatch"
    rule = f"F of X below {WOMAN} in women, above {MAN} in men"
    if rules.sex == "report" and mismatch.any():
        checked.sentences.append(
            f"{spell.people(int(mismatch.sum()))} with an X chromosome of the other sex than the table says were kept "
            "(qc.sex=report)."
        )
    checked.step("sex", rule, _words(mismatch, SEX_DIFFERS) if rules.sex == "exclude" else nobody, none)


def _heterozygosity(rules: QualityRules, checked: Checked, sums: _Sums) -> None:
    people = checked.people
    nobody, none = _none(checked.person_reason), _none(checked.variant_reason)
    share = np.divide(sums.het, sums.known, out=np.full(len(sums.het), np.nan), where=sums.known > 0)
    checked.heterozygosity = share
    if sums.num_autosomal < LEAST_AUTOSOMAL or len(people) < 3:
        num = spell.count(sums.num_autosomal, "common autosomal variant")
        checked.step("heterozygosity", f"not checked: {num} of {spell.people(len(people))}", nobody, none)
        return
    limit = max(rules.heterozygosity_sd, float(norm.isf(BY_CHANCE / 2 / len(people))))
    away = (share - share[people].mean()) / max(float(share[people].std(ddof=1)), 1e-12)
    rule = f"within {spell.figure(limit)} SD of the mean"
    if limit > rules.heterozygosity_sd:
        rule += f" (of {spell.people(len(people))}, {spell.figure(rules.heterozygosity_sd)} SD is reached by chance)"
    checked.step("heterozygosity", rule, _words(np.abs(away) > limit, HETEROZYGOSITY), none)


def _kinship(rules: QualityRules, checked: Checked) -> None:
    people = checked.people
    nobody, none = _none(checked.person_reason), _none(checked.variant_reason)
    if checked.calls.shape[1] < LEAST_KINSHIP or len(people) < 2:
        num = spell.count(checked.calls.shape[1], "variant")
        checked.sentences.append(
            f"Relatives could not be looked for: {num} in low linkage disequilibrium, and {LEAST_KINSHIP} are needed."
        )
        checked.step("relatedness", f"not checked: {num} in low linkage disequilibrium", nobody, none)
        return
    found = related_pairs(checked.calls[people], rules.kinship)
    first, second = people[found.first], people[found.second]
    checked.group = groups_of(len(checked.group), first, second)
    checked.relatives = [
        {
            "first": int(one),
            "second": int(other),
            "kinship": value,
            "relation": relation(value),
            "group": int(checked.group[one]),
        }
        for one, other, value in zip(first, second, found.kinship.tolist(), strict=True)
    ]
    rule = f"kinship (KING-robust) above {spell.number(found.limit, 4)}"
    if found.limit > rules.kinship:
        checked.sentences.append(
            f"With {spell.count(checked.calls.shape[1], 'variant')} in low linkage disequilibrium, kinship up to "
            f"{spell.number(found.limit, 3)} cannot be told from chance, so relatives less close than that were not found."
        )
    reasons = nobody
    if rules.relatives == "keep_one":
        gone = to_leave_out(len(checked.group), first, second, checked.person_missing)
        reasons = _words(np.isin(np.arange(len(checked.group)), gone), RELATED)
        rule += ", one person of each pair kept"
    elif len(first):
        groups = spell.count(len(set(checked.group[checked.group > 0].tolist())), "group")
        rule += f": {spell.count(len(first), 'pair')} in {groups}, kept together in every split"
    checked.step("relatedness", rule, reasons, none)


def _third_pass(joined: Joined, rules: QualityRules, checked: Checked) -> None:
    columns, people = np.flatnonzero(checked.kept), checked.people
    controls = _for_equilibrium(joined, checked)
    autosomal = np.isin(joined.source.variants["chromosome"].to_numpy(dtype=object), AUTOSOMES)
    for part, dosages in joined.blocks(columns, people, "frequency, equilibrium"):
        missing = np.isnan(dosages)
        checked.frequency[part] = _frequency(dosages, missing)
        if joined.source.imputed:
            _estimate_info(checked, part, dosages, missing)
        whole = np.rint(dosages[controls])
        het, none, two = ((whole == copies).sum(axis=0) for copies in (1, 0, 2))
        p = exact_p(het, none, two)
        checked.hwe_p[part] = np.where(autosomal[part], p, np.nan)
    nobody = _none(checked.person_reason)
    rarer = np.minimum(checked.frequency, 1 - checked.frequency)
    rare = (rarer < rules.frequency) & ~joined.named
    rule = f"rarer allele at least {spell.percent(rules.frequency)}, but for variants that are named"
    checked.step("frequency", rule, nobody, _words(rare, RARE))
    who = "controls" if joined.controls.any() else "everybody"
    rule = f"exact p at least {rules.hwe_p:g} in {len(controls)} unrelated {who}"
    checked.step("equilibrium", rule, nobody, _words(checked.hwe_p < rules.hwe_p, DISEQUILIBRIUM))
    if np.isfinite(checked.info).any():
        rule = f"quality of imputation at least {rules.info:g}"
        checked.step("imputation", rule, nobody, _words(checked.info < rules.info, POORLY_IMPUTED))


def _for_equilibrium(joined: Joined, checked: Checked) -> NDArray[np.int64]:
    """Controls that pass, one of each group of relatives, as places among the people that pass; everybody where there are few."""
    people = checked.people
    chosen = joined.controls[people]
    if chosen.sum() < LEAST_CONTROLS:
        if joined.controls.any():
            checked.sentences.append(
                f"Hardy-Weinberg equilibrium was tested in everybody: {spell.count(int(chosen.sum()), 'control')}, and "
                f"{LEAST_CONTROLS} are needed."
            )
        chosen = np.ones(len(people), dtype=bool)
    group = checked.group[people]
    places = np.flatnonzero(chosen)
    of_group = np.where(group[places] > 0, group[places], -1 - places)
    return np.sort(places[np.unique(of_group, return_index=True)[1]])


def _estimate_info(checked: Checked, part: Columns, dosages: Dosages, missing: NDArray[np.bool_]) -> None:
    """Where the source states no quality and dosages are fractions."""
    fractions = (np.abs(dosages - np.rint(dosages)) > 1e-3).any(axis=0) & ~np.isfinite(checked.info[part])
    if fractions.any():
        values = np.where(missing, np.nan, dosages)[:, fractions].astype(np.float64)
        checked.info[part[fractions]] = estimated_info(np.nanmean(values, axis=0), np.nanvar(values, axis=0))


def _linkage(rules: QualityRules, checked: Checked) -> None:
    """Variants for ancestry: those in low linkage disequilibrium that passed everything."""
    passed = checked.kept[checked.pruned]
    checked.pruned, checked.calls = checked.pruned[passed], checked.calls[:, passed]
    rule = f"r2 at most {rules.r2:g} within {rules.window} variants: {spell.count(len(checked.pruned), 'variant')} for ancestry"
    checked.step("linkage", rule, _none(checked.person_reason), _none(checked.variant_reason))


def _frequency(dosages: Dosages, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the counted allele, NaN where nobody has a call; [b]."""
    counts = (~missing).sum(axis=0)
    sums = np.where(missing, 0, dosages).sum(axis=0, dtype=np.float64)
    return np.divide(sums, 2 * counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _shared_x(positions: NDArray[np.int64], build: str) -> NDArray[np.bool_]:
    """Whether a position of X lies in a part that Y has too."""
    return np.any([(positions >= start) & (positions <= end) for start, end in SHARED_X[build]], axis=0)


def _spaced(items: Columns, most: int) -> Columns:
    """At most so many items, evenly spaced."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).astype(np.int64)]


def _words(out: NDArray[np.bool_], reason: str) -> NDArray[np.object_]:
    return np.where(out, reason, "").astype(object)


def _none(like: NDArray[np.object_]) -> NDArray[np.object_]:
    return np.full(len(like), "", dtype=object)
