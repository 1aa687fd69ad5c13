"""Sets of (user, item) pairs as two parallel index vectors: what a split is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """(user, item) pairs without duplicates, sorted by (user, item)."""

    user_idx: np.ndarray  # (n,) int64
    item_idx: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.user_idx)

    def keys(self, n_items: int) -> np.ndarray:
        """user_idx * n_items + item_idx, (n,) int64, strictly ascending."""
        return self.user_idx * n_items + self.item_idx

    def users(self) -> np.ndarray:
        """The distinct user_idx, ascending."""
        first = np.ones(len(self), dtype=bool)
        first[1:] = self.user_idx[1:] != self.user_idx[:-1]
        return self.user_idx[first]

    def csr(self, n_users: int, n_items: int) -> sp.csr_matrix:
        """The (n_users, n_items) matrix of float32 ones with sorted indices."""
        indptr = np.concatenate(([0], np.cumsum(np.bincount(self.user_idx, minlength=n_users))))
        ones = np.ones(len(self), dtype=np.float32)
        return sp.csr_matrix((ones, self.item_idx, indptr), shape=(n_users, n_items))
