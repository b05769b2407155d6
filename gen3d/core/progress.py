"""Progress that people can read: a live bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gen3d.core.launcher import is_first

Item = TypeVar("Item")

SPEAKS = is_first()
"""Whether this process talks to the user: of several that torchrun started, only the first does."""

console = Console(soft_wrap=True, highlight=False, quiet=not SPEAKS)
PLAIN_LINE_EVERY_S = 10.0


def say(text: str) -> None:
    """Print one line to the user."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Print one line of warning to standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False, quiet=not SPEAKS).print(f"warning: {text}", markup=False)


def note(text: str) -> None:
    """Print one line to standard error, so that standard output holds only what was asked for."""
    Console(stderr=True, soft_wrap=True, highlight=False, quiet=not SPEAKS).print(text, markup=False)


def duration(seconds: float) -> str:
    """Seconds as a person says them: '48 s', '3 min 20 s', '2 h 05 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable`, showing how many are done and the time left.

    On a terminal this is a live bar; elsewhere a line every ten seconds, so that log files stay readable.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if console.is_terminal:
        yield from _bar(iterable, description, total)
    else:
        yield from _lines(iterable, description, total)


def _bar(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description, total=total)
        for item in iterable:
            yield item
            progress.advance(task)


def _lines(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    start = last = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= PLAIN_LINE_EVERY_S and done != total:
            left = f", about {duration((now - start) / done * (total - done))} left" if total else ""
            say(f"{description}: {done}{f' of {total}' if total else ''}{left}")
            sys.stdout.flush()
            last = now
    if done and time.monotonic() - start >= 2.0:
        say(f"{description}: {done} done in {duration(time.monotonic() - start)}")
        sys.stdout.flush()
