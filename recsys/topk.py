"""The k largest entries of every row, of a wide matrix or of scattered entries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GROUP = 16  # columns whose maximum stands for them in the first pass


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, columns), both (b, k), k <= columns: descending, ties by lower column, also at the cut."""
    width = scores.shape[1]
    values, columns = largest(scores, min(k + 1, width))  # the spare column shows a tie at the cut
    if k < width:
        threshold = values[:, k - 1]
        cut = torch.nonzero((threshold == values[:, k]) & (threshold > -torch.inf)).squeeze(1)
        values, columns = values[:, :k].clone(), columns[:, :k].clone()
        if len(cut) > 0:
            columns[cut] = _lowest_columns_at_cut(scores[cut], threshold[cut], k)
            values[cut] = scores[cut].gather(1, columns[cut])
    columns, order = columns.sort(dim=1)  # then a stable sort by score leaves ties in column order
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, columns), both (b, k), descending, ties in any order: torch.topk, on a wide matrix by way of
    groups, since the k largest lie in the k groups of largest maxima."""
    rows, width = scores.shape
    groups = width // GROUP
    if groups < 4 * k:
        return scores.topk(k, dim=1)
    grouped = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups))  # group g: columns g, g + groups, ...
    best = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices  # (b, k)
    steps = torch.arange(GROUP, device=scores.device) * groups
    columns = (best.unsqueeze(2) + steps).flatten(1)  # (b, k * GROUP)
    rest = torch.arange(groups * GROUP, width, device=scores.device).expand(rows, -1)
    columns = torch.cat([columns, rest], dim=1)
    values, order = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, order)


def fill_lists(
    lists: np.ndarray, values: np.ndarray, row: np.ndarray, item: np.ndarray, score: np.ndarray
) -> None:
    """Put the best entries (e,) of every row into `lists` and `values`, both (n, k), ties by lower item."""
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < lists.shape[1]
    lists[row[kept], rank[kept]], values[row[kept], rank[kept]] = item[kept], score[kept]


def _lowest_columns_at_cut(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """(b, k) columns: all above the threshold, filled with the lowest columns that equal it."""
    above = scores > threshold.unsqueeze(1)
    tied = scores == threshold.unsqueeze(1)
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)
