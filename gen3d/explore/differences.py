"""Differences between levels, by region and by voxel, corrected by permutation over people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from gen3d.cohort.channels import LOG_JACOBIAN
from gen3d.cohort.columns import Rules, fit_columns
from gen3d.cohort.target import FEWEST_DISTINCT
from gen3d.explore.levels import Exploring
from gen3d.explore.permuting import Effects, Shuffles, SomeRows, corrected_for_all, effects_of, shuffled
from gen3d.explore.readings import CoarseGrid, LevelReadings, MeansOfRegions
from gen3d.maths.significance import clusters

ALPHA = 0.05
REGION_COLUMNS = [
    "level_a", "level_b", "channel", "region", "num_a", "num_b", "difference", "low", "high", "difference_sd", "percent", "t",
    "p_fwe", "p_all",
]  # fmt: skip
ADJUSTED = Rules(fewest_numbers=FEWEST_DISTINCT, standardise_words=False, flag_missing_above=0.0)


@dataclass(frozen=True)
class Comparison:
    """Two levels in one channel: numbers of the levels, effects by region (None without regions) and by voxel.

    `family` are the effects of the same two levels in all channels, and `num` the comparisons that were made.
    """

    levels: tuple[int, int]
    channel: str
    counts: tuple[int, int]
    regions: Effects | None
    voxels: Effects
    shuffles: Shuffles
    family: tuple[Effects, ...]
    num: int

    def p_all(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """p corrected within a map, corrected for all channels, for regions and voxels, and for all comparisons (Bonferroni)."""
        return np.minimum(1.0, self.num * corrected_for_all(p, self.family))


def covariates(people: Exploring, adjust: Sequence[str]) -> NDArray[np.float64]:
    """Columns [n, c] that are held fixed besides the age bin: age itself, and what `adjust` names.

    Raises:
        UserError: a column that the table has not, or of numbers with a few words.
    """
    known = np.isfinite(people.ages)
    centred = np.where(known, people.ages - (people.ages[known].mean() if known.any() else 0.0), 0.0)
    coded = fit_columns(people.table, adjust, ADJUSTED, "adjust").matrix(people.table)
    return np.concatenate([centred[:, None], coded], axis=1)


def label_shuffles(people: Exploring, adjusted: NDArray[np.float64], num: int, seed: int) -> list[Shuffles]:
    """Shuffles of the two labels of every comparison, within age bins and among the people of these two levels alone."""
    made = []
    for place, (first, second) in enumerate(people.comparisons()):
        chosen = np.isin(people.of_level, (first, second))
        label = (people.of_level[chosen] == second).astype(np.float64)
        made.append(shuffled(label, people.age_bins[chosen], adjusted[chosen], num, (seed, place)))
    return made


def compare_levels(people: Exploring, readings: LevelReadings, shuffles: Sequence[Shuffles]) -> list[Comparison]:
    """Every comparison in every channel."""
    found: list[Comparison] = []
    num = sum(of.possible for of in shuffles)
    for (first, second), of in zip(people.comparisons(), shuffles, strict=True):
        chosen = np.flatnonzero(np.isin(people.of_level, (first, second)))
        counts = (int((people.of_level == first).sum()), int((people.of_level == second).sum()))
        by_voxel = {channel: effects_of(SomeRows(voxels, chosen), of) for channel, voxels in readings.voxels.items()}
        by_region = {channel: effects_of(regions[chosen], of) for channel, regions in readings.regions.items()}
        family = (*by_voxel.values(), *by_region.values())
        found += [
            Comparison((first, second), channel, counts, by_region.get(channel), effects, of, family, num)
            for channel, effects in by_voxel.items()
        ]
    return found


def num_tests(found: Sequence[Comparison]) -> int:
    """Tables and maps of all comparisons."""
    return sum(1 + (each.regions is not None) for each in found)


def percent(channel: str, difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """A difference of log-Jacobians as % of volume, one of intensities as % of the white-matter level."""
    return 100.0 * np.expm1(difference) if channel == LOG_JACOBIAN else 100.0 * difference


def region_table(found: Sequence[Comparison], people: Exploring, regions: MeansOfRegions) -> pd.DataFrame:
    """One row per region of each comparison: REGION_COLUMNS.

    `difference` is that of the means with age and `adjust` held fixed, with its 95 % interval by Student's t; `difference_sd` is
    in SDs of people of one level; `p_fwe` is corrected for the regions of the table, `p_all` for all tables and maps too.
    """
    frames = []
    for each in found:
        if each.regions is None:
            continue
        of = each.regions
        half = student.ppf(0.975, max(each.shuffles.degrees, 1)) * of.sd / max(each.shuffles.scale, 1e-12)
        known = each.shuffles.possible
        columns = {
            "level_a": people.levels[each.levels[0]], "level_b": people.levels[each.levels[1]], "channel": each.channel,
            "region": list(regions.names), "num_a": each.counts[0], "num_b": each.counts[1],
            "difference": of.slope, "low": of.slope - half, "high": of.slope + half,
            "difference_sd": np.divide(of.slope, of.sd, out=np.zeros_like(of.slope), where=of.sd > 0),
            "percent": percent(each.channel, of.slope), "t": of.t,
            "p_fwe": of.p_fwe, "p_all": each.p_all(of.p_fwe),
        }  # fmt: skip
        frame = pd.DataFrame(columns)
        if not known:
            frame[REGION_COLUMNS[6:]] = np.nan
        frames.append(frame.sort_values("p_fwe", kind="stable"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=REGION_COLUMNS)


def comparison_table(found: Sequence[Comparison], people: Exploring, grid: CoarseGrid) -> pd.DataFrame:
    """One row per comparison and channel: people, smallest corrected p of voxels and regions, how many differ, and the peak.

    `p_all` is the smaller p, corrected for all tables and maps; `smallest_possible_p` is what this many people allow.
    """
    rows = []
    for each in found:
        by_region, known = each.regions, each.shuffles.possible
        over = np.abs(each.voxels.t) > each.voxels.critical
        heaviest = clusters(grid.filled(over.astype(np.float32)) > 0, grid.filled(each.voxels.t), 1, grid.affine)
        smallest = [each.voxels.smallest_p, *([] if by_region is None else [by_region.smallest_p])]
        rows.append(
            {
                "level_a": people.levels[each.levels[0]],
                "level_b": people.levels[each.levels[1]],
                "channel": each.channel,
                "num_a": each.counts[0],
                "num_b": each.counts[1],
                "num_voxels": len(each.voxels.t),
                "num_voxels_differ": int(over.sum()),
                "share_voxels_differ": float(over.mean()),
                "critical_t": each.voxels.critical if np.isfinite(each.voxels.critical) else np.nan,
                "smallest_p_voxels": each.voxels.smallest_p if known else np.nan,
                "smallest_p_regions": by_region.smallest_p if by_region is not None and known else np.nan,
                "smallest_p": min(smallest) if known else np.nan,
                "p_all": float(each.p_all(np.array([min(smallest)]))[0]) if known else np.nan,
                "num_regions": 0 if by_region is None else len(by_region.t),
                "num_regions_differ": 0 if by_region is None else int((each.p_all(by_region.p_fwe) <= ALPHA).sum()),
                "voxels_differ": bool(known and each.p_all(np.array([each.voxels.smallest_p]))[0] <= ALPHA),
                "smallest_possible_p": each.shuffles.smallest_p,
                "peak_t": heaviest[0].peak_z if heaviest else np.nan,
                "peak_mm": ", ".join(f"{value:.0f}" for value in heaviest[0].peak_mm) if heaviest else "",
            }
        )
    return pd.DataFrame(rows)
