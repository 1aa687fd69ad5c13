"""Errors that a user can mend; the command line prints them as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or config: the message says what was found, what was expected and what to do next."""


class DivergedError(InputError):
    """A loss or a vector is not finite; nothing is saved from such a run."""


class PeerFailed(RuntimeError):
    """Another process that trains the same model failed first, and has said why."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" with the nearest known name, or nothing when none is near."""
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean '{folded[near[0]]}'?)" if near else ""
