"""What the exit code of a command says; the same numbers stand in the records of runs."""

from __future__ import annotations

from ..features.errors import InputError as FeaturesInputError
from ..features.errors import QualityGateError, TooManyFailuresError
from ..recsys.errors import InputError as RecsysInputError
from ..recsys.errors import PeerFailed
from .deadline import TimeLimitError
from .lock import LockedError

DONE, BUG, BAD_INPUT, FAILURES, LOCKED, REFUSED, TIME_LIMIT, INTERRUPTED = 0, 1, 3, 4, 5, 6, 7, 130

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (FeaturesInputError, BAD_INPUT),
    (RecsysInputError, BAD_INPUT),
    (OSError, BAD_INPUT),
    (TooManyFailuresError, FAILURES),
    (LockedError, LOCKED),
    (QualityGateError, REFUSED),
    (TimeLimitError, TIME_LIMIT),
    (KeyboardInterrupt, INTERRUPTED),
    (PeerFailed, INTERRUPTED),  # torchrun reports the code of the process that failed first
)


def exit_code(error: BaseException | None) -> int:
    """Of a command that ends with `error`; `BUG` for what no user can mend, `DONE` for None."""
    if error is None:
        return DONE
    return next((code for kind, code in _CODES if isinstance(error, kind)), BUG)
