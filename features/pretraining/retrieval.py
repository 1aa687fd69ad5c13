"""How well images and texts find each other among held-out items."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .items import Items

BLOCK = 1024  # queries whose scores are in memory at once
CUTS = (1, 5, 10)


@torch.inference_mode()
def retrieval(
    vectors: Callable[[np.ndarray], tuple[Tensor, Tensor]], items: Items, rows: np.ndarray, batch_size: int
) -> dict[str, float]:
    """R@1, R@5 and R@10 of texts by images and of images by texts among the pairs of `rows`, and what chance
    would give.

    `vectors` gives unit rows of the images and of the texts of some items, each encoded by itself. An item
    with the same text or the same image is a right answer too. Nothing where there are fewer than two pairs.
    """
    pairs = rows[items.has_image[rows] & items.has_text[rows]]
    if len(pairs) < 2:
        return {}
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    images, texts = (torch.cat(side) for side in zip(*map(vectors, batches), strict=True))
    to_text, to_image = _hits(images, texts, items, pairs), _hits(texts, images, items, pairs)
    chances = _chances(items, pairs)
    found = {f"text_recall@{k}": share for k, share in to_text.items()}
    found |= {f"image_recall@{k}": share for k, share in to_image.items()}
    return found | {f"chance@{k}": share for k, share in chances.items()}


def _hits(queries: Tensor, answers: Tensor, items: Items, pairs: np.ndarray) -> dict[int, float]:
    """By cut-off, the share of queries with a right answer among their nearest."""
    hits = dict.fromkeys(CUTS, 0)
    for start in range(0, len(pairs), BLOCK):
        same = items.same(pairs[start : start + BLOCK], pairs)
        scores = queries[start : start + BLOCK] @ answers.T
        nearest = scores.topk(min(max(CUTS), len(pairs))).indices.cpu().numpy()
        right = np.take_along_axis(same, nearest, axis=1)
        for k in CUTS:
            hits[k] += int(right[:, :k].any(axis=1).sum())
    return {k: count / len(pairs) for k, count in hits.items()}


def _chances(items: Items, pairs: np.ndarray) -> dict[int, float]:
    """By cut-off, the mean probability of a right answer among as many that are drawn at random."""
    n, misses = len(pairs), dict.fromkeys(CUTS, 0.0)
    for start in range(0, n, BLOCK):
        for right in items.same(pairs[start : start + BLOCK], pairs).sum(axis=1).tolist():
            for k in CUTS:
                misses[k] += math.comb(n - right, k) / math.comb(n, k) if k <= n else 0.0
    return {k: 1 - total / n for k, total in misses.items()}
