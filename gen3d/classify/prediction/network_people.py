"""The people that the networks of a run are to predict: their scans and genetics, as the run was trained with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.fusion_folder import GENETICS, IMAGES, Subset
from gen3d.cohort.genotypes_folder import OpenGenotypes, open_genotypes
from gen3d.cohort.latents_folder import Latents, open_latents_folder
from gen3d.cohort.manifest import is_synthetic, is_twin
from gen3d.cohort.scores_folder import AGAIN, MAIN, RunScores, read_scores
from gen3d.cohort.seen import Guard, LeaveOutPolicy
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.tables import MISSING, TableFile, read_cells
from gen3d.models.run import Run, load_run
from gen3d.models.supervised.classifier import Classifier
from gen3d.models.supervised.fusion import FARTHEST, Fusion
from gen3d.train.fusion_parts import FusionScorer
from gen3d.train.genetic_columns import genetic_values
from gen3d.train.image_columns import latent_values, region_side, region_values
from gen3d.train.material_labels import LabelledSource
from gen3d.train.modalities import Columns, Side, require_shared_people
from gen3d.train.scoring import RowScorer

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

SIDES: tuple[tuple[Subset, str], ...] = (("genetics", "genetics"), ("images", "scan"))
"""Modalities of a fusion, and what sentences call them."""


@dataclass(frozen=True)
class NetworkRequest:
    """A run, the people to predict (a row per scan, or per person without a scan), and what is known of them.

    `scored` gives raw scores [n, S] of a member; `has` says who has which modality, and is empty for networks on scans;
    `remarks` are reasons why a prediction may not hold, by row.
    """

    run: Run
    scores: RunScores
    people: pd.DataFrame
    scored: Callable[[int], Values]
    has: Mapping[Subset, Flags]
    remarks: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @cached_property
    def subsets(self) -> NDArray[np.object_]:
        """By what each row is scored: both (of a network on scans, the scan), genetics, images, or "" where nothing is known."""
        if not self.has:
            return np.full(len(self.people), "both", dtype=object)
        genetics, images = self.has["genetics"], self.has["images"]
        one = np.where(genetics, "genetics", np.where(images, "images", ""))
        return np.where(genetics & images, "both", one).astype(object)

    def describe(self) -> list[str]:
        """Who would be predicted, in sentences."""
        members = len(self.scores.of(MAIN))
        lines = [
            f"predicts {self.scores.target.describe()} of {spell.count(len(self.people), 'row')} by the mean of "
            f"{spell.count(members, 'network')} of {self.scores.folder} ({self.scores.network}), none of which saw these people"
        ]
        alone = [
            f"{int((self.subsets == subset).sum())} by {words} alone"
            for subset, words in SIDES
            if (self.subsets == subset).any()
        ]
        return [*lines, *([spell.listed(alone)] if alone else []), *self.notes]


@dataclass(frozen=True)
class NewPeople:
    """Folders of the people to predict; None of what was not given.

    Attributes:
        prepared: their scans; none for a fusion with latents.
        latents: for a fusion whose image side are latents.
        genotypes: for a fusion.
    """

    prepared: Sequence[Path] | None = None
    latents: Sequence[Path] | None = None
    genotypes: Path | None = None


def open_network_request(folder: Path, given: NewPeople, policy: LeaveOutPolicy) -> NetworkRequest:
    """Open a run and new people, and leave out people that the run saw.

    Args:
        folder: of the run.
        given: the new people.
        policy: towards people that the run saw.

    Raises:
        UserError: not a run of a classifier or a fusion, inputs that it does not take or that are other than those that it was
            trained with, people that it saw (with refuse), or nobody to predict.
    """
    scores, run = read_scores(folder), load_run(folder)
    opener = _open_fusion if run.kind == "fusion" else _open_scans
    request = opener(run, scores, given)
    if request.people.empty:
        raise UserError(f"{folder}: nobody is left to predict in the folders that were given.")
    guard = Guard(
        f"the networks of {folder}",
        "a prediction of them would look better than it is",
        f"see {folder / 'scores.tsv'}, where everybody has a score by a network that never saw the person",
    )
    cleared = guard.clear(request.people, _seen_by(scores, request.people), policy)
    return _kept(request, np.flatnonzero(cleared.testable), cleared.notes)


def _seen_by(scores: RunScores, people: pd.DataFrame) -> list[str]:
    """What saw the person of each row: any member that learned from or was watched by the person, "" where none, [n]."""
    by_any = scores.seen.by_any(people)
    return ["training or validation" if seen else "" for seen in by_any]


def _kept(request: NetworkRequest, rows: NDArray[np.int64], notes: Sequence[str]) -> NetworkRequest:
    everything = len(rows) == len(request.people)
    scored = request.scored
    return NetworkRequest(
        request.run,
        request.scores,
        request.people.iloc[rows].reset_index(drop=True),
        scored if everything else lambda member: scored(member)[rows],
        {subset: flags[rows] for subset, flags in request.has.items()},
        tuple(request.remarks[row] for row in rows),
        (*request.notes, *notes),
    )


def _open_scans(run: Run, scores: RunScores, given: NewPeople) -> NetworkRequest:
    """People by their volumes."""
    prepared = given.prepared
    _refuse(run, latents=given.latents, genotypes=given.genotypes)
    if prepared is None:
        raise UserError(f"{run.folder}: its networks look at scans; give prepared= of the new people.")
    cohort = open_prepared(tuple(prepared))
    run.require(cohort)
    people = _real(cohort)
    takes_age = bool(getattr(run.model_config.network, "age", False))  # type: ignore[attr-defined]
    ages = people["age_years"].to_numpy(dtype=np.float64) if takes_age else None
    if ages is not None and not np.isfinite(ages).all():
        num = int((~np.isfinite(ages)).sum())
        raise UserError(
            f"{prepared[0]}: {num} of {len(ages)} scans have no age_years, which the network takes; fill it in."
        )
    keys, subjects = (tuple(people[name].astype(str)) for name in ("key", "subject"))
    source = LabelledSource(cohort, keys, subjects, run.channels, np.full(len(people), np.nan), ages)
    scorer = RowScorer(source, "", 1)

    def scored(member: int) -> Values:
        return scorer.scores(cast(Classifier, run.member(member)), np.arange(len(people)))

    return NetworkRequest(run, scores, people, scored, {}, remarks_of(run, people), ())


def _open_fusion(run: Run, scores: RunScores, given: NewPeople) -> NetworkRequest:
    """People by their genetics and images, joined by subject; either may be missing."""
    genetic_side, image_side = (Side(_definitions(run.folder, file)) for file in (GENETICS, IMAGES))
    prepared, latents, genotypes = given.prepared, given.latents, given.genotypes
    of_latents = "made_by" in image_side.definitions.columns
    if genotypes is None and prepared is None and latents is None:
        raise UserError(
            f"{run.folder}: its networks read genetics and images; give genotypes= and "
            f"{'latents' if of_latents else 'prepared'}= of the new people, or one of them."
        )
    if of_latents:
        _refuse(run, prepared=prepared)
        opened: Prepared | Latents | None = None if latents is None else _same_latents(run, image_side, latents)
    else:
        _refuse(run, latents=latents)
        opened = None if prepared is None else _same_regions(run, image_side, prepared)
    scans = pd.DataFrame({"key": [], "subject": []}, dtype=object) if opened is None else _real(opened)
    genes = None if genotypes is None else open_genotypes(genotypes)
    if genes is not None and isinstance(opened, Prepared):
        require_shared_people(opened, genes)
    people, notes = _with_people_of_genotypes(scans, genes)
    genetic = _genetic_columns(genetic_side, genes, people)
    shared = image_side.num_columns

    def columns(member: int) -> Columns:
        image = np.full((len(people), shared), np.nan, dtype=np.float32)
        keys = scans["key"].astype(str).tolist()
        if isinstance(opened, Prepared):
            image[: len(keys)] = regions
        elif opened is not None:
            fold = scores.members[member].fold if opened.num_members > 1 else 0
            image[: len(keys)] = latent_values(opened, fold, keys)
        return np.concatenate([genetic, image], axis=1)

    regions = region_values(opened, scans["key"].astype(str).tolist()) if isinstance(opened, Prepared) else None
    first = columns(scores.of(MAIN)[0].index)
    split = genetic_side.num_columns
    has: dict[Subset, Flags] = {
        "genetics": np.asarray(np.isfinite(first[:, :split]).any(axis=1)),
        "images": np.asarray(np.isfinite(first[:, split:]).any(axis=1)),
    }

    def scored(member: int) -> Values:
        return FusionScorer(columns(member)).scores(cast(Fusion, run.member(member)), np.arange(len(people)))

    remarks = remarks_of(run, people)
    far = far_columns(cast(Fusion, run.member(scores.of(MAIN)[0].index)), first)
    remarks = tuple((*known, *more) for known, more in zip(remarks, far, strict=True))
    return NetworkRequest(run, scores, people, scored, has, remarks, notes)


def _definitions(folder: Path, file: TableFile) -> pd.DataFrame:
    """Columns of a modality with every cell as it is written, so that positions and chromosomes stay text."""
    cells = read_cells(folder / file.file, AGAIN)
    absent = [name for name in file.columns if name not in cells.columns]
    if absent:
        raise UserError(f"{folder / file.file}: lacks the column {absent[0]}; {AGAIN}.")
    return cells.mask(cells.isin(MISSING), "")


def _refuse(run: Run, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{run.folder}: its networks ({run.kind}) do not take {name}=; leave it out.")


def _real(opened: Prepared | Latents) -> pd.DataFrame:
    """Scans of real people that are not excluded."""
    table = opened.manifest if isinstance(opened, Prepared) else opened.table
    return table[(table["role"] != "excluded") & ~is_twin(table) & ~is_synthetic(table)].reset_index(drop=True)


def _same_regions(run: Run, side: Side, prepared: Sequence[Path]) -> Prepared:
    opened = open_prepared(tuple(prepared))
    run.require(opened)
    here = region_side(opened).definitions
    if here["column"].astype(str).tolist() != side.definitions["column"].astype(str).tolist():
        raise UserError(
            f"{prepared[0]}: has other regions than those that {run.folder} was trained with; prepare the scans with the version "
            "that the training cohort was prepared with."
        )
    return opened


def _same_latents(run: Run, side: Side, latents: Sequence[Path]) -> Latents:
    if len(latents) != 1:
        raise UserError(f"latents: {run.folder} was trained with one folder of latents, and {len(latents)} are given.")
    opened = open_latents_folder(latents[0], ("encode",))
    theirs = str(side.definitions["made_by"].iloc[0])
    if opened.run_key != theirs:
        raise UserError(
            f"{latents[0]}: are latents of the run {opened.run_key}, but {run.folder} was trained with those of {theirs}; encode "
            "the new people with that run."
        )
    return opened


def _with_people_of_genotypes(
    scans: pd.DataFrame, genotypes: OpenGenotypes | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Scans, then the people who passed the quality control of genotypes and have no scan."""
    if genotypes is None:
        return scans, ()
    passed = genotypes.people["subject"].astype(str)
    further = passed[~passed.isin(set(scans["subject"].astype(str)))]
    failed = set(genotypes.everybody["subject"].astype(str)) - set(passed)
    lost = scans["subject"].astype(str).isin(failed)
    notes = []
    if lost.any():
        num = spell.people(int(scans.loc[lost, "subject"].nunique()))
        notes.append(f"{num} did not pass the quality control of genotypes, and count as having none")
    if further.empty and len(scans):
        return scans, tuple(notes)
    named = {"key": further.to_numpy(), "subject": further.to_numpy(), "session": np.full(len(further), "")}
    unknown = {
        name: np.full(len(further), np.nan if is_numeric_dtype(column) else "")
        for name, column in scans.items()
        if name not in named
    }
    added = pd.DataFrame(named | unknown)
    return pd.concat([scans, added], ignore_index=True) if len(scans) else added, tuple(notes)


def _genetic_columns(side: Side, genotypes: OpenGenotypes | None, people: pd.DataFrame) -> Columns:
    if genotypes is None:
        return np.full((len(people), side.num_columns), np.nan, dtype=np.float32)
    return genetic_values(side, genotypes, people["subject"].astype(str).tolist())


def remarks_of(run: Run, people: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Ages and sites that no training person had, by row."""
    low, high = run.design.age_range_years
    sites = set(run.design.site_counts)
    found = []
    for row in people.to_dict("records"):
        reasons = []
        age = float(row.get("age_years", np.nan))
        if np.isfinite(age) and not low <= age <= high:
            reasons.append(f"age {age:.0f} is outside of the {low:.0f} to {high:.0f} years of training people")
        site = str(row.get("site") or "")
        if site and site != "nan" and site not in sites:
            reasons.append(f"no training person is of the site {site}")
        found.append(tuple(reasons))
    return tuple(found)


def far_columns(model: Fusion, values: Columns) -> list[list[str]]:
    """What lies farther from the training people than the network can tell, by row."""
    mean, std = (part.cpu().double().numpy() for part in (model.column_mean, model.column_std))
    far = np.abs((values - mean) / std) > FARTHEST  # comparisons with NaN are false
    places = {"genetics": slice(None, model.num_genetic), "scan": slice(model.num_genetic, None)}
    found: list[list[str]] = [[] for _ in values]
    for words, place in places.items():
        num = far[:, place].sum(axis=1)
        for row in np.flatnonzero(num):
            total = far[:, place].shape[1]
            found[row].append(
                f"{num[row]} of {total} measurements of the {words} lie more than {FARTHEST:g} SD from the training people"
            )
    return found
