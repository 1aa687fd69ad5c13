"""Files below one folder, and nothing else of this machine."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import ImageFailure, first_line
from .policy import LOCAL, bounded, scheme_of, shown, too_large


def read_local(reference: str, root: str | None, max_bytes: int) -> bytes:
    """The bytes of a file at or below the folder `root`, either of which may be a file: URI.

    Raises ImageFailure, also for a path or link that leads out of `root`.
    """
    name = shown(reference)
    if root is None:
        raise ImageFailure("outside_root", f"{name}: no image_root is set")
    if scheme_of(root) not in (None, *LOCAL):
        raise ImageFailure("outside_root", f"{name} leads out of image_root {shown(root)}")
    try:
        base = Path(_path(root)).resolve()
        path = (base / _path(reference)).resolve()  # follows links, so a link out of the root is caught below
        if not path.is_relative_to(base):
            raise ImageFailure("outside_root", f"{name} leads out of image_root {root}")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise ImageFailure("unreadable", f"{name} is not a file")
        if status.st_size > max_bytes:
            raise too_large(name, status.st_size, max_bytes)
        with path.open("rb") as file:
            return bounded(file.read(max_bytes + 1), max_bytes, name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageFailure("missing", f"{name}: no such file") from error
    except OSError as error:  # no permission, a name that is too long
        raise ImageFailure("unreadable", f"{name}: {error.strerror or first_line(error)}") from error
    except (RuntimeError, ValueError) as error:  # a loop of links, a name with \0
        raise ImageFailure("unreadable", f"{name}: {first_line(error)}") from error


def _path(reference: str) -> str:
    return reference.partition("://")[2] if scheme_of(reference) in LOCAL else reference
