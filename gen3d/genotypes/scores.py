"""Polygenic scores: a table of weights, its entries found in the cohort, and the sum of effect alleles times weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.plain_files import read_bytes
from gen3d.core.tables import Row
from gen3d.core.user_table import parse_user_table
from gen3d.genotypes.alleles import ABSENT, FLIPPED, FLIPPED_SWAPPED, NO_MATCH, PALINDROMIC, SWAPPED, Matches, match
from gen3d.genotypes.builds import BUILDS, GRCH37, GRCH38, build_name, positions_agree
from gen3d.genotypes.variants import chromosome_name

ALIASES = {
    "variant": ("rsid", "variant", "variant_id", "snp", "id", "markername"),
    "chromosome": ("chr_name", "chromosome", "chrom", "chr", "#chrom"),
    "position": ("chr_position", "position", "pos", "bp", "base_pair_location"),
    "allele": ("effect_allele", "allele1", "a1", "ea"),
    "other": ("other_allele", "hm_inferotherallele", "allele2", "a2", "nea", "reference_allele"),
    "weight": ("effect_weight", "beta", "weight", "log_or"),
}
HARMONISED = {"chromosome": "hm_chr", "position": "hm_pos"}
"""Of the PGS Catalog: the place in the build that its header calls HmPOS_build."""
ODDS_RATIO = ("or", "odds_ratio")
APOE_REGION = {GRCH37: ("19", 44_400_000, 46_500_000), GRCH38: ("19", 43_896_743, 45_996_743)}
"""Left out of the second score: one region holds the strongest effects, and APOE is a column of its own."""
ALL, WITHOUT_APOE = "all", "without_apoe"


@dataclass(frozen=True)
class Weights:
    """A table of weights.

    `listed` has the columns variant, chromosome, position, allele (that has the effect), other, weight; `build` is "" for unknown.
    """

    name: str
    path: Path
    listed: pd.DataFrame
    build: str


def read_weights(name: str, path: Path, effect_allele: str, known: pd.DataFrame, given: str) -> Weights:
    """Read a table of weights: of the PGS Catalog, or with columns like Chromosome, Position, Allele1, Allele2, BETA.

    Args:
        name: of the score.
        path: of the table.
        effect_allele: column of the allele that a weight belongs to; "" for effect_allele, Allele1, A1 or EA.
        known: variants with known positions, see `builds.read_known`.
        given: build that the user gives, "" for not.

    Raises:
        UserError: no such table, a column that is needed, a weight that is no number, an allele listed twice, or a build that its
            positions are not in.
    """
    header, table = _parse(path)
    by_name = {str(column).lower(): str(column) for column in table.columns}
    stated, hm_build = build_name(header.get("genome_build", "")), build_name(header.get("hmpos_build", ""))
    columns = {
        part: next((by_name[alias] for alias in names if alias in by_name), "") for part, names in ALIASES.items()
    }
    if hm_build and all(alias in by_name for alias in HARMONISED.values()):
        columns |= {part: by_name[alias] for part, alias in HARMONISED.items()}
        stated = hm_build
    columns["allele"] = _effect_column(path, table, columns, effect_allele)
    _require(path, columns, by_name)
    listed = pd.DataFrame({part: table[column] if column else "" for part, column in columns.items()}, dtype=object)
    listed["weight"] = _numbers(path, listed["weight"], columns["weight"])
    listed["position"] = pd.to_numeric(listed["position"], errors="coerce").fillna(0).astype(np.int64)
    listed["chromosome"] = listed["chromosome"].map(chromosome_name)
    for part in ("allele", "other"):
        listed[part] = listed[part].astype(str).str.upper()
    twice = listed.duplicated(["variant", "chromosome", "position", "allele", "other"])
    if twice.any():
        entry = listed[twice].iloc[0]
        raise UserError(f"{path}: {_called(entry)} is listed twice with the same alleles; remove one of them.")
    return Weights(name, path, listed, _build(path, listed, given, stated, known))


def _parse(path: Path) -> tuple[dict[str, str], pd.DataFrame]:
    """Lines `#key=value` above the table, and the table."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a table of weights ({getattr(error, 'strerror', None) or error})."
        ) from None
    lines = text.splitlines()
    first = next((place for place, line in enumerate(lines) if not line.startswith("#") or "\t" in line), len(lines))
    header = dict(line.lstrip("#").strip().partition("=")[::2] for line in lines[:first])
    return {key.lower(): value for key, value in header.items()}, parse_user_table(path, "\n".join(lines[first:]))


def _effect_column(path: Path, table: pd.DataFrame, columns: dict[str, str], effect_allele: str) -> str:
    if not effect_allele:
        return columns["allele"]
    if effect_allele not in table.columns:
        raise UserError(f"{path}: has no column {effect_allele} (effect_allele=); it has {', '.join(table.columns)}.")
    if effect_allele == columns["other"]:
        columns["other"] = columns["allele"]
    return effect_allele


def _require(path: Path, columns: dict[str, str], by_name: dict[str, str]) -> None:
    if not columns["weight"] and any(name in by_name for name in ODDS_RATIO):
        raise UserError(f"{path}: has odds ratios, but no weights; write their logarithms into a column effect_weight.")
    for part, what in (("allele", "effect allele"), ("weight", "weight")):
        if not columns[part]:
            raise UserError(f"{path}: has no column with the {what}; call it {ALIASES[part][0]}.")
    if not columns["variant"] and not (columns["chromosome"] and columns["position"]):
        raise UserError(
            f"{path}: says neither the id nor the place of its variants; add rsID, or chr_name and chr_position."
        )


def _numbers(path: Path, cells: pd.Series, column: str) -> pd.Series:
    numbers = pd.to_numeric(cells, errors="coerce")
    bad = ~np.isfinite(numbers.to_numpy(dtype=float))
    if bad.any():
        raise UserError(
            f"{path}: {int(bad.sum())} cells of {column} are no number, the first is {cells[bad].iloc[0]!r}."
        )
    return numbers


def _build(path: Path, listed: pd.DataFrame, given: str, stated: str, known: pd.DataFrame) -> str:
    """The build of the positions: that of known variants, else given, else stated by the file; "" where none says it."""
    told = positions_agree(listed.rename(columns={"allele": "counted"}), known).build
    for claimed, where in ((given, f"scores_build={given}"), (stated, f"its header says {stated}")):
        if claimed and told and claimed != told:
            raise UserError(f"{path}: {where}, but known variants are at their places in {told}; correct that.")
    return told or given or stated


@dataclass(frozen=True)
class FoundScore:
    """A score's entries in a cohort [k]: rows of variants, weights, which count the other allele, which are in the APOE region."""

    name: str
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]
    turned: NDArray[np.bool_]
    in_apoe_region: NDArray[np.bool_]

    def sums(self, copies: NDArray[np.float64], column_of: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Scores of people, by the name of their column; NaN where no variant is left without the APOE region.

        Args:
            copies: of the counted alleles, [people, columns], none missing.
            column_of: of a row of the cohort's variants.
        """
        own = copies[:, column_of[self.rows]]
        effect = np.where(self.turned, 2 - own, own)
        outside = ~self.in_apoe_region
        rest = effect[:, outside] @ self.weights[outside] if outside.any() else np.full(len(copies), np.nan)
        return {f"prs_{self.name}": effect @ self.weights, f"prs_{self.name}_{WITHOUT_APOE}": rest}


def find_score(
    weights: Weights, variants: pd.DataFrame, usable: NDArray[np.bool_], build: str, least_found: float
) -> tuple[FoundScore, list[Row]]:
    """Find a score's entries in a cohort.

    Returns:
        What is used, and its rows of the table of scores: all, and without the APOE region.

    Raises:
        UserError: the table is of another build and names no ids, or too few of its entries are found.
    """
    listed, same_build = weights.listed, weights.build in ("", build)
    if not same_build and not (listed["variant"].str.startswith("rs")).any():
        raise UserError(
            f"{weights.path}: is in {weights.build} and the genotypes in {build}, and it has no rsID to find its variants by; give "
            f"the table of weights in {build}."
        )
    found = match(listed, variants, usable, by_position=same_build)
    own_build = build if same_build else weights.build
    chromosome, start, end = APOE_REGION[own_build]
    region = (listed["chromosome"] == chromosome).to_numpy() & listed["position"].between(start, end).to_numpy()
    at_variant = np.array([row >= 0 and _in_region(variants, row, build) for row in found.rows.tolist()], dtype=bool)
    region |= at_variant
    rows = [
        _row(weights, part, found, chosen, build)
        for part, chosen in ((ALL, np.ones(len(listed), bool)), (WITHOUT_APOE, ~region))
    ]
    share = float(found.found.mean())
    if share < least_found:
        raise UserError(
            f"{weights.path}: {int(found.found.sum())} of its {len(listed)} variants ({spell.percent(share)}) are among the "
            f"genotypes, and least_found={least_found:g} are needed ({_why(found)}){_of_build(weights, build)}; give genotypes "
            "that were imputed, or another table."
        )
    used = found.found
    score = FoundScore(
        weights.name, found.rows[used], listed["weight"].to_numpy(dtype=float)[used], found.turned[used], region[used]
    )
    return score, rows


def _in_region(variants: pd.DataFrame, row: int, build: str) -> bool:
    chromosome, start, end = APOE_REGION[build]
    place = int(variants["position"].to_numpy()[row])
    return bool(variants["chromosome"].to_numpy()[row] == chromosome and start <= place <= end)


def _row(weights: Weights, region: str, found: Matches, chosen: NDArray[np.bool_], build: str) -> Row:
    part = Matches(found.rows[chosen], found.how[chosen])
    used = int(part.found.sum())
    return {
        "score": weights.name,
        "region": region,
        "listed": int(chosen.sum()),
        "used": used,
        "share": used / max(1, int(chosen.sum())),
        "flipped": part.count(FLIPPED, FLIPPED_SWAPPED),
        "swapped": part.count(SWAPPED, FLIPPED_SWAPPED),
        "palindromic": part.count(PALINDROMIC),
        "no_match": part.count(NO_MATCH),
        "absent": part.count(ABSENT),
        "build": weights.build or f"taken for {build}",
    }


def _why(found: Matches) -> str:
    counts = (
        (ABSENT, "are not there"),
        (NO_MATCH, "have alleles that match neither strand"),
        (PALINDROMIC, "are A/T or C/G"),
    )
    return spell.listed([f"{found.count(how)} {what}" for how, what in counts if found.count(how)])


def _of_build(weights: Weights, build: str) -> str:
    if weights.build:
        return ""
    others = spell.listed([name for name in BUILDS if name != build])
    return f"; its build is not known, and may be {others} while the genotypes are in {build}"


def filled(copies: NDArray[np.floating], fitted_on: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Copies with the mean of the people fitted on, twice their frequency, where a call is missing. [people, k]

    Args:
        copies: NaN where missing.
        fitted_on: people whose frequency it is, [people]; everybody where none of them has a call.
    """
    values = np.asarray(copies, dtype=np.float64)
    known = np.isfinite(values)

    def means(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = known[rows].sum(axis=0)
        return np.divide(
            np.where(known[rows], values[rows], 0).sum(axis=0),
            counts,
            out=np.full(values.shape[1], np.nan),
            where=counts > 0,
        )

    own, everybody = means(fitted_on), means(np.ones(len(values), dtype=bool))
    mean = np.where(np.isfinite(own), own, everybody)
    return np.where(known, values, mean)


def names_of(scores: Sequence[Weights]) -> str:
    """The scores as a sentence lists them."""
    return spell.listed([weights.name for weights in scores])


def _called(entry: pd.Series) -> str:
    return str(entry["variant"] or f"{entry['chromosome']}:{entry['position']}")
