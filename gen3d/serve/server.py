"""What the addresses need, and what each may be asked for: who is there, whose a job is, whether there is room, what came."""

from __future__ import annotations

import time
from dataclasses import dataclass
from shutil import disk_usage, rmtree

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData, UploadFile

from gen3d.core.errors import UserError
from gen3d.serve import pages
from gen3d.serve.access import Access, RateLimit, Session
from gen3d.serve.audit import AuditLog
from gen3d.serve.gate import Refused
from gen3d.serve.jobs import UPLOAD, Given, Job, Jobs, age_of, chosen
from gen3d.serve.models_folder import ServedModels
from gen3d.serve.steps import JobSettings
from gen3d.serve.uploads import Stored, store
from gen3d.serve.worker import Worker

LEAST_FREE_BYTES = 2 << 30
"""Of the disk, below which nothing is taken in."""

LOGINS_PER_MINUTE = 10
"""Wrong tokens of one address."""

FIELD_BYTES = 500
LABEL = "label_"
"""Begins the names of form fields with a known stage or diagnosis."""

GONE = "There is no such scan, or it is not yours; it may have been deleted."


@dataclass(frozen=True)
class Who:
    """Whoever asks: a user, by a session of a browser or (None) by a token in a header."""

    user: str
    session: Session | None


@dataclass
class Server:
    """What the addresses need: folders, models, queue, users, and limits."""

    jobs: Jobs
    models: ServedModels
    worker: Worker
    access: Access
    audit: AuditLog
    settings: JobSettings
    max_waiting: int
    keep_days: float
    cookie: str
    tls: bool
    wrong_tokens: RateLimit

    def who(self, request: Request) -> Who:
        """Whoever asks.

        Raises:
            Refused: nobody who is known.
        """
        header = request.headers.get("authorization", "")
        if header:
            kind, _, token = header.partition(" ")
            user = self._by_token(request, token.strip()) if kind.lower() == "bearer" else None
            if user is None:
                raise Refused(401, "This token is not known.")
            return Who(user, None)
        session = self.access.session(request.cookies.get(self.cookie, ""))
        if session is None:
            raise Refused(401, "Come in with your token first.")
        return Who(session.user, session)

    def _by_token(self, request: Request, token: str) -> str | None:
        address = request.client.host if request.client else "nobody"
        user = self.access.user_of(token)
        if user is None:
            self.audit.note("wrong token")
            if not self.wrong_tokens.allows(address):
                raise Refused(429, "Too many wrong tokens; wait a minute.")
        return user

    def login(self, request: Request, token: str) -> Response:
        """Exchange a token for a session."""
        user = self._by_token(request, token.strip())
        if user is None:
            return HTMLResponse(pages.page("login", wrong=True), 401)
        cookie, _ = self.access.begin(user)
        self.audit.note("login", user)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, cookie, path="/", httponly=True, samesite="strict", secure=self.tls)
        return answer

    def job_of(self, request: Request, job_id: str) -> tuple[Who, Job]:
        """A job of whoever asks.

        Raises:
            Refused: not known, or no job of theirs; both are answered alike.
        """
        who = self.who(request)
        job = self.jobs.get(job_id, who.user)
        if job is None:
            raise Refused(404, GONE)
        return who, job

    def require_room(self, user: str) -> None:
        """Refuse an upload that cannot be taken now.

        Raises:
            Refused: the user has too many scans waiting, or the disk is full.
        """
        waiting = sum(job.state != "done" for job in self.jobs.all(user))
        if waiting >= self.max_waiting:
            raise Refused(429, f"{waiting} of your scans are waiting already; wait until one is done, or delete one.")
        if disk_usage(self.jobs.folder).free < LEAST_FREE_BYTES:
            raise Refused(507, "The server's disk is full; whoever runs it can delete scans or add room.")

    def take(self, user: str, form: FormData) -> Job:
        """Check an upload and what comes with it, and make a job of it.

        Raises:
            UserError: a file or a field that cannot be used.
        """
        file = form.get("scan")
        if not isinstance(file, UploadFile):
            raise UserError("No file came; choose one.")
        age, fields = age_of(text_of(form, "age")), self.models.labels
        sex = chosen(text_of(form, "sex"), ("F", "M"), "sex")
        site = chosen(text_of(form, "site"), self.models.sites, "scanner")
        labels = {name: chosen(text_of(form, f"{LABEL}{name}"), classes, name) for name, classes in fields.items()}
        job_id, coming = self.jobs.new(user)
        try:
            stored = store(file.file, int(file.size or 0), coming / UPLOAD)
            self._require_models(stored)
            what = (stored.kind, stored.path.name, age, sex, site, labels, stored.content)
            given = Given(job_id, user, time.time(), *what)
            return self.jobs.add(given, coming)
        except BaseException:
            rmtree(coming, ignore_errors=True)
            raise

    def _require_models(self, stored: Stored) -> None:
        if stored.kind == "slice" and not self.models.takes_slices:
            raise UserError("No model of this server reads slices; upload a volume or a zip of DICOM files.")
        if stored.kind != "slice" and not self.models.takes_volumes:
            raise UserError("The models of this server read slices alone; upload one as PNG.")


def text_of(form: FormData, name: str) -> str:
    """A field of a form, cut to what a field may hold; "" for none, and for a file."""
    value = form.get(name, "")
    return value[:FIELD_BYTES] if isinstance(value, str) else ""
