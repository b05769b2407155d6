"""Who may come in: tokens of users, sessions of browsers, and how often anybody may ask.

A token is printed once and kept as a hash only. A browser exchanges it for a session: a cookie that no script reads, and a
word that every form must bring along, which other sites cannot know. Comparisons take the same time for every guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object

FILE = "access.json"
TOKEN_BYTES = 24
SESSION_HOURS = 12.0
MOST_SESSIONS = 200
"""Of all users together; the oldest is forgotten first."""

MOST_ADDRESSES = 10_000
"""Whose requests are counted at a time."""


def hashed(token: str) -> str:
    """SHA-256 of a token; tokens are 192 random bits, so no slower hash is needed."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Session:
    """A browser that showed a user's token: whose it is, its word for forms, and when it ends (monotonic seconds)."""

    user: str
    form_word: str
    ends: float


@dataclass
class Access:
    """The users and the sessions; sessions are kept in memory alone."""

    tokens: dict[str, str]
    """User -> hash of the token."""

    sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)
    """Hash of a cookie -> session."""

    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def user_of(self, token: str) -> str | None:
        """Whose token this is; every user's hash is compared, whatever was found before."""
        given, found = hashed(token), None
        for user, known in self.tokens.items():
            if hmac.compare_digest(given, known):
                found = user
        return found

    def begin(self, user: str) -> tuple[str, Session]:
        """A new session, and the cookie that opens it."""
        cookie = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(user, secrets.token_urlsafe(TOKEN_BYTES), self.clock() + SESSION_HOURS * 3600)
        with self._lock:
            self.sessions[hashed(cookie)] = session
            while len(self.sessions) > MOST_SESSIONS:
                self.sessions.popitem(last=False)
        return cookie, session

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie, None where there is none or it has ended."""
        with self._lock:
            found = self.sessions.get(hashed(cookie))
            if found is not None and found.ends < self.clock():
                del self.sessions[hashed(cookie)]
                return None
            return found

    def end(self, cookie: str) -> None:
        """Forget a session."""
        with self._lock:
            self.sessions.pop(hashed(cookie), None)


def same(given: str, known: str) -> bool:
    """Whether two secret words are one, compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), known.encode("utf-8", "replace"))


def open_access(folder: Path, users: Sequence[str], renew: Sequence[str]) -> tuple[Access, dict[str, str]]:
    """The users of a folder, and the tokens that were made now, to be printed once.

    A user who was known before keeps the token, so that a restart locks nobody out of earlier scans; somebody who is not
    named any more is let in no more.

    Raises:
        UserError: a damaged file, or a user to renew who is not named.
    """
    unknown = [name for name in renew if name not in users]
    if unknown:
        raise UserError(f"renew: {unknown[0]} is none of users=[{', '.join(users)}]; name one of them.")
    path, kept = folder / FILE, {}
    if path.exists():
        try:
            kept = {str(user): str(text) for user, text in load_object(path)["users"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error}); delete it, and every user gets a new token.") from None
    fresh = {name: secrets.token_urlsafe(TOKEN_BYTES) for name in users if name in renew or name not in kept}
    tokens = {name: hashed(fresh[name]) if name in fresh else kept[name] for name in users}
    if fresh or set(kept) != set(users):
        write_json(path, {"users": tokens})
        os.chmod(path, 0o600)
    return Access(tokens), fresh


@dataclass
class RateLimit:
    """At most so many requests a minute for each name, refilled evenly (a token bucket)."""

    per_minute: float
    clock: Callable[[], float] = time.monotonic
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def allows(self, name: str) -> bool:
        """Whether one more request is within the limit; it is counted if so."""
        now = self.clock()
        with self._lock:
            left, before = self._left.pop(name, (self.per_minute, now))
            left = min(self.per_minute, left + (now - before) * self.per_minute / 60)
            self._left[name] = (left - 1 if left >= 1 else left, now)
            while len(self._left) > MOST_ADDRESSES:
                self._left.popitem(last=False)
        return left >= 1
