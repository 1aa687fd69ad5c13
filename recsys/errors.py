"""Errors that a user can mend; the command line prints them as one line, without a traceback."""


class InputError(ValueError):
    """Bad input or config: the message says what was found, what was expected and what to do next."""


class DivergedError(InputError):
    """A loss or a vector is not finite; nothing is saved from such a run."""
