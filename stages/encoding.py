"""One shard's items through the encoder: read and hash, decode in threads, encode in batches, pool."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl

from ..features.catalog import Catalog
from ..features.config import ExtractConfig
from ..features.decoding.pool import DecodePool
from ..features.encoders.base import ImageEncoder, TextEncoder
from ..features.errors import ImageFailure
from ..features.files import digest_bytes, digest_json
from ..features.shards import Failure
from ..features.sources.reading import ImageReader
from ..features.text import count_texts, encode_texts
from ..features.views import View
from .decoding import WHOLE_IMAGES, extraction_plan
from .joint import Columns, JointRows

KEPT_BYTES = 256 * 2**20  # image bytes of one shard kept between hashing and decoding; the rest is read again

NOT_FINITE = "not_finite"  # the reason of a vector that is no vector
Item = TypeVar("Item")
Result = TypeVar("Result")
Images = list[bytes | ImageFailure]  # what became of the references of one item


@dataclass(frozen=True, slots=True)
class Hashed:
    """The items of one shard, their texts and a hash of all that they are made from."""

    items: Catalog
    texts: dict[str, list[str | None]]  # text view -> one rendered text per item
    prompts: dict[str, str]  # text view -> how each window of a long text begins
    joint: list[str | None] | None  # the text of each item that is read together with its image
    content_hashes: list[str]  # equal hashes mean equal vectors
    kept: dict[int, Images]  # row -> its images, where they fitted into memory


def hash_items(
    items: Catalog,
    views: Sequence[View],
    joint: View | None,
    foreign: Sequence[np.ndarray],
    config: ExtractConfig,
    pool: ThreadPoolExecutor,
) -> Hashed:
    """Render the texts and read the images of `items`; `foreign` are their rows of ready-made features."""
    fields = items.fields.to_dicts() if views or joint else []
    texts = {view.name: [view.render(row) for row in fields] for view in views}
    joint_texts = [joint.render(row) for row in fields] if joint else None
    hashed_texts = [*texts.values(), *([joint_texts] if joint_texts else [])]
    kept: dict[int, Images] = {}
    hashes = []
    room = KEPT_BYTES
    read = image_reader(items, config)
    for row, images in enumerate(prefetched(pool, read, items.images)):
        # A failure is hashed by its reason: an item whose missing picture turns up counts as changed.
        parts = [image.reason if isinstance(image, ImageFailure) else digest_bytes(image) for image in images]
        parts += [digest_bytes(matrix[row].tobytes()) for matrix in foreign]
        hashes.append(digest_json([[column[row] for column in hashed_texts], parts]))
        size = sum(len(image) for image in images if isinstance(image, bytes))
        if size <= room:
            kept[row] = images
            room -= size
    prompts = {view.name: view.prompt for view in views}
    return Hashed(items, texts, prompts, joint_texts, hashes, kept)


def encode_text_views(
    encoder: TextEncoder, hashed: Hashed, rows: Sequence[int], config: ExtractConfig, columns: Columns
) -> dict[str, int]:
    """Fill the `text.*` columns of `rows`; returns how many texts the shard has, how many are long or cut.

    Texts that repeat, within a view or across views, are encoded once.
    """
    texts, prompts = _texts_of(hashed, rows)
    encoded = encode_texts(encoder, texts, config.long_text, config.batch_size, prompts, config.normalise)
    for position, name in enumerate(hashed.texts):
        part = slice(position * len(rows), (position + 1) * len(rows))
        values, present = columns[f"text.{name}"]
        values[rows], present[rows] = encoded.vectors[part], encoded.present[part]
    reused = sorted(set(range(len(hashed.items))).difference(rows))
    others, their_prompts = _texts_of(hashed, reused)
    counts = Counter(encoded.counts)
    counts.update(count_texts(encoder, others, config.long_text, their_prompts))
    return dict(counts)


def _texts_of(hashed: Hashed, rows: Sequence[int]) -> tuple[list[str | None], list[str]]:
    """The texts of `rows`, view after view, and the prompt of each."""
    texts = [of_view[row] for of_view in hashed.texts.values() for row in rows]
    return texts, [hashed.prompts[name] for name in hashed.texts for _ in rows]


def encode_image_views(
    encoder: ImageEncoder,
    hashed: Hashed,
    rows: Sequence[int],
    config: ExtractConfig,
    columns: Columns,
    pool: ThreadPoolExecutor,
    advance: Callable[[], None],
    joint: JointRows | None = None,
) -> list[Failure]:
    """Fill the `image.*` columns of `rows` with means over images and boxes; returns the failures.

    The means have unit length, unless `config.normalise` is off. `joint` is given the whole images of each
    row. Calls `advance` after each row.
    """
    plan = extraction_plan(encoder.transform, config, joint is not None)
    images = images_of(hashed, rows, config, pool)
    failures: list[Failure] = []
    batch: list[tuple[str, int, np.ndarray]] = []
    n_crops: Counter[tuple[str, int]] = Counter()
    with DecodePool(plan, config.workers) as decoding:
        for row, item in zip(rows, decoding.map(images), strict=True):
            item_id = hashed.items.item_ids[row]
            failures += [Failure(item_id, "image", failed.reason, failed.message) for failed in item.failures]
            advance()
            if joint is not None:
                joint.add(row, item.pixels.pop(WHOLE_IMAGES))
            batch += [(view, row, pixels) for view, crops in item.pixels.items() for pixels in crops]
            n_crops.update({(view, row): len(crops) for view, crops in item.pixels.items()})
            while len(batch) >= config.batch_size:
                _accumulate(encoder, batch[: config.batch_size], columns)
                del batch[: config.batch_size]
    _accumulate(encoder, batch, columns)
    for view in (f"image.{name}" for name in config.image_views):
        values, present = columns[view]
        filled = [row for row in rows if present[row]]
        if config.normalise:
            norms = np.linalg.norm(values[filled], axis=1, keepdims=True)
            values[filled] /= norms.clip(min=np.finfo(np.float32).tiny)
        else:
            values[filled] /= np.array([n_crops[view, row] for row in filled], np.float32)[:, None]
    return failures


def images_of(
    hashed: Hashed, rows: Sequence[int], config: ExtractConfig, pool: ThreadPoolExecutor
) -> Iterator[Images]:
    """The images of `rows`, in order: those that were kept, and the others read again."""
    read = image_reader(hashed.items, config)

    def images(row: int) -> Images:
        kept = hashed.kept.get(row)
        return kept if kept is not None else read(hashed.items.images[row])

    return prefetched(pool, images, rows)


def drop_not_finite(item_ids: pl.Series, rows: Sequence[int], columns: Columns) -> list[Failure]:
    """Make vectors that are not finite absent, and say so: they would spoil every average they enter."""
    failures = []
    for view, (values, present) in columns.items():
        for row in rows:
            if present[row] and not np.isfinite(values[row]).all():
                values[row], present[row] = 0, False
                failures.append(
                    Failure(item_ids[row], view, NOT_FINITE, "the encoder returned NaN or infinity")
                )
    return failures


def prefetched(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 64
) -> Iterator[Result]:
    """`map(work, items)` in order, with at most `ahead` results waiting: memory stays bounded."""
    source = iter(items)
    waiting: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(source, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(work, item) for item in islice(source, 1))


def image_reader(items: Catalog, config: ExtractConfig) -> Callable[[Sequence[str | bytes]], Images]:
    reader = ImageReader(items.image_root, items.reading, config.max_image_bytes)

    def read(references: Sequence[str | bytes]) -> Images:
        images: Images = []
        for reference in references:
            try:
                images.append(reader.read(reference))
            except ImageFailure as failure:
                images.append(failure)
        return images

    return read


def _accumulate(
    encoder: ImageEncoder, batch: Sequence[tuple[str, int, np.ndarray]], columns: Columns
) -> None:
    """Add the vectors of a batch of (view, row, pixels) to their rows."""
    if not batch:
        return
    vectors = encoder.encode_images([pixels for _, _, pixels in batch])
    for (view, row, _), vector in zip(batch, vectors, strict=True):
        values, present = columns[view]
        values[row] += vector
        present[row] = True
