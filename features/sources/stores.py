"""Objects of whatever store fsspec knows: s3, gs, az, hf and others."""

from __future__ import annotations

from fsspec.core import url_to_fs

from ..config import ReadingConfig
from ..errors import ImageFailure, InputError, first_line
from .policy import bounded, check_scheme, shown


def read_object(uri: str, config: ReadingConfig, max_bytes: int) -> bytes:
    """The bytes of an object. Raises ImageFailure; InputError when its store's package is not installed."""
    check_scheme(uri, config)
    if "::" in uri:  # chained URIs could reach any local file
        raise ImageFailure("refused", f"{shown(uri)}: a chain of URIs")
    try:
        system, path = url_to_fs(uri)
        with system.open(path, "rb") as file:
            return bounded(file.read(max_bytes + 1), max_bytes, shown(uri))
    except ImageFailure:
        raise
    except ImportError as error:
        raise InputError(f"{shown(uri)}: {first_line(error)}") from error
    except FileNotFoundError as error:
        raise ImageFailure("missing", f"{shown(uri)}: no such object") from error
    except Exception as error:  # each store raises its own errors; the ledger keeps the reason
        raise ImageFailure("unreadable", f"{shown(uri)}: {first_line(error)}") from error
