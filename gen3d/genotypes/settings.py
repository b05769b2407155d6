"""Settings of `gen3d genotypes`: what is read, and the limits of quality control."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gen3d.core.config import Config, Folder, NamedFolders, execution


class QualityRules(Config):
    """Limits, in the order in which they are applied. Their defaults are those of genome-wide studies of Alzheimer's disease."""

    sample_missing: float = Field(0.02, ge=0, le=1, description="largest share of missing calls of a person")
    variant_missing: float = Field(0.02, ge=0, le=1, description="largest share of people without a call at a variant")
    sex: Literal["exclude", "report"] = Field(
        "exclude", description="people whose X chromosome contradicts their sex in the table: exclude, or only report"
    )
    heterozygosity_sd: float = Field(
        3.0,
        gt=0,
        description="SD from the mean share of heterozygous calls; more among so many people that one strays by chance",
    )
    kinship: float = Field(0.0884, gt=0, le=0.5, description="kinship (KING-robust) above which people are related")
    relatives: Literal["group", "keep_one"] = Field(
        "group", description="relatives: one group, which a split never separates, or one person kept of each pair"
    )
    frequency: float = Field(
        0.01,
        ge=0,
        lt=0.5,
        description="smallest frequency of the rarer allele, but for variants that scores or carry= name",
    )
    hwe_p: float = Field(
        1e-6, ge=0, le=1, description="smallest p of the exact test of equilibrium in unrelated controls"
    )
    info: float = Field(0.3, ge=0, le=1, description="smallest quality of an imputed variant")
    window: int = Field(200, ge=1, description="variants before a variant that its linkage is looked at with")
    r2: float = Field(
        0.2, gt=0, le=1, description="largest squared correlation of variants used for kinship and ancestry"
    )
    pruned: int = Field(20000, ge=100, description="most variants used for kinship and ancestry, evenly spaced")
    components: int = Field(10, ge=0, description="components of ancestry")


class GenotypeSettings(Config):
    """What is read and how."""

    source: Folder | None = Field(
        None,
        description="genotypes: .bed (with .bim, .fam), .pgen (with .pvar, .psam), .vcf, .vcf.gz, .bcf, or a table of dosages",
    )
    table: Folder = Field(description="whose people count: a prepared folder, or a table with a column subject")
    ids: Folder | None = Field(
        None, description="table with genotype_id and subject, where the source names people differently"
    )
    variants: Folder | None = Field(
        None,
        description="of a table of dosages: what its columns are (variant, chromosome, position, counted, other, info)",
    )
    field: Literal["auto", "GT", "DS"] = Field(
        "auto", description="of a VCF: hard calls GT or dosages DS; auto for DS where it is there"
    )
    build: Literal["GRCh37", "GRCh38"] | None = Field(
        None, description="of the positions; by default as the file says or known variants show"
    )
    known: Folder | None = Field(
        None,
        description="variants with known positions (variant, chromosome, GRCh37, GRCh38, allele_1, allele_2) instead of gen3d's",
    )
    reference: Folder | None = Field(
        None,
        description="alleles on the forward strand to compare with (chromosome, position, allele, other, frequency)",
    )
    controls: tuple[str, ...] | None = Field(
        None, description="diagnoses that count as control in the test of equilibrium; by default the usual names"
    )
    scores: NamedFolders | None = Field(
        None, description="tables of weights of polygenic scores, of the PGS Catalog or alike"
    )
    effect_allele: str = Field(
        "", description="column of the allele that a weight belongs to; empty: effect_allele, Allele1, A1 or EA"
    )
    scores_build: Literal["GRCh37", "GRCh38"] | None = Field(
        None, description="of tables of weights that do not say theirs"
    )
    least_found: float = Field(0.5, ge=0, le=1, description="least share of a score's variants that must be found")
    carry: Folder | None = Field(
        None,
        description="variants whose dosages are carried on (variant, or chromosome and position; gene for the set they belong to)",
    )
    carry_all_up_to: int = Field(
        2000, ge=0, description="carry all variants that are kept where they are at most so many"
    )
    tables: NamedFolders | None = Field(
        None, description="tables of other measurements of the same people (expression, proteins)"
    )
    apoe_column: str = Field("", description="column of the cohort table with the APOE genotype (E3E4, 3/4)")
    qc: QualityRules = Field(QualityRules(), description="limits of quality control")
    block: int = execution(2000, "variants in memory at a time", ge=1)

    @model_validator(mode="after")
    def _something_to_read(self) -> GenotypeSettings:
        if self.source is None and not self.tables and not self.apoe_column:
            raise ValueError("nothing to read: give source= (genotypes), tables= (other measurements) or apoe_column=.")
        if self.source is None and (self.scores or self.carry or self.reference):
            raise ValueError("scores=, carry= and reference= need genotypes: give source=.")
        return self
