"""Shards on their way to the encoder: read, hashed and decoded ahead of it, within bounds of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ...features.catalog import References
from ...features.decoding.item import Decoded, Images
from ...features.decoding.pool import DecodePool
from ...features.shards import Failure
from ...features.store import ExistingRows, FeatureStoreWriter
from ..ahead import Ahead
from ..decoding import extraction_plan
from ..encoding import (
    ItemRead,
    Rendered,
    hash_rendered,
    image_reader,
    images_size,
    read_ahead,
    render,
)
from ..meter import Meter
from .plan import Plan

ROOM = 256 * 2**20  # bytes of pictures and pixels between reading and encoding


@dataclass(slots=True)
class Work:
    """One shard, and what is to be done about it."""

    shard: int
    rendered: Rendered
    content_hashes: list[str] = field(default_factory=list)  # complete once all of `decoded` has been taken
    finished: list[Failure] | None = None  # failures of a shard that is there already, as it should be
    existing: ExistingRows = field(default_factory=lambda: ExistingRows(None, {}, []))
    todo: Sequence[int] = ()  # rows that are to be encoded
    decoded: Iterator[Decoded] = field(default_factory=lambda: iter(()))  # of these, to be taken in order


_Event: TypeAlias = Work | Future[Decoded]  # a shard, then one future for each row of its `todo`


class Feed:
    """Reads and decodes the items of shards, which one thread takes and encodes."""

    def __init__(self, plan: Plan, writer: FeatureStoreWriter, meter: Meter) -> None:
        self._plan, self._writer, self._meter = plan, writer, meter
        self._reader = image_reader(plan.catalog, plan.config)
        self._readers = ThreadPoolExecutor(plan.readers, "read")
        self._pool: Future[DecodePool] = Future()  # made when the first picture is needed
        self._pixel_bytes = 0  # that come of one picture

    @contextlib.contextmanager
    def works(self, shards: Iterable[int]) -> Iterator[Iterator[Work]]:
        """The shards in order, each with what is known of it by then."""
        with Ahead(self._events(shards), ROOM) as events:
            try:
                yield self._taken(events)
            except BaseException:
                self.close()  # or leaving would wait for what is being read and decoded
                raise

    def close(self) -> None:
        """End all threads and processes, and what they are at."""
        self._reader.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        made, self._pool = self._pool, Future()
        self._pool.cancel()
        if not made.cancel():  # else who waits for a pool that is never made would do so for ever
            made.result().close()

    def _taken(self, events: Iterator[_Event]) -> Iterator[Work]:
        while True:
            with self._meter.waiting("encode"):
                work = next(events, None)
            if work is None:
                return
            assert isinstance(work, Work)
            if work.todo and self._plan.reads_images and not self._pool.done():
                self._pool.set_result(self._make_pool())
            work.decoded = self._decoded(events, len(work.todo))
            yield work

    def _decoded(self, events: Iterator[_Event], count: int) -> Iterator[Decoded]:
        for _ in range(count):
            with self._meter.waiting("encode"):
                future = next(events)
                assert isinstance(future, Future)
                item = future.result()
            self._meter.add("decode", item.decode_seconds)
            self._meter.add("transform", item.transform_seconds)
            yield item

    def _make_pool(self) -> DecodePool:
        """Made by the thread that encodes, since the encoder says what becomes of pictures."""
        plan = self._plan
        decoding = extraction_plan(plan.encoders.images.transform, plan.config, plan.joint is not None)
        self._pixel_bytes = sum(3 * int(np.prod(crop.transform.size)) for crop in decoding.crops)
        return DecodePool(decoding, plan.config.workers)

    def _events(self, shards: Iterable[int]) -> Iterator[tuple[_Event, int]]:
        for shard in shards:
            items = self._plan.items(shard)
            work = Work(shard, render(items, self._plan.views, self._plan.joint))
            foreign = list(self._plan.foreign_rows(shard).values())
            known = self._writer.may_know(shard, items.item_ids)
            images = self._compared(work, foreign) if known else self._fresh(work, foreign)
            for event in images:
                yield (event, 0) if isinstance(event, Work) else self._submitted(event)

    def _fresh(self, work: Work, foreign: Sequence[np.ndarray]) -> Iterator[Work | Images]:
        """A shard of which nothing is known: its items are decoded while others are still being read."""
        work.todo = range(len(work.rendered.items))
        yield work
        for row, item in enumerate(self._read(work.rendered.items.images)):
            work.content_hashes.append(work.rendered.content_hash(row, item.digests, foreign))
            yield item.images

    def _compared(self, work: Work, foreign: Sequence[np.ndarray]) -> Iterator[Work | Images]:
        """A shard that may be there, in part at least: to know takes the hash of every item."""
        items = work.rendered.items
        hashed = hash_rendered(work.rendered, self._read(items.images), foreign)
        work.content_hashes = hashed.content_hashes
        work.finished = self._writer.finished(work.shard, items.item_ids, work.content_hashes)
        if work.finished is None:
            work.existing = self._writer.existing_rows(items.item_ids, work.content_hashes)
            work.todo = [row for row in range(len(items)) if row not in work.existing.rows]
        yield work
        if not self._plan.reads_images:
            hashed.kept.update(dict.fromkeys(work.todo, ()))
        again = self._read(items.images[row] for row in work.todo if row not in hashed.kept)
        for row in work.todo:
            images = hashed.kept.get(row)
            if images is None:
                item = next(again)
                images = item.images  # which may have changed by now
                work.content_hashes[row] = work.rendered.content_hash(row, item.digests, foreign)
            yield images

    def _read(self, images: Iterable[References]) -> Iterator[ItemRead]:
        for item in read_ahead(self._readers, self._reader, images, 2 * self._plan.readers):
            self._meter.add("read", item.seconds)
            yield item

    def _submitted(self, images: Images) -> tuple[Future[Decoded], int]:
        if not self._plan.reads_images:
            nothing: Future[Decoded] = Future()
            nothing.set_result(Decoded({}))
            return nothing, 0
        weight = images_size(images) + len(images) * self._pixel_bytes
        return self._pool.result().submit(images), weight
