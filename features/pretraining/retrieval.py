"""How well images and texts find each other among held-out items."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..encoders.beit3_model import Beit3
from .items import Items
from .objectives import Objectives

BLOCK = 1024  # queries whose scores are in memory at once


@torch.inference_mode()
def retrieval(model: Beit3, objectives: Objectives, rows: np.ndarray, batch_size: int) -> dict[str, float]:
    """R@1 of texts by images and of images by texts among the pairs of `rows`, and what chance would give.

    The vectors are those of each modality encoded by itself. An item with the same text or the same image is
    a right answer too. Nothing where there are fewer than two pairs.
    """
    items = objectives.items
    pairs = rows[items.has_image[rows] & items.has_text[rows]]
    if len(pairs) < 2:
        return {}
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    found = [objectives.vectors(model, batch) for batch in batches]
    images, texts = (torch.cat(side) for side in zip(*found, strict=True))
    to_text, chance = _first_hits(images, texts, items, pairs)
    to_image, _ = _first_hits(texts, images, items, pairs)
    return {"text_recall@1": to_text, "image_recall@1": to_image, "chance": chance}


def _first_hits(queries: Tensor, answers: Tensor, items: Items, pairs: np.ndarray) -> tuple[float, float]:
    """The share of queries whose nearest answer is right, and the share of right answers."""
    hits, right = 0, 0
    for start in range(0, len(pairs), BLOCK):
        same = items.same(pairs[start : start + BLOCK], pairs)
        nearest = (queries[start : start + BLOCK] @ answers.T).argmax(dim=1).cpu().numpy()
        hits += int(same[np.arange(len(same)), nearest].sum())
        right += int(same.sum())
    return hits / len(pairs), right / len(pairs) ** 2
