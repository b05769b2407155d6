"""Folders of forecasts, and the later visits that they are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import Guard, SeenBy
from gen3d.cohort.visits import visits_of
from gen3d.core import words as spell
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.result_folder import inputs_of
from gen3d.forecast.folder import MODELS, REGIONS, SCANS, open_forecasts
from gen3d.models.run_folder import SUBJECTS, TRAIN, read_seen

COPY, POPULATION = "copy_forward", "population_rate"
"""Floors by their names: nothing changes; everybody changes as others of the same diagnosis, sex and age."""
SIMULATED = "simulate"
REMEDY = "forecast from an earlier visit (sessions=every, or a prepared folder of first visits)"

PAIR_COLUMNS = ("key", "key_later", "subject", "years", "diagnosis", "known")


@dataclass(frozen=True)
class LaterVisits:
    """The cohort that holds what came after: its scans, `visits` (rows of `visits_of`), and whether its truth is known exactly."""

    prepared: Prepared
    visits: pd.DataFrame
    simulated: bool

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.prepared.folders[0]

    @property
    def region_names(self) -> list[str]:
        """Regions in the order of their labels [R]."""
        return [str(name) for name in self.prepared.region_table.sort_values("label")["name"]]


@dataclass(frozen=True)
class Forecasts:
    """One folder of forecasts with the visits that came true.

    Attributes:
        name: of the folder, as in the tables.
        models: model, title, floor (bool); the forecaster first.
        scans, regions: tables of the folder.
        pairs: PAIR_COLUMNS: the scan that was moved forward, a later scan of the same person, years between them, diagnosis at
            the former, and how many visits were known then.
        num_beyond: later scans beyond the last forecast year, which are not compared.
    """

    name: str
    artefact: Artefact
    models: pd.DataFrame
    scans: pd.DataFrame
    regions: pd.DataFrame
    pairs: pd.DataFrame
    num_beyond: int

    @property
    def forecaster(self) -> str:
        """The model that is no floor."""
        return str(self.models["model"].iloc[0])

    @property
    def titles(self) -> dict[str, str]:
        """Name of a model -> its name in words."""
        return {str(model): str(title) for model, title in self.models[["model", "title"]].to_numpy()}


def open_later_visits(folder: Path, measured: bool = False) -> LaterVisits:
    """The truth: a simulated cohort, or a prepared folder that holds the later visits.

    Args:
        folder: of either.
        measured: take a simulated cohort as if nothing were known of it.

    Raises:
        UserError: no such folder; nobody in it came twice; ages that contradict the order of visits.
    """
    artefact = read(folder)
    prepared = open_prepared(folder)
    return LaterVisits(prepared, visits_of(prepared.manifest), artefact.verb == SIMULATED and not measured)


def open_all(folders: Sequence[Path], truth: LaterVisits, tolerance_years: float) -> list[Forecasts]:
    """Folders of forecasts, each with its pairs of a forecast scan and a later one.

    Raises:
        UserError: a folder given twice, of another verb, without a later visit, or made by a model that saw its people.
    """
    resolved = [folder.resolve() for folder in folders]
    twice = [folder for folder in folders if resolved.count(folder.resolve()) > 1]
    if twice:
        raise UserError(f"{twice[0]}: given twice in forecasts=; name each folder of forecasts once.")
    plain = [folder.name for folder in resolved]
    names = [
        name if plain.count(name) == 1 else f"{folder.parent.name}/{name}"
        for folder, name in zip(resolved, plain, strict=True)
    ]
    return [_open(folder, name, truth, tolerance_years) for folder, name in zip(folders, names, strict=True)]


def _open(folder: Path, name: str, truth: LaterVisits, tolerance_years: float) -> Forecasts:
    artefact = open_forecasts(folder)
    scans, regions, models = SCANS.read(folder), REGIONS.read(folder), MODELS.read(folder)
    models = models.assign(floor=models["floor"].astype(str).str.lower().isin(("true", "1", "yes")))
    models = models.sort_values("floor", kind="stable").reset_index(drop=True)
    if models.empty or bool(models["floor"].iloc[0]):
        raise UserError(f"{folder}: names no forecaster beside its floors; run `gen3d forecast` again.")
    unknown = sorted(set(regions["region"].astype(str)) - set(truth.region_names))
    if unknown:
        raise UserError(
            f"{folder}: forecasts the region {unknown[0]}, which {truth.folder} does not have; give the cohort that was "
            "prepared as the forecast scans were."
        )
    every = _pairs(scans, truth)
    last = float(pd.to_numeric(scans["years"]).max()) if len(scans) else 0.0
    within = every["years"] <= last + tolerance_years
    pairs = every[within].reset_index(drop=True)
    _require_pairs(folder, scans, truth, every, pairs, last)
    _refuse_seen(folder, artefact, truth, pairs)
    return Forecasts(name, artefact, models, scans, regions, pairs, int((~within).sum()))


def _pairs(scans: pd.DataFrame, truth: LaterVisits) -> pd.DataFrame:
    starts, rows = set(scans["key"].astype(str)), []
    for subject, visits in truth.visits.groupby("subject", sort=False):
        listed = visits.to_dict("records")
        for place, start in enumerate(listed):
            if str(start["key"]) not in starts:
                continue
            for later in listed[place + 1 :]:
                years = round(float(later["years"] - start["years"]), 4)
                diagnosis = start.get("diagnosis")
                known = "" if diagnosis is None or diagnosis != diagnosis else str(diagnosis)
                rows.append((str(start["key"]), str(later["key"]), str(subject), years, known, place + 1))
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _require_pairs(
    folder: Path, scans: pd.DataFrame, truth: LaterVisits, every: pd.DataFrame, pairs: pd.DataFrame, last: float
) -> None:
    if len(pairs):
        return
    starts = dict.fromkeys(scans["key"].astype(str))
    if not set(starts) & set(truth.prepared.manifest["key"].astype(str)):
        raise UserError(
            f"{folder}: none of its scans ({', '.join(list(starts)[:2])}) is in {truth.folder}; give as truth= the folder that "
            "holds these scans and the later ones of the same people."
        )
    if every.empty:
        raise UserError(f"{truth.folder}: no scan in it is later than those that {folder} starts from; {REMEDY}.")
    raise UserError(
        f"{folder}: looks {spell.figure(last)} years ahead, and the first later visit in {truth.folder} is after "
        f"{spell.figure(float(every['years'].min()))} years; forecast further ahead (years=[...])."
    )


def _refuse_seen(folder: Path, artefact: Artefact, truth: LaterVisits, pairs: pd.DataFrame) -> None:
    """Refuse people whom every member of the run saw, whatever the folder of forecasts did with them."""
    runs = [place for item in inputs_of(artefact, (TRAIN,)) if (place := find_input(artefact, item)) is not None]
    members = [people for run in runs if (run / SUBJECTS).is_file() for people in read_seen(run).members]
    if not members:
        return
    table = truth.prepared.manifest
    judged = table[table["subject"].astype(str).isin(set(pairs["subject"]))].reset_index(drop=True)
    guard = Guard(
        "every member of the forecaster", "errors of people it learned from are too small", "forecast other people", (),
        str(folder),
    )  # fmt: skip
    seen = SeenBy(tuple(members)).seen_by(judged)
    if any(seen):
        raise UserError(f"{guard.sentence(judged, seen)}; {guard.harm}; {guard.remedy}.")


def pair_places(pairs: pd.DataFrame, others: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pairs that two folders share, in the first and in the second: [n] each."""
    first = {pair: place for place, pair in enumerate(zip(pairs["key"], pairs["key_later"], strict=True))}
    shared = [
        (first[pair], place)
        for place, pair in enumerate(zip(others["key"], others["key_later"], strict=True))
        if pair in first
    ]
    found = np.array(shared, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
