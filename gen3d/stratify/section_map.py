"""The map of a cohort as an interactive scatter, with people that a head was applied to later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import is_control
from gen3d.core import words as spell
from gen3d.figures import charts, style
from gen3d.figures import explorer as interactive
from gen3d.figures.explorer import Colouring, Explorer, PersonDot
from gen3d.stratify.folder import StrataFolder

PLANES = (("UMAP", ("umap1", "umap2")), ("Principal components", ("pc1", "pc2")))
MOST_COLOURS = len(style.GROUP_COLOURS)
NO_CLUSTER = "in no cluster"
MOST_DOTS = 3000
"""People of a scatter: more dots cover each other, and each adds its card to the page."""


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The people of the scatter: all, or MOST_DOTS of them evenly over the table."""
    if len(frame) <= MOST_DOTS:
        return frame
    rows = np.linspace(0, len(frame) - 1, MOST_DOTS).round().astype(int)
    return frame.iloc[rows].reset_index(drop=True)


def explorer(strata: StrataFolder, new: pd.DataFrame | None = None) -> tuple[Explorer, list[str]] | None:
    """The scatter of everybody of a strata folder, and remarks on it; None where it holds no coordinates.

    Args:
        strata: the folder.
        new: rows of a prediction table with coordinates on the same UMAP.
    """
    frame = shown(strata.people)
    num = len(frame)
    if new is not None:
        new = shown(new)
    together = frame if new is None else pd.concat([frame, new], ignore_index=True)
    together = together.assign(cluster=cluster_names(together))
    planes = {name: _coordinates(together, columns) for name, columns in PLANES if is_there(frame, columns)}
    if not planes:
        return None
    pictured = interactive.with_pictures(num)
    thumbnails = [
        interactive.small_picture(strata.thumbnail(str(key))) if chosen else b""
        for key, chosen in zip(frame["key"], pictured, strict=True)
    ] + [b""] * (len(together) - num)
    several = bool(frame["subject"].duplicated().any())
    people = [
        PersonDot(str(row["key"]), _title(row, several), facts(row), thumbnail, index >= num)
        for (index, row), thumbnail in zip(together.iterrows(), thumbnails, strict=True)
        if isinstance(index, int)
    ]
    name = strata.name.replace("/", "_")
    description = f"Scatter of {spell.people(int(together['subject'].nunique()))}"
    remarks = _remarks(strata, frame, pictured, thumbnails[:num], len(together) - num)
    return Explorer(f"map_{name}", people, planes, colourings(together, num), description), remarks


def is_there(frame: pd.DataFrame, columns: tuple[str, str]) -> bool:
    """Whether a table holds coordinates: not the n/a of a map that was not made."""
    return set(columns) <= set(frame.columns) and bool(np.isfinite(_coordinates(frame, columns)).all(axis=1).any())


def cluster_names(frame: pd.DataFrame) -> list[str]:
    """The cluster of every row, `in no cluster` for people in none; all "" where nobody is in a cluster."""
    names = [cluster_title(value) for value in frame.get("cluster", pd.Series("", index=frame.index))]
    return [name or NO_CLUSTER for name in names] if any(names) else names


def _coordinates(frame: pd.DataFrame, columns: tuple[str, str]) -> NDArray[np.float64]:
    return np.stack([pd.to_numeric(frame[name], errors="coerce").to_numpy(float) for name in columns], axis=1)


def _remarks(
    strata: StrataFolder, frame: pd.DataFrame, pictured: NDArray[np.bool_], thumbnails: Sequence[bytes], num_new: int
) -> list[str]:
    remarks = []
    if len(frame) < len(strata.people):
        remarks.append(
            f"Shown are {len(frame)} of {spell.people(len(strata.people))}, evenly over the table, to keep the page light; all are "
            "in the table of the folder."
        )
    there = [strata.thumbnail(str(key)) for key in frame["key"][pictured]]
    num_shown = sum(bool(picture) for picture in thumbnails)
    if not pictured.all() and any(there):
        remarks.append(
            f"Pictures are shown for {num_shown} of {spell.count(len(pictured), 'scan')}, evenly over the table, to keep the "
            "page light."
        )
    unreadable = sum(bool(picture) for picture in there) - num_shown
    if unreadable:
        remarks.append(f"{spell.count(unreadable, 'picture')} could not be read.")
    if num_new:
        remarks.append(f"Diamonds: {spell.count(num_new, 'scan')} added to the finished map.")
    return remarks


def _title(row: pd.Series, several: bool) -> str:
    session = str(row.get("session", "") or "")
    return f"{row['subject']}, session {session}" if several and session else str(row["subject"])


def known(row: pd.Series | Mapping[str, object], name: str) -> float:
    """A number of a row, NaN where it has none."""
    value = pd.to_numeric(pd.Series([row.get(name)]), errors="coerce").iloc[0]
    return float(value)


def facts(row: pd.Series) -> list[tuple[str, str]]:
    """The facts of a card of a person: only what is known."""
    listed = []
    age = known(row, "age_years")
    if np.isfinite(age):
        listed.append(("Age", f"{age:.0f} years"))
    listed += [
        (label, str(row[name]))
        for label, name in (("Sex", "sex"), ("Diagnosis", "diagnosis"), ("Site", "site"))
        if _text(row.get(name))
    ]
    for label, name in (("CDR", "cdr"), ("MMSE", "mmse")):
        value = known(row, name)
        if np.isfinite(value):
            listed.append((label, f"{value:g}"))
    cluster = cluster_title(row.get("cluster"))
    if cluster:
        certainty = known(row, "certainty")
        sure = f" (certainty {spell.number(certainty)})" if np.isfinite(certainty) and cluster != NO_CLUSTER else ""
        listed.append(("Cluster", cluster + sure))
    return listed


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def cluster_title(value: object) -> str:
    """A cluster's name, "" for none; a table may hold it as a number."""
    text = _text(value)
    try:
        return f"{float(text):g}" if text else ""
    except ValueError:
        return text


def colourings(frame: pd.DataFrame, num_counted: int | None = None) -> list[Colouring]:
    """By cluster, diagnosis, age, site and sex: those in which people differ; one of them at least.

    Legends count the first `num_counted` rows, all if None.
    """
    listed = []
    if "cluster" in frame.columns:
        labels = [cluster_title(value) for value in frame["cluster"]]
        if len(set(labels) - {""}) > 1:
            listed.append(by_category("Cluster", labels, _cluster_order(labels), num_counted))
    if "diagnosis" in frame.columns and (len(set(frame["diagnosis"])) > 1 or not listed):
        listed.append(_by_diagnosis(frame, num_counted))
    ages = pd.to_numeric(frame.get("age_years", pd.Series(np.nan, index=frame.index)), errors="coerce")
    if ages.notna().sum() > 1 and ages.max() > ages.min():
        shares = (ages - ages.min()) / (ages.max() - ages.min())
        dots = [style.hex_colour(share) if np.isfinite(share) else style.NO_GROUP for share in shares]
        listed.append(Colouring("Age", dots, scale=(f"{ages.min():.0f} years", f"{ages.max():.0f} years")))
    for title, column in (("Site", "site"), ("Sex", "sex")):
        labels = [_text(value) for value in frame[column]] if column in frame.columns else []
        if len(set(labels)) > 1:
            counts = pd.Series(labels).value_counts()
            listed.append(
                by_category(title, labels, sorted(counts.index, key=lambda name: (-counts[name], name)), num_counted)
            )
    return listed or [Colouring("People", [style.GROUP_COLOURS[0]] * len(frame))]


def _cluster_order(labels: Sequence[str]) -> list[str]:
    names = sorted(
        set(labels) - {"", NO_CLUSTER},
        key=lambda name: (not name.isdigit(), int(name or 0) if name.isdigit() else 0, name),
    )
    return [*names, *sorted(set(labels) & {"", NO_CLUSTER})]


def by_category(title: str, labels: Sequence[str], order: Sequence[str], num_counted: int | None = None) -> Colouring:
    """A colour per category in the given order; beyond seven the rest are grey, as more colours look alike."""
    counted = list(labels)[:num_counted]
    plain = [name for name in order if name not in ("", NO_CLUSTER)]
    named = plain if len(plain) <= MOST_COLOURS else plain[: MOST_COLOURS - 1]
    colours = dict(zip(named, style.GROUP_COLOURS, strict=False))
    legend = [(colours[name], f"{name} ({counted.count(name)})") for name in named]
    rest = [name for name in plain if name not in colours]
    if rest:
        num = sum(label in rest for label in counted)
        legend.append((style.NO_GROUP, f"{spell.count(len(rest), 'other')} ({num})"))
    for name in ("", NO_CLUSTER):
        num = counted.count(name)
        if num:
            legend.append((style.NO_GROUP, f"{name or charts.UNNAMED} ({num})"))
    return Colouring(title, [colours.get(label, style.NO_GROUP) for label in labels], legend)


def _by_diagnosis(frame: pd.DataFrame, num_counted: int | None) -> Colouring:
    labels = [_text(value) for value in frame["diagnosis"]]
    counts = pd.Series(labels).value_counts()
    controls = sorted(set(frame.loc[is_control(frame), "diagnosis"].astype(str)))
    order = sorted(counts.index, key=lambda name: (name not in controls, -counts[name], name))
    colours = style.group_colours([name for name in order if name], controls) | {"": style.NO_GROUP}
    counted = labels[:num_counted]
    legend = [(colours[name], f"{name or charts.UNNAMED} ({counted.count(name)})") for name in order if name in counted]
    return Colouring("Diagnosis", [colours[label] for label in labels], legend)
