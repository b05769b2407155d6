"""Merge finished norms by their sums alone: two hospitals, neither sees the other's scans.

Coefficients and SDs are those of a fit of all controls together, because their sums are added and the design is chosen again. A
factor of the residual SD of a site is estimated from the sums of that site under the merged fit; what needs single people, how
far the mean of log m over people lies from the logarithm of their mean, and how people of a site differ, each norm has kept
(`calibration.site_variance`). The empirical null and the scores of controls are those of both norms put together: each control
is held out from its own norm only. What the pools have in common is how many SDs people are away, not z: z of a small norm is
drawn in by its few degrees of freedom, so it is turned into the z that the merged norm gives to as many SDs. Where tails are
heavier than normal that makes z smaller rather than larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import AgeVariance
from gen3d.anomaly.calibration.calibrate import describe_age
from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.controls import LEAST_ALLOWED, ControlGroup, SiteGate
from gen3d.anomaly.calibration.empirical_null import CENTRES, EDGES, Counts
from gen3d.anomaly.calibration.normative import model_of, variance_smoother
from gen3d.anomaly.calibration.site_shift import Squares
from gen3d.anomaly.calibration.site_variance import ITERATIONS, SiteVariance, shrunken_factors, some_voxels
from gen3d.anomaly.calibration.student import t_to_z
from gen3d.anomaly.calibration.sums import ValueSums
from gen3d.anomaly.control_scores import ControlScores
from gen3d.anomaly.norm.curves import CurveModel, curve_model, write_best_curves
from gen3d.anomaly.norm.fit import copy_folder
from gen3d.anomaly.norm.folder import (
    CENTILES,
    REGIONS,
    RUNS,
    VOXELS,
    NormFolder,
    NormRecord,
    channel_files,
    open_norm,
    write_norm,
)
from gen3d.cohort.seen import SeenBy
from gen3d.core import words as spell
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.progress import say, track
from gen3d.imaging.plan import write_plan
from gen3d.imaging.template import template_on
from gen3d.maths.covariate_sums import CovariateSums
from gen3d.maths.design import MIN_GROUP, Design

PLAN = "plan.json"


def open_norms(folders: Sequence[Path]) -> list[NormFolder]:
    """Open norms that are to be merged.

    Raises:
        UserError: fewer than two, or norms that cannot be one: other plans, models, settings or versions, adapted sites, no sums,
            or one person in two of them.
    """
    norms = [open_norm(folder) for folder in folders]
    if len(norms) < 2:
        raise UserError("merge= needs two norms or more: give merge=[NORM_A,NORM_B].")
    first = norms[0]
    for other in norms[1:]:
        _require_same(first, other)
    for norm in norms:
        if norm.record.controls.adapted:
            sites = spell.listed(sorted(norm.record.controls.adapted))
            raise UserError(
                f"{norm.folder}: {sites} was added by adapt=, and only its shift is known; merge the norms it came from, and adapt "
                "the merged norm again."
            )
        for channel, parts in norm.record.channels.items():
            if not all("groups" in part for name, part in parts.items() if name != "names"):
                raise UserError(
                    f"{norm.folder}: keeps no sums over people of {channel} (anonymous=true with few people in a group), and "
                    "norms are merged by their sums; fit it without anonymous=true."
                )
    _refuse_same_person(norms)
    return norms


def _require_same(first: NormFolder, other: NormFolder) -> None:
    both = f"{first.folder} and {other.folder}"
    if first.plan.key != other.plan.key:
        raise UserError(
            f"{both}: norms of other grids ({first.plan.difference(other.plan)}); fit both on the same plan."
        )
    keys = [[read(folder).key for folder in norm.run_folders] for norm in (first, other)]
    if keys[0] != keys[1]:
        raise UserError(
            f"{both}: fitted with other models; fit both with the same run=, copied from one place to the other."
        )
    mine, theirs = first.record.settings, other.record.settings
    changed = [name for name in mine if mine[name] != theirs.get(name)]
    if changed:
        raise UserError(
            f"{both}: fitted with other settings ({changed[0]} is {mine[changed[0]]} and {theirs.get(changed[0])}); fit both with "
            "the same."
        )
    if first.artefact.version != other.artefact.version:
        raise UserError(
            f"{both}: fitted by gen3d {first.artefact.version} and {other.artefact.version}; fit both with one version."
        )
    names = {channel: parts["names"] for channel, parts in first.record.channels.items()}
    if names != {channel: parts["names"] for channel, parts in other.record.channels.items()}:
        raise UserError(
            f"{both}: have other channels or regions; fit both with the same channels= on the same cohort settings."
        )


def _refuse_same_person(norms: Sequence[NormFolder]) -> None:
    known: dict[str, NormFolder] = {}
    for norm in norms:
        for person in norm.seen.members[0]:
            earlier = known.setdefault(person, norm)
            if earlier is not norm:
                raise UserError(
                    f"{earlier.folder} and {norm.folder}: have the same person among their controls (by id or by scan), who would "
                    "count twice; fit one of them without."
                )


def merge(norms: Sequence[NormFolder], out: Path) -> NormRecord:
    """Write the merged norm but for its card and pictures."""
    first = norms[0].record
    covariates = CovariateSums.merged(norm.record.covariates for norm in norms)
    controls = _merged_group([norm.record.controls for norm in norms], covariates, _terms(first, first.controls))
    measured = _merged_group([norm.record.measured for norm in norms], covariates, _terms(first, first.measured))
    anonymous = any(norm.record.anonymous for norm in norms)
    record = replace(
        first, controls=controls, measured=measured, covariates=covariates, who=_who(norms), anonymous=anonymous
    )
    spacing_mm = norms[0].plan.spacing_mm
    mask = template_on(norms[0].plan).mask
    if int(mask.sum()) != first.num_voxels:
        raise UserError(f"{norms[0].folder}: fitted on another brain mask than this version has; fit it again.")
    fwhm = float(first.settings["variance_smoothing_mm"]) / spacing_mm
    channels: dict[str, dict[str, Any]] = {}
    calibration, with_curves = _merged_calibration(norms, record), dict[str, CurveModel]()
    for channel in track(list(first.channels), "merging"):
        group = controls if channel in norms[0].map_channels else measured
        parts: dict[str, Any] = {"names": first.channels[channel]["names"]}
        merged = None
        if channel in norms[0].map_channels:
            merged = _merged_norm(norms, channel, VOXELS, group, variance_smoother(mask, fwhm))
            parts[VOXELS] = channel_files(out, channel, VOXELS).write(merged)
        regional = _merged_norm(norms, channel, REGIONS, group, None)
        scores = _merged_scores(norms, channel)
        parts[REGIONS] = channel_files(out, channel, REGIONS).write(regional, scores)
        calibration[channel]["age_effects"] = describe_age(regional if merged is None else merged)
        names = tuple(str(name) for name in parts["names"])
        with_curves[channel] = curve_model(channel, names, regional, group.design)
        channels[channel] = parts
    record = replace(record, channels=channels)
    write_best_curves(out, with_curves)
    if norms[0].latents is not None:
        say("distances in latent space are not merged; fit a norm of all controls for those")
    seen = SeenBy(({person: what for norm in norms for person, what in norm.seen.members[0].items()},))
    write_plan(out / PLAN, norms[0].plan)
    write_norm(out, record, seen, _merged_ranges(norms), calibration, None)
    for number, source in enumerate(norms[0].run_folders):
        copy_folder(source, out / RUNS / str(number))
    return record


def _terms(record: NormRecord, group: ControlGroup) -> tuple[str, ...]:
    """The covariates that a group's design chooses from; none where the model predicts from them itself."""
    return () if group.predicted is not None else tuple(record.settings["covariates"])


def _merged_group(groups: Sequence[ControlGroup], covariates: CovariateSums, terms: Sequence[str]) -> ControlGroup:
    gate, predicted = groups[0].gate, groups[0].predicted
    numbers = covariates.site_counts
    least = LEAST_ALLOWED if gate.few == "allow" else MIN_GROUP
    inverse = None if predicted is None else np.asarray(np.linalg.pinv(predicted.gram(covariates)), dtype=np.float64)
    return ControlGroup(
        Design.choose(covariates, terms, least), SiteGate(numbers, gate.required, gate.few), predicted, inverse
    )


def _merged_norm(norms: Sequence[NormFolder], channel: str, part: str, group: ControlGroup, smooth: Any) -> ChannelNorm:
    records = [norm.record.channels[channel][part] for norm in norms]
    files = [channel_files(norm.folder, channel, part) for norm in norms]
    sums = ValueSums.merged(file.read_sums(record) for file, record in zip(files, records, strict=True))
    olds = [norm.voxels(channel) if part == VOXELS else norm.regions(channel).norm for norm in norms]
    transforms = [group.design.transform(of) for of in sums.groups]
    free = [of[group.design.free] for of in transforms]
    factors = _merged_factors(sums, free, [old.site_variance for old in olds])
    weights = factors.of([of.site for of in sums.groups]) ** -2.0
    bends = sums.likeliest(transforms, weights, group.design.bends)
    fitted = sums.fit(transforms, weights, bends=bends)
    model = model_of(fitted, smooth).with_floor(max(old.model.floor for old in olds))
    counts = [under_dof(old.null_counts, old.model.dof, model.dof) for old in olds if old.null_counts is not None]
    pool = np.sum(counts, axis=0) if len(counts) == len(olds) else None
    by_age = reduce(AgeVariance.merged, [old.age_variance for old in olds])
    return ChannelNorm(model, factors, pool, sums, squares=_merged_squares(olds), age_variance=by_age, bends=bends)


def under_dof(counts: Counts, before: float, after: float) -> Counts:
    """A histogram of z (`empirical_null.count`) from t with `before` degrees of freedom, as it is with `after`."""
    t = np.sinh(np.linspace(0.0, 12.0, 12_001))
    moved = np.copysign(np.interp(np.abs(CENTRES), t_to_z(t, before), t_to_z(t, after)), CENTRES)
    return np.histogram(moved, EDGES, weights=counts)[0]


def _merged_squares(olds: Sequence[ChannelNorm]) -> dict[str, Squares]:
    """How much the people of each site scatter, each in units of the SDs of the norm that held them out."""
    squares: dict[str, Squares] = {}
    for old in olds:
        for site, of_site in old.squares.items():
            squares[site] = squares[site].merged(of_site) if site in squares else of_site
    return squares


def _merged_factors(
    sums: ValueSums, transforms: Sequence[NDArray[np.float64]], olds: Sequence[SiteVariance]
) -> SiteVariance:
    """Factors of the sites of all norms under the merged fit, from sums."""
    num_people: dict[str, int] = {}
    for of, num in zip(sums.groups, sums.num, strict=True):
        num_people[of.site] = num_people.get(of.site, 0) + int(num)
    if not any(old.factors for old in olds):
        return SiteVariance({}, {})
    large = sorted(site for site, num in num_people.items() if num >= MIN_GROUP)
    offsets, within = _kept_facts(olds, large)
    factors = SiteVariance(dict.fromkeys(large, 1.0), num_people, offsets, within)
    few = sums.part(some_voxels(sums.num_values))
    for _ in range(ITERATIONS if len(large) > 1 else 0):
        squares = _site_squares(few, transforms, factors, large)
        means = np.log(squares) + np.array([offsets[site] for site in large])
        numbers = np.array([num_people[site] for site in large], dtype=np.float64)
        factors = replace(factors, factors=shrunken_factors(means, numbers, within, large))
    return factors


def _kept_facts(olds: Sequence[SiteVariance], sites: Sequence[str]) -> tuple[dict[str, float], float]:
    """Offsets of sites and the variance within them, averaged over the norms by people."""
    offsets = {}
    for site in sites:
        known = [old for old in olds if site in old.offsets]
        numbers = [old.num_people[site] for old in known]
        offsets[site] = float(np.average([old.offsets[site] for old in known], weights=numbers)) if known else 0.0
    weights = [max(1, sum(old.num_people.values()) - len(old.offsets)) for old in olds]
    return offsets, float(np.average([old.within for old in olds], weights=weights))


def _site_squares(
    sums: ValueSums, transforms: Sequence[NDArray[np.float64]], factors: SiteVariance, sites: Sequence[str]
) -> NDArray[np.float64]:
    """Mean over voxels and people of a site of the squared residual in units of the common variance, corrected for leverage."""
    weights = factors.of([of.site for of in sums.groups]) ** -2.0
    fitted = sums.fit(transforms, weights)
    variance = fitted.squares
    varying = variance > 0
    result = []
    for site in sites:
        left, freedom = np.zeros(sums.num_values), 0.0
        for place, of in enumerate(sums.groups):
            if of.site != site:
                continue
            transform = transforms[place]
            cross, gram = transform @ sums.cross[place], transform @ sums.gram[place] @ transform.T
            left += sums.squares[place] - 2 * np.einsum("pv,pv->v", fitted.coefficients, cross)
            left += np.einsum("pv,pq,qv->v", fitted.coefficients, gram, fitted.coefficients)
            freedom += float(sums.num[place]) - float(weights[place] * np.trace(fitted.gram_inverse @ gram))
        share = left[varying] / variance[varying]
        result.append(float(share.mean()) / max(freedom, 1e-3))
    return np.array(result)


def _merged_scores(norms: Sequence[NormFolder], channel: str) -> ControlScores:
    scores = norms[0].regions(channel).scores
    for norm in norms[1:]:
        scores = scores.merged(norm.regions(channel).scores)
    return scores


def _merged_ranges(norms: Sequence[NormFolder]) -> pd.DataFrame:
    """Centiles averaged by people."""
    weights = np.array([norm.record.covariates.num_people for norm in norms], dtype=np.float64)
    ranges = norms[0].ranges.copy()
    for name in (f"p{centile:02d}" for centile in CENTILES):
        columns = [norm.ranges[name].to_numpy(dtype=np.float64) for norm in norms]
        ranges[name] = np.average(columns, axis=0, weights=weights)
    return ranges


def _who(norms: Sequence[NormFolder]) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str, str], int] = {}
    for row in (row for norm in norms for row in norm.record.who):
        key = (str(row["site"]), str(row["age"]), str(row["sex"]))
        counts[key] = counts.get(key, 0) + int(row["num"])
    return [{"site": site, "age": age, "sex": sex, "num": num} for (site, age, sex), num in sorted(counts.items())]


def _merged_calibration(norms: Sequence[NormFolder], record: NormRecord) -> dict[str, Any]:
    """How held-out controls behaved in their own norms, averaged by people."""
    merged: dict[str, Any] = {}
    for channel in record.channels:
        of_norms = [norm.calibration[channel] for norm in norms]
        group = record.controls if channel in norms[0].map_channels else record.measured
        merged[channel] = of_norms[0] | {
            "num_controls": record.covariates.num_people,
            "columns": list(group.design.columns),
            "terms": list(group.design.terms),
            "dropped": group.design.dropped,
            "sites": group.design.site_counts,
            "age_range_years": list(group.design.age_range_years),
        }
        for part in ("calibration_held_out", "test"):
            merged[channel][part] = _averaged([of[part] for of in of_norms])
        references = [of["references"] for of in of_norms]
        merged[channel]["references"] = {
            name: _joined_reference([of[name] for of in references]) for name in references[0]
        }
    return merged


def _averaged(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = [of for of in figures if of["num_people"]]
    if not known:
        return {"num_people": 0}
    weights = [of["num_people"] for of in known]
    names = ("mean", "sd", "share_beyond_1.96", "share_people_fdr_positive")
    result: dict[str, Any] = {name: float(np.average([of[name] for of in known], weights=weights)) for name in names}
    sites: dict[str, list[Mapping[str, Any]]] = {}
    for of in known:
        for site, of_site in of["by_site"].items():
            sites.setdefault(site, []).append(of_site)
    by_site = {}
    for site, several in sorted(sites.items()):
        numbers = [of["num_people"] for of in several]
        by_site[site] = {"num_people": sum(numbers)} | {
            name: float(np.average([of[name] for of in several], weights=numbers)) for name in names[2:]
        }
    return {"num_people": sum(weights), **result, "by_site": by_site}


def _joined_reference(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    num = sum(int(of["num_controls"]) for of in several)
    outlying = [person for of in several for person in of["outlying"]]
    next_scores = [of["next_score"] for of in several if of["next_score"] is not None]
    return {
        "num_controls": num,
        "smallest_rank_p": 1.0 / (num + 1),
        "next_score": max(next_scores, default=None),
        "outlying": outlying,
    }
