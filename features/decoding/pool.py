"""Pictures to pixels in processes of their own: what a picture does to its decoder hurts no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from types import TracebackType

import numpy as np

from ..errors import ImageFailure
from .dispatch import CHUNK_PICTURES, Dispatcher, Picture
from .item import Decoded, DecodePlan, Images
from .shared import BUFFERS, ImageCrops


class DecodePool:
    """Decodes items by a plan, with so many worker processes; `submit` and `map` are safe in many threads.

    A picture that crashes its worker, or takes more time or memory than the plan allows, is a failure of its
    own with a reason; the others of its item, and all other items, come out as if it had not been there.
    Nothing is started before there is a picture to decode. Close it, or use it in a `with` statement.
    """

    def __init__(self, plan: DecodePlan, workers: int, drill: bool = False) -> None:
        """With `drill`, contents of b"DRILL " and crash, exit, hang or memory do that to a worker."""
        self.columns = {
            column: [plan.crops.index(crop) for crop in crops] for column, crops in plan.columns.items()
        }
        ends = np.cumsum([crop.bytes for crop in plan.crops]).tolist()
        self.parts = [
            (end - crop.bytes, end, (3, *crop.transform.size))
            for crop, end in zip(plan.crops, ends, strict=True)
        ]
        self.first_only, self._workers = plan.first_only, workers
        order = {**plan.order(), "drill": drill}
        self.dispatcher = Dispatcher(order, ends[-1] if ends else 1, workers, plan.seconds)

    def submit(self, images: Images) -> Future[Decoded]:
        """The item's pixels and failures, when they are there.

        No picture makes it raise; NurseryError where no worker can be had.
        """
        item = _Item(self, images)
        item.start()
        return item.future

    def map(self, items: Iterable[Images], ahead: int | None = None) -> Iterator[Decoded]:
        """What `submit` gives for each item, in order.

        At most `ahead` items are under way or waiting; by default twice what keeps all workers busy.
        """
        source = iter(items)
        ahead = ahead or 2 * BUFFERS * CHUNK_PICTURES * self._workers
        waiting = deque(self.submit(item) for item in islice(source, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(self.submit(item) for item in islice(source, 1))

    def close(self) -> None:
        """End the workers; what was submitted and is not done fails."""
        self.dispatcher.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Item:
    """An item on its way through the pool."""

    def __init__(self, pool: DecodePool, images: Images) -> None:
        self._pool, self._images = pool, images
        self._waiting = deque(at for at, image in enumerate(images) if isinstance(image, bytes))
        self._missing = len(self._waiting)
        self._results: dict[int, ImageCrops | ImageFailure] = {}
        self.future: Future[Decoded] = Future()
        self.future.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def start(self) -> None:
        if not self._waiting:
            self._finish()
        else:
            self._send(1 if self._pool.first_only else self._missing)

    def _send(self, count: int) -> None:
        pictures = []
        for _ in range(count):
            at = self._waiting.popleft()
            content = self._images[at]
            assert isinstance(content, bytes)
            pictures.append(Picture(content, partial(self._take, at), self._fail))
        self._pool.dispatcher.put(pictures)

    def _take(self, at: int, result: ImageCrops | ImageFailure) -> None:
        self._results[at] = result
        self._missing -= 1
        enough = self._pool.first_only and isinstance(result, ImageCrops)
        if enough or not self._missing:
            self._finish()
        elif self._pool.first_only:
            self._send(1)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():  # by another picture of the item
            self.future.set_exception(error)

    def _finish(self) -> None:
        pool = self._pool
        item = Decoded({column: [] for column in pool.columns})
        for at, image in enumerate(self._images):
            result = image if isinstance(image, ImageFailure) else self._results[at]
            if isinstance(result, ImageFailure):
                item.failures.append(result)
                continue
            crops = [result.pixels[start:stop].reshape(shape) for start, stop, shape in pool.parts]
            for column, places in pool.columns.items():
                item.pixels[column] += [crops[place] for place in places]
            item.decode_seconds += result.decode_seconds
            item.transform_seconds += result.transform_seconds
            if pool.first_only:
                break
        self.future.set_result(item)
