"""`gen3d norm adapt=...`: a norm for sites that it has not seen, from a few controls of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import null_figures
from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.controls import MIN_SITE_CONTROLS, Coded, ControlGroup, named_site
from gen3d.anomaly.calibration.site_shift import SiteShift, SiteSpread, fit_site_shift, held_out_site_z, site_spread
from gen3d.anomaly.compare import CompareSettings, compare, regions, voxels
from gen3d.anomaly.control_scores import FEWEST_TOGETHER
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.anomaly.norm.by_norm import require_fit
from gen3d.anomaly.norm.fit import PER_PERSON
from gen3d.anomaly.norm.folder import (
    CALIBRATION,
    CARD,
    RECORD,
    REGIONS,
    SEEN,
    VOXELS,
    NormFolder,
    NormRecord,
    channel_files,
    open_norm,
)
from gen3d.cohort.channels import CHANNELS
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import is_twin
from gen3d.cohort.seen import identities, named, recorded
from gen3d.core import words as spell
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.progress import say, warn
from gen3d.core.seal import RECORD as ARTEFACT
from gen3d.maths.design import Design
from gen3d.models.run import Run

ADAPTED = "norm (adapted)"
MOST_BEYOND = 0.08
"""Share of |z| > 1.96 in held-out controls of a site from which on the adaptation is doubted."""


@dataclass(frozen=True)
class Adapting:
    """A norm with its models, and the controls that add their sites to it: rows of `table`, one scan each."""

    norm: NormFolder
    run: Run | Ensemble
    prepared: Prepared
    table: pd.DataFrame

    @property
    def sites(self) -> dict[str, int]:
        """Number of controls of each new site."""
        return {str(site): int(num) for site, num in self.table["site"].value_counts().sort_index().items()}

    @property
    def licence(self) -> str:
        """Of the scans of the norm's controls."""
        return str(self.norm.artefact.config.get("licence", ""))

    @property
    def contact(self) -> str:
        """Whom to ask about the norm."""
        return str(self.norm.artefact.config.get("contact", ""))


def open_adapting(folder: Path, prepared: Iterable[Path]) -> Adapting:
    """Open a norm and the controls of new sites.

    Raises:
        UserError: a damaged norm, scans of another grid, no controls or fewer than 3 of a site, a site that the norm knows, or
            people whom the norm or its models have seen.
    """
    norm = open_norm(folder)
    run = load_runs(norm.run_folders)
    cohort = open_prepared(tuple(prepared))
    require_fit(norm, run, cohort)
    manifest = cohort.manifest
    controls = manifest[manifest["role"].isin(["train", "calibration"]) & ~is_twin(manifest)]
    table = controls[~controls["subject"].duplicated()].reset_index(drop=True)
    table["site"] = table["site"].where(table["site"].notna(), "").astype(str)
    if not len(table):
        raise UserError(
            f"{cohort.folders[0]}: holds no control (role train or calibration) that the norm could be adapted with; prepare "
            "healthy people of the new site."
        )
    _require_new_sites(norm, table, FEWEST_TOGETHER if norm.record.anonymous else MIN_SITE_CONTROLS)
    _require_new_people(norm, run, table)
    return Adapting(norm, run, cohort, table)


def _require_new_sites(norm: NormFolder, table: pd.DataFrame, fewest: int) -> None:
    for site, num in table["site"].value_counts().sort_index().items():
        if norm.record.controls.is_open(str(site)):
            raise UserError(
                f"{norm.folder}: has {named_site(str(site))} already, so its scans are judged as they are; leave its people out, "
                "or fit a norm of them and merge the two: gen3d norm merge=[NORM,OTHER] out=BOTH."
            )
        if not site:
            raise UserError(
                f"{spell.count(int(num), 'control')} of {table['folder'].iloc[0]} have no site, and a norm is adapted to a named "
                "one; fill the column site of the cohort table in and prepare again."
            )
        if num < fewest:
            why = "as the norm is anonymous" if norm.record.anonymous else "so that each can be judged by the others"
            raise UserError(
                f"{named_site(str(site))} has {spell.count(int(num), 'control')} and {fewest} are needed, {why}; prepare more "
                "controls of that site."
            )


def _require_new_people(norm: NormFolder, run: Run | Ensemble, table: pd.DataFrame) -> None:
    runs = run.runs if isinstance(run, Ensemble) else (run,)
    of_norm = norm.seen.seen_by(table)
    of_run = [any(not one.can_judge(person) for one in runs) for person in identities(table)]
    seen = table[[bool(what) or trained for what, trained in zip(of_norm, of_run, strict=True)]]
    if len(seen):
        raise UserError(
            f"{spell.people(len(seen))} of the controls ({named(seen['subject'].astype(str).tolist())}) are known to "
            f"{norm.folder} or its models: what they show of the new site is too little; leave them out."
        )


def plan_adapting(opened: Adapting, out: Path) -> list[str]:
    """What would be added to which norm."""
    sites = spell.listed([f"{site} ({spell.count(num, 'control')})" for site, num in opened.sites.items()])
    return [f"adds {sites} to {opened.norm.folder}, in {', '.join(opened.norm.region_channels)}", f"writes {out}"]


def write_adapted(opened: Adapting, out: Path, q: float, workers: int = 0) -> NormRecord:
    """Write the norm with the new sites, but for its card; returns its record.

    Args:
        opened: the norm and the controls.
        out: the folder, which has been begun.
        q: false discovery rate of the figures of held-out controls.
        workers: processes that compare scans, 0 for one per core.
    """
    norm, table = opened.norm, opened.table
    settings = norm.record.settings
    channels = tuple(channel for channel in CHANNELS if channel in norm.map_channels)
    comparison = CompareSettings(
        channels, int(settings["samples"]), float(settings["smoothing_mm"]), int(settings["seed"])
    )
    values = compare(out, opened.prepared, opened.run, table, comparison, workers)
    copy_but_for_records(norm.folder, out)
    record = norm.record.to_dict()
    calibration = dict(norm.calibration)
    for channel in norm.region_channels:
        group = norm.group_of(channel)
        parts = {REGIONS: (norm.regions(channel).norm, regions(channel))}
        if channel in norm.map_channels:
            parts[VOXELS] = (norm.voxels(channel), voxels(channel))
        for part, (of_part, name) in parts.items():
            adapted = adapt_part(of_part, group, table, values.by_name[name])
            files = channel_files(out, channel, part)
            record["channels"][channel][part]["shifts"] = files.write_shifts(adapted.shifts)
            if part == VOXELS or channel not in norm.map_channels:
                figures = held_out_figures(adapted, group, table, values.by_name[name], q)
                calibration[channel] = _with_figures(calibration[channel], figures)
                _tell(channel, figures)
    for name in ("controls", "measured"):
        record[name]["adapted"] |= opened.sites
    write_json(out / RECORD, record)
    write_json(out / SEEN, norm.seen.joined(recorded(table, ADAPTED)).record())
    write_json(out / CALIBRATION, calibration)
    values.discard()
    return NormRecord.from_dict(record)


def adapt_part(
    norm: ChannelNorm, group: ControlGroup, table: pd.DataFrame, values: NDArray[np.floating]
) -> ChannelNorm:
    """The norm of one part of a channel with the sites of these controls.

    Args:
        norm: of V values.
        group: how it codes people.
        table: controls of the new sites, rows of a cohort table.
        values: theirs, [n, V].
    """
    spread, model = spread_of_sites(norm, group.design), norm.model
    shifts: dict[str, SiteShift] = dict(norm.shifts)
    for site, own, deviations in _by_site(norm, group, table, values):
        known = (own.covariates, model.sd, model.gram_inverse)
        shifts[site] = fit_site_shift(deviations, *known, spread, own.spread)
    return replace(norm, shifts=shifts)


def _by_site(
    norm: ChannelNorm, group: ControlGroup, table: pd.DataFrame, values: NDArray[np.floating]
) -> Iterator[tuple[str, Coded, NDArray[np.float32]]]:
    """Each site with its people, and how far they are from the norm's average site [n, V]."""
    people = group.coded(table)
    for site in sorted(set(people.sites)):
        rows = np.flatnonzero(people.sites == site)
        ages = people.age_years[rows]
        widening = people.spread[rows] * norm.age_variance.of(ages)
        own = Coded(people.covariates[rows], widening, people.sites[rows], ages)
        yield str(site), own, np.asarray(values[rows] - norm.model.expected(own.covariates), dtype=np.float32)


def held_out_figures(
    adapted: ChannelNorm, group: ControlGroup, table: pd.DataFrame, values: NDArray[np.floating], q: float
) -> dict[str, dict[str, Any]]:
    """How far each new site is from the others, and how its controls behave when each is judged by the rest of them.

    Arguments as of `adapt_part`, with its result; `q` is the false discovery rate.
    """
    spread, model = spread_of_sites(adapted, group.design), adapted.model
    figures: dict[str, dict[str, Any]] = {}
    for site, own, deviations in _by_site(adapted, group, table, values):
        known = (own.covariates, model.sd, model.gram_inverse)
        z = held_out_site_z(deviations, *known, model.dof, spread, own.spread)
        z = z if adapted.null_map is None else adapted.null_map(z)
        held_out = null_figures(z, np.arange(len(z)), q, own.sites)
        shift = adapted.shifts[site]
        figures[site] = {
            "num_controls": len(z),
            "sd_factor": round(shift.sd_factor, 4),
            "shift_sds": round(float(np.sqrt(np.mean(np.square(shift.shift / model.sd)))), 4),
            "held_out": {name: of for name, of in held_out.items() if name not in (*PER_PERSON, "by_site")},
        }
    return figures


def spread_of_sites(norm: ChannelNorm, design: Design) -> SiteSpread:
    """How much the sites of a norm differ in one part of a channel.

    Raises:
        UserError: the norm does not hold it.
    """
    if not norm.squares:
        raise UserError("the norm does not hold how much its people differ; fit it again with `gen3d norm`.")
    rows = _site_rows(design)
    return site_spread(
        rows @ norm.model.coefficients,
        np.einsum("ip,pq,iq->i", rows, norm.model.gram_inverse, rows),
        norm.model.sd,
        list(norm.squares.values()),
    )


def _site_rows(design: Design) -> NDArray[np.float64]:
    """Rows whose prediction is the difference of each site from the mean over sites, [S, p]; none without a term for it."""
    sites = list(design.sites) if "site" in design.terms else []
    unknown = [None] * len(sites)
    return design.matrix(unknown, unknown, sites) - design.matrix(unknown, unknown, [""] * len(sites))


def _with_figures(record: dict[str, Any], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return record | {"adapted": record.get("adapted", {}) | figures}


def _tell(channel: str, figures: dict[str, dict[str, Any]]) -> None:
    for site, of_site in figures.items():
        beyond = of_site["held_out"]["share_beyond_1.96"]
        say(
            f"{channel}: {named_site(site)} differs by {spell.number(of_site['shift_sds'])} SDs and scatters "
            f"{spell.number(of_site['sd_factor'])} times as much as others; each of its {of_site['num_controls']} controls judged "
            f"by the others: |z| > 1.96 in {spell.percent(beyond)}"
        )
        if beyond > MOST_BEYOND:
            warn(
                f"{channel}: {named_site(site)} is not calibrated well by {of_site['num_controls']} controls (5 % is right): look "
                "at their scans, or add more."
            )


def copy_but_for_records(source: Path, out: Path) -> None:
    """Copy the files of a norm that adaptation leaves as they are."""
    for path in sorted(source.iterdir()):
        if path.name in (ARTEFACT, RECORD, SEEN, CALIBRATION, CARD) or path.name.startswith("."):
            continue
        target = out / path.name
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
        else:
            shutil.copy2(path, target)
