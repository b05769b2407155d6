"""`gen3d explore`: a cohort by the levels of a column: mean brains, what differs, intensities, and how alike people are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core import words as spell
from gen3d.core.config import Folders, execution
from gen3d.core.disk import remove_folder, size_in_words
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.result_folder import METRICS, write_picture
from gen3d.core.work import FolderVerb, Inputs
from gen3d.explore.alike import PAIRS, choose_pairs, compare, summarise
from gen3d.explore.differences import (
    Comparison,
    compare_levels,
    comparison_table,
    covariates,
    label_shuffles,
    num_tests,
    region_table,
)
from gen3d.explore.folder import write_difference, write_explored, write_mean
from gen3d.explore.levels import Exploring, LevelRule, choose_people, level_names
from gen3d.explore.permuting import Shuffles, shuffled
from gen3d.explore.pictures import draw_differences, draw_means, draw_profiles, draw_similarity
from gen3d.explore.profiles import density_curves, intensity_rows, quantile_curves, trend_rows
from gen3d.explore.readings import (
    CoarseGrid,
    LevelReadings,
    MeansOfRegions,
    channels_of,
    coarse_grid,
    gather,
    mean_volumes,
    num_bytes,
    region_means,
)
from gen3d.explore.sentences import channel_words, sentences
from gen3d.figures.brain import DisplaySpace


@dataclass(frozen=True)
class ExploreMaterial:
    """What is described: the cohort, its people by level, and the grids of the test."""

    prepared: Prepared
    people: Exploring
    grid: CoarseGrid
    regions: MeansOfRegions
    adjusted: NDArray[np.float64]


class Explore(FolderVerb):
    """Describe a cohort by the levels of a column: stages, diagnoses, sites, or a number in bins.

    Writes the mean brain of every level, maps and region tables of the differences between neighbouring levels with p corrected by
    permutation of people within age bins, profiles of intensity, and how alike scans are within people, within levels and between
    them. A person counts once, at the level of the first scan. Nothing is learned and nobody is judged.
    """

    prepared: Folders = Field(description="prepared folders (prepare, prepare-slices or simulate)")
    by: str = Field("diagnosis", description="column of the cohort table whose levels are compared")
    levels: tuple[str, ...] | None = Field(
        None, description="its values in order, for example [CN, MCI, AD]; others are left out; none: all that occur"
    )
    edges: tuple[float, ...] = Field((), description="for a column of numbers: where one bin ends and the next begins")
    bins: int = Field(3, ge=2, le=12, description="for a column of numbers without edges: bins with equally many scans")
    scans: Literal["every", "first"] = Field(
        "every",
        description="every: a person is the mean of all scans at the person's level; first: the first scan alone",
    )
    fewest: int = Field(5, ge=2, description="people that a level needs; a level with fewer is left out")
    age_bin_years: float = Field(
        5.0, gt=0, description="width of the age bins within which labels are shuffled and people are paired, in years"
    )
    adjust: tuple[str, ...] = Field((), description="further columns held fixed, for example [sex, site]")
    smoothing_mm: float = Field(6.0, ge=0, description="smoothing of scans before voxels are tested, FWHM in mm")
    map_mm: float = Field(4.0, gt=0, description="spacing of the voxels that are tested, mm; no finer than the scans")
    permutations: int = Field(999, ge=19, description="shuffles of labels; the smallest p is 1 / (permutations + 1)")
    white_grey: float = Field(
        180.0, gt=0, le=255, description="grey value of an 8-bit scan (0 to 255) that the white-matter median is put at"
    )
    pairs: int = Field(50, ge=2, description="pairs of scans that are compared per pair of levels")
    bootstrap: int = Field(1000, ge=100, description="resamples of people behind each interval")
    seed: int = Field(0, description="seed of permutations, pairs and resampling")
    workers: int = execution(1, "pairs of scans compared at a time, each in a process; 0: one per core", ge=0)

    def plan(self) -> list[str]:
        """Who would be compared, with how many permutations, and what that takes."""
        opened = self.open_inputs()
        people, channels = opened.people, channels_of(opened.prepared)
        pairs = choose_pairs(people, self.pairs, self.age_bin_years, self.seed)
        size = num_bytes(len(people.scans), opened.grid, len(opened.regions.names), len(channels))
        kept = int(opened.grid.mask.sum())
        spacing = spell.listed([f"{length:g}" for length in np.linalg.norm(opened.grid.affine[:3, :3], axis=0)])
        return [
            f"describes {spell.people(len(people.scans))} by {people.describe()}",
            *people.notes,
            f"{spell.count(len(people.comparisons()), 'comparison')} in {spell.listed(channels)}: "
            f"{len(opened.regions.names)} regions and {kept} voxels ({spacing} mm) with {self.permutations} permutations of people",
            f"keeps {size_in_words(size)} on disk while it works (it grows with people and voxels; map_mm makes it smaller), and "
            "reads one scan at a time",
            f"compares {spell.count(len(pairs), 'pair')} of scans",
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The cohort."""
        return {"prepared": list(self.prepared)}

    def open_inputs(self) -> ExploreMaterial:
        """The cohort, its people by level, and what is held fixed.

        Raises:
            UserError: not a prepared folder, no T1w, or a column or levels that cannot be compared.
        """
        prepared = open_prepared(self.prepared)
        prepared.require_channels((T1W,))
        if self.by in self.adjust:
            raise UserError(f"adjust: {self.by} is what is compared, so it cannot be held fixed; leave it out.")
        rule = LevelRule(
            self.by,
            level_names(self.levels),
            self.edges,
            self.bins,
            self.fewest,
            self.age_bin_years,
            self.scans == "every",
        )
        people = choose_people(prepared.manifest, rule)
        grid = coarse_grid(prepared, self.map_mm)
        return ExploreMaterial(prepared, people, grid, region_means(prepared), covariates(people, self.adjust))

    def write(self, work: Work, opened: ExploreMaterial) -> dict[str, Any]:
        """Write means/, maps/, figures/, the tables and metrics.json."""
        people = opened.people
        for note in people.notes:
            say(note)
        readings, arrays = gather(
            self.out, opened.prepared, people, opened.grid, opened.regions, self.smoothing_mm, self.white_grey
        )
        shuffles = label_shuffles(people, opened.adjusted, self.permutations, self.seed)
        found = compare_levels(people, readings, shuffles)
        tables = self._tables(opened, readings, found, shuffles)
        self._pictures(opened, readings, found, tables)
        notes = [*people.notes, *cannot_be_said(people, shuffles, num_tests(found))]
        summary = sentences(self.by, tables, people.ordered, self._permuted(people))
        metrics = {
            "summary": summary,
            "by": self.by,
            "ordered": people.ordered,
            "notes": notes,
            "num_people": len(people.table),
            "num_scans": sum(map(len, people.scans)),
            "num_tests": num_tests(found),
            "white_grey": self.white_grey,
        }
        write_explored(self.out, metrics, tables)
        arrays.discard()
        remove_folder(self.out / PAIRS)
        for sentence in (*summary, *notes[len(people.notes) :]):
            say(sentence)
        say(f"{self.out / METRICS}")
        return {"summary": summary[:1], "num_people": len(people.table), "levels": people.counts()}

    def _permuted(self, people: Exploring) -> str:
        within = " within age bins" if np.isfinite(people.ages).any() else ""
        return f"{self.permutations} permutations of people{within}"

    def _tables(
        self,
        opened: ExploreMaterial,
        readings: LevelReadings,
        found: Sequence[Comparison],
        shuffles: Sequence[Shuffles],
    ) -> dict[str, pd.DataFrame]:
        people = opened.people
        pairs = choose_pairs(people, self.pairs, self.age_bin_years, self.seed)
        alike = summarise(compare(self.out, opened.prepared, pairs, self.workers), people, self.bootstrap, self.seed)
        counts = people.counts()
        ages = [people.ages[people.of_level == place] for place in range(len(counts))]
        return {
            "levels": pd.DataFrame(
                {
                    "level": list(counts),
                    "num_people": list(counts.values()),
                    "num_scans": [
                        sum(
                            len(keys)
                            for keys, level in zip(people.scans, people.of_level, strict=True)
                            if level == place
                        )
                        for place in range(len(counts))
                    ],
                    "mean_age_years": [
                        float(np.mean(part[np.isfinite(part)])) if np.isfinite(part).any() else np.nan for part in ages
                    ],
                }
            ),
            "comparisons": comparison_table(found, people, opened.grid),
            "regions": region_table(found, people, opened.regions),
            "intensity": intensity_rows(readings.histogram, people, self.bootstrap, self.seed),
            "intensity_trend": self._trends(opened, readings, shuffles),
            "similarity": alike.cells,
            "excess": alike.excess,
        }

    def _trends(self, opened: ExploreMaterial, readings: LevelReadings, shuffles: Sequence[Shuffles]) -> pd.DataFrame:
        """Measures of intensity along ordered levels, or in each comparison where levels have no order."""
        people = opened.people
        if people.ordered:
            along = shuffled(
                people.of_level.astype(np.float64), people.age_bins, opened.adjusted, self.permutations,
                (self.seed, len(people.levels)),
            )  # fmt: skip
            return trend_rows(readings.histogram, people, along).assign(comparison="per level")
        frames = []
        for (first, second), of in zip(people.comparisons(), shuffles, strict=True):
            chosen = np.isin(people.of_level, (first, second))
            name = f"{people.levels[first]} to {people.levels[second]}"
            frames.append(
                trend_rows(readings.histogram[chosen], people, of).assign(comparison=name, num_people=int(chosen.sum()))
            )
        return pd.concat(frames, ignore_index=True)

    def _pictures(
        self,
        opened: ExploreMaterial,
        readings: LevelReadings,
        found: Sequence[Comparison],
        tables: Mapping[str, pd.DataFrame],
    ) -> None:
        prepared, people, grid = opened.prepared, opened.people, opened.grid
        space = DisplaySpace(prepared.plan.matrix, prepared.mask)
        means = {channel: mean_volumes(prepared, people, channel) for channel in channels_of(prepared)}
        for channel, volumes in means.items():
            for level, volume in zip(people.levels, volumes, strict=True):
                write_mean(self.out, level, channel, volume, prepared.plan.matrix)
        maps = []
        for each in found:
            names = (people.levels[each.levels[0]], people.levels[each.levels[1]])
            written = {"difference": each.voxels.slope, "t": each.voxels.t, "pfwe": each.voxels.p_fwe}
            volumes_of = {kind: grid.filled(values) for kind, values in written.items()}
            write_difference(self.out, names, each.channel, volumes_of, grid.affine)
            over = float(np.mean(np.abs(each.voxels.t) > each.voxels.critical))
            title = f"{names[0]} to {names[1]}: {channel_words(each.channel)}, {spell.percent(over)} of voxels differ"
            maps.append((title, grid.on_plan(each.voxels.t, prepared.mask), each.voxels.critical))
        counts = np.array(list(people.counts().values()), dtype=np.float64)
        everybody = np.tensordot(counts / counts.sum(), means[T1W], axes=1).astype(np.float32)
        densities = density_curves(readings.histogram, people, self.bootstrap, self.seed)
        quantiles = quantile_curves(readings.histogram, people, self.bootstrap, self.seed)
        write_picture(self.out, "means", draw_means(means, people, space))
        write_picture(self.out, "differences", draw_differences(maps, everybody, space))
        write_picture(self.out, "profiles", draw_profiles(densities, quantiles, tables["intensity"], people))
        write_picture(self.out, "similarity", draw_similarity(tables["similarity"], people))


def cannot_be_said(people: Exploring, shuffles: Sequence[Shuffles], tests: int) -> list[str]:
    """Comparisons that this many people cannot decide, whatever the effect."""
    notes = []
    for (first, second), of in zip(people.comparisons(), shuffles, strict=True):
        names = f"{people.levels[first]} and {people.levels[second]}"
        if not of.possible:
            notes.append(
                f"{names} share no age bin, so they were not compared; widen age_bin_years, or add people of the same age"
            )
        elif tests * of.smallest_p > 0.05:
            notes.append(
                f"{names}: the smallest p that these people and permutations can reach is {spell.probability(of.smallest_p)}, "
                f"which {tests} tables and maps raise above 0.05; add people or permutations"
            )
    return notes
