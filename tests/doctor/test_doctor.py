"""`gen3d doctor` as a user types it."""

from __future__ import annotations

import pytest

from gen3d.cli import main
from gen3d.doctor.doctor import HARM, print_findings
from gen3d.doctor.finding import good, harmful, missing


def test_what_is_harmful_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings([good("one", "fine"), missing("two", "not there", "install two")]) == 0
    assert "1 good, 1 missing, 0 harmful: gen3d works here" in capsys.readouterr().out
    assert print_findings([harmful("three", "left over", "unset THREE")]) == HARM
    text = capsys.readouterr().out
    assert "-> unset THREE" in text
    assert "mend 1 line marked HARMFUL first." in text


def test_the_command_looks_at_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) in (0, HARM)
    text = capsys.readouterr().out
    for what in ("Python", "gen3d", "torch", "memory", "shared memory", "launcher variables", "g++"):
        assert f" {what} " in text


def test_it_answers_where_a_launcher_left_variables_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["doctor"]) == HARM
    assert "unset RANK WORLD_SIZE" in capsys.readouterr().out


def test_it_has_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "out=here"]) == 2
    assert "`gen3d doctor` has no settings" in capsys.readouterr().err
    assert main(["doctor", "--help"]) == 0
    assert main(["docter"]) == 2
    assert "did you mean `doctor`?" in capsys.readouterr().err
