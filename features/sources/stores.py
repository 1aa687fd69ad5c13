"""Objects of whatever store fsspec knows: s3, gs, az, hf and others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs

from ..config import ReadingConfig
from ..errors import ImageFailure, InputError, first_line
from .policy import check_host, check_scheme, shown, without_secrets
from .retries import MayPass


def check_object(uri: str, config: ReadingConfig) -> str:
    """The host or bucket of `uri`; ImageFailure unless `config` lets it be read."""
    check_scheme(uri, config)
    if "::" in uri:  # chained URIs could reach any local file
        raise ImageFailure("refused", f"{shown(uri)}: a chain of URIs")
    try:
        bucket = urlsplit(uri).hostname or ""
    except ValueError as error:
        raise ImageFailure("unreadable", f"{shown(uri)}: not a URI") from error
    check_host(bucket, uri, config)
    return bucket


def read_object(uri: str, start: int, stop: int, timeout: float) -> bytes:
    """Bytes start..stop - 1 of an object, or as many as there are, in one request where the store has them.

    Raises ImageFailure, or MayPass; InputError when its store's package is not installed.
    """
    name = shown(uri)
    try:
        system, path = url_to_fs(uri)
        if not isinstance(system, AsyncFileSystem):  # such a store has the timeouts of its own package
            return cast(bytes, system.cat_file(path, start=start, end=stop))
        read: Any = system._cat_file  # what cat_file calls without a timeout
        return cast(bytes, sync(system.loop, read, path, start=start, end=stop, timeout=timeout))
    except ImportError as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    except FileNotFoundError as error:
        raise ImageFailure("missing", f"{name}: no such object") from error
    except Exception as error:  # each store raises its own errors; the ledger keeps the reason
        said = without_secrets(first_line(error), uri)
        if isinstance(error, TimeoutError):
            raise MayPass(f"no whole answer within {timeout:g} s") from error
        if any(isinstance(cause, TimeoutError | ConnectionError) for cause in _causes(error)):
            raise MayPass(said) from error
        raise ImageFailure("unreadable", f"{name}: {said}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
