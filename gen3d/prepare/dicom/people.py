"""Whose series these are: one person per hospital id, visits in the order of their days, ages, and ids that name nobody.

Pseudonyms and shifted dates are dicognito's (MIT), whose every result comes from a seed; here each person has a seed of their own,
so that two people's dates are not moved by the same time.
"""

from __future__ import annotations

import datetime
import math
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.prepare.dicom.headers import EXTRA, require_pydicom
from gen3d.prepare.dicom.series import Series

OLDEST = 90.0
"""Years that stand for every age above 89, as the Safe Harbor rule of HIPAA asks (45 CFR 164.514)."""
DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
AGREE_YEARS = 1.5
HIGHEST_YEARS = 120.0
SHORTEST_WORD = 3
"""Letters from which on a part of a name or id is looked for in other texts."""


@dataclass
class Visit:
    """The series of one person and day; `day` is the date as the header writes it, "" where there is none."""

    day: str
    series: list[Series] = field(default_factory=list)


@dataclass
class Person:
    """One hospital id: its visits in order, and the words that would name the person."""

    patient_id: str
    visits: list[Visit] = field(default_factory=list)

    @property
    def first(self) -> Series:
        """A series whose header stands for the person."""
        return self.visits[0].series[0]

    @property
    def sex(self) -> str:
        """M, F or n/a."""
        sex = self.first.text("PatientSex").upper()
        return sex if sex in ("M", "F") else "n/a"

    def telling_words(self) -> set[str]:
        """Parts of the person's name and id, in lower case."""
        texts = [self.patient_id]
        texts += [series.text("PatientName") for visit in self.visits for series in visit.series]
        parts = {part.lower() for text in texts for part in re.split(r"[\W_]+", text)} | {self.patient_id.lower()}
        return {part for part in parts if len(part) >= SHORTEST_WORD}

    def scrubbed(self, text: str) -> str:
        """A text of a header without what names the person."""
        for word in sorted(self.telling_words(), key=len, reverse=True):
            text = re.sub(re.escape(word), "...", text, flags=re.IGNORECASE)
        return " ".join(text.split())


def people_of(series: list[Series]) -> list[Person]:
    """Series by person and visit.

    Raises:
        UserError: series without an id, or one id with two birth dates or sexes.
    """
    people: dict[str, Person] = {}
    nameless = [one for one in series if not one.text("PatientID")]
    if nameless and len({one.text("StudyInstanceUID") for one in series}) > 1:
        raise UserError(
            f"{words.count(len(nameless), 'series has', 'series have')} no patient id (series {nameless[0].label}), so whose they "
            "are is not known; give one person's files alone, or write an id into the headers."
        )
    for one in series:
        person = people.setdefault(one.text("PatientID"), Person(one.text("PatientID")))
        day = _day_of(one)
        visit = next((visit for visit in person.visits if visit.day == day), None)
        if visit is None:
            visit = Visit(day)
            person.visits.append(visit)
        visit.series.append(one)
    for person in people.values():
        person.visits.sort(key=lambda visit: visit.day)
        _refuse_two_in_one(person)
    return list(people.values())


def _day_of(series: Series) -> str:
    day = re.sub(r"\D", "", series.text("StudyDate") or series.text("AcquisitionDate"))[:8]
    return day or series.text("StudyInstanceUID")


def _refuse_two_in_one(person: Person) -> None:
    each = [one for visit in person.visits for one in visit.series]
    for name, what in (("PatientBirthDate", "birth dates"), ("PatientSex", "sexes")):
        values = {value: one.label for one in each if (value := one.text(name)) and value.upper() != "O"}
        if len(values) > 1:
            shown = " and ".join(list(values.values())[:2])
            raise UserError(
                f"one patient id stands in headers with {len(values)} {what} (series {shown}): two people in one, or a header "
                "that is wrong; give each person's files as a source of their own, or mend the header."
            )


def age_years(series: Series) -> float:
    """Age at the scan in years to one decimal, 90 for all above 89; NaN where headers do not tell it."""
    said = re.fullmatch(r"(\d{1,3})([DWMY])", series.text("PatientAge").strip().upper())
    told = int(said[1]) * DAYS[said[2]] / DAYS["Y"] if said else math.nan
    born, taken = _date(series.text("PatientBirthDate")), _date(series.text("StudyDate"))
    exact = (taken - born).days / DAYS["Y"] if born and taken else math.nan
    if not 0 <= exact <= HIGHEST_YEARS or abs(exact - told) > AGREE_YEARS:
        exact = told
    return OLDEST if exact > OLDEST - 1 else round(exact, 1)


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(re.sub(r"\D", "", text)[:8], "%Y%m%d").date()
    except ValueError:
        return None


def scanner(series: Series) -> str:
    """What takes the place of the institution: maker, model and field, as they are the same in every hospital; "" where unknown."""
    field_strength = series.number("MagneticFieldStrength")
    parts = [series.text("Manufacturer"), series.text("ManufacturerModelName")]
    parts += [f"{field_strength:.2g}T"] if field_strength == field_strength else []
    return " ".join(" ".join(parts).split())


def new_seed() -> str:
    """A secret that nobody can guess."""
    return secrets.token_hex(16)


def pseudonym(patient_id: str, seed: str) -> str:
    """An id of letters and digits that tells nothing without the seed."""
    header = _anonymised(patient_id, "", seed)
    return re.sub(r"[^A-Za-z0-9]", "", str(header.PatientID))


def shifted_day(patient_id: str, day: str, seed: str) -> str:
    """A day as YYYY-MM-DD, moved back by the person's time; "" where it is no date."""
    if _date(day) is None or len(day) != len("YYYYMMDD"):
        return ""
    moved = str(_anonymised(patient_id, day, seed).StudyDate)
    return f"{moved[:4]}-{moved[4:6]}-{moved[6:8]}"


def _anonymised(patient_id: str, day: str, seed: str) -> Any:
    """A header with the person's id and a day, as dicognito changes it."""
    pydicom = require_pydicom()
    try:
        from dicognito.anonymizer import Anonymizer
    except ImportError:
        raise UserError(f"DICOM sources need dicognito, which is not installed; {EXTRA}.") from None
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.PatientID, header.StudyDate = patient_id, day
    Anonymizer(seed=f"{seed}{patient_id}").anonymize(header)
    return header
