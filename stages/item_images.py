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

from ..features.catalog import Catalog
from ..features.config import ExtractConfig
from ..features.decoding.boxes import WHOLE
from ..features.decoding.item import Crop
from ..features.decoding.pool import DecodePool
from ..features.decoding.transform import ImageTransform
from ..features.encoders.base import ImageEncoder
from ..features.files import atomic_path, write_json
from ..features.shards import Failure
from .decoding import decode_plan
from .encoding import image_reader, read_ahead
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
    transform: ImageTransform,
    extract: ExtractConfig,
    load_teacher: Callable[[], ImageEncoder] | None,
    work: Path,
) -> Images:
    """The first readable image of every item, transformed, read into `work` or found there.

    What is there is taken for this catalogue's and this encoder's. Limits and workers are those of `extract`.
    """
    if not (work / _ACCOUNT).is_file():  # written last
        _read_all(catalog, transform, extract, load_teacher, work)
    account = json.loads((work / _ACCOUNT).read_text(encoding="utf-8"))
    pixels = np.load(work / _PIXELS, mmap_mode="r")
    present = np.ones(len(pixels), dtype=bool)
    present[account["without"]] = False
    teacher = np.load(work / _TEACHER, mmap_mode="r") if load_teacher else None
    return Images(pixels, present, teacher, [Failure(*line) for line in account["failures"]])


def _read_all(
    catalog: Catalog,
    transform: ImageTransform,
    extract: ExtractConfig,
    load_teacher: Callable[[], ImageEncoder] | None,
    work: Path,
) -> None:
    teacher = load_teacher() if load_teacher else None
    columns = {_PIXELS: [Crop(WHOLE, transform)]}
    if teacher:
        columns[_TEACHER] = [Crop(WHOLE, teacher.transform)]
    plan = decode_plan(columns, extract, first_only=True)
    failures: list[Failure] = []
    without: list[int] = []
    with ExitStack() as stack:
        unfinished = stack.enter_context(atomic_path(work / _PIXELS))
        shape = (len(catalog), 3, *transform.size)
        pixels = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        vectors = (
            _TeacherRows(teacher, stack.enter_context(atomic_path(work / _TEACHER)), len(catalog))
            if teacher
            else None
        )
        threads = stack.enter_context(ThreadPoolExecutor(extract.workers))
        pool = stack.enter_context(DecodePool(plan, extract.workers))
        advance = stack.enter_context(progress_bar("images", len(catalog)))
        read = read_ahead(threads, image_reader(catalog, extract), catalog.images)
        for row, item in enumerate(pool.map(found.images for found in read)):
            item_id = catalog.item_ids[row]
            failures += [Failure(item_id, "image", failed.reason, failed.message) for failed in item.failures]
            if item.pixels[_PIXELS]:
                (pixels[row],) = item.pixels[_PIXELS]
            else:
                without.append(row)
            if vectors and item.pixels[_TEACHER]:
                vectors.add(row, *item.pixels[_TEACHER])
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
