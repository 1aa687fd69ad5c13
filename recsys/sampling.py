"""Negative items for pairwise losses: uniform, exact, without rejection, on the device of the data."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .errors import InputError
from .models.base import TrainingData

log = logging.getLogger(__name__)


class NegativeSampler:
    """Uniform draws from the items that occur in training, never one of the user's training positives.

    Let p_0 < p_1 < ... be the ranks of a user's positives among the training items. The user's r-th
    negative has rank r + c, where c counts the j with p_j - j <= r. Since p_j - j never decreases, one binary
    search over the keys of all users finds c: no draw is rejected, however much a user has consumed, and
    the host never waits for the device.

    A user who has consumed every training item has no negative, and nothing to teach a pairwise loss:
    `pairs` leaves such users out. Raises InputError when that leaves no pair.
    """

    def __init__(self, data: TrainingData) -> None:
        self.items = data.item_degree.nonzero().flatten()  # (m,) item_idx, ascending
        m = len(self.items)
        rank = torch.zeros(data.n_items, dtype=torch.int64, device=data.device)
        rank[self.items] = torch.arange(m, device=data.device)
        self._starts = data.user_degree.cumsum(0) - data.user_degree  # (n_users,)
        nth = torch.arange(len(data), device=data.device) - self._starts[data.user_idx]  # j
        self._stride = m + 1
        self._keys = data.user_idx * self._stride + rank[data.item_idx] - nth  # (n,) ascending
        self.n_negatives = m - data.user_degree  # (n_users,) to choose from
        usable = self.n_negatives[data.user_idx] > 0
        self.pairs = data.user_idx[usable], data.item_idx[usable]
        if not len(self.pairs[0]):
            raise InputError(
                f"all {int((data.user_degree > 0).sum())} training users have interacted with all {m} "
                "training items, so there is no negative to learn from. Train popularity, itemknn or ease."
            )
        left_out = len(data) - len(self.pairs[0])
        if left_out:
            log.warning("%d pairs of users who have every training item are not trained on", left_out)

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """A negative item_idx for each of `users`, whose `n_negatives` must be above 0; both (b,) int64."""
        draw = torch.rand(len(users), dtype=torch.float64, device=users.device, generator=generator)
        choices = self.n_negatives[users]
        nth = torch.minimum((draw * choices).long(), choices - 1)  # r
        before = torch.searchsorted(self._keys, users * self._stride + nth, right=True) - self._starts[users]
        return self.items[nth + before]
