"""People's series chosen, converted and written as one BIDS folder, with a verdict in words for every series."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cohort.manifest import AGES_DIFFER_YEARS
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.core.tables import Row
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import Columns
from gen3d.prepare.dicom.converting import Converted, NotConverted, convert
from gen3d.prepare.dicom.dataset import NOT_USED, USED, UsedVisit, image_name, write_dataset, write_person
from gen3d.prepare.dicom.id_map import Identities, identities, write_id_map
from gen3d.prepare.dicom.people import Person, Visit
from gen3d.prepare.dicom.series import Series
from gen3d.prepare.dicom.settings import DicomSettings
from gen3d.prepare.dicom.verdicts import magnitude_only, ranked, remark, why_behind, why_not
from gen3d.prepare.standard import known_columns

MOST_LISTED = 12
OF_PEOPLE = ("site", "age_years", "sex", "diagnosis", "cdr", "mmse")
"""What is taken from the table of the cohort: any other column could name somebody."""
FROM_HEADERS = {"age_years": "age", "sex": "sex"}


def write_cohort_folder(
    folder: Path,
    scratch: Path,
    source: str,
    people: Sequence[Person],
    settings: DicomSettings,
    columns: Columns,
    record: Mapping[str, Any],
    keep: bool,
) -> list[str]:
    """Write the BIDS folder of these people; returns sentences on what happened.

    Args:
        folder: empty, to be filled.
        scratch: where dcm2niix may work.
        source: how sentences call the source.
        people: of the source.
        settings: of the conversion.
        columns: the user's names of columns in `settings.people`.
        record: kept in the folder, see `RECORD`.
        keep: also write the id map.

    Raises:
        UserError: no T1w scan in any visit (every series with its reason), an id map or a table that cannot be used.
    """
    known = identities([person.patient_id for person in people], settings.id_map, settings.subject)
    rows: list[Row] = []
    participants: list[Row] = []
    for person in track(people, "converting people", total=len(people)):
        subject, seed = known.subjects[person.patient_id], known.seeds[person.patient_id]
        used = []
        for place, visit in enumerate(person.visits):
            session = str(place + 1)
            converted, verdicts = _visit(person, visit, subject, session, scratch)
            rows += verdicts
            if converted is not None:
                used.append(UsedVisit(session, visit.day, converted, person, place))
        if used:
            participants.append(write_person(folder, subject, used, settings.dates, seed))
    table = pd.DataFrame(rows)
    if not participants:
        raise UserError(
            f"{source}: no T1w scan of a whole head among {words.count(len(rows), 'series', 'series')}:\n{_listed(table)}"
        )
    frame, sentences = _with_table(pd.DataFrame(participants), people, known, settings, columns)
    write_dataset(folder, frame, table, settings.dates, record)
    if keep and settings.id_map is not None:
        write_id_map(settings.id_map, known)
    num = int((table["verdict"] == USED).sum())
    counted = f"{words.count(num, 'T1w scan')} of {words.people(len(participants))}"
    counted += f" from {words.count(len(table), 'series', 'series')}"
    lacking = len(people) - len(participants)
    return [counted, *([f"{words.people(lacking)} without a T1w scan"] if lacking else []), *sentences]


def _visit(
    person: Person, visit: Visit, subject: str, session: str, scratch: Path
) -> tuple[Converted | None, list[Row]]:
    """The best image of a visit, None where it has none, and the verdict of every series."""
    reasons: dict[int, str] = {}
    usable: list[Series] = []
    each = [magnitude_only(one) for one in visit.series]
    for number, one in enumerate(each):
        reasons[number] = why_not(one)
        if not reasons[number]:
            usable.append(one)
    converted, winner = None, None
    for one in ranked(usable):
        if winner is not None:
            reasons[each.index(one)] = why_behind(one, winner)
            continue
        work = scratch / "series"
        work.mkdir(mode=0o700)
        try:
            converted, winner = convert(one, work), one
        except NotConverted as error:
            reasons[each.index(one)] = str(error)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    rows: list[Row] = []
    for number, one in enumerate(each):
        is_used = one is winner
        rows.append(
            {
                "subject": f"sub-{subject}",
                "session": f"ses-{session}",
                "series": one.label,
                "description": person.scrubbed(one.text("SeriesDescription") or one.text("ProtocolName")) or "n/a",
                "images": len(one.frames),
                "verdict": USED if is_used else NOT_USED,
                "reason": (remark(one) if is_used else reasons[number]) or "n/a",
                "file": image_name(subject, session) if is_used else "n/a",
            }
        )
    return converted, rows


def _listed(table: pd.DataFrame) -> str:
    """A line per series with its reason."""
    lines = [f"series {row['series']} ({row['description']}): {row['reason']}" for _, row in table.iterrows()]
    more = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return "\n".join([*lines[:MOST_LISTED], *more])


def _with_table(
    participants: pd.DataFrame, people: Sequence[Person], known: Identities, settings: DicomSettings, columns: Columns
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of people with what the table of the cohort says of them; sentences on who is not in it.

    Raises:
        UserError: a table that cannot be used, or a person with two rows.
    """
    if settings.people is None:
        return participants, []
    path = settings.people
    table = read_user_table(path)
    names = known_columns(table, columns, path, lenient=True)
    own = {field_name: column for column, field_name in names.items()}
    ids = [cell.removeprefix("sub-") for cell in table[own["subject"]]]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise UserError(f"{path}: {words.count(len(twice), 'id')} with more than one row; keep one row per person.")
    row_of = {one: table.iloc[place] for place, one in enumerate(ids)}
    hospital = {f"sub-{known.subjects[person.patient_id]}": person.patient_id for person in people}
    found = []
    differing: list[str] = []
    for name in participants["participant_id"]:
        row = row_of.get(str(name).removeprefix("sub-"))
        found.append(row if row is not None else row_of.get(hospital[str(name)]))
    for field_name in OF_PEOPLE:
        if field_name not in own:
            continue
        cells = ["n/a" if row is None else str(row[own[field_name]]) or "n/a" for row in found]
        if field_name in FROM_HEADERS:
            ours = participants[FROM_HEADERS[field_name]]
            differing += _differing(field_name, list(ours), cells, path)
            participants[FROM_HEADERS[field_name]] = [
                theirs if str(cell) == "n/a" else cell for cell, theirs in zip(ours, cells, strict=True)
            ]
        else:
            participants[own[field_name]] = cells
    absent = sum(row is None for row in found)
    sentence = f"{path}: {absent} of {words.people(len(found))} without a row (looked for by the ids of the map and the hospital's)"
    return participants, [*([sentence] if absent else []), *differing]


def _differing(field_name: str, headers: Sequence[Any], cells: Sequence[str], path: Path) -> list[str]:
    """A sentence on people of whom the table says something else than the headers: a sign of somebody else's images."""
    what = {"sex": "sex", "age_years": "age"}[field_name]
    num = sum(_differ(field_name, str(header), cell) for header, cell in zip(headers, cells, strict=True))
    if not num:
        return []
    return [
        f"{path}: the {what} of {words.people(num)} is another than in the header of their images, which counts; look whether "
        "these are their images"
    ]


def _differ(field_name: str, header: str, cell: str) -> bool:
    if field_name == "sex":
        ours, theirs = (text.strip()[:1].upper() for text in (header, cell))
        return {ours, theirs} == {"F", "M"}
    try:
        return abs(float(header) - float(cell)) > AGES_DIFFER_YEARS
    except ValueError:
        return False
