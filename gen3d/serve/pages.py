"""The pages, from templates that lie beside this module; every value is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from gen3d import __version__
from gen3d.core.progress import duration
from gen3d.serve.jobs import Job
from gen3d.serve.steps import JobStep

HERE = Path(__file__).parent
STATIC = {
    "serve.css": "text/css; charset=utf-8",
    "serve.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "niivue.umd.js": "text/javascript; charset=utf-8",
    "NIIVUE-LICENCE.txt": "text/plain; charset=utf-8",
}
"""Files that anybody may ask for, with their types."""

NAMES = {"volume": "Volume", "dicom": "DICOM series", "slice": "Slice"}


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def page(template: str, **values: Any) -> str:
    """A page as HTML; without `user` it is that of somebody who has not come in."""
    shown = {"version": __version__, "user": "", "form_word": "", "refresh": 0} | values
    return _environment().get_template(f"{template}.html.j2").render(shown)


def static_path(name: str) -> Path | None:
    """A file of the pages by its name, None for any other name."""
    return HERE / "static" / name if name in STATIC else None


def job_line(job: Job) -> dict[str, Any]:
    """A job as the list of scans shows it."""
    given = job.given
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(given.created))
    known = [f"{given.age_years:g} years" if given.age_years is not None else "", given.sex, given.site]
    return {
        "id": given.id,
        "when": when,
        "kind": NAMES[given.kind],
        "known": ", ".join(filter(None, known)),
        "state": job.state,
    }


def progress_of(job: Job, steps: list[JobStep], ahead: int) -> dict[str, Any]:
    """How far a job is: its state, jobs that come first, and a line per step with its state (waiting, running, done, not)."""
    lines: list[dict[str, str]] = []
    begun = job.state == "running"
    for step in steps:
        end = job.end_of(step.name)
        if end is not None:
            state, told = ("not", end.sentence) if end.sentence else ("done", duration(end.seconds))
        elif begun:
            state, told, begun = "running", "", False
        else:
            state, told = "waiting", ""
        lines.append({"title": step.title, "model": step.model, "state": state, "told": told})
    over = sum(line["state"] in ("done", "not") for line in lines)
    return {"state": job.state, "ahead": ahead, "steps": lines, "over": over, "of": len(lines)}
