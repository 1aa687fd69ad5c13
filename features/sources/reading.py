"""Image bytes from wherever they lie; each failure has a reason."""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path

from fsspec.core import url_to_fs

from ..errors import ImageFailure, InputError, first_line

_REMOTE = frozenset(
    ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "hdfs", "ftp", "sftp", "memory")
)
_LOCAL = frozenset(("file", "local"))


def load_image_bytes(reference: str | bytes, root: str | None, max_bytes: int) -> bytes:
    """The bytes behind a reference: bytes, a URI, or a path below `root` (a folder or a URI).

    Raises ImageFailure, also for a path or link that leads out of `root`; InputError when a URI needs a
    package that is not installed.
    """
    if isinstance(reference, bytes):
        return _bounded(reference, max_bytes, "the image")
    if _scheme(reference) is None and root is not None and _scheme(root) not in (None, *_LOCAL):
        return _read_remote(_join_uri(root, reference), max_bytes)
    if _scheme(reference) in (None, *_LOCAL):
        return _read_local(_without_scheme(reference), root, max_bytes)
    return _read_remote(reference, max_bytes)


def _read_local(reference: str, root: str | None, max_bytes: int) -> bytes:
    if root is None:
        raise ImageFailure("outside_root", f"{reference}: no image_root is set")
    try:
        base = Path(_without_scheme(root)).resolve()
        path = (base / reference).resolve()  # follows links, so a link out of the root is caught below
        if not path.is_relative_to(base):
            raise ImageFailure("outside_root", f"{reference} leads out of image_root {root}")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise ImageFailure("unreadable", f"{reference} is not a file")
        if status.st_size > max_bytes:
            raise _too_large(reference, status.st_size, max_bytes)
        with path.open("rb") as file:
            return _bounded(file.read(max_bytes + 1), max_bytes, reference)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageFailure("missing", f"{reference}: no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a loop of links, a name with \0
        raise ImageFailure("unreadable", f"{reference}: {first_line(error)}") from error


def _read_remote(uri: str, max_bytes: int) -> bytes:
    if _scheme(uri) not in _REMOTE or "::" in uri:  # chained URIs could reach any local file
        raise ImageFailure("unreadable", f"{uri}: expected one of {', '.join(sorted(_REMOTE))}")
    try:
        system, path = url_to_fs(uri)
        with system.open(path, "rb") as file:
            return _bounded(file.read(max_bytes + 1), max_bytes, uri)
    except ImageFailure:
        raise
    except ImportError as error:
        raise InputError(f"{uri}: {first_line(error)}") from error
    except FileNotFoundError as error:
        raise ImageFailure("missing", f"{uri}: no such object") from error
    except Exception as error:  # each store raises its own errors; the ledger keeps the reason
        raise ImageFailure("unreadable", f"{uri}: {first_line(error)}") from error


def _bounded(content: bytes, max_bytes: int, name: str) -> bytes:
    if len(content) > max_bytes:
        raise _too_large(name, len(content), max_bytes)
    return content


def _too_large(name: str, size: int, max_bytes: int) -> ImageFailure:
    return ImageFailure("too_large", f"{name}: {size} bytes or more; at most {max_bytes} are read")


def _scheme(reference: str) -> str | None:
    head, mark, _ = reference.partition("://")
    return head.lower() if mark else None


def _without_scheme(reference: str) -> str:
    return reference.partition("://")[2] if _scheme(reference) in _LOCAL else os.fspath(reference)


def _join_uri(root: str, reference: str) -> str:
    path = posixpath.normpath(reference)
    if path.startswith(("/", "..")):
        raise ImageFailure("outside_root", f"{reference} leads out of image_root {root}")
    return f"{root.rstrip('/')}/{path}"
