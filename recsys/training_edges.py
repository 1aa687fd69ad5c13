"""The training pairs as a graph whose edge weights are learned: attention from a node over its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from .edges import EdgePattern


class TrainingEdges(EdgePattern):
    """The pairs (n,) as places (user, item), sorted, each once. Edge values (n,) are in that order."""

    def __init__(self, user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int) -> None:
        super().__init__(user_idx, item_idx, (n_users, n_items))

    def softmax_over_items(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the edges of a user. Scores are cosines or of that size: no maximum is subtracted.
        Edges where `mask` (n,) is False have weight 0."""
        return _softmax(scores, self.rows, self.shape[0], mask)

    def softmax_over_users(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the edges of an item."""
        return _softmax(scores, self.columns, self.shape[1], mask)


def _softmax(scores: Tensor, segments: Tensor, n: int, mask: Tensor | None) -> Tensor:
    powers = scores.exp() if mask is None else scores.exp() * mask
    sums = powers.new_zeros(n).index_add(0, segments, powers)
    return powers / sums.clamp(min=torch.finfo(sums.dtype).tiny).index_select(0, segments)
