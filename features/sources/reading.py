"""Image bytes from wherever they lie; each failure has a reason."""

from __future__ import annotations

import posixpath

from ..config import ReadingConfig
from ..errors import ImageFailure
from .local import read_local
from .policy import LOCAL, bounded, scheme_of, shown
from .retries import Retries
from .stores import check_object, read_object
from .web import WEB, Target, WebClient


class ImageReader:
    """Reads the references of one catalogue; many threads may share it.

    Relative references start at `root`, a folder or a URI, or none.
    """

    def __init__(self, root: str | None, config: ReadingConfig, max_bytes: int) -> None:
        self._root, self._config, self._max_bytes = root, config, max_bytes
        self._retries = Retries(config.retries)
        self._web = WebClient(config)

    def read(self, reference: str | bytes) -> bytes:
        """The bytes behind contents, a URI, or a path below the root.

        Failures that may pass are met with further attempts. Raises ImageFailure; InputError when a URI
        needs a package that is not installed.
        """
        if isinstance(reference, bytes):
            return bounded(reference, self._max_bytes, "the image")
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

    def _read_uri(self, uri: str) -> bytes:
        if scheme_of(uri) in WEB:
            host = Target.of(uri).origin.host
            return self._retries.call(lambda: self._web.read(uri, self._max_bytes), shown(uri), host)
        bucket = check_object(uri, self._config)
        timeout = self._config.timeout
        return self._retries.call(lambda: read_object(uri, timeout, self._max_bytes), shown(uri), bucket)


def _join(root: str, reference: str) -> str:
    path = posixpath.normpath(reference)
    if path.startswith(("/", "..")):
        raise ImageFailure("outside_root", f"{shown(reference)} leads out of image_root {shown(root)}")
    return f"{root.rstrip('/')}/{path}"
