"""Tokens are printed once and kept as hashes; sessions end; rates are limited and come back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.serve.access import FILE, MOST_SESSIONS, Access, RateLimit, hashed, open_access


def test_a_token_is_printed_once_and_lasts(tmp_path: Path) -> None:
    access, fresh = open_access(tmp_path, ("anna", "ben"), ())
    assert set(fresh) == {"anna", "ben"}
    assert len(fresh["anna"]) >= 32
    kept = tmp_path / FILE
    assert all(token not in kept.read_text() for token in fresh.values())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert access.user_of(fresh["anna"]) == "anna"
    again, none = open_access(tmp_path, ("anna", "ben"), ())
    assert none == {}
    assert again.user_of(fresh["ben"]) == "ben"


def test_a_renewed_token_replaces_the_old_one_and_a_user_who_is_named_no_more_is_out(tmp_path: Path) -> None:
    _, fresh = open_access(tmp_path, ("anna", "ben"), ())
    access, new = open_access(tmp_path, ("anna",), ("anna",))
    assert access.user_of(new["anna"]) == "anna"
    assert access.user_of(fresh["anna"]) is None
    assert access.user_of(fresh["ben"]) is None
    with pytest.raises(UserError, match="none of users="):
        open_access(tmp_path, ("anna",), ("carla",))
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(UserError, match="damaged"):
        open_access(tmp_path, ("anna",), ())


@pytest.mark.parametrize("wrong", ["", "x", "ä" * 40, "\0", "a" * 100_000])
def test_nothing_else_is_a_token(wrong: str) -> None:
    assert Access({"anna": hashed("right")}).user_of(wrong) is None


def test_a_session_ends_and_the_oldest_is_forgotten() -> None:
    now = [0.0]
    access = Access({"anna": hashed("right")}, clock=lambda: now[0])
    cookie, session = access.begin("anna")
    assert access.session(cookie) == session
    assert access.session(cookie + "x") is None
    now[0] = 12 * 3600 + 1.0
    assert access.session(cookie) is None
    cookies = [access.begin("anna")[0] for _ in range(MOST_SESSIONS + 1)]
    assert access.session(cookies[0]) is None
    assert access.session(cookies[-1]) is not None
    access.end(cookies[-1])
    assert access.session(cookies[-1]) is None


def test_a_rate_is_per_name_and_comes_back() -> None:
    now = [0.0]
    rate = RateLimit(60, clock=lambda: now[0])
    assert sum(rate.allows("a") for _ in range(100)) == 60
    assert rate.allows("b")
    now[0] += 2.5
    assert sum(rate.allows("a") for _ in range(100)) == 2
