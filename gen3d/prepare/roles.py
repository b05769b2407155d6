"""Who counts as a healthy control, source by source, and what that makes of everybody: said before a scan is prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd
from pydantic import BeforeValidator

from gen3d.cohort.manifest import Split, assign_roles, is_control
from gen3d.cohort.target import as_label
from gen3d.core import words
from gen3d.core.errors import UserError

MOST_LINES = 40


def _listed(value: Any) -> Any:
    """One diagnosis instead of a list of one."""
    if isinstance(value, dict):
        return {name: _listed(diagnoses) for name, diagnoses in value.items()}
    return (value,) if isinstance(value, str) else value


Controls = Annotated[tuple[str, ...] | dict[str, tuple[str, ...]] | None, BeforeValidator(_listed)]
"""Diagnoses of controls: the same for all, by source or site, or the usual names."""

TRAINED, HEAD = (
    ("train", "calibration", "test"),
    ("source", "site", "people", "controls", "train / calibration / test", "others"),
)


def control_rows(frame: pd.DataFrame, controls: Controls, origin: Sequence[str]) -> pd.Series:
    """Which rows are healthy controls, boolean.

    Args:
        frame: cohort table without roles.
        controls: see `Controls`; sources and sites that are not named keep the usual names.
        origin: name of the source of every row.

    Raises:
        UserError: a name that is no source or site, that names people whom another name has named, or has none of its diagnoses.
    """
    if not isinstance(controls, Mapping):
        return is_control(frame, None if controls is None else [as_label(name) for name in controls])
    rows = is_control(frame, None)
    named = pd.Series(False, index=frame.index)
    sources = pd.Series(list(origin), index=frame.index, dtype=object)
    for name, diagnoses in controls.items():
        chosen = (sources == name) | (frame["site"].astype(str) == name)
        if not chosen.any():
            known = list(dict.fromkeys([*origin, *frame["site"].astype(str)]))
            raise UserError(f"controls names {name}, which is no source or site; they are {', '.join(known)}.")
        if (chosen & named).any():
            raise UserError(
                f"controls names {name}, some of whose people an earlier name has as well; name the sources or the sites, not both."
            )
        try:
            rows[chosen] = is_control(frame[chosen], [as_label(text) for text in diagnoses])
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        named |= chosen
    return rows


def role_lines(frame: pd.DataFrame, rows: pd.Series, origin: Sequence[str], split: Split) -> list[str]:
    """A table of people by source and site, and a sentence for each thing that a reader may not expect.

    Args:
        frame: cohort table without roles.
        rows: whether each is a control, see `control_rows`.
        origin: name of the source of every row.
        split: shares of the roles.
    """
    table = assign_roles(frame, split, rows).assign(_origin=list(origin), _control=rows)
    lines, cells = [], []
    for (source, site), part in table.groupby(["_origin", "site"], sort=False):
        people = part.drop_duplicates("subject")
        roles = people["role"].value_counts()
        num_controls = int(people["role"].isin(TRAINED).sum())
        shares = " / ".join(str(int(roles.get(role, 0))) for role in TRAINED)
        others = int(roles.get("evaluation", 0))
        cells.append((str(source), str(site), str(len(people)), str(num_controls), shares, str(others)))
        lines += _surprises(
            people, f"{source}, site {site}" if source != site else str(site), str(source), num_controls
        )
    return [*_first(_aligned([HEAD, *cells]), "sources and sites"), *_first(lines, "remarks of these kinds")]


def _first(lines: list[str], what: str) -> list[str]:
    """The first lines, and how many further ones there are."""
    rest = len(lines) - MOST_LINES
    return lines if rest <= 0 else [*lines[:MOST_LINES], f"  and {rest} further {what}"]


def _surprises(people: pd.DataFrame, place: str, source: str, num_controls: int) -> list[str]:
    """What about the people of one source and site a reader may not expect."""
    lines = []
    unknown = people["diagnosis"].fillna("").astype(str) == ""
    if not num_controls:
        held = ", ".join(f"{name} {count}" for name, count in people.loc[~unknown, "diagnosis"].value_counts().items())
        reason = f"none of the diagnoses is one of controls ({held})" if held else "no diagnosis is known"
        lines.append(
            f"{place}: {reason}, so {'the 1 person has' if len(people) == 1 else f'all {words.people(len(people))} have'} the role "
            "evaluation; if some are healthy, say it with "
            f"controls={{{source}: [{'DIAGNOSIS' if held else 'all'}]}}"
        )
    elif unknown.any() and (people.loc[unknown, "role"] == "evaluation").any():
        count = int((people.loc[unknown, "role"] == "evaluation").sum())
        lines.append(f"{place}: {words.people(count)} without a diagnosis {_have(count)} the role evaluation")
    controls = people[people["role"].isin(TRAINED)]
    parts = [
        f"{int(missing.sum())} no {what}"
        for what, missing in (("age", controls["age_years"].isna()), ("sex", controls["sex"].fillna("") == ""))
        if missing.any()
    ]
    if parts:
        lines.append(
            f"{place}: of {words.count(num_controls, 'control')}, {words.listed(parts)}; those calibrate as if they were of "
            "average age and of either sex"
        )
    return lines


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
