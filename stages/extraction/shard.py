"""One shard's items to one shard's rows: what is known is taken over, the rest is encoded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...features.shards import Failure, ShardRows
from ...features.similarity import cosines
from ..decoding import WHOLE_IMAGES
from ..joint import Columns, JointRows
from .batches import FittingBatches, FittingTexts
from .feed import Work
from .plan import Plan
from .vectors import ImageRows, drop_not_finite, encode_text_views


class ShardEncoder:
    """Makes the rows of one shard after the other; batches never hold items of two."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._images, self._texts, self._joint = (
            FittingBatches(of, plan.config.batch_size) for of in ("images", "texts", "image-text pairs")
        )

    def encode(self, work: Work, advance: Callable[[int], None]) -> ShardRows:
        """The rows of a shard, those in `work.existing` as they are; calls `advance` for every item."""
        plan, items = self._plan, work.rendered.items
        n = len(items)
        columns = {
            view: (np.zeros((n, dim), np.float32), np.zeros(n, bool)) for view, dim in plan.dims().items()
        }
        for view, (values, present) in columns.items():
            work.existing.copy_into(view, values, present)
        advance(n - len(work.todo))
        failures = list(work.existing.failures)
        counts = self._text_columns(work, columns)
        failures += self._image_columns(work, columns, counts, advance)
        failures += drop_not_finite(items.item_ids, work.todo, columns)
        for view, matrix in plan.foreign_rows(work.shard).items():
            features = matrix.astype(np.float32)
            absent = np.isnan(features).all(axis=1)  # a row of NaN is how a matrix says that it has none
            features[absent] = 0
            columns[view] = features, np.logical_not(absent)
        similarity = _similarity(plan, columns)
        return ShardRows(items.item_ids, work.content_hashes, columns, similarity, failures, counts)

    def _text_columns(self, work: Work, columns: Columns) -> dict[str, int]:
        """Fill the columns of texts; what the shard's texts count."""
        plan = self._plan
        if not plan.views:
            return {}
        texts = FittingTexts(plan.encoders.texts, self._texts)
        return encode_text_views(texts, work.rendered, work.todo, plan.config, columns)

    def _image_columns(
        self, work: Work, columns: Columns, counts: dict[str, int], advance: Callable[[int], None]
    ) -> list[Failure]:
        """Fill the columns of images and of image and text together; the images that failed."""
        plan, texts = self._plan, work.rendered.joint
        joint = images = None
        if texts is not None:
            joint = JointRows(plan.encoders.joint, texts, plan.config, columns, self._joint)
            counts |= joint.counts
        if plan.reads_images:
            images = ImageRows(plan.encoders.images, plan.config, columns, self._images)
        failures: list[Failure] = []
        for row, item in zip(work.todo, work.decoded, strict=True):
            item_id = work.rendered.items.item_ids[row]
            failures += [Failure(item_id, "image", failed.reason, failed.message) for failed in item.failures]
            if joint is not None:
                joint.add(row, item.pixels.pop(WHOLE_IMAGES, ()))
            if images is not None:
                images.add(row, item.pixels)
            advance(1)
        if images is not None:
            images.finish()
        if joint is not None:
            joint.finish()
        return failures


def _similarity(plan: Plan, columns: Columns) -> dict[str, np.ndarray]:
    """Cosine of every text view with the item's image; NaN where either is missing."""
    if plan.main_view is None:
        return {}
    image, has_image = columns[f"image.{plan.main_view}"]
    image = _as_stored(image)
    similarity = {}
    for view in plan.views:
        text, has_text = columns[f"text.{view.name}"]
        similarity[view.name] = cosines(image, _as_stored(text), has_image & has_text)
    return similarity


def _as_stored(vectors: np.ndarray) -> np.ndarray:
    """Rounded to the float16 of the store: rows that were reused and rows just encoded then agree."""
    return vectors.astype(np.float16).astype(np.float32)
