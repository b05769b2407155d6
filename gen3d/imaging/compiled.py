"""Loops over voxels that Numba compiles: the first call on a machine takes seconds, its result is kept on the disk.

Numba is imported by the first call, so that importing a module with such loops costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Compiled:
    """A function of arrays and numbers, compiled when it is first called. It can call no other compiled function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.python = function
        self.__doc__ = function.__doc__
        self._machine_code: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self._machine_code is None:
            self._machine_code = _compile(self.python)
        return self._machine_code(*arguments)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under Numba, without reordering of sums, so that every machine rounds alike."""
    import numba

    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither next to the package nor in the user's home can anything be written
        compiled = numba.njit(nogil=True)(function)
    return compiled
