"""What `gen3d genotypes` writes, as the report opens it: tables of quality control, pictures and sentences.

The tables and arrays themselves, which training and classifying read below this layer, are `gen3d.cohort.genotypes_folder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from gen3d.cohort.genotypes_folder import (
    SCORES,
    STEPS,
    OpenGenotypes,
    open_genotypes,
    read_people,
    read_variants,
    write_arrays,
)
from gen3d.core.result_folder import ResultFolder

PICTURE = "quality_control"

__all__ = ["PICTURE", "GenotypesFolder", "OpenGenotypes", "open_genotypes", "write_arrays"]


@dataclass(frozen=True)
class GenotypesFolder(ResultFolder):
    """Quality control of genotypes: steps with counts, verdicts, scores; no person's genotype is read here."""

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Steps of quality control, in their order, with counts."""
        return STEPS.read(self.folder)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Polygenic scores: variants listed, used and left out; empty where none was asked for."""
        return SCORES.read_if_there(self.folder)

    @cached_property
    def people_verdicts(self) -> pd.Series:
        """How many people have each reason of exclusion."""
        people = read_people(self.folder)
        return people.loc[people["reason"] != "", "reason"].value_counts()

    @cached_property
    def variant_verdicts(self) -> pd.Series:
        """How many variants have each reason of exclusion."""
        variants = read_variants(self.folder)
        return variants.loc[variants["reason"] != "", "reason"].value_counts()
