"""The k best of every user's own candidates, which are few beside the catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from .ranking import Csr, Ranked, entries
from .topk import fill_lists

_CELLS = 2**22  # products in memory at a time


def rank_listed(
    users: np.ndarray | Csr, items: np.ndarray, k: int, allowed: Csr, exclude: Csr | None = None
) -> Ranked:
    """The k best of the items that each row of `allowed` (n, I) has an entry for, as `rank_exact` ranks them.

    users (n, d) dense or CSR, items (I, d); `exclude` (n, I) holds an entry for what may not appear.
    """
    if exclude is not None:
        allowed = allowed - allowed.multiply(exclude.astype(bool))
        allowed.eliminate_zeros()
    rows, columns = entries(allowed)
    scores = np.empty(len(rows), np.float32)
    step = max(1, _CELLS // items.shape[1])
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        left: Any = users[rows[pairs]]
        right = items[columns[pairs]]
        if sparse.issparse(left):
            scores[pairs] = np.asarray(left.multiply(right).sum(axis=1)).ravel()
        else:
            scores[pairs] = np.einsum("pd,pd->p", left, right)
    ranked = Ranked.empty(users.shape[0], k)
    fill_lists(ranked.items, ranked.scores, rows, columns, scores)
    return ranked
