"""Who gets what: nobody without a token, nobody somebody else's scans, and nothing by hostile requests."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gen3d.serve.access import RateLimit
from gen3d.serve.gate import SMALL_BODY
from tests.serve.hostile import attempts, is_let_in
from tests.serve.served import Local, local, write_small


@pytest.fixture
def served(models: Path, tmp_path: Path) -> Local:
    return local(models, tmp_path / "out")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_small(tmp_path / "Jane_Doe.nii.gz", descrip=b"Doe^Jane")


def uploaded(served: Local, user: str, scan: Path) -> str:
    answer = served.client(served.tokens[user]).post(
        "/jobs", files={"scan": scan.read_bytes()}, data={"age": "71", "sex": "F", "site": "a"}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_nobody_comes_in_without_a_token(served: Local, scan: Path) -> None:
    client = served.client()
    assert "Token" in client.get("/").text
    assert client.post("/login", data={"token": "wrong"}).status_code == 401
    for path in ("/jobs", "/jobs/" + "0" * 32, "/jobs/x/files/y"):
        assert client.get(path).status_code == 401
    assert client.post("/jobs", files={"scan": scan.read_bytes()}).status_code == 401
    assert served.client("wrong").get("/jobs").status_code == 401
    assert served.server.jobs.all() == []


def test_every_answer_has_the_headers_and_says_research_only(served: Local) -> None:
    client, _ = served.browser(served.tokens["anna"])
    for answer in (client.get("/"), served.client().get("/"), client.get("/nothing"), client.get("/jobs/" + "0" * 32)):
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
        assert "Research only." in answer.text
    assert served.client().get("/static/niivue.umd.js").status_code == 200
    assert "BSD 2-Clause" in served.client().get("/static/NIIVUE-LICENCE.txt").text


def test_a_job_is_a_folder_without_name_or_text_of_the_client(served: Local, scan: Path) -> None:
    job_id = uploaded(served, "anna", scan)
    (job,) = served.server.jobs.all()
    assert job.folder.name == job_id
    assert job.state == "waiting"
    written = [path for path in job.folder.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {"job.json", "scan.nii"}
    assert all(b"Doe" not in path.read_bytes() for path in written)
    assert json.loads((job.folder / "job.json").read_text())["age_years"] == 71
    log = served.server.audit.path
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert not any(word in log.read_text() for word in ("71", "Doe", '"F"', job_id, "127.0.0.1", "testclient"))


def test_the_same_scan_is_the_same_person_in_every_upload(served: Local, scan: Path) -> None:
    """Which member of a cross-fitted run judges somebody goes by the id; two uploads of a scan must not differ in their maps."""
    for user in ("anna", "anna", "ben"):
        uploaded(served, user, scan)
    assert len({job.given.id for job in served.server.jobs.all()}) == 3
    (subject,) = {job.given.subject for job in served.server.jobs.all()}
    again = served.server.jobs.get(*next((job.given.id, job.given.owner) for job in served.server.jobs.all()))
    assert again is not None
    assert again.given.subject == subject
    assert subject[1:] not in {job.given.id[:10] for job in served.server.jobs.all()}


def test_two_users_see_their_own_scans_alone(served: Local, scan: Path) -> None:
    job_id = uploaded(served, "anna", scan)
    ben = served.client(served.tokens["ben"])
    nobody = ben.get("/jobs/" + "0" * 32)
    for answer in (
        ben.get(f"/jobs/{job_id}"),
        ben.delete(f"/jobs/{job_id}"),
        ben.get(f"/jobs/{job_id}/files/prepared-scan.nii"),
    ):
        assert (answer.status_code, answer.json()) == (404, nobody.json())
    assert ben.get("/jobs").json() == {"jobs": []}
    anna = served.client(served.tokens["anna"])
    assert anna.get(f"/jobs/{job_id}").json()["state"] == "waiting"
    assert anna.delete(f"/jobs/{job_id}").status_code == 200
    assert list(served.server.jobs.folder.iterdir()) == []


def test_a_form_of_another_site_does_nothing(served: Local, scan: Path) -> None:
    client, word = served.browser(served.tokens["anna"])
    job_id = uploaded(served, "anna", scan)
    with_word = {"form_word": word}
    assert client.post(f"/jobs/{job_id}/delete", data={}).status_code == 403
    assert client.post(f"/jobs/{job_id}/delete", data={"form_word": "x"}).status_code == 403
    assert (
        client.post(f"/jobs/{job_id}/delete", data=with_word, headers={"Origin": "http://evil.example"}).status_code
        == 403
    )
    assert client.post("/jobs", files={"scan": scan.read_bytes()}).status_code == 403
    assert client.delete(f"/jobs/{job_id}").status_code == 403
    assert len(served.server.jobs.all()) == 1
    assert client.post(f"/jobs/{job_id}/delete", data=with_word, follow_redirects=False).status_code == 303
    assert served.server.jobs.all() == []
    cookie = next(iter(client.cookies.jar))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    assert client.post("/logout", data=with_word, follow_redirects=False).status_code == 303
    assert client.get("/jobs").status_code == 401


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"age": "old"}, "The age is a number of years"),
        ({"age": "200"}, "The age is a number of years"),
        ({"age": "nan"}, "The age is a number of years"),
        ({"sex": "x"}, "The sex is none that is offered"),
        ({"site": "elsewhere"}, "The scanner is none that is offered"),
        ({"site": "a\n=cmd()"}, "The scanner is none that is offered"),
    ],
)
def test_a_field_that_cannot_be_used_is_said_and_nothing_is_kept(
    fields: dict[str, str], sentence: str, served: Local, scan: Path
) -> None:
    client, word = served.browser(served.tokens["anna"])
    answer = client.post("/jobs", files={"scan": scan.read_bytes()}, data=fields | {"form_word": word})
    assert answer.status_code == 400
    assert sentence in answer.text
    assert list(served.server.jobs.folder.iterdir()) == []


def test_what_is_too_large_or_too_much_is_refused(models: Path, tmp_path: Path, scan: Path) -> None:
    served = local(models, tmp_path / "out", most_mb=1)
    client = served.client(served.tokens["anna"])
    large = {"scan": ("x.nii", b"\x5c\x01\0\0" + bytes(2_000_000))}
    answer = client.post("/jobs", files=large)
    assert (answer.status_code, "larger than 1 MB" in answer.text) == (413, True)

    def endless():  # type: ignore[no-untyped-def]
        yield b'--x\r\nContent-Disposition: form-data; name="scan"; filename="a"\r\n\r\n'
        for _ in range(400):
            yield bytes(10_000)

    answer = client.post("/jobs", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert client.post("/login", content=b"token=" + b"a" * 2 * SMALL_BODY).status_code == 413
    for _ in range(5):
        uploaded(served, "anna", scan)
    assert client.post("/jobs", files={"scan": scan.read_bytes()}).status_code == 429
    assert served.client(served.tokens["ben"]).post("/jobs", files={"scan": scan.read_bytes()}).status_code == 201


def test_requests_and_wrong_tokens_are_limited(models: Path, tmp_path: Path) -> None:
    served = local(models, tmp_path / "out", rate=RateLimit(20, clock=lambda: 0.0))
    client = served.client()
    assert [client.get("/health").status_code for _ in range(30)] == [200] * 20 + [429] * 10
    other = local(models, tmp_path / "other")
    other.server.wrong_tokens = RateLimit(10, clock=lambda: 0.0)
    codes = [other.client().post("/login", data={"token": f"t{number}"}).status_code for number in range(15)]
    assert codes == [401] * 10 + [429] * 5
    right = other.client().post("/login", data={"token": other.tokens["anna"]}, follow_redirects=False)
    assert right.status_code == 303  # whoever has a token comes in whatever others try


def test_hostile_requests_get_nothing_and_lose_nothing(served: Local, scan: Path) -> None:
    job_id = uploaded(served, "anna", scan)
    folder = served.server.jobs.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    plain, with_token = served.client(), served.client(served.tokens["ben"])
    let_in = []
    for attempt in attempts(300, job_id):
        client = with_token if attempt.with_token else plain
        try:
            answer = client.request(
                attempt.method, attempt.path, headers=attempt.headers, content=attempt.content, follow_redirects=False
            )
        except (ValueError, UnicodeError):  # the client itself refuses to send it
            continue
        if is_let_in(attempt, answer.status_code, answer.text):
            let_in.append((attempt, answer.status_code, answer.text[:200]))
    assert let_in == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
