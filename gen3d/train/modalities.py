"""Two sides of the same people, genetics and images, as columns of numbers joined by key and never by place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.genotypes_folder import OpenGenotypes
from gen3d.core.errors import UserError
from gen3d.models.supervised.fusion import NamedToken

Columns = NDArray[np.float32]


@dataclass(frozen=True)
class Side:
    """One modality: what its columns are, in the form of `GENETICS` or `IMAGES`, with a row each."""

    definitions: pd.DataFrame

    @property
    def tokens(self) -> tuple[NamedToken, ...]:
        """Tokens with their numbers of columns, which follow each other."""
        sizes = self.definitions.groupby("token", sort=False).size()
        return tuple(NamedToken(name=str(name), columns=int(num)) for name, num in sizes.items())

    @property
    def num_columns(self) -> int:
        """Columns of the side."""
        return len(self.definitions)


def require_shared_people(prepared: Prepared, genotypes: OpenGenotypes) -> None:
    """Refuse a cohort and genotypes that have nobody in common.

    Raises:
        UserError: nobody is in both, whether or not there are equally many; or nobody passed the quality control.
    """
    theirs, mine = genotypes.everybody["subject"].astype(str), prepared.manifest["subject"].astype(str)
    if not set(theirs) & set(mine):
        num, many = theirs.nunique(), mine.nunique()
        equal = f"both have {num} people, but the keys differ; " if num == many else ""
        raise UserError(
            f"{genotypes.folder}: shares no subject with {prepared.folders[0]} (such as {theirs.iloc[0]} there and {mine.iloc[0]} "
            f"here); {equal}people are joined by subject and never by their order: run `gen3d genotypes` with table= of this "
            "cohort, and ids= where the files name people differently."
        )
    if genotypes.people.empty:
        raise UserError(
            f"{genotypes.folder}: nobody passed its quality control, so that genetics are missing for everybody."
        )


def require_both(genetic: Columns, image: Columns, genotypes: OpenGenotypes, images: str) -> None:
    """Refuse people who all lack one modality.

    Args:
        genetic: columns of the people with a label [n, G], NaN where missing.
        image: the same of images [n, R].
        genotypes: where the first come from.
        images: where the second come from, in words.

    Raises:
        UserError: one is missing for everybody, or nobody has both.
    """
    has = [np.isfinite(values).any(axis=1) for values in (genetic, image)]
    for there, where in zip(has, (str(genotypes.folder), images), strict=True):
        if not there.any():
            raise UserError(
                f"{where}: nobody with a label has anything there, so one modality is missing for everybody; use "
                "model.kind=classifier or `gen3d classify` for the other alone."
            )
    if not (has[0] & has[1]).any():
        raise UserError(
            f"{genotypes.folder} and {images}: nobody with a label has both, so there is nobody to learn a fusion from; look "
            "at the subjects of the two folders."
        )
