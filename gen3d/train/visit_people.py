"""The people of a forecaster: everybody who came more than once, dealt over members so that somebody never saw each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.coding import MISSING, Coding
from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Target
from gen3d.cohort.visits import pairs_of, refuse_backward_diagnoses, visits_of
from gen3d.core.errors import UserError
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.train.labelled import LabelledPeople
from gen3d.train.learners import RunPeople

Rows = NDArray[np.int64]

FEWEST_PEOPLE = 10
"""With visits: fewer show neither a rate nor how sure one may be of it."""
DEALT, KEPT_OUT, SHUFFLED = 30, 31, 32
"""Uses of the seed."""
MAIN, PERMUTED = "main", "permuted"


@dataclass(frozen=True)
class VisitShare:
    """One member's part of the visits.

    Attributes:
        variant: `main`, or `permuted` for a control that learns from permuted times.
        training: rows of `VisitPeople.frame` that it learns from.
        blind: rows of people whom it never sees; its errors for them are kept.
        years: [n] years of every row since the person's first visit, as this member believes.
    """

    variant: str
    training: Rows
    blind: Rows
    years: NDArray[np.float64]


@dataclass(frozen=True)
class VisitPeople:
    """Scans of people with two visits or more, and who learns from whom.

    Attributes:
        frame: a row per scan, as of `visits_of`: a person's rows stand together in the order of time.
        pairs: pairs of visits to learn from, the earlier first: PAIR_COLUMNS and the rows of both in `frame`, `row_1` and
            `row_2`.
        num_folds: 1, or the number of folds.
        shares: one per member; those with permuted times come last.
        notes: sentences on pairs and people that are left out.
    """

    frame: pd.DataFrame
    pairs: pd.DataFrame
    num_folds: int
    shares: tuple[VisitShare, ...]
    notes: tuple[str, ...]

    @property
    def people(self) -> RunPeople:
        """The scans, and the rows that each member learns from."""
        return RunPeople(self.frame, tuple(share.training for share in self.shares))

    @property
    def subjects(self) -> NDArray[np.str_]:
        """Person of every row, [n]."""
        return self.frame["subject"].astype(str).to_numpy(dtype=np.str_)

    @property
    def num_people(self) -> int:
        """People with visits."""
        return len(np.unique(self.subjects))

    @property
    def longest_years(self) -> float:
        """The longest time between the visits of a pair."""
        return float(self.pairs["years"].max())

    def count(self, rows: Rows) -> int:
        """People of these rows."""
        return len(np.unique(self.subjects[rows]))

    def stretches(self, subject: str, across_scanners: bool) -> list[Rows]:
        """Rows of a person's visits at each site, or of all; a rate is told within each of them alone."""
        rows = np.flatnonzero(self.subjects == subject)
        if across_scanners or "site" not in self.frame:
            return [rows]
        sites = self.frame["site"].astype(object).where(self.frame["site"].notna(), "").astype(str).to_numpy()[rows]
        return [rows[sites == site] for site in dict.fromkeys(sites)]

    def earlier(self, row: int, across_scanners: bool) -> list[int]:
        """Rows of the person's visits before this one, in its stretch."""
        stretches = self.stretches(str(self.subjects[row]), across_scanners)
        own = next(rows for rows in stretches if row in rows)
        return [int(each) for each in own if each < row]

    def pairs_within(self, rows: Rows) -> pd.DataFrame:
        """Pairs whose scans are both among these rows."""
        inside = self.pairs["row_1"].isin(rows) & self.pairs["row_2"].isin(rows)
        return self.pairs[inside].reset_index(drop=True)

    def known_conditions(self, names: tuple[str, ...]) -> tuple[Coding, list[str]]:
        """The coding of these columns, and a sentence for each one that has a single value here and is left out.

        Raises:
            UserError: a column that is not there, or whose values are no numbers and no words.
        """
        kept, notes = [], []
        for name in names:
            values = self.frame[name].astype(str).str.strip() if name in self.frame else None
            if values is not None and values[~values.str.lower().isin(MISSING)].nunique() < 2:
                notes.append(f"model.conditions: {name} has no two values in the people with visits and is left out")
            else:
                kept.append(name)
        return Coding.fit(self.frame, kept), notes


def choose_visit_people(
    prepared: Prepared, config: ForecastConfig, cross_fit: int, seed: int, before: SeenBy | None = None
) -> VisitPeople:
    """Everybody with two visits or more, of any diagnosis and any role but `excluded`, shared out over the members.

    Planted twins and synthetic scans are never used. With `cross_fit`=K member k is blind to fold k of the people; with 1
    the only member is blind to a share `config.calibration` of them. All visits of a person stay together.

    Args:
        prepared: the scans.
        config: of the forecaster.
        cross_fit: folds.
        seed: of folds, of who is kept out, and of permutations.
        before: who was seen by a model that the forecaster stands on; nobody is kept out who was seen there. With as many
            members as folds, member k stands on member k.

    Raises:
        UserError: nobody came twice; ages that are missing or contradict the sessions; a diagnosis that goes backwards; no
            pair of visits far enough apart, or none at one site; too few people.
    """
    visits = visits_of(prepared.manifest)
    refuse_backward_diagnoses(visits)
    pairs, notes = _usable_pairs(pairs_of(visits), config)
    frame = visits[visits["key"].isin({*pairs["key_1"], *pairs["key_2"]})].reset_index(drop=True)
    row_of = {key: row for row, key in enumerate(frame["key"])}
    pairs = pairs.assign(row_1=pairs["key_1"].map(row_of), row_2=pairs["key_2"].map(row_of)).reset_index(drop=True)
    num = frame["subject"].nunique()
    if num < max(FEWEST_PEOPLE, 2 * cross_fit):
        raise UserError(
            f"{num} people with two usable visits are too few to learn change from; at least "
            f"{max(FEWEST_PEOPLE, 2 * cross_fit)} are needed: add people, or lower model.min_years or cross_fit."
        )
    people = _by_diagnosis(frame)
    shares = _shares(people, frame, config, cross_fit, seed, before)
    return VisitPeople(frame, pairs, cross_fit, shares, notes)


def _usable_pairs(pairs: pd.DataFrame, config: ForecastConfig) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The pairs to learn from, and a sentence on those left out."""
    notes = []
    far = pairs["years"] >= config.min_years
    if not far.any():
        raise UserError(
            f"no two visits of a person are {config.min_years:g} years apart or more (the longest time is "
            f"{pairs['years'].max():.2f} years); lower model.min_years, or add later visits."
        )
    if (~far).any():
        notes.append(
            f"{int((~far).sum())} of {len(pairs)} pairs are less than {config.min_years:g} years apart and left out"
        )
    near = pairs[far]
    same = near["same_scanner"].astype(bool)
    if config.across_scanners or same.all():
        return near, tuple(notes)
    if not same.any():
        raise UserError(
            f"all {len(near)} pairs of visits are from different sites, where a change may be the scanner's; set "
            "model.across_scanners=true to learn from them all the same, or add visits at one site."
        )
    notes.append(
        f"{int((~same).sum())} of {len(near)} pairs of visits are from different sites, where a change may be the scanner's, "
        "and left out; model.across_scanners=true takes them in"
    )
    return near[same], tuple(notes)


def _by_diagnosis(frame: pd.DataFrame) -> LabelledPeople:
    """The people, dealt out by their diagnosis at the first visit."""
    first = frame.groupby(frame["subject"].astype(str), sort=False)["diagnosis"].transform("first")
    names = first.astype(object).where(first.notna(), "").astype(str)
    classes = tuple(sorted(set(names)))
    return LabelledPeople.of(
        frame, Target("diagnosis", "categories", classes), names.map(classes.index).to_numpy(dtype=np.float64)
    )


def _shares(
    people: LabelledPeople,
    frame: pd.DataFrame,
    config: ForecastConfig,
    cross_fit: int,
    seed: int,
    before: SeenBy | None,
) -> tuple[VisitShare, ...]:
    free, given = _unseen(people, frame, before)
    if cross_fit == 1:
        generator = np.random.default_rng([seed, KEPT_OUT])
        blind = [people.spread(people.watching(config.calibration, free, generator))]
    else:
        dealt = people.deal(cross_fit, np.random.default_rng([seed, DEALT]), among=free)
        folds = people.spread(np.where(free, dealt, given))
        blind = [folds == fold for fold in range(cross_fit)]
    years = frame["years"].to_numpy(dtype=np.float64)
    shares = [VisitShare(MAIN, np.flatnonzero(~out), np.flatnonzero(out), years) for out in blind]
    for number in range(config.permuted):
        share = shares[number % cross_fit]
        shuffled = permuted_years(frame, share.training, np.random.default_rng([seed, SHUFFLED, number]))
        shares.append(replace(share, variant=PERMUTED, years=shuffled))
    return tuple(shares)


def _unseen(people: LabelledPeople, frame: pd.DataFrame, before: SeenBy | None) -> tuple[NDArray[np.bool_], Rows]:
    """Whether no member of the model before saw a person, [p]; else the only member that did not, -1 where all did, [p]."""
    if before is None:
        return np.ones(len(people.subjects), dtype=bool), np.full(len(people.subjects), -1)
    blind = before.blind(frame)
    of_scan = {subject: row for row, subject in enumerate(frame["subject"].astype(str))}
    of_person = blind[:, [of_scan[str(subject)] for subject in people.subjects]]
    only = np.where(of_person.any(axis=0), of_person.argmax(axis=0), -1)
    return np.asarray(of_person.all(axis=0), dtype=bool), only.astype(np.int64)


def permuted_years(frame: pd.DataFrame, rows: Rows, generator: np.random.Generator) -> NDArray[np.float64]:
    """Years [n] after people with equally many visits among these rows exchanged their times, each in random order.

    The order within a person is drawn as well: where all came at the same times an exchange alone would change nothing.
    """
    years = frame["years"].to_numpy(dtype=np.float64).copy()
    chosen = frame.iloc[rows].assign(_row=rows)
    of_person = [group["_row"].to_numpy() for _, group in chosen.groupby(chosen["subject"].astype(str), sort=False)]
    for size in sorted({len(group) for group in of_person}):
        equal = [group for group in of_person if len(group) == size]
        donors = generator.permutation(len(equal))
        times = [years[equal[donor]] for donor in donors]
        for group, given in zip(equal, times, strict=True):
            years[group] = given[generator.permutation(size)]
    return years
