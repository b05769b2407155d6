"""One card per person: scores compared with controls, maps, and regions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from gen3d.anomaly.folder import P_CONFORMAL, MapsFolder
from gen3d.cohort.channels import ON_TEMPLATE
from gen3d.cohort.region_validity import LEAST_R, measures_volume, remark, validity
from gen3d.core import words as spell
from gen3d.core.tables import rows_of
from gen3d.figures import brain
from gen3d.figures import names as wording
from gen3d.figures.blocks import Card, Cell, Details, Figure, Section, Table, Text
from gen3d.figures.charts import range_strip
from gen3d.figures.context import Context, page_section

LIMIT, THRESHOLD = 6.0, 2.5
MOST_BY_NORM = 4
"""Cards of each further maps folder whose people a norm judged, who are not in the first one."""

REGIONS_SHOWN = {"deformation": 6, "residual": 3, "structural": 2}
WIDTH_INCHES, DOTS_PER_INCH, LIGHTBOX_DOTS_PER_INCH = 4.1, 200, 100


@page_section("Individual people", "`gen3d anomaly`", place=60, reads=MapsFolder)
def section(context: Context) -> Section | None:
    """The most deviating person of each diagnosis in turn, then typical held-out controls."""
    lead = context.first(MapsFolder)
    if lead is None or context.subjects_shown == 0 or not len(lead.subjects):
        return None
    chosen = choose(lead, context.subjects_shown)
    cards: list[Any] = []
    numbers: list[dict[str, Any]] = []
    for key in chosen:
        card, of_person = _card(context, lead, key)
        cards.append(card)
        numbers.append(of_person)
    for maps in context.all(MapsFolder)[1:]:
        further = (
            [key for key in choose(maps, MOST_BY_NORM) if key not in set(lead.subjects["key"])] if maps.by_norm else []
        )
        if further:
            shown = [_card(context, maps, key) for key in further]
            blocks = [Text(f"{_who_is_shown(maps, len(further))} Maps and regions are those of {maps.name}.")]
            cards.append(Details(f"New people: {maps.name}", [*blocks, *(card for card, _ in shown)]))
            numbers += [of_person for _, of_person in shown]
    text = (
        f"{_who_is_shown(lead, len(chosen))} Maps and regions are those of {lead.name}. The numbers of all people are in "
        "regions.tsv and subjects.tsv of the maps folder."
    )
    others = f"{lead.judged_by}" if lead.by_norm else "the other controls"
    reading = (
        f"Slices go through the strongest finding of each channel. Colour fades out below |z| = {THRESHOLD:g}; a dark "
        f"line surrounds voxels that survive the false discovery rate of 5 %. {brain.CONVENTION} Local volume is drawn on "
        "the template, because it is measured there. In the tables the grey band spans the 5th to the 95th percentile of "
        f"{others}. The dot is this person, on a common scale per channel; it is filled where q < 0.05 over the "
        "person's regions."
    )
    return Section("people", "Individual people", [Text(text), Text(reading, "note"), *cards], {"shown": numbers})


def _who_is_shown(maps: MapsFolder, num_shown: int) -> str:
    """How the people with a card were chosen, and whom they are compared with."""
    num = len(maps.subjects)
    compared = f", judged by {maps.judged_by}" if maps.by_norm else ""
    if num == 1:
        return f"One scan{compared}."
    shown = f"{spell.capital(spell.people(num_shown))} of {num} shown{compared}"
    if len(maps.reference):
        return f"{shown}: the most deviating people of every diagnosis in turn, then typical held-out controls."
    return f"{shown}: the most deviating people."


def choose(maps: MapsFolder, num_shown: int) -> list[str]:
    """Keys of the people to show: two thirds the most deviating, diagnosis by diagnosis, one third typical controls.

    A person's deviation is the largest of the scores, each in robust SDs (median, MAD) of the reference controls.
    """
    table = maps.subjects.set_index("key")
    reference = maps.reference if len(maps.reference) else maps.subjects[maps.controls]
    standard = []
    for score in maps.headline_scores:
        well = reference[score.column].dropna()
        if len(well) >= 2:
            spread = 1.4826 * float((well - well.median()).abs().median())
            standard.append((table[score.column] - well.median()) / (spread if spread > 0 else 1.0))
    if not standard:
        return _by_percentile(maps, table)[:num_shown]
    deviation = pd.concat(standard, axis=1).max(axis=1, skipna=True)
    evaluated = deviation[maps.evaluated["key"]].dropna()
    by_diagnosis = evaluated.groupby(table.loc[evaluated.index, "diagnosis"])
    ranked = sorted((part.sort_values(ascending=False) for _, part in by_diagnosis), key=lambda part: -part.iloc[0])
    in_turn = [
        str(key) for tier in itertools.zip_longest(*[part.index for part in ranked]) for key in tier if key is not None
    ]
    well = deviation[maps.reference["key"]].dropna()
    typical = [str(key) for key in (well - well.median()).abs().sort_values(kind="stable").index]
    num_typical = min(len(typical), max(num_shown // 3, num_shown - len(in_turn)))
    return in_turn[: num_shown - num_typical] + typical[:num_typical]


def _by_percentile(maps: MapsFolder, table: pd.DataFrame) -> list[str]:
    """Keys by the highest percentile among the controls of the calibration, where nobody else is there to compare with."""
    columns = [score.percentile_column for score in maps.headline_scores if score.percentile_column in table]
    highest = table[columns].max(axis=1, skipna=True) if columns else pd.Series(0.0, table.index)
    return [str(key) for key in highest.sort_values(ascending=False, kind="stable", na_position="last").index]


def _card(context: Context, maps: MapsFolder, key: str) -> tuple[Card, dict[str, Any]]:
    row = maps.row(key)
    regions = maps.regions[maps.regions["key"] == key]
    clusters = maps.clusters[maps.clusters["key"] == key]
    blocks: list[Any] = [Text(findings(maps, key))]
    if row.get("flags"):
        blocks.append(Text(f"Flagged: {row['flags']}.", "warning"))
    blocks += _figures(context, maps, key)
    standing = [item for item in _standing(maps, row) if np.isfinite(item["score"])]
    if standing:
        blocks.append(_standing_table(standing, maps.by_norm))
    shown = _strongest(maps, regions, str(row["subject"]))
    if shown:
        blocks.append(_region_table(shown))
    if len(clusters):
        blocks.append(Details(f"Clusters ({len(clusters)})", [_cluster_table(clusters, maps.cluster_z)]))
    numbers = {"key": key, "scores": standing, "regions": shown}
    return Card(_title(row, key), _subtitle(row), blocks, identifier=f"person-{key}"), numbers


def findings(maps: MapsFolder, key: str) -> str:
    """Sentences on a person: the strongest volume, the size of the brain, the rarest cluster."""
    regions = maps.regions[maps.regions["key"] == key]
    clusters = maps.clusters[maps.clusters["key"] == key]
    return _strongest_sentence(regions) + _size_sentence(regions) + _cluster_sentence(clusters)


def _title(row: pd.Series, key: str) -> str:
    sessions = str(row.get("session", ""))
    return (
        f"{row['subject']}, session {sessions}" if sessions and row.get("subject") else str(row.get("subject") or key)
    )


def _subtitle(row: pd.Series) -> str:
    age = row.get("age_years", np.nan)
    facts = [f"{spell.number(age, 0)} years" if np.isfinite(age) else "age unknown"]
    facts.append({"F": "woman", "M": "man"}.get(str(row.get("sex", "")), "sex unknown"))
    if row.get("site"):
        site = str(row["site"])
        facts.append(site if site.lower().startswith("site") else f"site {site}")
    facts += [wording.group(str(row["diagnosis"])), wording.ROLES.get(str(row["role"]), str(row["role"])).lower()]
    return " \N{MIDDLE DOT} ".join(facts)


def _standing(maps: MapsFolder, row: pd.Series) -> list[dict[str, Any]]:
    """Per score: value, percentile among calibration controls, number of held-out controls with a lower score."""
    rows = []
    for score in maps.headline_scores:
        value = float(row[score.column])
        well = maps.reference[maps.reference["key"] != row.name][score.column].dropna()
        rows.append(
            {
                "channel": score.channel,
                "kind": score.kind,
                "score": value,
                "percentile": float(row.get(score.percentile_column, np.nan)),
                "num_controls_lower": int((well < value).sum()),
                "num_controls": len(well),
                "voxels_fdr": float(row.get(f"voxels_fdr_{score.channel}", np.nan)),
            }
        )
    return rows


def _standing_table(standing: list[dict[str, Any]], by_norm: bool = False) -> Table:
    """Scores of a person; the column of held-out controls only where there are some, which a norm need not have."""
    with_controls = not by_norm or any(item["num_controls"] for item in standing)
    cells = [
        [
            wording.channel(item["channel"]),
            wording.KINDS.get(item["kind"], item["kind"]),
            spell.number(item["score"]),
            spell.number(item["percentile"], 0),
            *([_controls_lower(item)] if with_controls else []),
            spell.number(item["voxels_fdr"], 0),
        ]
        for item in standing
    ]
    above = ["Above held-out"] if with_controls else []
    header = ["Channel", "Score", "Value", "Percentile", *above, "FDR-positive voxels"]
    among = "the norm's controls" if by_norm else "calibration controls"
    also = ", and the number of held-out controls with a lower score" if with_controls else ""
    caption = f"Scores{',' if also else ' and'} their percentile among {among}{also}."
    return Table(caption, header, cells, "ll" + "r" * (len(header) - 2))


def _controls_lower(item: dict[str, Any]) -> str:
    return f"{item['num_controls_lower']} of {item['num_controls']}" if item["num_controls"] else spell.NONE


def _strongest_sentence(regions: pd.DataFrame) -> str:
    """A sentence on the strongest volume finding, or on the strongest of any channel where volume was not measured."""
    known = regions[regions["z"].notna() & ~regions["channel"].isin(("size", "contrast"))]
    if not len(known):
        return "No z map was made for this person."
    volume = "volume" if (known["channel"] == "volume").any() else "deformation"
    local = known[known["channel"] == volume]
    volumes = local[[measures_volume(str(name), volume) for name in local["region"]]]
    strongest = _furthest(volumes if len(volumes) else local if len(local) else known)
    z, q = float(strongest["z"]), float(strongest["q"])
    verdict = "which survives" if q < 0.05 else "which does not survive"
    figures = f"z {spell.number(z, 1, signed=True)}, {verdict} correction over regions (q {spell.probability(q)})"
    name = wording.region(str(strongest["region"]))
    if not len(local):
        up, down = wording.directions(str(strongest["channel"]))
        return f"Strongest regional finding: {name}, {up if z > 0 else down}; {figures}."
    size = spell.number(abs(float(strongest["effect_percent"])), 0)
    return (
        f"Strongest volume finding: {name}, {size} % {'larger' if z > 0 else 'smaller'} than expected for age and "
        f"sex; {figures}.{_other_than_volume(_furthest(local))}"
    )


def _furthest(regions: pd.DataFrame) -> pd.Series:
    """The row with the largest |z|."""
    return regions.iloc[int(regions["z"].abs().to_numpy().argmax())]


def _other_than_volume(row: pd.Series) -> str:
    """A sentence on the furthest reading of local volume if it does not measure the volume of its region; else ""."""
    name = str(row["region"])
    reason = remark(name, str(row["channel"]))
    size = spell.number(float(row["effect_percent"]), 0, signed=True)
    return f" The furthest reading is {wording.region(name)}, {size} % ({reason})." if reason else ""


def _size_sentence(regions: pd.DataFrame) -> str:
    """A sentence on the size of the whole brain, which affine alignment removes from the regions; "" if not measured."""
    whole = regions[
        (regions["channel"] == "size") & regions["region"].str.startswith("whole brain") & regions["z"].notna()
    ]
    if not len(whole):
        return ""
    row = whole.iloc[0]
    size = spell.number(float(row["effect_percent"]), 1, signed=True)
    return f" Whole brain: {size} % (z {spell.number(float(row['z']), 1, signed=True)})."


def _cluster_sentence(clusters: pd.DataFrame) -> str:
    """A sentence on the cluster that is rarest in controls (among equals the largest); "" without clusters."""
    if not len(clusters):
        return ""
    row = clusters.sort_values(["p_cluster", "volume_ml"], ascending=[True, False], kind="stable").iloc[0]
    up, down = wording.directions(str(row["channel"]))
    rank = ""
    if np.isfinite(row["p_cluster"]):
        rank = f", p {spell.probability(float(row['p_cluster']))} among the heaviest clusters of the controls"
    return (
        f" Rarest cluster of voxels: {spell.number(float(row['volume_ml']), 1)} ml in "
        f"{wording.in_text(str(row['channel']))}, {up if row['peak_z'] > 0 else down}, peak "
        f"z {spell.number(float(row['peak_z']), 1, signed=True)} at {wording.region(str(row['region']))}{rank}."
    )


def _figures(context: Context, maps: MapsFolder, key: str) -> list[Any]:
    """Three planes through the strongest finding of each channel and, folded away, a lightbox of every channel."""
    space = context.space
    person_t1w, is_own = context.anatomy(key)
    planes: list[brain.Strip] = []
    boxes: list[brain.Strip] = []
    overlay = None
    for channel in maps.channels:
        z = maps.z(key, channel)
        if z is None or not np.isfinite(z[space.mask]).any():
            continue
        significant = maps.significant(key, channel)
        overlay = brain.Overlay(np.where(space.mask, z, 0.0), LIMIT, THRESHOLD, significant)
        within = space.mask & significant if significant is not None and significant[space.mask].any() else space.mask
        anatomy = context.template_t1w if channel in ON_TEMPLATE else person_t1w
        for strips, cuts in (
            (planes, brain.three_planes(brain.peak(z, within, space))),
            (boxes, brain.lightbox(space)),
        ):
            strips.append(brain.Strip(wording.channel(channel), [brain.Tile(cut, anatomy, overlay) for cut in cuts]))
    if overlay is None:
        return []
    where = "the person\N{RIGHT SINGLE QUOTATION MARK}s own T1w" if is_own else "the template T1w"
    where += ", local volume over the template" if is_own and set(maps.channels) & set(ON_TEMPLATE) else ""
    png = brain.draw(planes, space, (overlay, "z"), WIDTH_INCHES, DOTS_PER_INCH)
    box = brain.draw(boxes, space, (overlay, "z"), dpi=LIGHTBOX_DOTS_PER_INCH)
    alt = f"Slices of the z maps of {key}, one row per channel."
    caption = f"z over {where}, aligned to the template."
    lightbox = Figure(f"lightbox_{key}", f"Lightbox: {alt}", f"{caption} Eight fixed slices.", box)
    return [Figure(f"person_{key}", alt, caption, png), Details("Lightbox", [lightbox], printed=False)]


def _strongest(maps: MapsFolder, regions: pd.DataFrame, subject: str) -> list[dict[str, Any]]:
    """The regions with the largest |z| of each channel, with the range of the controls."""
    strongest = []
    for channel in maps.channels:
        of_regions = maps.region_channel(channel)
        part = regions[(regions["channel"] == of_regions) & regions["z"].notna()]
        order = part["z"].abs().sort_values(ascending=False, kind="stable").index[: REGIONS_SHOWN.get(channel, 3)]
        for row in rows_of(part.loc[order].drop(columns=["key"])):
            strongest.append(row | {"controls_5_95": maps.control_range(subject, of_regions, str(row["region"]))})
    return strongest


def _region_table(rows: list[dict[str, Any]]) -> Table:
    cells: list[list[Cell]] = []
    for channel in dict.fromkeys(str(row["channel"]) for row in rows):
        of_channel = [row for row in rows if row["channel"] == channel]
        reach = 1.05 * max(
            abs(wording.effect_scale(channel, float(value)))
            for row in of_channel
            for value in (row["effect"], *_band(row))
        )
        scale = wording.effect_reach(channel, reach)
        cells.append([f"{wording.channel(channel)} (scale \N{MINUS SIGN}{scale} to +{scale})"])
        cells += [_region_cells(row, channel, reach) for row in of_channel]
    header = ["Region", "Effect", "Controls and this person", "z", "p", "q", "r"]
    caption = (
        "The regions furthest from expectation; p is conformal, q over the person's regions. r: correlation of such readings "
        f'with the region\'s labelled volume in other people; "{wording.NOT_ITS_VOLUME}" where it is not surely above '
        f"{LEAST_R:g} or the ventricles' is larger."
    )
    return Table(caption, header, cells, "lrcrrrr")


def _band(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(row["controls_5_95"] or ())


def _region_cells(row: dict[str, Any], channel: str, reach: float) -> list[Cell]:
    band = tuple(wording.effect_scale(channel, value) for value in _band(row))
    value, z = wording.effect_scale(channel, float(row["effect"])), float(row["z"])
    label = f"{spell.figure(value)} on a scale to {spell.figure(reach)}"
    label += f", controls {spell.figure(band[0])} to {spell.figure(band[1])}" if band else ""
    known = validity(str(row["region"]), channel)
    return [
        wording.reading(str(row["region"]), channel),
        wording.effect(channel, float(row["effect"]), float(row["effect_percent"])),
        range_strip(value, (band[0], band[1]) if band else None, reach, z, bool(row["q"] < 0.05), label),
        spell.number(z, 1, signed=True),
        spell.probability(float(row[P_CONFORMAL])),
        spell.probability(float(row["q"])),
        spell.figure(known.r if known else None),
    ]


def _cluster_table(clusters: pd.DataFrame, threshold: float) -> Table:
    cells = [
        [
            wording.channel(str(row["channel"])),
            wording.region(str(row["region"])),
            spell.number(float(row["peak_z"]), 1, signed=True),
            spell.number(float(row["volume_ml"]), 1),
            spell.probability(float(row["p_cluster"])),
            ", ".join(spell.number(float(row[f"{axis}_mm"]), 0) for axis in "xyz"),
        ]
        for _, row in clusters.iterrows()
    ]
    header = ["Channel", "Region at the peak", "Peak z", "Volume (ml)", "p", "Peak x, y, z (mm, MNI152)"]
    caption = (
        f"Clusters of voxels with |z| above {threshold:g}, largest first. p is family-wise over the brain: it ranks the mass "
        "of a cluster among the heaviest clusters of the controls (where a control is outlying: the tail of the others)."
    )
    return Table(caption, header, cells, "llrrrr")
