"""The pages and addresses of the server, over the jobs' folders and the one queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from gen3d.core.errors import UserError
from gen3d.serve import pages
from gen3d.serve.access import same
from gen3d.serve.gate import Refused
from gen3d.serve.jobs import Job
from gen3d.serve.models_folder import TITLES
from gen3d.serve.parts import results_of
from gen3d.serve.results import Results
from gen3d.serve.server import FIELD_BYTES, Server, Who, text_of
from gen3d.serve.steps import steps_of

MOST_FIELDS = 24
TYPES = {
    ".nii": "application/octet-stream",
    ".gz": "application/octet-stream",
    ".png": "image/png",
    ".html": "text/html",
}


def make_app(server: Server) -> FastAPI:
    """The app; it stands behind `gen3d.serve.gate.FrontGate`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _told(request, error.status, error.sentence)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> Response:
        return _told(request, 400, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        sentence = "There is no such page." if error.status_code in (404, 405) else "The request cannot be read."
        return _told(request, error.status_code, sentence)

    @app.get("/health")
    def health() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        path = pages.static_path(name)
        if path is None:
            raise Refused(404, "There is no such file.")
        return FileResponse(path, media_type=pages.STATIC[name])

    @app.get("/")
    def home(request: Request) -> Response:
        try:
            who = server.who(request)
        except Refused as error:
            if error.status != 401 or "authorization" in request.headers:
                raise
            return HTMLResponse(pages.page("login", wrong=False))
        listed = [pages.job_line(job) for job in reversed(server.jobs.all(who.user))]
        return HTMLResponse(
            pages.page(
                "home",
                **_of(who),
                jobs=listed,
                models=server.models,
                titles=TITLES,
                keep_days=server.keep_days,
                wrong="",
            )
        )

    @app.post("/login")
    async def login(request: Request) -> Response:
        form = await _form(request)
        return await run_in_threadpool(server.login, request, text_of(form, "token"))

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        who = server.who(request)
        _require_word(request, who, await _form(request))
        server.access.end(request.cookies.get(server.cookie, ""))
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(server.cookie, path="/")
        return answer

    @app.post("/jobs")
    async def upload(request: Request) -> Response:
        who = server.who(request)
        await run_in_threadpool(server.require_room, who.user)
        async with request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES) as form:
            _require_word(request, who, form)
            job = await run_in_threadpool(server.take, who.user, form)
        server.audit.note(
            "upload", who.user, job.given.id, bytes=job.upload.stat().st_size if job.upload.is_file() else 0
        )
        server.worker.wake()
        if _wants_json(request):
            return JSONResponse({"id": job.given.id}, 201)
        return RedirectResponse(f"/jobs/{job.given.id}", 303)

    @app.get("/jobs")
    def listed(request: Request) -> Response:
        who = server.who(request)
        return JSONResponse({"jobs": [pages.job_line(job) for job in server.jobs.all(who.user)]})

    @app.get("/jobs/{job_id}")
    def one(request: Request, job_id: str) -> Response:
        who, job = server.job_of(request, job_id)
        steps = steps_of(job, server.models, server.settings)
        progress = pages.progress_of(job, steps, _ahead(server, job))
        if _wants_json(request):
            return JSONResponse(progress)
        found = results_of(job, steps) if progress["state"] == "done" else Results()
        return HTMLResponse(
            pages.page(
                "job",
                **_of(who),
                job=pages.job_line(job),
                progress=progress,
                parts=[part for part in found.parts if part.title],
                downloads=found.downloads,
                keep_days=server.keep_days,
            )
        )

    @app.get("/jobs/{job_id}/files/{name}")
    def file(request: Request, job_id: str, name: str) -> Response:
        who, job = server.job_of(request, job_id)
        path: Path | None = results_of(job, steps_of(job, server.models, server.settings)).files.get(name)
        if path is None or not path.is_file():
            raise Refused(404, "There is no such file.")
        if name.endswith((".html", ".tsv")):
            server.audit.note("download", who.user, job.given.id)
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        how = "inline" if kind == "image/png" else "attachment"
        return FileResponse(path, media_type=kind, filename=name, content_disposition_type=how)

    @app.post("/jobs/{job_id}/delete")
    async def delete_by_form(request: Request, job_id: str) -> Response:
        who, job = server.job_of(request, job_id)
        _require_word(request, who, await _form(request))
        await run_in_threadpool(_delete, server, who, job)
        return RedirectResponse("/", 303)

    @app.delete("/jobs/{job_id}")
    async def delete(request: Request, job_id: str) -> Response:
        who, job = server.job_of(request, job_id)
        _require_word(request, who, None)
        await run_in_threadpool(_delete, server, who, job)
        return JSONResponse({"deleted": job_id})

    return app


def _delete(server: Server, who: Who, job: Job) -> None:
    server.worker.cancel(job)
    server.jobs.delete(job)
    server.audit.note("delete", who.user, job.given.id)


def _ahead(server: Server, job: Job) -> int:
    """Jobs of anybody that come before this one."""
    if job.state == "done":
        return 0
    return sum(other.given.created < job.given.created for other in server.jobs.waiting())


def _of(who: Who) -> dict[str, Any]:
    return {"user": who.user, "form_word": who.session.form_word if who.session else ""}


async def _form(request: Request) -> FormData:
    """The fields of a small form."""
    return await request.form(max_files=0, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES)


def _require_word(request: Request, who: Who, form: FormData | None) -> None:
    """Refuse what another site may have sent with a browser's cookie; a token in a header is nothing that it could send.

    Raises:
        Refused: the session's word is missing or wrong, or the request comes from another origin.
    """
    if who.session is None:
        return
    given = request.headers.get("x-form-word", "") or (text_of(form, "form_word") if form is not None else "")
    origin = request.headers.get("origin", "")
    ours = origin in ("", "null") or origin.partition("://")[2] == request.headers.get("host", "")
    if not same(given, who.session.form_word) or not ours:
        raise Refused(403, "This form is not from a page of this session; open the page again.")


def _wants_json(request: Request) -> bool:
    return "authorization" in request.headers or "application/json" in request.headers.get("accept", "")


def _told(request: Request, status: int, sentence: str) -> Response:
    if _wants_json(request):
        return JSONResponse({"error": sentence}, status)
    return HTMLResponse(pages.page("told", sentence=sentence, status=status), status)
