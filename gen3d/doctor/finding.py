"""One line of `gen3d doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How things are: as they should be, not there (and what brings it), or such that work would fail or crawl."""

    GOOD = "good"
    MISSING = "missing"
    HARMFUL = "harmful"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and where something can be done the command that does it."""

    what: str
    state: State
    text: str
    remedy: str = ""


def good(what: str, text: str) -> Finding:
    """As it should be."""
    return Finding(what, State.GOOD, text)


def missing(what: str, text: str, remedy: str = "") -> Finding:
    """Not there; what needs it will say so."""
    return Finding(what, State.MISSING, text, remedy)


def harmful(what: str, text: str, remedy: str) -> Finding:
    """Work would fail, crawl or go wrong."""
    return Finding(what, State.HARMFUL, text, remedy)
