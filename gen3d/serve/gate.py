"""What every request passes first: known host names, sizes, patience and rate; and the headers that every answer has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from gen3d.serve.access import RateLimit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PATIENCE_S = 30.0
"""Seconds without a byte after which an upload is given up."""

SMALL_BODY = 16_384
"""Bytes of any request that is no upload."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Everything comes from this server. NiiVue's letters are a picture in its own file (data:)."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is refused, with its status and the sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class FrontGate:
    """Stands before the app.

    Attributes:
        app: what answers.
        names: host names under which the server may be asked, without port; a page of another name that points here (DNS
            rebinding) is refused.
        most_bytes: of an upload.
        rate: of requests per address.
        tls: whether browsers reach it by https.
    """

    app: App
    names: frozenset[str]
    most_bytes: int
    rate: RateLimit
    tls: bool = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                listed = [(name.encode(), text.encode()) for name, text in self._headers(scope).items()]
                message["headers"] = [*message.get("headers", []), *listed]
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await _answer(refused, with_headers)
            return
        try:
            await self.app(scope, self._bounded(scope, receive), with_headers)
        except Refused as error:  # before the app could tell it itself
            await _answer(error, with_headers)

    def _headers(self, scope: MutableMapping[str, Any]) -> dict[str, str]:
        headers = dict(HEADERS)
        if scope["path"].startswith("/static/"):
            headers["cache-control"] = "public, max-age=3600"
        return headers | ({"strict-transport-security": "max-age=31536000"} if self.tls else {})

    def _refusal(self, scope: MutableMapping[str, Any]) -> Refused | None:
        headers = _headers_of(scope)
        if _name(headers.get("host", "")) not in self.names:
            return Refused(
                421, "This server is not reached under that name; whoever runs it can allow it with names=[...]."
            )
        address = scope.get("client")
        if not self.rate.allows(str(address[0]) if address else "nobody"):
            return Refused(429, "Too many requests; wait a minute.")
        length = headers.get("content-length", "")
        if length and (not length.isascii() or not length.isdecimal() or int(length[:15]) > self._limit(scope)):
            return Refused(413, self._too_large(scope))
        return None

    def _limit(self, scope: MutableMapping[str, Any]) -> int:
        is_upload = scope["method"] == "POST" and scope["path"] == "/jobs"
        return self.most_bytes + SMALL_BODY if is_upload else SMALL_BODY

    def _too_large(self, scope: MutableMapping[str, Any]) -> str:
        if self._limit(scope) == SMALL_BODY:
            return "The request is too large."
        return f"The file is larger than {self.most_bytes / 1e6:.0f} MB, the most that this server takes."

    def _bounded(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        taken, whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # what comes after the body is the end of the connection, however late
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), PATIENCE_S)
            except TimeoutError:
                raise Refused(408, "The upload stopped on its way; try again.") from None
            taken += len(message.get("body", b""))
            if taken > self._limit(scope):
                raise Refused(413, self._too_large(scope))
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            return message

        return bounded


def _headers_of(scope: MutableMapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in scope["headers"]}


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()


async def _answer(error: Refused, send: Send) -> None:
    body = f"{error.sentence}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
