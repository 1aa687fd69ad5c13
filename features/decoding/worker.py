"""One decoding worker: pictures of a chunk to pixels, until the pool hangs up.

A process of its own, so that whatever a decoder does to it - a crash, an endless loop, all memory - it does
to one picture.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageFailure
from .item import Crop, decode_crops
from .shared import SharedBuffers
from .transform import ImageTransform

CHUNK = struct.Struct("=qii")  # number of the chunk, its buffer, how many pictures; their lengths follow
LENGTH = struct.Struct("=q")
FINISHED = struct.Struct("=q")  # number of the chunk
OUT_OF_MEMORY = 77  # exit status: a decoder wanted more memory than it may have

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def work(link: socket.socket, files: Sequence[int], order: dict[str, Any], parent: int) -> None:
    """Decode as `DecodePlan.order` has it until `link` is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before
            return
        _limit_memory(order["memory_mb"])
    crops = [_crop(cut, transform) for cut, transform in order["crops"]]
    shared = SharedBuffers(files, order["pictures"], order["size"])
    while head := _receive(link, CHUNK.size):
        chunk, buffer, count = CHUNK.unpack(head)
        start = 0
        for picture, (length,) in enumerate(LENGTH.iter_unpack(_receive(link, count * LENGTH.size))):
            shared.move_to(chunk, picture)
            content = shared.content(buffer, start, length)
            start += length
            try:
                if order["drill"]:
                    _drill(content)
                pixels = _split(shared.pixels(buffer, picture), crops)
                seconds = decode_crops(content, crops, pixels, order["max_pixels"], order["exif_rotate"])
                shared.report_done(buffer, picture, *seconds)
            except ImageFailure as failure:
                shared.report_failure(buffer, picture, failure)
            except MemoryError:  # a fresh worker shows whether the picture or a leak is to blame
                os._exit(OUT_OF_MEMORY)
        shared.move_to(chunk, count)
        link.sendall(FINISHED.pack(chunk))


def _crop(cut: Any, transform: dict[str, Any]) -> Crop:
    return Crop(tuple(cut) if isinstance(cut, list) else cut, ImageTransform.from_json(transform))  # pyright: ignore


def _receive(link: socket.socket, count: int) -> bytes:
    """So many bytes, or none when the pool has hung up."""
    received = b""
    while len(received) < count:
        part = link.recv(count - len(received))
        if not part:
            return b""
        received += part
    return received


def _split(memory: np.ndarray, crops: Sequence[Crop]) -> list[np.ndarray]:
    """The memory of one picture as one (3, h, w) array for each crop."""
    ends = np.cumsum([crop.bytes for crop in crops])[:-1]
    parts = np.split(memory, ends)
    return [part.reshape(3, *crop.transform.size) for part, crop in zip(parts, crops, strict=True)]


def _limit_memory(megabytes: int) -> None:
    """Let this process take so much more than it has."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    taken = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))  # KiB
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = taken * 1024 + megabytes * 2**20
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _drill(content: bytes) -> None:
    """Do what the tests' own pictures ask for."""
    if content.startswith(b"DRILL crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif content.startswith(b"DRILL exit"):
        os._exit(3)
    elif content.startswith(b"DRILL hang"):
        time.sleep(3600)
    elif content.startswith(b"DRILL memory"):
        np.ones(2**40, np.uint8)
