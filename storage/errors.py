"""The errors that a user of Tigon can meet.

Messages read "what is wrong (value): the limit; the way out", on one line.
"""


class TigonError(Exception):
    """Base of every error that Tigon raises about a user's input or machine."""


class InputError(TigonError, ValueError):
    """An input, an option or a combination of them cannot be used."""


class OutputExistsError(TigonError, FileExistsError):
    """The output is already there and overwriting was not asked for."""


class NoSpaceError(TigonError, OSError):
    """The disk is full."""


class MemoryLimitError(TigonError, MemoryError):
    """The work cannot be done within the memory limit."""
