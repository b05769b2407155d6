"""Jobs as folders: what was uploaded, the steps of it, and how far they are. There is no other state.

jobs/<id>/job.json     what was given, and whose it is
jobs/<id>/upload/      the file, until the steps are over
jobs/<id>/steps/       per step: settings (NAME.yaml), what the verb said (NAME.log), how it ended (NAME.end.json)
jobs/<id>/<step>/      the folder that the verb of a step wrote
jobs/<id>/over.json    written when no step is left
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.serve.uploads import Kind

ID = re.compile(r"[0-9a-f]{32}")
JOB, OVER, UPLOAD, STEPS, TABLE = "job.json", "over.json", "upload", "steps", "people.csv"
GONE, COMING = ".gone-", ".coming-"
"""Begin the names of jobs that are being deleted, and of those whose upload is not there yet."""

State = Literal["waiting", "running", "done"]


@dataclass(frozen=True)
class Given:
    """What came with an upload: the job's id and owner, when (seconds since 1970), what it is, and what is known of the person.

    `labels` are stages or diagnoses by column; "" and None are unknown. `content` is a hash of the images.
    """

    id: str
    owner: str
    created: float
    kind: Kind
    file: str
    age_years: float | None
    sex: str
    site: str
    labels: dict[str, str]
    content: str = ""

    @property
    def subject(self) -> str:
        """The person's id in every table of the job, of the images' hash and nothing else.

        Which member of a run judges a person goes by the id: the same scan, uploaded again, gets the same maps.
        """
        return f"S{(self.content or self.id)[:10]}"


@dataclass(frozen=True)
class StepEnd:
    """How a step ended: "" or why not, and its seconds."""

    sentence: str
    seconds: float


@dataclass(frozen=True)
class Job:
    """A job's folder."""

    folder: Path
    given: Given

    @property
    def state(self) -> State:
        """By the files of the folder."""
        if (self.folder / OVER).is_file():
            return "done"
        return "running" if (self.folder / STEPS).is_dir() else "waiting"

    @property
    def upload(self) -> Path:
        """The file that came."""
        return self.folder / UPLOAD / self.given.file

    def end_of(self, step: str) -> StepEnd | None:
        """How a step ended, None while it has not."""
        try:
            found = load_object(self.folder / STEPS / f"{step}.end.json")
            return StepEnd(str(found["sentence"]), float(found["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def end(self, step: str, sentence: str, seconds: float) -> None:
        """Keep how a step ended."""
        write_json(self.folder / STEPS / f"{step}.end.json", asdict(StepEnd(sentence, round(seconds, 1))))

    def finish(self) -> None:
        """No step is left: the upload, which may show a face, goes; its prepared volumes stay."""
        shutil.rmtree(self.folder / UPLOAD, ignore_errors=True)
        write_json(self.folder / OVER, {"ended": time.time()})


@dataclass(frozen=True)
class Jobs:
    """All jobs of a server, below its output folder."""

    folder: Path

    def new(self, owner: str) -> tuple[str, Path]:
        """An id that nobody can guess, and a folder for the upload, which is no job yet."""
        job_id = secrets.token_hex(16)
        coming = self.folder / f"{COMING}{job_id}"
        (coming / UPLOAD).mkdir(parents=True)
        return job_id, coming

    def add(self, given: Given, coming: Path) -> Job:
        """Make the folder of an upload a job."""
        write_json(coming / JOB, asdict(given))
        place = self.folder / given.id
        coming.rename(place)
        return Job(place, given)

    def get(self, job_id: str, owner: str) -> Job | None:
        """A user's job, None where there is none or it is somebody else's."""
        if not ID.fullmatch(job_id):
            return None
        found = self._read(self.folder / job_id)
        return found if found is not None and found.given.owner == owner else None

    def all(self, owner: str | None = None) -> list[Job]:
        """Every job, or those of a user, the oldest first."""
        places = self.folder.iterdir() if self.folder.is_dir() else iter(())
        found = [job for place in places if ID.fullmatch(place.name) and (job := self._read(place)) is not None]
        kept = [job for job in found if owner is None or job.given.owner == owner]
        return sorted(kept, key=lambda job: (job.given.created, job.given.id))

    def waiting(self) -> Iterator[Job]:
        """Jobs with steps left, the oldest first."""
        return (job for job in self.all() if job.state != "done")

    def delete(self, job: Job) -> None:
        """Delete a job: from one moment to the next it is no job, then its files go."""
        gone = self.folder / f"{GONE}{job.given.id}"
        try:
            job.folder.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def older(self, days: float) -> list[Job]:
        """Jobs that came more than so many days ago."""
        return [job for job in self.all() if time.time() - job.given.created > days * 86400]

    def tidy(self) -> None:
        """Remove what an earlier process left: half deleted jobs, and uploads that never came whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in self.folder.iterdir():
            if place.name.startswith((GONE, COMING)):
                shutil.rmtree(place, ignore_errors=True)

    def _read(self, place: Path) -> Job | None:
        try:
            return Job(place, _given(load_object(place / JOB), place.name))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _given(record: Mapping[str, Any], job_id: str) -> Given:
    """As job.json holds it.

    Raises:
        ValueError, TypeError, KeyError: another kind of record.
    """
    given = Given(**{str(name): value for name, value in record.items()})
    if given.id != job_id or Path(given.file).name != given.file:
        raise ValueError("not the record of this folder")
    return given


def age_of(text: str) -> float | None:
    """An age in years as it was typed, None for nothing.

    Raises:
        UserError: no number from 0 to 120.
    """
    cleaned = text.strip().replace(",", ".")
    if not cleaned:
        return None
    try:
        years = float(cleaned)
    except ValueError:
        years = -1.0
    if not 0 <= years <= 120:
        raise UserError("The age is a number of years from 0 to 120, such as 71.5.")
    return years


def chosen(text: str, offered: tuple[str, ...], what: str) -> str:
    """One of the words that were offered, or "".

    Raises:
        UserError: any other.
    """
    if text and text not in offered:
        raise UserError(f"The {what} is none that is offered; choose one of the list.")
    return text
