"""The nearest items of a few items, by every view of a feature store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...features.store import FeatureStore

_BLOCK = 65_536  # rows at a time


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """An item and, by view, its nearest items with their cosines, best first; a view that it lacks is
    absent."""

    item_id: object
    views: Mapping[str, Sequence[tuple[object, float]]]


def well_known(store: FeatureStore, popularity: pl.DataFrame | None, count: int) -> np.ndarray:
    """Rows of `count` items to look at: those with most interactions, (item_id, n), or else evenly spaced."""
    if popularity is not None and len(popularity):
        ids = pl.DataFrame({"item_id": store.item_ids.cast(pl.String)}).with_row_index("row")
        known = popularity.select(pl.col("item_id").cast(pl.String), "n")
        ranked = ids.join(known, on="item_id", how="inner").sort("n", "row", descending=[True, False])
        return ranked["row"].head(count).to_numpy().astype(np.int64)
    return (
        np.unique(np.linspace(0, len(store) - 1, count).astype(np.int64)) if count and len(store) else _NONE
    )


def neighbourhoods(
    store: FeatureStore, rows: np.ndarray, views: Sequence[str], k: int
) -> list[Neighbourhood]:
    """The k nearest other items of each row, by cosine, exactly."""
    ids = store.item_ids
    found: list[dict[str, list[tuple[object, float]]]] = [{} for _ in rows]
    for view in views:
        vectors, present = store.read(view)
        nearest, cosines = nearest_rows(vectors, present, rows, k)
        for place, row in enumerate(rows):
            if present[row]:
                pairs = zip(nearest[place].tolist(), cosines[place].tolist(), strict=True)
                found[place][view] = [(ids[other], cosine) for other, cosine in pairs if other >= 0]
    return [Neighbourhood(ids[int(row)], by_view) for row, by_view in zip(rows, found, strict=True)]


def nearest_rows(
    vectors: np.ndarray, present: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(q, k) row numbers, -1 past the last, and cosines of the rows of `vectors` (n, d) nearest to `rows`."""
    queries = _unit(vectors[rows])
    best = np.full((len(rows), k), -1, np.int64)
    cosines = np.full((len(rows), k), -np.inf, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(vectors)))
        scores = queries @ _unit(vectors[block]).T  # (q, b)
        scores[:, ~present[block]] = -np.inf
        scores[rows[:, None] == block] = -np.inf  # itself
        both = np.concatenate([cosines, scores], axis=1)
        ids = np.concatenate([best, np.broadcast_to(block, scores.shape)], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        cosines, best = np.take_along_axis(both, order, axis=1), np.take_along_axis(ids, order, axis=1)
    return np.where(np.isfinite(cosines), best, -1), cosines


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float32).tiny)


_NONE = np.empty(0, np.int64)
