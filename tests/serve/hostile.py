"""Requests of somebody who wants in: paths, sizes, types, tokens, forms. `is_let_in` says whether an answer gave anything away."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

PATHS = (
    "/../../etc/passwd",
    "/static/../../../etc/passwd",
    "/static/..%2f..%2fserve.py",
    "/static/%2e%2e/app.py",
    "/static/serve.css/../../app.py",
    "/jobs/../access.json",
    "/jobs/..%2faccess.json",
    "/jobs/.%00",
    "/jobs/{job}/files/..%2f..%2f..%2faccess.json",
    "/jobs/{job}/files/job.json",
    "/jobs/{job}/files/%2fetc%2fpasswd",
    "/jobs/{job}/../{job}",
    "/jobs/{job}",
    "/jobs/{job}/files/prepared-scan.nii",
    "/jobs/{job}/files/report.html",
    "/jobs/*",
    "/access.json",
    "/audit.jsonl",
    "/docs",
    "/openapi.json",
    "/.git/config",
    "/%5cevil.example/",
    "/jobs/" + "a" * 5000,
    "/jobs/" + "0" * 32,
    "/%ff%fe",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
WORDS = (
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Basic dXNlcjp1c2Vy",
    "bearer null",
    "Bearer " + "A" * 8000,
    "Bearer ' OR 1=1 --",
)
NAMES = (
    "../../x.nii",
    "/etc/passwd",
    "a\0.nii",
    "x" * 2000 + ".nii",
    "<script>alert(1)</script>.nii",
    "%2e%2e%2fx",
    "",
)
BODIES = (
    b"",
    b"\0" * 5000,
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
    b"{" * 2000,
)
TYPES = ("multipart/form-data", "multipart/form-data; boundary=x", "application/json", "text/plain", "", "x" * 3000)
SECRETS = ("root:", "gen3d_session", '"tokens"', '"users"', "def make_app", "[core]")


@dataclass(frozen=True)
class Attempt:
    """One request of somebody who is nobody here, or who has a token that owns nothing of what is asked for."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    with_token: bool = False


def attempts(num: int, job: str, seed: int = 0) -> Iterator[Attempt]:
    """So many of them, drawn; `job` is the id of somebody else's job."""
    draw = random.Random(seed)
    for number in range(num):
        path = draw.choice(PATHS).replace("{job}", job)
        kind, method = number % 5, draw.choice(METHODS)
        headers = {"Authorization": draw.choice(WORDS)} if draw.random() < 0.5 else {}
        if kind == 0:
            yield Attempt(method, path, headers, draw.choice(BODIES))
        elif kind == 1:  # with a valid token of another user
            yield Attempt(draw.choice(("GET", "DELETE", "POST")), path, {}, b"", True)
        elif kind == 2:
            yield Attempt("POST", "/jobs", headers | {"Content-Type": draw.choice(TYPES)}, draw.choice(BODIES))
        elif kind == 3:  # an upload that is no scan, or has the name of a path
            name = draw.choice(NAMES).replace('"', "").replace("\r", "")
            body = draw.choice(
                (b"hello", b"PK\x03\x04" + bytes(99), b"\x1f\x8b" + bytes(99), b"\x5c\x01\0\0" + bytes(400))
            )
            part = (
                f'--x\r\nContent-Disposition: form-data; name="scan"; filename="{name}"\r\n\r\n'.encode()
                + body
                + b"\r\n--x--\r\n"
            )
            yield Attempt("POST", "/jobs", {"Content-Type": "multipart/form-data; boundary=x"}, part, True)
        else:
            fake = {"Host": draw.choice(("evil.example", "169.254.169.254", "x" * 500))}
            cookie = {"Cookie": f"gen3d_session={draw.choice(('x', 'a' * 4000, '../../x'))}"}
            yield Attempt(method, path, headers | (fake if draw.random() < 0.3 else cookie))


def is_let_in(attempt: Attempt, status: int, text: str) -> bool:
    """Whether the answer is anything but a refusal, a page that anybody may see, or a redirect to one."""
    if any(secret in text for secret in SECRETS):
        return True
    if 200 <= status < 300:
        own = attempt.with_token and attempt.path in ("/", "/jobs")
        public = "Come in" in text or attempt.method in ("HEAD", "OPTIONS")
        return not (own or public)
    return status >= 500 and status != 507
