from __future__ import annotations

import os
import signal
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
        ({"WORLD_SIZE": "2"}, "is one process, but WORLD_SIZE says that 2 were started; run it without"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "`gen3d simulate` is one process, but WORLD_SIZE says that 2"),
    ],
)
def test_an_environment_without_sense_is_told(environment: dict[str, str], sentence: str) -> None:
    done = _started(["simulate", "out=x", "--dry-run"], environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "1", "RANK": "3"}, {"RANK": "3"}, {"MPLBACKEND": "nonsense", "COLUMNS": "0"}],
)
def test_an_empty_variable_is_one_that_is_not_set(environment: dict[str, str]) -> None:
    done = _started(["simulate", "out=x", "--show"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "subjects: null" in done.stdout


def test_an_unknown_flag_alone_is_a_mistake_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hlep"]) == 2
    assert "`--hlep` is not a flag; did you mean `--help`?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "9" * 5000},
        {"WORLD_SIZE": "4", "RANK": "1"},  # left over: no other process is there to say it
        {"WORLD_SIZE": "4", "RANK": "x", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "4", "RANK": "9", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "http"},
        {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"},
    ],
    ids=lambda environment: " ".join(f"{name}={value[:9]}" for name, value in environment.items()),
)
def test_every_verb_says_what_is_wrong_with_a_launchers_variables(
    verb: str,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([verb, "nosuchkey=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gen3d: ")
    assert any(name in said for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", "is one process"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("{gen3d} --help >&- <&-", 0, ""),
        ("{gen3d} trian 2>&-", 2, ""),
        ("{gen3d} --help > /dev/full", 2, "gen3d: /dev/stdout: the disk is full"),
        ("{gen3d} simulate out=$'caf\\xe9'", 2, "gen3d: 'out=caf\\udce9' is no text in this locale (utf-8)"),
    ],
)
def test_standard_streams_that_cannot_be_used_end_in_no_traceback(command: str, code: int, sentence: str) -> None:
    words = command.format(gen3d=f"{sys.executable} -m gen3d")
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(sentence)
    assert "Traceback" not in done.stderr


def test_a_closed_output_gives_its_number_to_no_file_of_ours(tmp_path: Path) -> None:
    code = (
        "import sys; from gen3d.cli import _open_standard_streams; _open_standard_streams();"
        "print(open(sys.argv[1], 'w').fileno(), file=open(sys.argv[2], 'w'))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "ours"), str(tmp_path / "n")]
    subprocess.run(["bash", "-c", 'exec "$0" "$@" >&- <&-', *words], check=True)
    assert int((tmp_path / "n").read_text()) > 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_in_a_sentence_and_its_usual_code(number: signal.Signals) -> None:
    code = (
        "import os, sys; sys.argv = ['gen3d']; import gen3d.cli as cli;"
        f"cli._run = lambda *given: os.kill(os.getpid(), {int(number)}); cli._print_overview = lambda: cli._run(); cli.entry()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    assert done.stderr.startswith("gen3d: Stopped")
    assert len(done.stderr.splitlines()) == 1


STOPPED_AT = """
import os, signal, sys
import gen3d.cli as cli

sys.argv = ["gen3d", "--version"]
left = int(os.environ["STOP_AT"])

def trace(frame, event, arg):
    global left
    if frame.f_code in (cli.entry.__code__, cli._end_on_signals.__code__) and event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    return trace

sys.settrace(trace)
cli.entry()
"""
"""gen3d that is stopped when it comes to a certain line of its start or end."""


def test_a_signal_at_any_moment_of_the_start_and_the_end_is_no_failure() -> None:
    ends: list[int] = []
    for at in range(1, 80):
        environment = os.environ | {"STOP_AT": str(at), "GEN3D_PARENT": str(os.getpid())}
        done = subprocess.run(
            [sys.executable, "-c", STOPPED_AT], capture_output=True, text=True, check=False, env=environment
        )
        assert "Traceback" not in done.stderr, (at, done.stderr)
        assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM, 0), (at, done.stderr)
        ends.append(done.returncode)
        if ends[-3:] == [0, 0, 0] and 128 + signal.SIGTERM in ends:
            break
    assert {-signal.SIGTERM, 128 + signal.SIGTERM, 0} <= set(ends)  # before it is answered, while it is, and at the end


def test_an_ignored_signal_stays_ignored() -> None:
    code = (
        "import os, signal, threading; from gen3d.cli import _end_on_signals;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); _end_on_signals(threading.Event());"
        "os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "alive\n"


def _started(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    command = [sys.executable, "-m", "gen3d", *words]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)
