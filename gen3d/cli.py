"""The command line: `gen3d <verb> [file.yaml] [a.b=value ...]`, built from the table of verbs and their fields."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gen3d import __version__
from gen3d.core.disk import cannot_be_written, disk_error
from gen3d.core.errors import Interrupted, Stopped, UserError
from gen3d.core.launcher import has_launcher, is_first, num_processes

if TYPE_CHECKING:
    from gen3d.core.config import Verb

USAGE = "gen3d <verb> [file.yaml] [key=value ...] [--help | --show | --dry-run]"
FIRST_REPORTS_S = 2.0
"""Seconds that the other processes wait before they end, so that the first one can report the error."""

DOCTOR = "doctor"
DOCTOR_LINE = "what this machine has, what will not work on it, and the command that mends it"
"""The one command that is no verb: it writes no folder."""

FLAGS = ("--help", "-h", "--show", "--dry-run", "--traceback", "--version")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 2 the user's mistake, 3 done but for some inputs, 130 stopped by Ctrl-C, 128 + its number by another signal.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    unreadable = [text for text in typed if not _is_text(text)]
    if unreadable:
        _complain(
            UserError(
                f"{unreadable[0]!a} is no text in this locale ({sys.getfilesystemencoding()}); `export LANG=C.UTF-8` and "
                "`unset PYTHONUTF8`, or rename what it names."
            )
        )
        return UserError.exit_code
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

    return ending_in_a_sentence(work, "--traceback" in flags)


def _is_text(argument: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in argument)


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run the main function of a script of `analysis/`: its errors end as those of a verb do, in one sentence."""
    import subprocess

    def work() -> int:
        main()
        return 0

    try:
        sys.exit(ending_in_a_sentence(work))
    except subprocess.CalledProcessError as error:  # the command that failed has printed its own sentence
        print(error.stderr or "", end="", file=sys.stderr)
        sys.exit(error.returncode)


def ending_in_a_sentence(work: Callable[[], int], traceback: bool = False) -> int:
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
        told = cannot_be_written(cause, STANDARD_OUTPUT if _stdout_fails() else _place)
        _complain(told)
        return told.exit_code


STANDARD_OUTPUT = Path("/dev/stdout")
_place = STANDARD_OUTPUT
"""What is being written, for an error of the disk that names no file: the output folder once a verb is at work."""


def _stdout_fails() -> bool:
    """Whether what is printed cannot be written where standard output was sent to."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _run(name: str, settings: list[str], flags: set[str]) -> int:
    from gen3d.core.config import load
    from gen3d.verbs import VERBS, verb_class

    if name == DOCTOR:
        return _doctor(settings, flags)
    if name not in VERBS:
        near = difflib.get_close_matches(name, [*VERBS, DOCTOR], n=1)
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
        finished, found = verb.outlook()  # a folder that the run would refuse is refused here as well
        for sentence in [*(() if finished else verb.plan()), *([found] if found else [])]:
            print(sentence)
        return 0
    global _place
    _place = verb.out
    verb.run()
    return 0


def _doctor(settings: list[str], flags: set[str]) -> int:
    if settings:
        raise UserError(f"`gen3d {DOCTOR}` has no settings, but {settings[0]} was given; run it alone.")
    if flags & {"--help", "-h"}:
        print(
            f"gen3d {DOCTOR}: {DOCTOR_LINE}\n\nIt has no settings, writes nothing, and ends with 3 where something is harmful."
        )
        return 0
    from gen3d.doctor.doctor import main as examine

    return examine()


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
        error.shared = not is_first() and has_launcher()  # all that a launcher started come here
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
    with contextlib.suppress(OSError):  # the terminal may be gone, and the exit code says the rest
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
        f"\n  gen3d {DOCTOR}                 {DOCTOR_LINE}"
        "\n  gen3d <verb> --help          every key with its type, unit and default"
        "\n  gen3d <verb> ... --show      print all settings; nothing is run"
        "\n  gen3d <verb> ... --dry-run   print what would be done; nothing is run"
        "\n\nExit codes: 0 done, 2 a mistake in the settings or inputs, 3 done but some inputs could not be used,"
        "\n130 or 143 stopped (the same command goes on)."
    )


def entry(command: Callable[[], int] | None = None) -> None:
    """Console-script entry point of gen3d, or of another command that ends as its verbs do.

    Args:
        command: runs and returns the exit code; None: the verbs.
    """
    _open_standard_streams()
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, whatever a shell or a notebook asks for
    ending = threading.Event()
    try:  # from the first moment that a signal is answered: a traceback would end in the code of a failure
        _end_on_signals(ending)
        if "GEN3D_PARENT" in os.environ or has_launcher():
            from gen3d.core.pool import end_with_starter

            end_with_starter()
        code = ending_in_a_sentence(functools.partial(_and_flush, command or main), "--traceback" in sys.argv)
        ending.set()
    except BrokenPipeError:
        ending.set()
        code = 0
    except KeyboardInterrupt as stop:  # in the moments around `main`
        ending.set()
        code = _stopped(stop)
    if _stdout_fails():  # nobody reads it, or its disk is full: Python would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _note_exit_code(code)
    if _launched():
        # Threads of the communication libraries may abort an orderly exit, or wait in it for a process that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        if code and not is_first():
            time.sleep(FIRST_REPORTS_S)  # torchrun ends everybody when one has ended
        os._exit(code)
    sys.exit(code)


def _and_flush(command: Callable[[], int]) -> int:
    code = command()
    sys.stdout.flush()
    return code


def _open_standard_streams() -> None:
    """Give a closed standard input, output or error to the null device, so that no file of ours gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _end_on_signals(ending: threading.Event) -> None:
    """Let a stop signal end the process in a sentence, with its usual code, after its workers, unless it is `ending`.

    A training handles these signals itself while it makes steps: see `train.stopping`. A signal that whoever started the
    process chose to ignore stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if not ending.is_set():
            raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
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
