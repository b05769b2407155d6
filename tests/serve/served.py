"""A server in a process of its own, as a user starts it; and one in this process, without its queue, for many quick requests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import nibabel as nib
import numpy as np
from starlette.testclient import TestClient

from gen3d.serve.access import RateLimit, open_access
from gen3d.serve.app import make_app
from gen3d.serve.audit import AuditLog
from gen3d.serve.gate import FrontGate
from gen3d.serve.jobs import Jobs
from gen3d.serve.models_folder import open_models
from gen3d.serve.server import Server
from gen3d.serve.steps import JobSettings
from gen3d.serve.worker import Worker

WAIT_S = 400.0
HOST = "127.0.0.1"


@dataclass
class Running:
    """A server that runs: its address, the tokens that it printed, and its process."""

    address: str
    tokens: dict[str, str]
    process: subprocess.Popen[str]
    out: Path

    def client(self, token: str) -> httpx.Client:
        """Asks with a token in a header."""
        return httpx.Client(base_url=self.address, headers={"Authorization": f"Bearer {token}"}, timeout=120)

    def upload(self, token: str, path: Path, **fields: str) -> str:
        """Upload a file; the job's id."""
        with self.client(token) as client, path.open("rb") as stream:
            answer = client.post("/jobs", files={"scan": stream}, data=fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def wait(self, token: str, job: str, state: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a job is so far."""
        end = time.monotonic() + WAIT_S
        with self.client(token) as client:
            while time.monotonic() < end:
                found: dict[str, Any] = client.get(f"/jobs/{job}").json()
                if state(found):
                    return found
                time.sleep(0.2)
        raise AssertionError(f"the job came to {found}")


@contextmanager
def running(models: Path, out: Path, *words: str) -> Iterator[Running]:
    """Start `gen3d serve` on any free port; it is ended with the context."""
    command = [sys.executable, "-m", "gen3d", "serve", f"models={models}", f"out={out}", "port=0", *words]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "serving at" in line:
                break
        found = re.search(r"serving at (http://\S+)", said[-1] if said else "")
        assert found is not None, "".join(said)
        tokens = dict(re.findall(r"token of (\S+), shown this once: (\S+)", "".join(said)))
        yield Running(found[1], tokens, process, out)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(180)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


@dataclass
class Local:
    """A server in this process whose queue stands still."""

    server: Server
    gate: FrontGate
    tokens: dict[str, str]

    def client(self, token: str = "", **headers: str) -> TestClient:
        """Asks as a program with a token, or as nobody."""
        sent = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        return TestClient(self.gate, base_url=f"http://{HOST}", headers=sent, raise_server_exceptions=False)

    def browser(self, token: str) -> tuple[TestClient, str]:
        """Asks as a browser that came in with a token; and the word of its forms."""
        client = self.client()
        answer = client.post("/login", data={"token": token}, follow_redirects=False)
        assert answer.status_code == 303, answer.text
        found = re.search(r'name="form_word" value="([^"]+)"', client.get("/").text)
        assert found is not None
        return client, found[1]


def local(
    models: Path,
    out: Path,
    users: tuple[str, ...] = ("anna", "ben"),
    rate: RateLimit | None = None,
    most_mb: int = 20,
) -> Local:
    """Make one, with a limit of requests and uploads of so many MB."""
    (out / "jobs").mkdir(parents=True)
    opened, jobs, audit, settings = (
        open_models(models),
        Jobs(out / "jobs"),
        AuditLog(out / "audit.jsonl"),
        JobSettings(),
    )
    access, tokens = open_access(out, users, ())
    worker = Worker(jobs, opened, settings, 10, lambda job: None)
    limits = (5, 7.0, "gen3d_session", False, RateLimit(1e6))
    server = Server(jobs, opened, worker, access, audit, settings, *limits)
    gate = FrontGate(make_app(server), frozenset({HOST}), most_mb * 1_000_000, rate or RateLimit(1e6))
    return Local(server, gate, tokens)


def write_small(path: Path, shape: tuple[int, ...] = (8, 9, 10), **text: bytes) -> Path:
    """A small volume that is no brain, with free text in its header."""
    values = np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    for name, given in text.items():
        image.header[name] = given
    nib.save(image, path)
    return path
