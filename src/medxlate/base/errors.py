"""Errors that name what is wrong and how to fix it.

The library raises these; only the command line prints them. ``exit_code`` is what the command
then returns: 1 where the work failed, 2 where the call itself was wrong, 3 where it was stopped and
can be continued.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

Word = TypeVar("Word", bound=str)

LONGEST = 2000  # characters of a message
NAMED = 40  # names in a hint


class MedxlateError(Exception):
    """A failure that the user can fix.

    Args:
        message: What is wrong, naming the file or key.
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        if len(message) > LONGEST:  # a damaged file's own values may be of any length
            message = f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 4 :]}"
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        stop = "." if self.hint and self.message[-1:].isalnum() else ""
        return f"{self.message}{stop} {self.hint}".rstrip()


class UsageError(MedxlateError):
    """The call contradicts itself or names something that does not exist."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is wrong."""


class ImageError(MedxlateError):
    """A file is not an image that medxlate can read."""


class DataError(MedxlateError):
    """A label table, dataset or split does not hold what the work needs."""


class ModelError(MedxlateError):
    """A run, checkpoint or model folder is missing, damaged or of another version."""


class OutputError(MedxlateError):
    """The result cannot be written where it was asked for."""


class StoppedError(MedxlateError):
    """The work was asked to stop; everything is saved and can be continued."""

    exit_code = 3


class CapacityError(MedxlateError):
    """The memory of a device does not hold the smallest piece of the work."""


class JobError(MedxlateError):
    """Another process of the same job ended; its own message says why."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like ``name``, or None where none does."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'?`` or, where nothing is near, the list of known names."""
    names = sorted(known)
    if found := closest(name, names):
        return f"Did you mean '{found}'?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Known: {', '.join(names[:NAMED])}{more}." if names else ""


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, as a message shows it: ``1 file``, ``2 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def one_of(wanted: str, known: Sequence[Word], option: str) -> Word:
    """Return the word that is wanted.

    Args:
        wanted: As a user gave it.
        known: What it may be.
        option: The option that gave it.

    Raises:
        UsageError: It is none of those.
    """
    for each in known:
        if wanted == each:
            return each
    raise UsageError(f"Unknown value for {option}: {wanted}.", nearest(wanted, known))


def percent(share: float, digits: int = 0) -> str:
    """Return a share in words of a message: 0.95 is ``95 %``."""
    return f"{100 * share:.{digits}f} %"
