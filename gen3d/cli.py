"""The command line: `gen3d <verb> [file.yaml] [a.b=value ...]`, built from the table of verbs and their fields."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gen3d import __version__
from gen3d.core.disk import cannot_be_written, disk_error
from gen3d.core.errors import Interrupted, Stopped, UserError
from gen3d.core.launcher import is_first, num_processes

if TYPE_CHECKING:
    from gen3d.core.config import Verb

USAGE = "gen3d <verb> [file.yaml] [key=value ...] [--help | --show | --dry-run]"
FIRST_REPORTS_S = 2.0
"""Seconds that the other processes wait before they end, so that the first one can report the error."""

FLAGS = ("--help", "-h", "--show", "--dry-run", "--traceback", "--version")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 2 the user's mistake, 3 done but for some inputs, 130 stopped by Ctrl-C, 128 + its number by another signal.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    flags = {item for item in typed if item.startswith("-")}
    positional = [item for item in typed if not item.startswith("-")]
    if "--version" in flags and not positional:
        print(f"gen3d {__version__}")
        return 0

    def work() -> int:
        _check_flags(flags)
        if not positional:
            _print_overview()
            return 0
        return _run(positional[0], positional[1:], flags)

    return _ending_in_a_sentence(work, "--traceback" in flags)


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run the main function of a script of `analysis/`: its errors end as those of a verb do, in one sentence."""
    import subprocess

    def work() -> int:
        main()
        return 0

    try:
        sys.exit(_ending_in_a_sentence(work))
    except subprocess.CalledProcessError as error:  # the command that failed has printed its own sentence
        print(error.stderr or "", end="", file=sys.stderr)
        sys.exit(error.returncode)


def _ending_in_a_sentence(work: Callable[[], int], traceback: bool = False) -> int:
    """Exit code of ``work``; an error that the user can mend becomes one sentence, unless tracebacks are wanted."""
    try:
        return work()
    except UserError as error:
        if traceback:
            raise
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except BrokenPipeError:  # the reader of the pipe has closed it; see entry()
        raise
    except Exception as error:
        cause = disk_error(error)
        if traceback or cause is None:
            raise
        told = cannot_be_written(cause, _place)
        _complain(told)
        return told.exit_code


_place = Path()
"""The output folder of the verb at work, for an error of the disk that names no file."""


def _run(name: str, settings: list[str], flags: set[str]) -> int:
    from gen3d.core.config import load
    from gen3d.verbs import VERBS, verb_class

    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`gen3d --help` lists them."
        raise UserError(f"`{name}` is not a verb of gen3d; {hint}")
    verb_type = verb_class(name)
    if flags & {"--help", "-h"}:
        from gen3d.core.help import verb_help

        print(verb_help(verb_type, VERBS[name].line))
        return 0
    _check_processes(verb_type)
    try:
        file, overrides = _split(settings)
        verb = load(verb_type, file, overrides)
    except UserError as error:
        raise verb_type.cannot_begin(error, num_processes()) from None
    if "--show" in flags:
        import yaml

        print(yaml.safe_dump(verb.model_dump(mode="json", by_alias=True), sort_keys=False), end="")
        return 0
    if "--dry-run" in flags:
        for sentence in verb.plan():
            print(sentence)
        return 0
    global _place
    _place = verb.out
    verb.run()
    return 0


def _split(settings: list[str]) -> tuple[Path | None, list[str]]:
    files = [text for text in settings if "=" not in text]
    overrides = [text for text in settings if "=" in text]
    if len(files) > 1:
        raise UserError(f"one configuration file at most, but {len(files)} were given: {', '.join(files)}.")
    if files and Path(files[0]).suffix not in (".yaml", ".yml"):
        raise UserError(f"`{files[0]}` is neither key=value nor a .yaml file.")
    return (Path(files[0]) if files else None), overrides


def _check_flags(flags: set[str]) -> None:
    for flag in sorted(flags - set(FLAGS)):
        near = difflib.get_close_matches(flag, FLAGS, n=1)
        raise UserError(f"`{flag}` is not a flag; {f'did you mean `{near[0]}`?' if near else USAGE}")


def _check_processes(verb_type: type[Verb]) -> None:
    try:
        verb_type.check_processes(num_processes())
    except UserError as error:
        error.shared = not is_first()  # all of them come here
        raise


def _launched() -> bool:
    """Whether a launcher started several processes; `main` reports an environment that does not say so."""
    try:
        return num_processes() > 1
    except UserError:
        return False


def _complain(error: UserError) -> None:
    """Print the error: one process of several does, and one that failed alone adds its rank and machine."""
    if error.shared:
        return
    who = "" if is_first() else f"rank {os.environ['RANK']} on {os.uname().nodename}: "
    for line in str(error).splitlines():
        print(f"gen3d: {who if not line.startswith('rank ') else ''}{line}", file=sys.stderr)


def _print_overview() -> None:
    from gen3d.verbs import VERBS

    print(
        f"gen3d {__version__}: generative models of 3D structural brain MRI\n\n  {USAGE}\n\nVerbs, in the order of the data:"
    )
    for name, (_, _, summary) in VERBS.items():
        print(f"  {name:14s} {summary}")
    print(
        "\n  gen3d <verb> --help          every key with its type, unit and default"
        "\n  gen3d <verb> ... --show      print all settings; nothing is run"
        "\n  gen3d <verb> ... --dry-run   print what would be done; nothing is run"
        "\n\nExit codes: 0 done, 2 a mistake in the settings or inputs, 3 done but some inputs could not be used,"
        "\n130 or 143 stopped (the same command goes on)."
    )


def entry() -> None:
    """Console-script entry point."""
    _end_on_signals()
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt as stop:  # in the moments around `main`
        code = _stopped(stop)
    _note_exit_code(code)
    if _launched():
        # Threads of the communication libraries may abort an orderly exit, or wait in it for a process that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        if code and not is_first():
            time.sleep(FIRST_REPORTS_S)  # torchrun ends everybody when one has ended
        os._exit(code)
    sys.exit(code)


def _end_on_signals() -> None:
    """Let a stop signal end the process in a sentence, with its usual code, after its workers.

    A training handles these signals itself while it makes steps: see `train.stopping`. A signal that whoever started the
    process chose to ignore stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _stopped(stop: KeyboardInterrupt) -> int:
    """Say that the command was stopped; returns the exit code."""
    by = f" by {signal.Signals(stop.number).name}" if isinstance(stop, Stopped) else ""
    sentence = UserError(f"Stopped{by}. What was finished is kept; the same command goes on from there.")
    sentence.shared = not is_first()
    _complain(sentence)
    return stop.exit_code if isinstance(stop, Stopped) else Interrupted.exit_code


def _note_exit_code(code: int) -> None:
    """Write the exit code where a launcher reads it: torchrun does not pass on the codes of its workers."""
    path = os.environ.get("GEN3D_EXIT_FILE")
    if path and code != 0 and os.environ.get("LOCAL_RANK", "0") == "0":
        Path(path).write_text(f"{code}\n", encoding="utf-8")
