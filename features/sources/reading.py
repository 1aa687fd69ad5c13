"""Image bytes from wherever they lie; each failure has a reason."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..config import ReadingConfig
from ..errors import ImageFailure, first_line
from .local import read_local
from .policy import LOCAL, bounded, scheme_of, shown, too_large
from .retries import Retries
from .stores import check_object, read_object
from .web import WEB, Target, WebClient


@dataclass(frozen=True, slots=True)
class TarMember:
    """A picture in a tar shard."""

    shard: str  # a path or a URI, which the catalogue's section names: data cannot
    offset: int
    size: int | None  # None: a link or a device


Reference: TypeAlias = str | bytes | TarMember  # a path or URI, the contents, or a place in a shard


class ImageReader:
    """Reads the references of one catalogue; many threads may share it.

    Relative references start at `root`, a folder or a URI, or none.
    """

    def __init__(self, root: str | None, config: ReadingConfig, max_bytes: int) -> None:
        self._root, self._config, self._max_bytes = root, config, max_bytes
        self._retries = Retries(config.retries)
        self._web = WebClient(config)

    def read(self, reference: Reference) -> bytes:
        """The bytes behind a URI or a path below the root, of a picture in a shard, or as they are given.

        Failures that may pass are met with further attempts. Raises ImageFailure; InputError when a URI
        needs a package that is not installed.
        """
        if isinstance(reference, bytes):
            return bounded(reference, self._max_bytes, "the image")
        if isinstance(reference, TarMember):
            return self._read_member(reference)
        scheme, root = scheme_of(reference), self._root
        if scheme is None and root is not None and scheme_of(root) not in (None, *LOCAL):
            reference = _join(root, reference)
        elif scheme in (None, *LOCAL):
            return read_local(reference, root, self._max_bytes)
        return self._read_uri(reference)

    def close(self) -> None:
        """End the reads that are going on, which then fail; there can be no more of URIs."""
        self._retries.stop()
        self._web.close()

    def _read_member(self, member: TarMember) -> bytes:
        shard, start, size = member.shard, member.offset, member.size
        name = f"{shown(shard)}, byte {start}"
        if size is None:
            raise ImageFailure("unreadable", f"{name}: a link; pack the files themselves (tar --dereference)")
        if size > self._max_bytes:
            raise too_large(name, size, self._max_bytes)
        if scheme_of(shard) is None:
            content = _read_part(shard, start, size, name)
        else:
            stop, timeout = start + size, self._config.timeout
            content = self._retries.call(lambda: read_object(shard, start, stop, timeout), name, shard)
        if len(content) < size:
            raise ImageFailure("truncated", f"{name}: the shard is shorter than it was when the job began")
        return content

    def _read_uri(self, uri: str) -> bytes:
        if scheme_of(uri) in WEB:
            host = Target.of(uri).origin.host
            return self._retries.call(lambda: self._web.read(uri, self._max_bytes), shown(uri), host)
        bucket = check_object(uri, self._config)
        stop, timeout = self._max_bytes + 1, self._config.timeout
        content = self._retries.call(lambda: read_object(uri, 0, stop, timeout), shown(uri), bucket)
        return bounded(content, self._max_bytes, shown(uri))


def _read_part(path: str, start: int, size: int, name: str) -> bytes:
    try:
        with Path(path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)
    except FileNotFoundError as error:
        raise ImageFailure("missing", f"{name}: no such file") from error
    except OSError as error:
        raise ImageFailure("unreadable", f"{name}: {error.strerror or first_line(error)}") from error


def _join(root: str, reference: str) -> str:
    path = posixpath.normpath(reference)
    if path.startswith(("/", "..")):
        raise ImageFailure("outside_root", f"{shown(reference)} leads out of image_root {shown(root)}")
    return f"{root.rstrip('/')}/{path}"
