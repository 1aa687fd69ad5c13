"""Exact k nearest items by cosine, in blocks: never a matrix of items by items."""

from __future__ import annotations

import torch
from torch import Tensor

from .modalities import Modality
from .topk import top_k


def nearest_items(
    modality: Modality, k: int, include_self: bool = True, memory_mb: int = 512
) -> tuple[Tensor, Tensor]:
    """(neighbours (n, k) int64, cosines (n, k) float32), nearest first, ties by lower item_idx.

    An absent item, and one whose vector is zero, has no direction: its row is -1 (cosine 0) and it is
    nobody's neighbour. Rows are padded likewise where fewer than k items have one. With `include_self`
    an item is always its own first neighbour, also among more than k exact duplicates. A block of cosines
    and what the selection needs stays within `memory_mb`.
    """
    n, values = len(modality.values), modality.values
    items = (modality.present & (values != 0).any(dim=1)).nonzero().flatten()
    unit = values[items]  # the one copy: of a large catalogue it is what takes memory
    for order in (torch.inf, 2):  # the largest entry first, so that no norm over- or underflows
        unit.div_(torch.linalg.vector_norm(unit, ord=order, dim=1, keepdim=True))
    width = min(k, len(items) - (not include_self))
    neighbours = torch.full((n, k), -1, dtype=torch.int64, device=values.device)
    cosines = torch.zeros((n, k), dtype=torch.float32, device=values.device)
    if width < 1:
        return neighbours, cosines
    rows = max(1, memory_mb * 2**20 // (16 * len(items)))  # float32 scores and three more such arrays
    for start in range(0, len(items), rows):
        block = items[start : start + rows]
        scores = unit[start : start + rows] @ unit.T  # (rows, present items)
        scores.diagonal(start).fill_(torch.inf if include_self else -torch.inf)
        best, columns = top_k(scores, width)
        neighbours[block, :width] = items[columns]
        cosines[block, :width] = best.masked_fill(best.isinf(), 1.0)
    return neighbours, cosines
