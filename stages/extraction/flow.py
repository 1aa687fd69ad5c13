"""All steps of extraction at the same time: while a shard is encoded, the next is read and decoded, and the
last one written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ...features.shards import Failure, ShardRows
from ...features.store import FeatureStoreWriter
from ..meter import Meter
from .feed import Feed, Work
from .plan import Plan
from .shard import ShardEncoder
from .stopping import Stop

log = logging.getLogger(__name__)


def meter_of(plan: Plan, items: int, flows: int = 1) -> Meter:
    """Of the steps of an extraction, in their order, by so many flows side by side."""
    workers = {
        ("read",): plan.readers,
        ("decode", "transform"): plan.config.workers,
        ("encode",): 1,
        ("write",): 1,
    }
    return Meter("extract", items, {steps: flows * count for steps, count in workers.items()})


@dataclass(frozen=True, slots=True)
class Made:
    """One shard that lies on the disk as it should."""

    shard: int
    encoded: int  # items that went through the encoder
    failures: list[Failure]


class Flow:
    """Brings shards into the store's folder, one after the other. Use it in a `with` statement."""

    def __init__(self, plan: Plan, writer: FeatureStoreWriter, meter: Meter, stop: Stop) -> None:
        self._writer, self._meter, self._stop = writer, meter, stop
        self._feed = Feed(plan, writer, meter)
        self._encoder = ShardEncoder(plan)
        self._disk = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.close()
        self._disk.shutdown()

    def run(
        self, shards: Iterable[int], advance: Callable[[int], None], done: Callable[[Made], None]
    ) -> None:
        """Make the shards in turn; `done` hears of every shard that is there, `advance` of items before that.

        Raises KeyboardInterrupt after the shard in flight once `stop` was asked for.
        """
        waiting: Future[Made] | None = None  # on its way to the disk
        with self._feed.works(shards) as works, self._meter.busy("encode"):
            for work in works:
                if self._stop.asked_by is not None:
                    self._feed.close()  # or leaving would wait for what is being read
                    break
                made = self._make(work, advance)
                if waiting is not None:
                    done(self._written(waiting))
                waiting = made
            if waiting is not None:
                done(self._written(waiting))
        if self._stop.asked_by is not None:
            raise KeyboardInterrupt

    def _make(self, work: Work, advance: Callable[[int], None]) -> Future[Made]:
        """The shard on its way to the disk."""
        if work.finished is not None:
            advance(len(work.rendered.items))
            there: Future[Made] = Future()
            there.set_result(Made(work.shard, 0, work.finished))
            return there
        rows = self._encoder.encode(work, self._watched(work, advance))
        return self._disk.submit(self._write, work, rows)

    def _write(self, work: Work, rows: ShardRows) -> Made:
        with self._meter.busy("write"):
            self._writer.write_shard(work.shard, rows)
        return Made(work.shard, len(work.todo), rows.failures)

    def _written(self, made: Future[Made]) -> Made:
        with self._meter.waiting("encode"):
            return made.result()

    def _watched(self, work: Work, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance`, and a word about what happens now when a signal has come."""
        left = len(work.rendered.items)
        told = self._stop.asked_by is not None

        def watched(items: int) -> None:
            nonlocal left, told
            advance(items)
            left -= items
            if self._stop.asked_by is not None and not told:
                told = True
                log.warning(
                    "%s: stopping after shard %d, which has %d of %d items left; "
                    "a second signal stops at once",
                    self._stop.asked_by,
                    work.shard,
                    left,
                    len(work.rendered.items),
                )

        return watched
