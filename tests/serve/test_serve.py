"""`gen3d serve` as a user types it: what cannot be served is a sentence, and an idle server ends by itself."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from gen3d.cli import main
from gen3d.serve import serve
from tests.latents_folder import write_latents
from tests.serve.served import running


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["serve", *words]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return " ".join((said.err + said.out).split())


def test_it_ends_when_nothing_waits_and_prints_a_token_once(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"models={models}", f"out={tmp_path / 'out'}", "port=0", "until=idle"]
    assert main(["serve", *words]) == 0
    first = capsys.readouterr().out
    assert "token of user, shown this once: " in first
    assert "norm norm: " in first
    assert "research only" in first
    assert main(["serve", *words]) == 0
    assert "shown this once" not in capsys.readouterr().out
    assert main(["serve", *words, "--dry-run"]) == 0
    assert "needs age, sex and site" in capsys.readouterr().out


def test_a_port_in_use_is_said(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, f"models={models}", f"out={tmp_path / 'out'}", f"port={port}")
    assert f"127.0.0.1:{port}: cannot be listened at (address already in use)" in said
    assert not (tmp_path / "out").exists()


def test_no_models_and_models_without_a_norm_are_said(
    models: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'out'}"
    assert "no such folder" in refused(capsys, f"models={tmp_path / 'none'}", out)
    (tmp_path / "empty").mkdir()
    assert "holds no model; copy a norm there" in refused(capsys, f"models={tmp_path / 'empty'}", out)
    shutil.copytree(run, tmp_path / "alone" / "run", copy_function=shutil.copy2)
    assert "holds encoder of latents alone; copy a norm there" in refused(capsys, f"models={tmp_path / 'alone'}", out)


def test_a_head_without_the_run_of_its_latents_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gen3d.classify.classify import Classify
    from tests.contracts.test_seen import QUICK, people

    both = tmp_path / "models"
    shutil.copytree(models, both, copy_function=shutil.copy2)
    latents = write_latents(tmp_path / "latents", *people())
    Classify.model_validate(QUICK | {"latents": latents, "out": both / "head"}).run()
    capsys.readouterr()
    said = refused(capsys, f"models={both}", f"out={tmp_path / 'out'}")
    assert "head: needs the run" in said
    assert "copy that run's folder below the models too" in said


def test_a_damaged_norm_is_said(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(models, tmp_path / "models", copy_function=shutil.copy2)
    (copy / "norm" / "norm.json").write_text("{}")
    assert "norm.json" in refused(capsys, f"models={copy}", f"out={tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["host=0.0.0.0"], "scans would cross the network in the clear"),
        (["host=192.168.1.5"], "scans would cross the network in the clear"),
        (["host=myhost"], "scans would cross the network in the clear"),
        (["tls_certificate=a.pem"], "TLS needs both"),
        (["users=[a b]"], "is not of 1 to 32 letters"),
        (["users=[]"], "users"),
        (["renew=[carla]", "port=0"], "none of users="),
        (["tls_certificate=a.pem", "tls_key=b.pem", "port=0"], "not a certificate of the key"),
        (["host=203.0.113.7", "behind_proxy=true", "port=0"], "cannot be listened at"),
    ],
)
def test_settings_that_cannot_be_served_are_said(
    words: list[str], sentence: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(capsys, f"models={models}", f"out={tmp_path / 'out'}", *words)


def test_a_missing_extra_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("fastapi", "a_package_that_is_not_there"))
    said = refused(capsys, f"models={models}", f"out={tmp_path / 'out'}")
    assert "needs a_package_that_is_not_there; pip install 'gen3d[serve]'." in said


def test_a_folder_of_something_else_or_of_another_server_is_refused(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    words = [f"models={models}", "port=0"]
    assert "holds chapter.txt, which is not of `gen3d serve`" in refused(capsys, *words, f"out={tmp_path / 'thesis'}")
    with running(models, tmp_path / "out") as first:
        assert "another server works there" in refused(capsys, *words, f"out={tmp_path / 'out'}")
        assert first.process.poll() is None
    assert first.process.returncode == 143
