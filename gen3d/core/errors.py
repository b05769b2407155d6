"""The errors that a user's input can cause: one sentence, one exit code, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend; the message says what is wrong, where, and how to fix it."""

    exit_code = 2

    shared = False
    """Whether another process of the same training tells the user, so that this one stays silent."""


class Unfinished(UserError):
    """The work is done and kept, but some inputs could not be used; the message names them."""

    exit_code = 3


class Interrupted(UserError):
    """The work stopped on a signal after saving its state; running the same command goes on."""

    exit_code = 130


class LostContact(UserError):
    """Another process of a training is gone; what was saved is kept and running the same command goes on."""

    exit_code = 1
