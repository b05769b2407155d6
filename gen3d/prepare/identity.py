"""Who is who in one or several sources. A person's id depends on the person's own row and the user's words, never on other rows.

An id is what the source says. The name that the user gives to a source stands in front of its ids, in every call; so does the
site where the user says that ids are unique within a site only. Ids that may be one person or two are refused, with what to type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gen3d.cohort.labels import label, plain_text, qualified
from gen3d.cohort.manifest import scan_key
from gen3d.core.errors import UserError

MOST_NAMED = 3


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source; `name` is the user's, None where none was given."""

    path: Path
    name: str | None
    frame: pd.DataFrame


def identified(rows: SourceRows, ids_within_site: bool | None) -> SourceRows:
    """The rows of a source with site, id and origin (column `origin`: the texts that the id is made of).

    Args:
        rows: of one source.
        ids_within_site: the same id at two sites is two people (true) or one (false); None: the user has not said.

    Raises:
        UserError: an id at two sites, and the user has not said whose it is.
    """
    frame = rows.frame
    own = rows.path.resolve()
    site = rows.name or (own.name if own.is_dir() else own.parent.name)
    frame = frame.assign(site=frame["site"].where(frame["site"] != "", plain_text(site)))
    origin = [plain_text(str(text)).removeprefix("sub-") for text in frame["source_subject"]]
    if ids_within_site:
        origin = [f"{at}\n{text}" for at, text in zip(frame["site"], origin, strict=True)]
        subjects = [qualified(*pair) for pair in zip(frame["site"], frame["subject"], strict=True)]
        frame = frame.assign(subject=subjects)
    elif ids_within_site is None:
        _refuse_two_sites(rows.path, frame)
    if rows.name is not None:
        origin = [f"{rows.name}\n{text}" for text in origin]
        frame = frame.assign(subject=[qualified(rows.name, subject) for subject in frame["subject"]])
    return SourceRows(rows.path, rows.name, frame.assign(origin=origin))


def _refuse_two_sites(path: Path, frame: pd.DataFrame) -> None:
    """Whether the same id at two sites is one person is not decided from the other rows."""
    sites = frame.groupby("subject")["site"].unique()
    torn = sites[sites.map(len) > 1]
    if len(torn):
        at = " and ".join(map(str, torn.iloc[0][:2]))
        raise UserError(
            f"{path}: {torn.index[0]} is at the sites {at}{_others(len(torn))}; set columns.ids_within_site=true if ids are unique "
            "within a site only (the site then stands in front of every id), or =false if it is one person."
        )


def joined(sources: Sequence[SourceRows], shared_ids: bool) -> pd.DataFrame:
    """The rows of all sources with the column `key`.

    Args:
        sources: from `identified`.
        shared_ids: the same id in two sources is the same person.

    Raises:
        UserError: an id in two sources; people, sessions or sites that cannot be told apart; a scan given twice; a person of
            two sexes.
    """
    if not shared_ids:
        _refuse_shared(sources)
    _refuse_one_site(sources)
    frame = pd.concat([source.frame for source in sources], ignore_index=True)
    frame["key"] = [scan_key(*pair) for pair in zip(frame["subject"], frame["session"], strict=True)]
    _refuse_confusable(frame)
    _refuse_duplicates(frame)
    return frame.drop(columns="origin")


def _refuse_shared(sources: Sequence[SourceRows]) -> None:
    """An id in two sources is refused, unless the user says that it is one person."""
    where: dict[str, SourceRows] = {}
    shared: dict[str, tuple[SourceRows, SourceRows]] = {}
    for source in sources:
        for subject in source.frame["subject"].unique():
            first = where.setdefault(str(subject), source)
            if first is not source:
                shared.setdefault(str(subject), (first, source))
    if not shared:
        return
    subject, (first, second) = next(iter(shared.items()))
    what = f"sub-{subject} is in {first.path} and in {second.path}{_others(len(shared))}"
    if all(source.name is not None for source in sources):
        raise UserError(f"{what}, with the names of the sources in front; give one of them another name.")
    raise UserError(
        f"{what}; if they are other people, name the sources, {named_sources([source.path for source in sources])}, and the "
        "name stands in front of every id; if they are the same people, set shared_ids=true."
    )


def _refuse_one_site(sources: Sequence[SourceRows]) -> None:
    """Two folders of one name would be one site, which nobody meant."""
    places: dict[str, Path] = {}
    for source in sources:
        place = source.path.resolve() if source.path.is_dir() else source.path.resolve().parent
        if set(source.frame["site"]) != {plain_text(place.name)} or source.name is not None:
            continue
        first = places.setdefault(place.name, place)
        if first != place:
            raise UserError(
                f"{first} and {place} have one name, so both would be the site {place.name}; name the sources, "
                f"{named_sources([other.path for other in sources])}, or give their sites in a column."
            )


def named_sources(paths: Sequence[Path]) -> str:
    """What to type to name these sources: the nearest part of each path in which they differ."""
    parts = [[label(part) for part in reversed(path.resolve().with_suffix("").parts) if label(part)] for path in paths]
    depth = min(map(len, parts))
    names = next(
        (column for level in range(depth) if len(set(column := [part[level] for part in parts])) == len(paths)),
        [f"source{number}" for number in range(1, len(paths) + 1)],
    )
    return "source='{" + ", ".join(f"{name}: {path}" for name, path in zip(names, paths, strict=True)) + "}'"


def _refuse_confusable(frame: pd.DataFrame) -> None:
    """Ids of two texts with one label, and ids or sessions that differ in capitals only, which some file systems confuse."""
    texts = frame.groupby("subject")["origin"].unique()
    for subject, origins in texts[texts.map(len) > 1].items():
        shown = " and ".join(repr(str(text).replace("\n", " ")) for text in origins[:2])
        raise UserError(f"{shown} would both be {subject} in file names; give one of them another id.")
    for column, what in (("subject", "ids"), ("key", "scans")):
        names = pd.Series(frame[column].unique())
        folded = names.str.casefold()
        if folded.duplicated().any():
            first, second = names[folded == folded[folded.duplicated()].iloc[0]].iloc[:2]
            raise UserError(
                f"the {what} {first} and {second} differ in capital letters only, and some file systems cannot keep them apart; "
                "write them in one way if they are one, or give one of them another name."
            )


def _refuse_duplicates(frame: pd.DataFrame) -> None:
    twice = frame[frame.duplicated("key", keep=False)].sort_values("key", kind="stable")
    if len(twice):
        key = twice["key"].iloc[0]
        files = " and ".join(twice.loc[twice["key"] == key, "source"].iloc[:2])
        raise UserError(
            f"{key} occurs more than once ({files}); give two people two ids, give each scan of a person its own session, or "
            "remove one row."
        )
    one_person = frame[frame["sex"] != ""].groupby("subject")["sex"].nunique()
    if (one_person > 1).any():
        subject = one_person.index[one_person > 1][0]
        raise UserError(f"{subject} is M in one row and F in another; correct the rows, or give two people two ids.")


def _others(number: int) -> str:
    return (
        "" if number == 1 else f", as {'is' if number == 2 else 'are'} {number - 1} other id{'s' if number > 2 else ''}"
    )
