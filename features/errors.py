"""Errors that a user can mend; the command line prints them as one line, without a traceback."""

from typing import Literal, get_args

Reason = Literal[
    "missing",  # there is no such file or object
    "outside_root",
    "refused",  # by what [catalog] allows
    "unreachable",  # a host or store failed to answer; another time it may
    "too_large",
    "bomb",
    "not_an_image",
    "truncated",
    "corrupt",
    "unreadable",
    "crashed",  # the decoder took its process down
    "timeout",  # the decoder took longer than extract.decode_seconds
    "out_of_memory",  # the decoder wanted more than extract.decode_memory_mb
]
REASONS: tuple[str, ...] = get_args(Reason)


class InputError(ValueError):
    """Bad input or config: the message says what was found, what was expected and what to do next."""


class TooManyFailuresError(RuntimeError):
    """More items failed than `extract.max_failures` allows; the finished work is kept."""


class QualityGateError(RuntimeError):
    """The finished work does not meet the quality that the config asks for; it is kept."""


class ImageFailure(Exception):
    """Why one image has no pixels: a reason code for machines and a message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def quoted(name: str, longest: int = 80) -> str:
    """A name that stands in people's data, which may be anything, in quotes and short enough for one line."""
    return repr(name if len(name) <= longest else f"{name[:longest]}...")


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for one line of ours."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
