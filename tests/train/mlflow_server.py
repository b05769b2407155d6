"""A server that speaks as much of MLflow's interface (REST, version 2.0) as one training needs, and that can be taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

BASE = "/api/2.0/mlflow/"
EXPERIMENT = {"experiment_id": "1", "name": "gen3d", "lifecycle_stage": "active"}
RUN = {"run_id": "1", "run_uuid": "1", "experiment_id": "1", "status": "RUNNING", "lifecycle_stage": "active"}


class TrackingServer(ThreadingHTTPServer):
    """Knows one experiment with one run, whose files are written into a folder by the client itself."""

    daemon_threads = True

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        info = RUN | {"artifact_uri": files.as_uri()}
        self.metrics: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {
            "experiments/search": {"experiments": [EXPERIMENT]},
            "experiments/get-by-name": {"experiment": EXPERIMENT},
            "runs/create": {"run": {"info": info}},
            "runs/get": {"run": {"info": info}},
            "runs/update": {"run_info": info},
            "runs/log-batch": {},
            "runs/set-tag": {},
            "metrics/get-history": {},
        }

    @property
    def address(self) -> str:
        """As MLFLOW_TRACKING_URI has it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def freeze(self) -> None:
        """Answer nothing any more; the system still takes connections."""
        self.shutdown()

    def end(self) -> None:
        """Be gone: connections are refused."""
        self.shutdown()
        self.server_close()


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, asked: bytes) -> None:
        assert isinstance(self.server, TrackingServer)
        answer = self.server.answers.get(self.path.partition("?")[0].removeprefix(BASE))
        self.server.metrics += json.loads(asked).get("metrics", [])
        body = json.dumps({"error_code": "ENDPOINT_NOT_FOUND"} if answer is None else answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: what a training says is compared."""


@contextmanager
def tracking_server(files: Path) -> Iterator[TrackingServer]:
    """A server that answers until it is taken away, or to the end of this context."""
    with TrackingServer(files) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
