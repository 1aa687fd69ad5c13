"""Memory-mapped `.npy` copies of the store's views: what is asked for is read, at 4 to 10 GB/s."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .files import atomic_path, digest_bytes, remove_stale_temporaries
from .vector_file import Vectors

log = logging.getLogger(__name__)

_ABANDONED = 3600.0  # seconds after which an unfinished copy has no writer any more


def cached_view(
    folder: Path, key: str, view: str, shape: tuple[int, int], blocks: Callable[[], Iterator[Vectors]]
) -> Vectors:
    """The view as a read-only memory map and its presence mask, streamed from `blocks` at the first call.

    `key` names the state of the store; copies of other states are removed. Where the copy cannot be written
    (a full or read-only disk) the arrays are returned from memory instead.
    """
    stem = f"{key}-{re.sub(r'[^A-Za-z0-9.-]', '_', view)[:80]}-{digest_bytes(view.encode())[:8]}"
    vectors, mask = folder / f"{stem}.npy", folder / f"{stem}.present.npy"
    found = _load(vectors, mask, shape)
    if found is not None:
        return found
    try:
        folder.mkdir(exist_ok=True)
        remove_outdated(folder, key)
        _write(vectors, mask, shape, blocks())
        found = _load(vectors, mask, shape)
    except OSError as error:
        log.warning("no cached copy of view %s (%s): reading it into memory", view, error)
    return found if found is not None else _in_memory(blocks())


def remove_outdated(folder: Path, key: str) -> None:
    """Remove the copies made from other states of the store, and what killed writers left."""
    for path in folder.glob("*.npy"):
        if not path.name.startswith(f"{key}-"):
            path.unlink(missing_ok=True)
    remove_stale_temporaries(folder, min_age=_ABANDONED)


def _load(vectors: Path, mask: Path, shape: tuple[int, int]) -> Vectors | None:
    """The copies that lie there; None unless they begin and end as those that `_write` makes."""
    of_vectors, of_mask = _header("<f2", shape), _header("|b1", shape[:1])
    try:
        with vectors.open("rb") as file:
            whole = file.read(len(of_vectors)) == of_vectors
            whole &= file.seek(0, 2) == len(of_vectors) + 2 * shape[0] * shape[1]
        masked = mask.read_bytes()
        if not whole or not masked.startswith(of_mask) or len(masked) != len(of_mask) + shape[0]:
            return None
        matrix = np.memmap(vectors, "<f2", "r", len(of_vectors), shape)
    except FileNotFoundError:
        return None
    return matrix, np.frombuffer(masked, bool, offset=len(of_mask)).copy()


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write(vectors: Path, mask: Path, shape: tuple[int, int], blocks: Iterator[Vectors]) -> None:
    """Write the mask first, so that vectors never lie there without it.

    Plain writes, not a writable memory map: on a full disk that would end the process by a bus error.
    """
    masks = []
    with atomic_path(vectors) as unfinished:
        with unfinished.open("wb") as file:
            file.write(_header("<f2", shape))
            for values, present in blocks:
                file.write(np.ascontiguousarray(values, "<f2").data)
                masks.append(present)
        with atomic_path(mask) as unfinished_mask, unfinished_mask.open("wb") as file:
            file.write(_header("|b1", shape[:1]) + np.concatenate(masks).tobytes())


def _in_memory(blocks: Iterator[Vectors]) -> Vectors:
    values, masks = zip(*blocks, strict=True)
    return np.concatenate(values), np.concatenate(masks)
