from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gen3d.cli import main, run_script
from gen3d.core.errors import UserError
from gen3d.verbs import VERBS, verb_class


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gen3d.cli import main; main(['--help']);"
        "heavy = {'torch', 'monai', 'pandas', 'nibabel', 'SimpleITK', 'sklearn', 'matplotlib', 'umap'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_every_key_described(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for name, field in verb_class(verb).model_fields.items():
        assert (field.alias or name) in shown
        assert field.description, f"{verb}.{name} has no description"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["trian"], 2, "did you mean `train`?"),
        (["simulate", "out=x", "--dryrun"], 2, "did you mean `--dry-run`?"),
        (["simulate", "subject=3", "out=x"], 2, "did you mean `subjects`?"),
        (["simulate", "nowhere.yaml"], 2, "no such configuration file"),
        (["simulate", "a.yaml", "b.yaml"], 2, "one configuration file at most"),
        (["anomaly", "out=x", "prepared=nowhere", "run=nowhere"], 2, "no such"),
    ],
)
def test_mistakes_are_one_sentence_and_a_code(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_show_prints_the_resolved_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "out=x", "subjects=7", "--show"]) == 0
    assert "subjects: 7" in capsys.readouterr().out


def mistake() -> None:
    raise UserError("FOLDER: no such folder; name one that exists.")


def missing_file() -> None:
    Path("gone.csv").read_text()


def failed_command() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys; sys.exit('it said why')"], check=True, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        (mistake, 2, "gen3d: FOLDER: no such folder; name one that exists."),
        (missing_file, 2, "gen3d: gone.csv: No such file or directory."),
        (failed_command, 1, "it said why"),
        (lambda: None, 0, ""),
    ],
)
def test_a_script_ends_in_a_sentence(
    script: Callable[[], None], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_script(script)
    shown = capsys.readouterr().err
    assert end.value.code == code
    assert shown.startswith(sentence)
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a whole number from 1 on; `unset WORLD_SIZE`"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', not a whole number from 1 on"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', not a whole number from 1 on"),
        ({"WORLD_SIZE": "2"}, "`gen3d simulate` is one process, but 2 were started; run it without torchrun."),
        ({"WORLD_SIZE": "2", "RANK": ""}, "`gen3d simulate` is one process, but 2 were started"),
    ],
)
def test_an_environment_without_sense_is_told(environment: dict[str, str], sentence: str) -> None:
    done = _started(["simulate", "out=x", "--dry-run"], environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "1", "RANK": ""}, {"RANK": "0"}])
def test_an_empty_variable_is_one_that_is_not_set(environment: dict[str, str]) -> None:
    done = _started(["simulate", "out=x", "--show"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "subjects: null" in done.stdout


def test_an_unknown_flag_alone_is_a_mistake_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hlep"]) == 2
    assert "`--hlep` is not a flag; did you mean `--help`?" in capsys.readouterr().err


def test_an_ignored_signal_stays_ignored() -> None:
    code = (
        "import os, signal; from gen3d.cli import _end_on_signals; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "_end_on_signals(); os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "alive\n"


def _started(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    command = [sys.executable, "-m", "gen3d", *words]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)
