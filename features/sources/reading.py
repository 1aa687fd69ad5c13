"""Image bytes from wherever they lie; each failure has a reason."""

from __future__ import annotations

import posixpath

from ..config import ReadingConfig
from ..errors import ImageFailure
from .local import read_local
from .policy import LOCAL, bounded, scheme_of, shown
from .stores import read_object


class ImageReader:
    """Reads the references of one catalogue; many threads may share it.

    Relative references start at `root`, a folder or a URI, or none.
    """

    def __init__(self, root: str | None, config: ReadingConfig, max_bytes: int) -> None:
        self._root, self._config, self._max_bytes = root, config, max_bytes

    def read(self, reference: str | bytes) -> bytes:
        """The bytes behind contents, a URI, or a path below the root.

        Raises ImageFailure; InputError when a URI needs a package that is not installed.
        """
        if isinstance(reference, bytes):
            return bounded(reference, self._max_bytes, "the image")
        scheme, root = scheme_of(reference), self._root
        if scheme is None and root is not None and scheme_of(root) not in (None, *LOCAL):
            reference = _join(root, reference)
        elif scheme in (None, *LOCAL):
            return read_local(reference, root, self._max_bytes)
        return read_object(reference, self._config, self._max_bytes)


def _join(root: str, reference: str) -> str:
    path = posixpath.normpath(reference)
    if path.startswith(("/", "..")):
        raise ImageFailure("outside_root", f"{shown(reference)} leads out of image_root {shown(root)}")
    return f"{root.rstrip('/')}/{path}"
