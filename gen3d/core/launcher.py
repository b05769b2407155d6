"""What the environment says about the processes that a launcher such as torchrun started together."""

from __future__ import annotations

import os

from gen3d.core.errors import UserError

MOST_DIGITS = 9


def environment_number(name: str, default: int, least: int = 0, most: int | None = None) -> int:
    """The whole number in an environment variable; one that is not set, or empty, has its default.

    Raises:
        UserError: it holds something else, less than `least` or more than `most`.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not _is_number(text) or int(text) < least or (most is not None and int(text) > most):
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UserError(
            f"the environment variable {name} is {shown!r}, not a whole number from {least} "
            f"{'on' if most is None else f'to {most}'}; `unset {name}`, or let torchrun set it."
        )
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


def num_processes() -> int:
    """How many processes were started together; 1 without a launcher."""
    return environment_number("WORLD_SIZE", 1, least=1)


def is_first() -> bool:
    """Whether this process prints and writes for all of them: the first of several, and every one that is alone.

    A rank that was left over in the environment silences nobody: it counts only next to a number of processes.
    """
    num, rank = (os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK"))
    several = _is_number(num) and int(num) > 1
    return not several or not _is_number(rank) or int(rank) == 0


def has_launcher() -> bool:
    """Whether torchrun started this process, so that another one reports what concerns all of them."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID", "").strip())
