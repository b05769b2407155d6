"""`gen3d change`: change between the scans of one person, compared with the retest differences of unchanged people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from gen3d.anomaly.calibration.retest import MIN_YEARS, RetestNoise, fit_retest, icc, reliable_change, within_person_sd
from gen3d.anomaly.change_folder import CHANGE, RETEST, write_change
from gen3d.anomaly.folder import REGIONS, SUBJECTS
from gen3d.anomaly.picture import draw_change
from gen3d.anomaly.rates import CONTROL_ROLES
from gen3d.anomaly.visit_changes import Measuring, VisitingPeople, open_people
from gen3d.anomaly.visits import write_visits
from gen3d.cohort.channels import LOG_VOLUMES, VOLUME
from gen3d.cohort.manifest import is_twin, read_manifest
from gen3d.cohort.session_order import in_order, refuse_unknown
from gen3d.core import words as spell
from gen3d.core.artefact import Artefact, read
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track, warn
from gen3d.core.result_folder import write_picture
from gen3d.core.tables import read_table
from gen3d.core.work import FolderVerb, Inputs
from gen3d.imaging.within_person import WithinSettings
from gen3d.maths.significance import fdr_adjust, p_values

MIN_AGREEMENT = 3  # pairs; `icc` needs as many

Floats = NDArray[np.float64]


class Change(FolderVerb):
    """Compare the scans of one person, region by region: the reliable change index (Jacobson and Truax 1991).

    z_change is the change of the effect (second minus first scan) minus the expected change, divided by the standard
    deviation of such differences in other controls who were scanned twice. Effects are relative to age, so ageing across
    people is already removed. The expected change is the mean change per year of these controls, if they were followed
    long enough. Each later scan of a person is compared with the first.

    Where the prepared scans are at hand, all visits of a person are also aligned with each other without favour
    (`imaging.within_person`): the change of every region is then measured within the person, with far less noise, and
    a mixed model over all people and visits gives rates per year (`maths.rates`).
    """

    maps: Folder = Field(description="maps folder (anomaly) with people who have several sessions")
    retest: Folder | None = Field(
        None, description="table channel, region, sd_within[, num_pairs] used when too few controls were scanned twice"
    )
    min_controls: int = Field(10, ge=3, description="controls scanned twice that are needed to use their differences")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate over a person's regions")
    prepared: Folders | None = Field(
        None,
        description="prepared folders with the scans of these people; not given: those that the maps were made from",
    )
    within_person: bool = Field(True, description="align the visits of each person with each other, and give rates")
    registration: WithinSettings = Field(WithinSettings(), description="how the visits of a person are aligned")
    maps_of_change: bool = Field(False, description="write the map of log volume change of every later visit")
    workers: int = execution(0, "people measured at a time, each in a process; 0: one per core", ge=0)
    figures: bool = Field(True, description="draw a picture per pair of scans")
    regions_shown: int = Field(15, ge=1, description="regions in a picture: those that changed most")

    def plan(self) -> list[str]:
        """The pairs of scans, the source of the retest differences, and the people measured within themselves."""
        pairs = _open(self.maps)
        people = self._people()
        return [
            f"compares {len(pairs.table)} pairs of scans of {pairs.table['subject'].nunique()} people",
            _describe_source(pairs, self.min_controls, self.retest),
            *(
                [f"aligns {len(people.visits)} visits of {spell.people(people.num_people)} with each other"]
                if people
                else []
            ),
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The maps, the table of retest differences and the prepared folders if they are given."""
        given: dict[str, Path | Sequence[Path]] = {"maps": self.maps}
        if self.retest is not None:
            given["retest"] = self.retest
        return given | ({"prepared": self.prepared} if self.prepared else {})

    def open_inputs(self) -> ChangeMaterial:
        """The pairs of scans, the stated retest differences with a sentence on their source, and people's visits."""
        pairs = _open(self.maps)
        stated = _read_retest(self.retest, pairs) if self.retest is not None else None
        return ChangeMaterial(pairs, stated, _describe_source(pairs, self.min_controls, self.retest), self._people())

    def _people(self) -> VisitingPeople | None:
        """People whose visits are to be measured within themselves; None where that is not wanted or cannot be.

        Raises:
            UserError: what is wrong with folders or visits that were asked for; else it is said, and there are no rates.
        """
        if not self.within_person:
            return None
        if self.prepared:
            return open_people(self.prepared)
        artefact = read(self.maps, ("anomaly",))
        folders = [find_input(artefact, item) for item in artefact.inputs.get("prepared", [])]
        found = tuple(folder for folder in folders if folder is not None)
        if not folders or len(found) < len(folders):
            say("no rates: the prepared scans of these maps are not there any more; give prepared=FOLDER.")
            return None
        try:
            return open_people(found)
        except UserError as error:
            warn(f"no rates of change within people: {error}")
            return None

    def write(self, work: Work, opened: ChangeMaterial) -> dict[str, Any]:
        """Write the change folder: change.tsv, retest.tsv, the tables of all visits, maps/, figures/."""
        pairs, stated = opened.pairs, opened.stated
        say(opened.source)
        _warn_of_long_intervals(pairs, stated is None or pairs.num_controls >= self.min_controls)
        changes = compare_sessions(pairs, stated, self.min_controls)
        agreement = retest_table(pairs)
        write_change(self.out, changes, agreement)
        by_pair = changes.groupby(["subject", "session_1", "session_2"], sort=False)
        for name, of_pair in track(by_pair, "drawing", total=len(pairs.table)) if self.figures else ():
            stem = "_".join(re.sub(r"[^0-9A-Za-z]", "", str(part)) for part in name)
            write_picture(self.out, stem, draw_change(of_pair, self.q, self.regions_shown))
        summary = _summary(pairs, changes, agreement, self.q)
        if opened.people is not None:
            measuring = Measuring(opened.people.folders, self.out, self.maps_of_change, self.registration)
            drawn = self.regions_shown if self.figures else 0
            summary["within_person"] = write_visits(
                opened.people, measuring, self.workers, self.min_controls, self.q, drawn
            )
        return summary


@dataclass(frozen=True)
class ChangeMaterial:
    """The inputs: pairs of scans, stated retest differences with a sentence on the source, and people with their visits."""

    pairs: ScanPairs
    stated: dict[str, RetestNoise] | None
    source: str
    people: VisitingPeople | None


@dataclass(frozen=True)
class ScanPairs:
    """ScanPairs of scans: `table` one row per pair; first and second [pairs, R] effects; `names` [R] channel and region.

    `retest` are the positions of the pairs from which retest differences are estimated: one pair per control.
    """

    table: pd.DataFrame
    first: Floats
    second: Floats
    names: pd.DataFrame
    retest: NDArray[np.int64]

    @property
    def num_controls(self) -> int:
        """Controls scanned twice."""
        return len(self.retest)

    def others(self, subject: str) -> NDArray[np.int64]:
        """The retest pairs without this person."""
        return self.retest[(self.table.loc[self.retest, "subject"] != subject).to_numpy()]


def _open(folder: Path) -> ScanPairs:
    artefact = read(folder, ("anomaly",))
    subjects = SUBJECTS.read(folder, "session", "age_years")
    regions = REGIONS.read(folder)
    regions = regions[regions["channel"] != VOLUME]  # tables of retest differences made before do not have it
    if "base" not in subjects:
        subjects["base"] = _bases(artefact, subjects)
    ordinary = subjects[~is_twin(subjects)]
    wide = regions.pivot_table(index="key", columns=["channel", "region"], values="effect", sort=False)
    ordinary = ordinary[ordinary["key"].isin(wide.index[wide.notna().all(axis=1)])]
    table = pair_sessions(ordinary)
    if not len(table):
        raise UserError(
            f"{folder}: no person in these maps was scanned twice, so there is no change to measure; give maps of people "
            "with several sessions."
        )
    first, second = (wide.loc[table[f"key_{place}"]].to_numpy(np.float64) for place in (1, 2))
    control = table["role"].isin(CONTROL_ROLES) & ~table["subject"].duplicated()
    return ScanPairs(table, first, second, wide.columns.to_frame(index=False), np.flatnonzero(control.to_numpy()))


def _bases(artefact: Artefact, subjects: pd.DataFrame) -> pd.Series:
    """The scan from which each planted copy was made ("" for real scans), from the cohort tables of the maps."""
    bases: dict[str, str] = {}
    for item in artefact.inputs.get("prepared", []):
        folder = find_input(artefact, item)
        if folder is None:
            warn(
                f"{artefact.folder}: {item['path']}, which its maps were made from, is not there any more, so planted copies of "
                "scans are not told from scans."
            )
            continue
        manifest = read_manifest(folder)
        if "base" in manifest:
            bases |= dict(zip(manifest["key"], manifest["base"].fillna("").astype(str), strict=True))
    return subjects["key"].map(lambda key: bases.get(key, ""))


def pair_sessions(subjects: pd.DataFrame) -> pd.DataFrame:
    """Each person's first scan (by age, then session) with every later one.

    Args:
        subjects: one row per scan: key, subject, session, role, age_years.

    Returns:
        subject, role, key_1, key_2, session_1, session_2, years (NaN where an age is missing).

    Raises:
        UserError: it is not known which session came first, so neither whether something grew or shrank.
    """
    rows = []
    for subject, scans in subjects.groupby("subject", sort=False):
        places, known = in_order(scans)
        refuse_unknown(scans, [] if known else [str(subject)], "")
        listed = scans.to_dict("records")
        order = [listed[place] for place in places]
        first = order[0]
        rows += [
            {
                "subject": str(subject), "role": first["role"], "key_1": first["key"], "key_2": later["key"],
                "session_1": first["session"], "session_2": later["session"],
                "years": later["age_years"] - first["age_years"],
            }
            for later in order[1:]
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["subject", "role", "key_1", "key_2", "session_1", "session_2", "years"])


def _describe_source(pairs: ScanPairs, min_controls: int, retest: Path | None) -> str:
    if pairs.num_controls >= min_controls:
        return f"retest differences of unchanged people: from {pairs.num_controls} controls scanned twice"
    if retest is None:
        raise UserError(
            f"only {pairs.num_controls} controls in these maps were scanned twice, at least {min_controls} are needed to "
            "estimate how much two scans of an unchanged person differ; give retest=TABLE (the retest.tsv of a cohort with "
            "the same scanning), or a smaller min_controls."
        )
    return f"retest differences of unchanged people: from {retest}"


def _read_retest(path: Path, pairs: ScanPairs) -> dict[str, RetestNoise]:
    """Per channel the stated standard deviation of a difference, in the order of the pairs' regions."""
    frame = read_table(path, ("channel", "region", "sd_within"), "give a table of gen3d change").set_index(
        ["channel", "region"]
    )
    stated: dict[str, RetestNoise] = {}
    for channel, names in pairs.names.groupby("channel", sort=False):
        index = pd.MultiIndex.from_frame(names[["channel", "region"]])
        sd = pd.to_numeric(frame["sd_within"], errors="coerce").reindex(index).to_numpy(np.float64)
        lacking = names["region"].to_numpy()[~(sd > 0)]
        if len(lacking):
            raise UserError(
                f"{path}: has no positive sd_within for {', '.join(lacking[:3])} of channel {channel}; add it, or leave "
                "the channel out of the maps."
            )
        num = (
            pd.to_numeric(frame["num_pairs"], errors="coerce").reindex(index).min() if "num_pairs" in frame else np.nan
        )
        dof = float(num) if np.isfinite(num) else np.inf
        stated[str(channel)] = RetestNoise(np.sqrt(2.0) * sd, np.zeros(len(sd)), dof, np.inf, int(np.nan_to_num(num)))
    return stated


def _warn_of_long_intervals(pairs: ScanPairs, from_controls: bool) -> None:
    """Warn of intervals longer than those of the controls.

    The standard deviation of scans weeks apart holds measurement error, but not the differences in ageing between people.
    """
    years = pairs.table["years"].fillna(0.0)
    longest = float(years.iloc[pairs.retest].max()) if from_controls and pairs.num_controls else 0.0
    beyond = pairs.table["subject"][years > max(2 * longest, MIN_YEARS)].nunique()
    if beyond:
        warn(
            f"{spell.people(beyond)} had a longer interval between scans than the controls scanned twice (at most "
            f"{spell.number(longest, 1)} years): a large z_change then means a change beyond measurement error, not "
            "necessarily beyond normal ageing."
        )


def compare_sessions(pairs: ScanPairs, stated: dict[str, RetestNoise] | None, min_controls: int) -> pd.DataFrame:
    """change.tsv: one row per pair of scans, channel and region; q is Benjamini-Hochberg over a pair's regions.

    Each person is compared with the differences of the other controls, or with the stated ones if there are too few controls.
    """
    frames = []
    difference = pairs.second - pairs.first
    years_of = pairs.table["years"].to_numpy(np.float64)
    enough_controls = pairs.num_controls >= min_controls
    for i in range(len(pairs.table)):
        row, years = pairs.table.iloc[i], float(years_of[i])
        others = pairs.others(row["subject"])
        for channel, names in pairs.names.groupby("channel", sort=False):
            of = names.index.to_numpy()
            if enough_controls or stated is None:
                noise = fit_retest(difference[np.ix_(others, of)], years_of[others], min_controls)
            else:
                noise = stated[str(channel)]
            change = difference[i, of]
            z = reliable_change(change, years, noise)
            p = p_values(z)
            logarithm = channel in LOG_VOLUMES
            block = pd.DataFrame({"channel": channel, "region": names["region"].to_numpy()})
            block["effect_1"], block["effect_2"], block["change"] = pairs.first[i, of], pairs.second[i, of], change
            block["change_percent"] = 100.0 * np.expm1(change) if logarithm else np.nan
            block["change_per_year"] = change / years if years >= MIN_YEARS else np.nan
            block["expected"] = np.nan_to_num(years) * noise.drift
            block["z_change"], block["p"], block["q"] = z, p, fdr_adjust(p)
            block["subject"], block["years"] = row["subject"], years
            block["session_1"], block["session_2"] = row["session_1"], row["session_2"]
            frames.append(block)
    return pd.concat(frames, ignore_index=True)[list(CHANGE.columns)]


def retest_table(pairs: ScanPairs) -> pd.DataFrame:
    """retest.tsv: agreement of the two scans of controls per channel and region; empty with fewer than three controls.

    `sd_within` is the standard deviation between scans of one person (any ageing between them included), `sd_between` that
    between people, `icc` ICC(2,1); `smallest_reliable_change` is 1.96 sqrt(2) sd_within, in percent for local volume.
    """
    if pairs.num_controls < MIN_AGREEMENT:
        return pd.DataFrame(columns=list(RETEST.columns))
    first, second = pairs.first[pairs.retest], pairs.second[pairs.retest]
    within, agreement = within_person_sd(first, second), icc(np.stack([first, second], axis=1))
    frame = pairs.names.copy()
    percent = frame["channel"].isin(LOG_VOLUMES).to_numpy()
    reliable = 1.96 * np.sqrt(2.0) * within
    frame["num_pairs"] = pairs.num_controls
    frame["median_years"] = float(pairs.table["years"].iloc[pairs.retest].median())
    frame["sd_within"] = within
    frame["sd_within_percent"] = np.where(percent, 100.0 * np.expm1(within), np.nan)
    frame["sd_between"] = ((first + second) / 2.0).std(axis=0, ddof=1)
    frame["icc"], frame["icc_low"], frame["icc_high"] = agreement.value, agreement.low, agreement.high
    frame["smallest_reliable_change"] = np.where(percent, 100.0 * np.expm1(reliable), reliable)
    return frame[list(RETEST.columns)]


def _summary(pairs: ScanPairs, changes: pd.DataFrame, agreement: pd.DataFrame, q: float) -> dict[str, Any]:
    """Counts, and the agreement of the two scans of controls per channel; also printed."""
    summary: dict[str, Any] = {"num_pairs": len(pairs.table), "num_controls": pairs.num_controls}
    for channel, part in changes.groupby("channel", sort=False):
        changed = part[part["q"] < q]
        people = changed["subject"].nunique()
        summary[str(channel)] = {"num_changed_regions": len(changed), "num_people_changed": people}
        say(f"{channel}: {spell.count(len(changed), 'region')} of {spell.people(people)} changed (q < {q:g})")
        of_channel = agreement[agreement["channel"] == channel]
        if len(of_channel):
            middle = of_channel[["icc", "sd_within"]].median()
            summary[str(channel)] |= {
                "median_icc": float(middle["icc"]),
                "median_sd_within": float(middle["sd_within"]),
            }
            say(
                f"  {pairs.num_controls} controls scanned twice: median over regions of ICC(2,1) {spell.number(middle['icc'])}, "
                f"of the SD within a person {spell.number(middle['sd_within'], 4)}"
            )
    return summary
