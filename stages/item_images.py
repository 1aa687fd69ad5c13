"""Every image of a catalogue decoded once, into a file of uint8 pixels that training reads in any order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..features.catalog import Catalog, References
from ..features.config import ExtractConfig
from ..features.decoding.images import decode_image
from ..features.encoders.base import ImageEncoder
from ..features.errors import ImageFailure
from ..features.files import atomic_path, write_json
from ..features.shards import Failure
from ..features.sources.reading import ImageReader
from .encoding import prefetched
from .progress import progress_bar

log = logging.getLogger(__name__)

_PIXELS, _TEACHER, _ACCOUNT = "pixels.npy", "teacher.npy", "images.json"
_BATCH = 64  # images that the teacher sees at once


@dataclass(frozen=True, slots=True)
class Images:
    """Row i of every array is one item."""

    pixels: np.ndarray  # (n, 3, h, w) uint8, memory-mapped; zeros where there is no image
    present: np.ndarray  # (n,) bool
    teacher: np.ndarray | None  # (n, dim) float32 vectors of the whole images, memory-mapped
    failures: list[Failure]


def cached_images(
    catalog: Catalog,
    prepare: Callable[[Image.Image], np.ndarray],
    extract: ExtractConfig,
    load_teacher: Callable[[], ImageEncoder] | None,
    work: Path,
) -> Images:
    """The first readable image of every item as `prepare` makes it, read into `work` or found there.

    What is there is taken for this catalogue's and this encoder's. Limits and threads are those of `extract`.
    """
    if not (work / _ACCOUNT).is_file():  # written last
        _read_all(catalog, prepare, extract, load_teacher, work)
    account = json.loads((work / _ACCOUNT).read_text(encoding="utf-8"))
    pixels = np.load(work / _PIXELS, mmap_mode="r")
    present = np.ones(len(pixels), dtype=bool)
    present[account["without"]] = False
    teacher = np.load(work / _TEACHER, mmap_mode="r") if load_teacher else None
    return Images(pixels, present, teacher, [Failure(*line) for line in account["failures"]])


def _read_all(
    catalog: Catalog,
    prepare: Callable[[Image.Image], np.ndarray],
    extract: ExtractConfig,
    load_teacher: Callable[[], ImageEncoder] | None,
    work: Path,
) -> None:
    teacher = load_teacher() if load_teacher else None
    reader = ImageReader(catalog.image_root, catalog.reading, extract.max_image_bytes)

    def read(references: References) -> tuple[list[np.ndarray], list[ImageFailure]]:
        """The pixels, and what the teacher takes; nothing where no image can be read. And the failures."""
        failed = []
        for reference in references:
            try:
                content = reader.read(reference)
                image = decode_image(content, extract.max_image_pixels, extract.exif_rotate)
            except ImageFailure as failure:
                failed.append(failure)
                continue
            return [prepare(image), *([teacher.transform(image)] if teacher else [])], failed
        return [], failed

    failures: list[Failure] = []
    without: list[int] = []
    shape = prepare(Image.new("RGB", (8, 8))).shape
    with ExitStack() as stack:
        unfinished = stack.enter_context(atomic_path(work / _PIXELS))
        pixels = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(catalog), *shape))
        vectors = (
            _TeacherRows(teacher, stack.enter_context(atomic_path(work / _TEACHER)), len(catalog))
            if teacher
            else None
        )
        pool = stack.enter_context(ThreadPoolExecutor(extract.workers))
        advance = stack.enter_context(progress_bar("images", len(catalog)))
        for row, (found, failed) in enumerate(prefetched(pool, read, catalog.images)):
            failures += [Failure(catalog.item_ids[row], "image", f.reason, f.message) for f in failed]
            if found:
                pixels[row] = found[0]
            else:
                without.append(row)
            if vectors and found:
                vectors.add(row, found[1])
            advance()
        if vectors:
            vectors.finish()
        pixels.flush()
    write_json(work / _ACCOUNT, {"without": without, "failures": [astuple(line) for line in failures]})


class _TeacherRows:
    """Fills the rows of a teacher's vectors, batch by batch."""

    def __init__(self, teacher: ImageEncoder, path: Path, n_items: int) -> None:
        self._teacher = teacher
        self._rows = np.lib.format.open_memmap(path, "w+", np.float32, (n_items, teacher.dim))
        self._waiting: list[tuple[int, np.ndarray]] = []

    def add(self, row: int, pixels: np.ndarray) -> None:
        self._waiting.append((row, pixels))
        if len(self._waiting) >= _BATCH:
            self.finish()

    def finish(self) -> None:
        """Encode what waits and hand it to the file."""
        if self._waiting:
            rows = [row for row, _ in self._waiting]
            self._rows[rows] = self._teacher.encode_images([pixels for _, pixels in self._waiting])
        self._waiting = []
        self._rows.flush()
