"""A headless Chromium, driven over its own protocol: no driver program, no package but a websocket."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = ("--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
FURTHER = ("--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0", "--disable-background-networking")
WAIT_S = 180.0


@dataclass
class Page:
    """One tab in a context of its own: it shares no cookie with any other."""

    socket: Any
    session: str
    number: int = 0
    said: list[str] = field(default_factory=list)
    """Errors of the console, of scripts, and of the security policy."""

    asked: list[str] = field(default_factory=list)
    """Every address that was asked for."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser, and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, "sessionId": self.session}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number and answer.get("sessionId") == self.session:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.said.append(str(parameters["entry"]["text"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(str(parameters["request"]["url"]))

    def run(self, script: str) -> Any:
        """The value of a script, waited for where it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address, and wait for the page."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def until(self, script: str, seconds: float = WAIT_S) -> None:
        """Wait until a script is true; a page that is just being exchanged is asked again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.run(script):
                    return
            except AssertionError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"never true: {script}; the page says: {self.run('document.body.innerText')[:600]}")

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a field, as a person does."""
        # By the object: numbers of nodes change when a page is loaded, which may still be going on.
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def picture(self, path: Path | None = None, whole: bool = True) -> bytes:
        """A screenshot as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        png = base64.b64decode(taken["data"])
        if path is not None:
            path.write_bytes(png)
        return png


@dataclass
class Browser:
    """A running Chromium."""

    socket: Any
    number: int = 0

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number -= 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                result: dict[str, Any] = answer["result"]
                return result

    def page(self) -> Page:
        """A new tab of somebody who was never here."""
        context = self._call("Target.createBrowserContext")["browserContextId"]
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self.socket, session)
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            page.call(f"{domain}.enable")
        return page

    def came_in(self, address: str, token: str) -> Page:
        """A new tab of somebody who typed a token into the server's first page."""
        page = self.page()
        page.size(1440, 900)
        page.open(f"{address}/")
        page.run(
            f"document.getElementById('token').value = '{token}'; document.querySelector('main form button').click()"
        )
        page.until("document.readyState === 'complete' && document.getElementById('upload') !== null")
        return page


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A Chromium with a profile of its own; the test is skipped where there is none."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    websocket = pytest.importorskip("websocket")
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, *FURTHER, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
        )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + WAIT_S
        while not (port_file.is_file() and port_file.read_text().strip()):
            assert time.monotonic() < end, "Chromium does not answer"
            assert process.poll() is None, (profile.parent / "chromium.log").read_text()[-2000:]
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/version") as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        socket = websocket.create_connection(address, timeout=WAIT_S, suppress_origin=True)
        try:
            yield Browser(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(20)
