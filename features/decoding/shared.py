"""Memory that the pool and one of its workers share: contents in, pixels out, and where the worker is.

The files have no name, so a killed process leaves none behind.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import REASONS, ImageFailure

BUFFERS = 2  # chunks that a worker holds: one that it works at, and the next
_REPORT = np.dtype(
    [("outcome", "i8"), ("decode_seconds", "f8"), ("transform_seconds", "f8"), ("message", "S488")]
)
_DONE = len(REASONS)  # outcome of a picture that has pixels; the others are places in REASONS
_HEAD = 64  # bytes before the reports, of which the first eight are the worker's place
_CHUNK_PLACES = 1 << 16
_KEPT_BYTES = 4 * 2**20  # of contents, past which their memory is given back


class Place(NamedTuple):
    """The picture that a worker is at; chunks are counted from 1, and 0 is before the first."""

    chunk: int
    picture: int


class ImageCrops(NamedTuple):
    """The pixels of all crops of one picture, one after the other, and the seconds that they took."""

    pixels: np.ndarray  # (bytes,) uint8
    decode_seconds: float
    transform_seconds: float


class SharedBuffers:
    """`BUFFERS` chunks of up to `pictures` pictures, each of which becomes `size` bytes of pixels."""

    def __init__(self, files: Sequence[int], pictures: int, size: int) -> None:
        self.files = files
        memory = np.frombuffer(mmap.mmap(files[0], _mapped_bytes(pictures, size)), np.uint8)
        self._place = memory[:8].view(np.int64)
        reports = BUFFERS * pictures * _REPORT.itemsize
        self._reports = memory[_HEAD : _HEAD + reports].view(_REPORT).reshape(BUFFERS, pictures)
        self._pixels = memory[_HEAD + reports :].reshape(BUFFERS, pictures, size)
        self._held = [0] * BUFFERS  # bytes of contents that the files keep memory for

    @classmethod
    def create(cls, pictures: int, size: int) -> SharedBuffers:
        files = [_nameless_file() for _ in range(1 + BUFFERS)]
        os.ftruncate(files[0], _mapped_bytes(pictures, size))
        return cls(files, pictures, size)

    def close(self) -> None:
        """Close the files; what is mapped stays as long as an array of it is there."""
        for file in self.files:
            os.close(file)

    # What the pool does.

    def put(self, buffer: int, contents: Sequence[bytes]) -> None:
        file, size = self.files[1 + buffer], sum(map(len, contents))
        if self._held[buffer] > max(size, _KEPT_BYTES):
            os.ftruncate(file, 0)
            self._held[buffer] = 0
        if os.pwritev(file, contents, 0) != size:
            raise OSError(f"{size} bytes of contents do not fit into shared memory")
        self._held[buffer] = max(size, self._held[buffer])

    def result(self, buffer: int, picture: int) -> ImageCrops | ImageFailure:
        outcome, decoding, transforming, message = self._reports[buffer, picture].tolist()
        if outcome == _DONE:
            return ImageCrops(self._pixels[buffer, picture].copy(), decoding, transforming)
        return ImageFailure(REASONS[outcome], message.decode(errors="ignore"))  # pyright: ignore

    @property
    def place(self) -> Place:
        return Place(*divmod(int(self._place[0]), _CHUNK_PLACES))

    # What the worker does.

    def move_to(self, chunk: int, picture: int) -> None:
        self._place[0] = chunk * _CHUNK_PLACES + picture

    def content(self, buffer: int, start: int, length: int) -> bytes:
        return os.pread(self.files[1 + buffer], length, start)

    def pixels(self, buffer: int, picture: int) -> np.ndarray:
        """Where the pixels of a picture go, (size,) uint8."""
        return self._pixels[buffer, picture]

    def report_done(self, buffer: int, picture: int, decoding: float, transforming: float) -> None:
        self._reports[buffer, picture] = _DONE, decoding, transforming, b""

    def report_failure(self, buffer: int, picture: int, failure: ImageFailure) -> None:
        self._reports[buffer, picture] = REASONS.index(failure.reason), 0, 0, failure.message.encode()


def _mapped_bytes(pictures: int, size: int) -> int:
    return _HEAD + BUFFERS * pictures * (_REPORT.itemsize + size)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmrec-decoding", os.MFD_CLOEXEC)
    file, path = tempfile.mkstemp()
    os.unlink(path)  # noqa: PTH108 - by the name that mkstemp gives
    return file
