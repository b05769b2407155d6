"""Genotypes of a simulated cohort: the settings, and what the alleles of a person change.

Sources: log odds of APOE e4 per allele, Farrer et al. 1997 (JAMA 278:1349: odds ratio 3.2 of e3e4 against e3e3 in Caucasians).
Frequencies of APOE, Corbo and Scacchi 1999 (Ann Hum Genet 63:301), rounded. Frequencies of other alleles differ between ancestries
as in Balding and Nichols 1995 (Genetica 96:3). The hippocampal loss per e4 allele is an assumption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field, model_validator

from gen3d.cohort.regions import find
from gen3d.core.config import Config

E4, E2 = "apoe_e4", "apoe_e2"
"""Alleles of APOE under the names that settings use."""
_VARIANT = re.compile(r"snp([0-9]{5,6})")


def variant_name(number: int) -> str:
    """Of the variant with this number, from 1."""
    return f"snp{number:05d}"


class Genetics(Config):
    """Linked genotypes and what they do. With all effects 0 they are a null: nothing but the genotypes is there."""

    variants: int = Field(
        2000, ge=100, le=200_000, description="variants of chromosomes 1 to 22 besides APOE, snp00001 and so on"
    )
    ancestries: int = Field(2, ge=1, le=6, description="groups of ancestry, of equal size")
    ancestry_distance: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of the variance of frequencies that lies between groups (Fst); with one group unused",
    )
    block: int = Field(8, ge=1, le=200, description="variants of a block of linkage; blocks are independent")
    linkage: float = Field(
        0.9, ge=0, lt=1, description="correlation of neighbours in a block, of what is cut into alleles; 0: no linkage"
    )
    apoe_on_hippocampus: float = Field(
        -0.03, ge=-0.5, le=0.5, description="change of the log volume of both hippocampi per copy of APOE e4"
    )
    on_volumes: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="further changes of log volume per copy of an allele: {snp00010: {amygdala: -0.02}}; alleles are apoe_e4, "
        "apoe_e2, and of variants the first one of the .bim file",
    )
    apoe_on_risk: float = Field(1.2, ge=-5, le=5, description="log odds of AD per copy of APOE e4")
    on_risk: dict[str, float] = Field(
        default_factory=dict, description="further log odds of AD per copy of an allele: {snp00010: 0.4}"
    )
    polygenic_on_risk: float = Field(
        0.5,
        ge=0,
        le=5,
        description="log odds of AD per SD of a background of many alleles; its weights are part of the truth",
    )
    polygenic_variants: int = Field(100, ge=1, description="variants of that background; never more than there are")
    ancestry_on_risk: float = Field(
        0.0,
        ge=-5,
        le=5,
        description="log odds of AD between the first and the last group of ancestry, whatever their alleles",
    )
    siblings: int = Field(0, ge=0, description="pairs of full siblings among the people")
    genotyped: float = Field(1.0, gt=0, le=1, description="share of people with genotypes; the others have none")
    missing: float = Field(0.0, ge=0, lt=1, description="share of calls that are missing")
    seed: int | None = Field(None, ge=0, description="seed of the genotypes (default: that of the cohort)")

    @model_validator(mode="after")
    def _names_exist(self) -> Genetics:
        for setting, named in (("on_volumes", self.on_volumes), ("on_risk", self.on_risk)):
            for allele in named:
                number = _VARIANT.fullmatch(allele)
                if allele not in (E4, E2) and not (number and 1 <= int(number[1]) <= self.variants):
                    raise ValueError(
                        f"{setting} names {allele}; alleles are {E4}, {E2}, and {variant_name(1)} to "
                        f"{variant_name(self.variants)}."
                    )
        for regions in self.volumes.values():
            for region in regions:
                find(region)
        return self

    @property
    def volumes(self) -> dict[str, dict[str, float]]:
        """Changes of log volume by allele and region, that of APOE e4 on the hippocampus among them; none that is 0."""
        changes = {allele: dict(regions) for allele, regions in self.on_volumes.items()}
        own = changes.setdefault(E4, {})
        own["hippocampus"] = own.get("hippocampus", 0.0) + self.apoe_on_hippocampus
        named = {allele: {name: value for name, value in part.items() if value} for allele, part in changes.items()}
        return {allele: part for allele, part in named.items() if part}

    @property
    def risks(self) -> dict[str, float]:
        """Log odds by allele, that of APOE e4 among them; none that is 0."""
        odds = dict(self.on_risk)
        odds[E4] = odds.get(E4, 0.0) + self.apoe_on_risk
        return {allele: value for allele, value in odds.items() if value}


def volume_shift(copies: Mapping[str, float], changes: Mapping[str, Mapping[str, float]]) -> dict[int, float]:
    """Change of the log volume of each region of a person, by label.

    Args:
        copies: of each allele that changes a volume.
        changes: log volume per copy, by allele and region.
    """
    shift: dict[int, float] = {}
    for allele, regions in changes.items():
        for name, per_copy in regions.items():
            for label in find(name):
                shift[label] = shift.get(label, 0.0) + per_copy * float(copies[allele])
    return {label: value for label, value in shift.items() if value}
