"""The truth of a simulated cohort: what was planted in which scan, where and how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.tables import TableFile
from gen3d.imaging.volume import write_nifti

AGAIN = "run `gen3d simulate` again"
FOLDER = "truth"
TRUTH = TableFile("truth.tsv", ("subject", "session", "key", "condition", "severity"), AGAIN)
"""A row per scan. With `visits` also years since the first visit, whether the person's MCI becomes AD, and `attenuation`: the share
of the drawn change that this grid allowed, 1 for nearly everybody. Severity is that of the day; volumes tell what is planted."""
PERCENT_CHANGE, VOLUME_ML = "percent_change", "volume_ml"
TRUTH_REGIONS = TableFile("truth_regions.tsv", ("key", "region", PERCENT_CHANGE), AGAIN)
RATES = TableFile("truth_rates.tsv", ("subject", "region", "years", "log_change", "percent_per_year"), AGAIN)
"""A row per person who came more than once, and region: from the first visit to the last one, years, log volume change, and percent
per year. Those between any two visits are in truth_volumes.tsv: the logarithm of the ratio of the volumes."""
TRUTH_VOLUMES = TableFile("truth_volumes.tsv", ("key", "region", VOLUME_ML), AGAIN)

GENOTYPES = "genotypes"
"""Name of the PLINK files of a cohort with genotypes: genotypes.bed, .bim and .fam, in its folder."""
ALLELES = TableFile("truth_alleles.tsv", ("allele", "acts_on", "per_copy", "unit"), AGAIN)
"""What a copy of an allele does: log volume of a region, or log odds of AD."""
WEIGHTS = TableFile(
    "truth_weights.tsv",
    ("rsID", "chr_name", "chr_position", "effect_allele", "other_allele", "effect_weight"),
    AGAIN,
)
"""The polygenic background, as a table of weights that `gen3d genotypes scores=` reads: log odds of AD per copy, GRCh38."""
PEOPLE_GENES = TableFile(
    "truth_genes.tsv",
    ("subject", "ancestry", "apoe_e4", "apoe_e2", "polygenic", "liability", "sibling", "genotyped"),
    AGAIN,
)
"""A row per person: group of ancestry, copies, log odds of the background and of everything, and a sibling, n/a for none."""


def write_truth(folder: Path, truth: pd.DataFrame, regions: pd.DataFrame, volumes: pd.DataFrame) -> None:
    """Write what was planted: a row per scan, and per scan and region the change in percent and the volume."""
    TRUTH.write(folder / FOLDER, truth)
    TRUTH_REGIONS.write(folder / FOLDER, regions)
    TRUTH_VOLUMES.write(folder / FOLDER, volumes)


def write_rates(folder: Path, scans: pd.DataFrame, volumes: pd.DataFrame) -> None:
    """Write truth_rates.tsv where anybody came more than once.

    ``scans`` has key, subject, session and age_years, in each person's order of time; ``volumes`` key, region and ml.
    """
    first, last = scans.drop_duplicates("subject"), scans.drop_duplicates("subject", keep="last")
    pairs = first.merge(last, on="subject", suffixes=("", "_last"))
    pairs = pairs[pairs["key"] != pairs["key_last"]]
    if pairs.empty:
        return
    pairs = pairs.assign(years=(pairs["age_years_last"] - pairs["age_years"]).round(3))[
        ["subject", "key", "key_last", "years"]
    ]
    named = volumes.rename(columns={"key": "key_last", VOLUME_ML: "ml_last"})
    table = pairs.merge(volumes, on="key").merge(named, on=["key_last", "region"])
    table["log_change"] = np.log(table["ml_last"] / table[VOLUME_ML])
    table["percent_per_year"] = 100 * np.expm1(table["log_change"] / table["years"])
    RATES.write(folder / FOLDER, table[list(RATES.columns)])


def read_truth(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per scan, and a row per scan and region.

    Raises:
        UserError: missing, damaged, or without a column.
    """
    return TRUTH.read(folder / FOLDER), TRUTH_REGIONS.read(folder / FOLDER)


def read_rates(folder: Path) -> pd.DataFrame:
    """Rates of everybody who came more than once; no row where nobody did.

    Raises:
        UserError: damaged, or without a column.
    """
    return RATES.read_if_there(folder / FOLDER)


def log_jacobian_path(folder: Path, key: str) -> Path:
    """Where the true log-Jacobian of a scan lies, in template coordinates."""
    return folder / FOLDER / f"{key}_log_jacobian.nii.gz"


def changed_path(folder: Path, key: str) -> Path:
    """Where the mask of changed voxels of a scan lies, in the aligned scan."""
    return folder / FOLDER / f"{key}_changed.nii.gz"


def write_truth_volumes(
    folder: Path, key: str, log_jacobian: NDArray[np.float32], changed: NDArray[np.generic], affine: NDArray[np.float64]
) -> None:
    """Write what truly changed in a scan: the log-Jacobian and the changed voxels [X, Y, Z]."""
    write_nifti(log_jacobian_path(folder, key), log_jacobian, affine)
    write_nifti(changed_path(folder, key), changed, affine)
