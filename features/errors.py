"""Errors that a user can mend; the command line prints them as one line, without a traceback."""


class InputError(ValueError):
    """Bad input or config: the message says what was found, what was expected and what to do next."""


class TooManyFailuresError(RuntimeError):
    """More items failed than `extract.max_failures` allows; the finished work is kept."""


class QualityGateError(RuntimeError):
    """The finished work does not meet the quality that the config asks for; it is kept."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for one line of ours."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
