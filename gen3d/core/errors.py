"""The errors that a user's input can cause: one sentence, one exit code, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend; the message says what is wrong, where, and how to fix it."""

    exit_code = 2

    shared = False
    """Whether another process of the same training reports the error, so that this one stays silent."""


class Unfinished(UserError):
    """The work is done and kept, but some inputs could not be used; the message names them."""

    exit_code = 3


class Interrupted(UserError):
    """The work stopped on a signal after saving its state; running the same command goes on."""

    exit_code = 130


class Stopped(KeyboardInterrupt):
    """A signal to end this process.

    No `Exception`, so that code which goes on after the failure of one scan does not take it for such a failure.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that the signal ended: 143 for SIGTERM."""
        return 128 + self.number


class LostContact(UserError):
    """Another process of a training is gone; what was saved is kept and running the same command goes on."""

    exit_code = 1
