"""One shard's items: their texts rendered, their images read, and a hash of all that."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from ..features.catalog import Catalog, References
from ..features.config import ExtractConfig
from ..features.decoding.item import Images
from ..features.errors import ImageFailure
from ..features.files import digest_bytes, digest_json
from ..features.sources.reading import ImageReader
from ..features.views import View

KEPT_BYTES = 256 * 2**20  # image bytes of one shard kept between hashing and decoding; the rest is read again

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rendered:
    """The items of one shard and their texts."""

    items: Catalog
    texts: dict[str, list[str | None]]  # text view -> one rendered text per item
    prompts: dict[str, str]  # text view -> how each window of a long text begins
    joint: list[str | None] | None  # the text of each item that is read together with its image

    def content_hash(self, row: int, digests: Sequence[str], foreign: Sequence[np.ndarray]) -> str:
        """The hash of all that an item's vectors are made from: equal hashes mean equal vectors."""
        columns = [*self.texts.values(), *([self.joint] if self.joint else [])]
        parts = [*digests, *(digest_bytes(matrix[row].tobytes()) for matrix in foreign)]
        return digest_json([[column[row] for column in columns], parts])


@dataclass(frozen=True, slots=True)
class Hashed(Rendered):
    """The items of one shard, their texts and a hash of all that they are made from."""

    content_hashes: list[str]
    kept: dict[int, Images]  # row -> its images, where they fitted into memory


class ItemRead(NamedTuple):
    """The images of one item, as far as they could be read."""

    images: Images
    digests: list[str]  # of each
    seconds: float  # that this took


def render(items: Catalog, views: Sequence[View], joint: View | None) -> Rendered:
    """The items with the texts of all views."""
    fields = items.fields.to_dicts() if views or joint else []
    texts = {view.name: [view.render(row) for row in fields] for view in views}
    prompts = {view.name: view.prompt for view in views}
    return Rendered(items, texts, prompts, [joint.render(row) for row in fields] if joint else None)


def read_item(reader: ImageReader, references: References) -> ItemRead:
    """What the references of one item lead to."""
    started = time.perf_counter()
    images: list[bytes | ImageFailure] = []
    for reference in references:
        try:
            images.append(reader.read(reference))
        except ImageFailure as failure:
            images.append(failure)
    # A failure is hashed by its reason: an item whose missing picture turns up counts as changed.
    digests = [image.reason if isinstance(image, ImageFailure) else digest_bytes(image) for image in images]
    return ItemRead(images, digests, time.perf_counter() - started)


def hash_rendered(rendered: Rendered, read: Iterable[ItemRead], foreign: Sequence[np.ndarray]) -> Hashed:
    """The items with their hashes, by what was `read` of them and by their rows of ready-made features."""
    kept: dict[int, Images] = {}
    hashes = []
    room = KEPT_BYTES
    for row, item in enumerate(read):
        hashes.append(rendered.content_hash(row, item.digests, foreign))
        size = images_size(item.images)
        if size <= room:
            kept[row] = item.images
            room -= size
    return Hashed(rendered.items, rendered.texts, rendered.prompts, rendered.joint, hashes, kept)


def hash_items(
    items: Catalog,
    views: Sequence[View],
    joint: View | None,
    foreign: Sequence[np.ndarray],
    config: ExtractConfig,
    pool: ThreadPoolExecutor,
) -> Hashed:
    """Render the texts and read the images of `items`; `foreign` are their rows of ready-made features."""
    read = read_ahead(pool, image_reader(items, config), items.images)
    return hash_rendered(render(items, views, joint), read, foreign)


def images_size(images: Images) -> int:
    """Bytes in memory."""
    return sum(len(image) for image in images if isinstance(image, bytes))


def images_of(
    hashed: Hashed, rows: Sequence[int], config: ExtractConfig, pool: ThreadPoolExecutor
) -> Iterator[Images]:
    """The images of `rows`, in order: those that were kept, and the others read again."""
    reader = image_reader(hashed.items, config)

    def images(row: int) -> Images:
        kept = hashed.kept.get(row)
        return kept if kept is not None else read_item(reader, hashed.items.images[row]).images

    return prefetched(pool, images, rows, size=images_size)


def read_ahead(
    pool: ThreadPoolExecutor, reader: ImageReader, images: Iterable[References], ahead: int = 64
) -> Iterator[ItemRead]:
    """What `read_item` makes of each item, in order, by the pool's threads, in bounded memory."""
    return prefetched(pool, partial(read_item, reader), images, ahead, _read_size)


def _read_size(item: ItemRead) -> int:
    return images_size(item.images)


def prefetched(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = 64,
    size: Callable[[Result], int] | None = None,
    room: int = KEPT_BYTES,
) -> Iterator[Result]:
    """`map(work, items)` in order, with at most `ahead` results waiting: memory stays bounded.

    With a `size`, nothing is begun while those that wait would fill `room`, if they were as large as the
    largest of late: a run of huge ones is met with fewer of them.
    """
    source = iter(items)
    waiting: deque[Future[Result]] = deque()
    late = deque([room // 4], maxlen=ahead)  # sizes; before one is known, a few are begun

    def wanted() -> bool:
        if size is None or not waiting:
            return len(waiting) < ahead
        done = [size(one.result()) for one in waiting if one.done()]
        largest = max([*late, *done])
        return len(waiting) < ahead and sum(done) + largest * (len(waiting) - len(done) + 1) <= room

    while True:
        while wanted() and (more := list(islice(source, 1))):
            waiting.append(pool.submit(work, *more))
        if not waiting:
            return
        result = waiting.popleft().result()
        if size is not None:
            late.append(size(result))
        yield result


def image_reader(items: Catalog, config: ExtractConfig) -> ImageReader:
    """What reads the references of these items."""
    return ImageReader(items.image_root, items.reading, config.max_image_bytes)
