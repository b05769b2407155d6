"""What the environment says about the processes that a launcher such as torchrun started together."""

from __future__ import annotations

import os

from gen3d.core.errors import UserError


def environment_number(name: str, default: int, least: int = 0) -> int:
    """The whole number in an environment variable; one that is not set, or empty, has its default.

    Raises:
        UserError: it holds something else, or less than `least`.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"the environment variable {name} is {text!r}, not a whole number from {least} on; `unset {name}`, or let "
            "torchrun set it."
        )
    return int(text)


def num_processes() -> int:
    """How many processes were started together; 1 without a launcher."""
    return environment_number("WORLD_SIZE", 1, least=1)


def is_first() -> bool:
    """Whether this process prints and writes for all of them: the first of several, and every one that no launcher numbered."""
    return os.environ.get("RANK", "").strip() in ("", "0")
