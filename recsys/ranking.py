"""Exact top-k by inner product, in blocks of users under a memory budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .errors import DivergedError, InputError
from .pruned import SAFE, PrunedCatalogue, best_dtype, serves
from .topk import top_k

Csr: TypeAlias = Any  # a scipy.sparse.csr_matrix (scipy ships no types)
CPU_BLOCK_BYTES = 8 * 2**20  # scores of one block on a CPU: larger blocks fall out of the cache
CPU_BLOCK_ROWS = 256  # but no fewer users, or reading the items dominates
FEW_USERS = 32  # for fewer, arranging the items costs more than it saves


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ranked lists, best first; among equal scores the lower item_idx comes first."""

    items: np.ndarray  # (n, k) int64 item_idx; -1 where a user has fewer than k candidates
    scores: np.ndarray  # (n, k) float32; -inf there

    @staticmethod
    def empty(n: int, k: int) -> Ranked:
        """Lists without an item."""
        return Ranked(np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32))


def rank_exact(
    users: np.ndarray | Csr,
    items: np.ndarray,
    k: int,
    exclude: Csr | None = None,
    candidates: np.ndarray | None = None,
    memory_mb: int = 512,
    device: str = "auto",
) -> Ranked:
    """The k best items of every user: users (n, d) dense or CSR, items (I, d), both -> (n, k).

    `exclude` (n, I) holds an entry for every item that may not appear in that user's list; `candidates`
    (I,) bool restricts all lists. k may exceed the number of candidates: the rest is padded. Raises
    DivergedError for vectors that are not finite (or whose products are not), InputError for shapes that
    do not fit together.
    """
    return ExactRanker(items, candidates, memory_mb, device).rank(users, k, exclude)


class ExactRanker:
    """`rank_exact` for one block of users after the other: what is the same for all of them is made once."""

    def __init__(
        self,
        items: np.ndarray,
        candidates: np.ndarray | None = None,
        memory_mb: int = 512,
        device: str = "auto",
    ) -> None:
        if candidates is not None and (candidates.dtype != bool or candidates.shape != items.shape[:1]):
            raise InputError(f"candidates must be a mask of {len(items)} items")
        self.n_items, self.device, self._memory_mb = len(items), resolve_device(device), memory_mb
        self._catalogue = np.arange(len(items)) if candidates is None else np.flatnonzero(candidates)
        self._restricted = candidates is not None
        self._items = items[self._catalogue] if self._restricted else items
        self._bound = _largest_entry(items)
        self._prunes = True

    def rank(self, users: np.ndarray | Csr, k: int, exclude: Csr | None = None) -> Ranked:
        """The lists of `users` (n, d); arguments, result and errors are those of `rank_exact`."""
        bound = self._check(users, k, exclude)
        if exclude is not None and self._restricted:
            exclude = exclude[:, self._catalogue]
        if self._may_prune(users, k, bound):
            return self._rank_pruned(users, k, exclude)
        return self._rank_all(users, k, exclude)

    def _rank_all(self, users: np.ndarray | Csr, k: int, exclude: Csr | None) -> Ranked:
        rows = block_rows(len(self._catalogue), users.shape[1], self._memory_mb, self.device)
        blocks = _score_blocks(users, self._transposed, rows)
        return rank_blocks(blocks, users.shape[0], self._catalogue, k, exclude)

    def _rank_pruned(self, users: np.ndarray, k: int, exclude: Csr | None) -> Ranked:
        ranked = Ranked(np.full((len(users), k), -1, np.int64), np.full((len(users), k), -np.inf, np.float32))
        found = np.zeros(len(users), bool)
        rows = self._pruned.rows(self._memory_mb)
        for start in range(0, len(users), rows):
            block = slice(start, start + rows)
            vectors = torch.from_numpy(np.ascontiguousarray(users[block], dtype=np.float32))
            taken = None if exclude is None else entries(exclude[block])
            columns, ranked.scores[block], found[block] = self._pruned.search(vectors, k, taken)
            ranked.items[block] = np.where(columns >= 0, self._catalogue[columns], -1)
        rest = np.flatnonzero(~found)
        if len(rest):
            again = self._rank_all(users[rest], k, None if exclude is None else exclude[rest])
            ranked.items[rest], ranked.scores[rest] = again.items, again.scores
        self._prunes = 2 * len(rest) <= len(users)  # else all that was for nothing
        return ranked

    def _may_prune(self, users: np.ndarray | Csr, k: int, bound: float) -> bool:
        return (
            self._prunes
            and self.device.type == "cpu"
            and not sparse.issparse(users)
            and users.shape[0] >= FEW_USERS
            and serves(len(self._catalogue), k)
            and bound < SAFE
        )

    @cached_property
    def _transposed(self) -> Tensor:
        """The items that compete, (d, c)."""
        return torch.from_numpy(np.ascontiguousarray(self._items.T, dtype=np.float32)).to(self.device)

    @cached_property
    def _pruned(self) -> PrunedCatalogue:
        return PrunedCatalogue(torch.from_numpy(np.ascontiguousarray(self._items, np.float32)), best_dtype())

    def _check(self, users: np.ndarray | Csr, k: int, exclude: Csr | None) -> float:
        """A bound of all scores; raises what `rank_exact` does."""
        if k < 1:
            raise InputError(f"a list needs at least one place, got k = {k}")
        if users.shape[1] != self._items.shape[1]:
            raise InputError(
                f"user vectors hold {users.shape[1]} dimensions, item vectors {self._items.shape[1]}"
            )
        shape = (users.shape[0], self.n_items)
        if exclude is not None and exclude.shape != shape:
            raise InputError(f"the items to exclude cover {exclude.shape} users and items, expected {shape}")
        values: Any = users.data if sparse.issparse(users) else users
        bound = _largest_entry(values) * self._bound * users.shape[1]
        if not bound < float(np.finfo(np.float32).max):  # NaN fails the comparison as well
            raise DivergedError(
                "user or item vectors hold NaN, infinite or overflowing values: the model has diverged; "
                "train again with a lower learning rate"
            )
        return bound


def rank_blocks(
    blocks: Iterable[tuple[int, Tensor]], n: int, catalogue: np.ndarray, k: int, exclude: Csr | None = None
) -> Ranked:
    """The k best of `catalogue` (c,) item_idx for n users from blocks of (first user, scores (b, c)), which
    it overwrites; `exclude` (n, c) as in `rank_exact`. A score of -inf keeps an item out of a list."""
    width = min(k, len(catalogue))
    ranked = Ranked.empty(n, k)
    if n == 0 or width == 0:
        return ranked
    for start, scores in blocks:
        block = slice(start, start + len(scores))
        if exclude is not None:
            _mask(scores, exclude[block])
        values, columns = top_k(scores, width)
        found = torch.isfinite(values).cpu().numpy()
        ranked.items[block, :width] = np.where(found, catalogue[columns.cpu().numpy()], -1)
        ranked.scores[block, :width] = values.cpu().numpy()
    return ranked


def resolve_device(device: str) -> torch.device:
    """The device of "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N"; InputError without it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device '{device}' is not one of auto, cpu, cuda, cuda:N") from error
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"device '{device}' is not one of auto, cpu, cuda, cuda:N")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{device}' was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "use auto or cpu."
        )
    return place


def block_rows(n_items: int, dim: int, memory_mb: int, device: torch.device) -> int:
    """Users per block: scores, their masks and a dense user block stay within the budget; at least one."""
    row_bytes = 4 * (n_items + dim)
    rows = memory_mb * 2**20 // 4 // row_bytes  # the sorting of ties at the cut holds three more arrays
    if device.type == "cpu":
        rows = min(rows, max(CPU_BLOCK_ROWS, CPU_BLOCK_BYTES // row_bytes))
    return max(1, rows)


def _score_blocks(users: Any, right: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """(first user, scores (b, I) float32) for consecutive blocks of users and items (d, I)."""
    for start in range(0, users.shape[0], rows):
        block = users[start : start + rows]
        if sparse.issparse(block) and right.device.type == "cpu":
            yield start, torch.from_numpy(block.astype(np.float32) @ right.numpy())
            continue
        dense = np.ascontiguousarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float32)
        yield start, torch.from_numpy(dense).to(right.device) @ right


def _mask(scores: Tensor, exclude: Csr) -> None:
    flat = np.repeat(np.arange(exclude.shape[0]), np.diff(exclude.indptr)) * scores.shape[1] + exclude.indices
    scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -torch.inf


def entries(exclude: Csr) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries, sorted by both."""
    exclude = exclude if exclude.has_sorted_indices else exclude.sorted_indices()
    rows = np.repeat(np.arange(exclude.shape[0]), np.diff(exclude.indptr))
    return rows, exclude.indices.astype(np.int64)


def _largest_entry(values: np.ndarray) -> float:
    """The largest absolute value, without a copy of all of them; NaN where there is one."""
    return max(abs(float(values.max())), abs(float(values.min()))) if values.size else 0.0
