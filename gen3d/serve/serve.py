"""`gen3d serve`: one scan in a browser, judged by models that are there; the same verbs and folders as the command line."""

from __future__ import annotations

import fcntl
import importlib.util
import ipaddress
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gen3d.core import words
from gen3d.core.config import Folder, Verb
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.progress import say

if TYPE_CHECKING:  # the framework is an extra, and settings and help need none
    import uvicorn

    from gen3d.serve.server import Server

NEEDED = ("fastapi", "uvicorn", "python_multipart")
LOCK, JOBS, INCOMING = ".lock", "jobs", ".incoming"
OURS = {LOCK, JOBS, INCOMING, "access.json", "audit.jsonl", "audit.jsonl.1"}
LOOK_EVERY_S = 0.5
TIDY_EVERY_S = 600.0


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, (str, int, float)) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Years = Annotated[tuple[Annotated[float, Field(gt=0, le=50)], ...], BeforeValidator(_one_or_many), Field(min_length=1)]


class Serve(Verb):
    """Serve a page on which one scan is uploaded and comes out with maps, tables, predictions and forecasts.

    Whoever has a token uploads a volume, a zip of DICOM files or a slice. One queue runs the verbs of the command line on it,
    each in a process and a folder of its own below `out`, so that whatever stops the server, the next start goes on. Users see
    their own scans alone, and every scan is deleted after `keep_days`. Research only: no result is for diagnosis or treatment.
    """

    models: Folder = Field(
        description="folder with finished norms, heads, their runs, classifiers, fusions, forecasters and chains, copied there"
    )
    host: str = Field(
        "127.0.0.1", description="address to listen at; another than this machine's own needs TLS or a proxy"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen at; 0: any that is free")
    tls_certificate: Path | None = Field(None, description="file of the certificate (PEM), for https")
    tls_key: Path | None = Field(None, description="file of its private key (PEM)")
    behind_proxy: bool = Field(
        False,
        description="a proxy that speaks https stands before it, and it alone reaches this port: its headers are believed",
    )
    names: Texts = Field((), description="further host names under which browsers reach the server")
    users: Annotated[Texts, Field(min_length=1)] = Field(
        ("user",), description="who may upload; each gets a token, printed once, and sees own scans alone"
    )
    renew: Texts = Field((), description="users who get a new token, the old one being lost")
    keep_days: float = Field(
        7.0, gt=0, le=3650, description="days after which a scan and all that was made of it is deleted"
    )
    max_upload_mb: int = Field(200, ge=1, le=4096, description="largest upload, MB (millions of bytes)")
    max_waiting: int = Field(20, ge=1, le=1000, description="scans of one user that may wait at a time")
    per_minute: int = Field(600, ge=10, description="requests of one address per minute")
    step_minutes: float = Field(120.0, gt=0, description="minutes after which one step of a scan is given up")
    years: Years = Field(
        (1.0, 3.0, 5.0), description="horizons of forecasts, years; those beyond a forecaster are left out"
    )
    until: Literal["stopped", "idle"] = Field(
        "stopped", description="idle: end when no step is left, to work off what waits without anybody at a browser"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Serve:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_certificate=FILE and tls_key=FILE; give the other one too.")
        if not _is_loopback(self.host) and self.tls_certificate is None and not self.behind_proxy:
            raise ValueError(
                f"host={self.host} is reached by other machines, and scans would cross the network in the clear; give "
                "tls_certificate=FILE and tls_key=FILE, or behind_proxy=true where a proxy speaks https."
            )
        for name in self.users:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 32:
                raise ValueError(f"the user {name!r} is not of 1 to 32 letters, digits, - and _; choose another name.")
        return self

    def plan(self) -> list[str]:
        """The models, and where they would be served."""
        from gen3d.serve.models_folder import TITLES, open_models

        models = open_models(self.models)
        listed = [
            f"{TITLES[model.kind].lower()} {model.name} ({model.words}): needs {model.needs}" for model in models.all
        ]
        return [
            *listed,
            f"serves them at {self._address(self.port)}",
            f"keeps scans for {self.keep_days:g} days in {self.out}",
        ]

    def run(self) -> Path:
        """Serve until it is stopped; returns the folder of the jobs.

        Raises:
            UserError: the extra is not installed, no usable models, a port in use, files of TLS that do not fit, or a folder of
                something else or of another server.
        """
        require_packages()
        from gen3d.serve.models_folder import open_models

        models = open_models(Path(os.path.abspath(self.models)))
        self._check_tls()
        with self._listening() as listener, self._own_folder() as out:
            server, fresh = self._server(models, out)
            self._announce(server, fresh, int(listener.getsockname()[1]))
            self._serve(server, listener)
        return self.out

    def _server(self, models: Any, out: Path) -> tuple[Server, dict[str, str]]:
        from gen3d.serve.access import RateLimit, open_access
        from gen3d.serve.audit import FILE, AuditLog
        from gen3d.serve.jobs import Jobs
        from gen3d.serve.server import LOGINS_PER_MINUTE, Server
        from gen3d.serve.steps import JobSettings
        from gen3d.serve.worker import Worker

        jobs, audit = Jobs(out / JOBS), AuditLog(out / FILE)
        jobs.tidy()
        access, fresh = open_access(out, self.users, self.renew)
        settings = JobSettings(years=self.years)
        worker = Worker(
            jobs, models, settings, self.step_minutes, lambda job: audit.note("over", job.given.owner, job.given.id)
        )
        tls = self.tls_certificate is not None or self.behind_proxy
        wrong = RateLimit(LOGINS_PER_MINUTE)
        cookie = f"gen3d_session_{self.port}"
        limits = (self.max_waiting, self.keep_days)
        return Server(jobs, models, worker, access, audit, settings, *limits, cookie, tls, wrong), fresh

    def _serve(self, server: Server, listener: socket.socket) -> None:
        import uvicorn

        from gen3d.serve.access import RateLimit
        from gen3d.serve.app import make_app
        from gen3d.serve.gate import FrontGate

        names = frozenset({"127.0.0.1", "localhost", "::1", self.host.lower(), *(name.lower() for name in self.names)})
        gate = FrontGate(
            make_app(server), names, self.max_upload_mb * 1_000_000, RateLimit(self.per_minute), server.tls
        )
        config = uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,  # addresses of requests are personal data; audit.jsonl has what is kept
            server_header=False,
            date_header=False,
            proxy_headers=self.behind_proxy,
            forwarded_allow_ips="*" if self.behind_proxy else None,
            ssl_certfile=self.tls_certificate,
            ssl_keyfile=self.tls_key,
            limit_concurrency=64,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=5,
            ws="none",
            lifespan="off",
        )
        web, over = uvicorn.Server(config), threading.Event()
        keeper = threading.Thread(target=self._keep, args=(server, web, over), name="keeper", daemon=True)
        server.audit.note("start")
        server.worker.start()
        keeper.start()
        try:
            web.run(sockets=[listener])
        finally:
            over.set()
            server.worker.stop()
            keeper.join()
            server.audit.note("stop")

    def _keep(self, server: Server, web: uvicorn.Server, over: threading.Event) -> None:
        """Delete what is too old; end the server when no step is left, where that is wanted."""
        waited = TIDY_EVERY_S
        while not over.is_set():
            if waited >= TIDY_EVERY_S:
                waited = 0.0
                for job in server.jobs.older(self.keep_days):
                    server.worker.cancel(job)
                    server.jobs.delete(job)
                    server.audit.note("kept no longer", job.given.owner, job.given.id)
            if self.until == "idle" and web.started and server.worker.is_idle:
                web.should_exit = True
            waited += LOOK_EVERY_S
            over.wait(LOOK_EVERY_S)

    def _announce(self, server: Server, fresh: dict[str, str], port: int) -> None:
        from gen3d.serve.models_folder import TITLES

        for model in server.models.all:
            say(f"{TITLES[model.kind].lower()} {model.name}: {model.words}; needs {model.needs}")
        for user, token in fresh.items():
            say(f"token of {user}, shown this once: {token}")
        if not fresh:
            say(f"tokens are those shown at the first start; renew=[{self.users[0]}] makes a new one")
        waiting = sum(1 for _ in server.jobs.waiting())
        if waiting:
            say(f"goes on with {words.count(waiting, 'scan')}")
        say(f"serving at {self._address(port)} until it is stopped (Ctrl-C); research only, not for diagnosis")

    def _address(self, port: int) -> str:
        kind = "https" if self.tls_certificate is not None else "http"
        return f"{kind}://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    @contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, self.port))
                listener.listen(128)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise UserError(
                    f"{self.host}:{self.port}: cannot be listened at ({reason}); another program has this port, or the address is "
                    "not this machine's: give port=, or stop that program."
                ) from None
            yield listener

    @contextmanager
    def _own_folder(self) -> Iterator[Path]:
        """The folder of the jobs, for this server alone; temporary files of uploads are beside them, on the same disk."""
        out = Path(os.path.abspath(self.out))
        if out.is_dir() and (foreign := sorted(path.name for path in out.iterdir() if path.name not in OURS)):
            raise UserError(f"{self.out}: holds {foreign[0]}, which is not of `gen3d serve`; give another out=.")
        with writing(out):
            (out / JOBS).mkdir(parents=True, exist_ok=True)
            (out / INCOMING).mkdir(exist_ok=True)
            os.chmod(out, 0o700)
            lock = (out / LOCK).open("a")
        before = tempfile.tempdir
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tempfile.tempdir = str(out / INCOMING)
            yield out
        except BlockingIOError:
            raise UserError(f"{self.out}: another server works there; stop it, or give another out=.") from None
        finally:
            tempfile.tempdir = before
            lock.close()

    def _check_tls(self) -> None:
        if self.tls_certificate is None or self.tls_key is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_certificate, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise UserError(
                f"{self.tls_certificate}: not a certificate of the key {self.tls_key} ({error.strerror or error}); both are PEM "
                "files."
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_packages() -> None:
    """Refuse to start without the extra.

    Raises:
        UserError: a package of it is not installed.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"`gen3d serve` needs {words.listed(absent)}; pip install 'gen3d[serve]'.")
