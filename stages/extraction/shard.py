"""One shard's items to one shard's rows: what is known is taken over, the rest is encoded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...features.shards import ShardRows
from ...features.similarity import cosines
from ...features.store import ExistingRows
from ..encoding import Hashed, drop_not_finite, encode_image_views, encode_text_views
from ..joint import Columns, JointRows
from .plan import Plan


def encode_shard(
    plan: Plan,
    shard: int,
    hashed: Hashed,
    existing: ExistingRows,
    pool: ThreadPoolExecutor,
    advance: Callable[..., None],
) -> ShardRows:
    """The rows of a shard, those in `existing` as they are; calls `advance` for every item."""
    n = len(hashed.items)
    todo = [row for row in range(n) if row not in existing.rows]
    columns = {view: (np.zeros((n, dim), np.float32), np.zeros(n, bool)) for view, dim in plan.dims().items()}
    for view, (values, present) in columns.items():
        existing.copy_into(view, values, present)
    failures = list(existing.failures)
    counts: dict[str, int] = {}
    if plan.encodes:
        joint = None
        if hashed.joint is not None:
            joint = JointRows(plan.encoders.joint, hashed.joint, plan.config, columns)
            counts |= joint.counts
        if plan.views:
            counts |= encode_text_views(plan.encoders.texts, hashed, todo, plan.config, columns)
        if plan.reads_images:
            failures += encode_image_views(
                plan.encoders.images, hashed, todo, plan.config, columns, pool, advance, joint
            )
        elif joint is not None:
            for row in todo:
                joint.add(row, ())
        if joint is not None:
            joint.finish()
        failures += drop_not_finite(hashed.items.item_ids, todo, columns)
    for view, matrix in plan.foreign_rows(shard).items():
        features = matrix.astype(np.float32)
        absent = np.isnan(features).all(axis=1)  # a row of NaN is how a matrix says that it has none
        features[absent] = 0
        columns[view] = features, np.logical_not(absent)
    advance(n - len(todo) if plan.reads_images else n)
    similarity = _similarity(plan, columns)
    return ShardRows(hashed.items.item_ids, hashed.content_hashes, columns, similarity, failures, counts)


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
