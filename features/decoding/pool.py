"""Pictures to pixels beside the caller's own work, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType

from ..errors import ImageFailure
from .item import Decoded, DecodePlan, Images, decode_crops


class DecodePool:
    """Decodes items by a plan, with so many workers; `submit` and `map` are safe in many threads.

    Nothing is started before there is a picture to decode. Close it, or use it in a `with` statement.
    """

    def __init__(self, plan: DecodePlan, workers: int) -> None:
        self._plan, self._crops = plan, plan.crops
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, images: Images) -> Future[Decoded]:
        """The item's pixels and failures, when they are there; no picture makes it raise."""
        return self._threads.submit(self._decode, images)

    def map(self, items: Iterable[Images], ahead: int = 64) -> Iterator[Decoded]:
        """What `submit` gives for each item, in order, with at most `ahead` items under way or waiting."""
        source = iter(items)
        waiting = deque(self.submit(item) for item in islice(source, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(self.submit(item) for item in islice(source, 1))

    def close(self) -> None:
        """End the workers; what was submitted and not yet begun is cancelled."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, images: Images) -> Decoded:
        plan = self._plan
        item = Decoded({column: [] for column in plan.columns})
        for content in images:
            if isinstance(content, ImageFailure):
                item.failures.append(content)
                continue
            try:
                made = decode_crops(content, self._crops, plan.max_pixels, plan.exif_rotate)
            except ImageFailure as failure:
                item.failures.append(failure)
                continue
            by_crop = dict(zip(self._crops, made.pixels, strict=True))
            for column, crops in plan.columns.items():
                item.pixels[column] += [by_crop[crop] for crop in crops]
            item.decode_seconds += made.decode_seconds
            item.transform_seconds += made.transform_seconds
            if plan.first_only:
                break
        return item
