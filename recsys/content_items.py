"""Vectors of items that were not trained, from trained items of like content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .feature_search import ItemView
from .ranking import ExactRanker


def vectors_by_content(
    views: Sequence[ItemView],
    trained: np.ndarray,
    new: np.ndarray,
    vectors: np.ndarray,
    k: int = 50,
    memory_mb: int = 512,
    device: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """(vectors (n, d) float32, described (n,) bool) of the rows `new` (n,) of the views.

    A new item's vector is the mean of `vectors` (t, d) over the k rows `trained` (t,) of nearest content,
    weighted by the sum of their cosines over the views, each view less its mean. A view that an item lacks
    says nothing; an item without any view is not described, and its vector is zero.
    """
    centred = np.concatenate([view.centred() for view in views], axis=1)
    described = np.logical_or.reduce([view.present for view in views])
    usable = described[trained]
    ranker = ExactRanker(centred[trained], usable, memory_mb, device)
    near = ranker.rank(centred[new], min(k, max(int(usable.sum()), 1)))
    weights = np.where(near.items >= 0, np.maximum(near.scores, 0), 0)
    alike = weights.sum(axis=1, keepdims=True) > 0
    weights = np.where(alike, weights, near.items >= 0).astype(np.float64)  # unlike all: the nearest alike
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    mixed = np.zeros((len(new), vectors.shape[1]))
    for place in range(near.items.shape[1]):
        mixed += weights[:, place, None] * vectors[near.items[:, place]]
    held = described[new] & usable.any()
    return np.where(held[:, None], mixed, 0).astype(np.float32), held
