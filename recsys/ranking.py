"""Exact top-k by inner product, in blocks of users under a memory budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .errors import DivergedError, InputError

Csr: TypeAlias = Any  # a scipy.sparse.csr_matrix (scipy ships no types)
CPU_BLOCK_BYTES = 8 * 2**20  # scores of one block on a CPU: larger blocks fall out of the cache
CPU_BLOCK_ROWS = 256  # but no fewer users, or reading the items dominates
GROUP = 16  # items whose maximum stands for them in the first pass of `top_k`


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ranked lists, best first; among equal scores the lower item_idx comes first."""

    items: np.ndarray  # (n, k) int64 item_idx; -1 where a user has fewer than k candidates
    scores: np.ndarray  # (n, k) float32; -inf there


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
    _check(users, items, k, exclude, candidates)
    catalogue = np.arange(len(items)) if candidates is None else np.flatnonzero(candidates)
    if candidates is not None:
        items = items[catalogue]
        exclude = None if exclude is None else exclude[:, catalogue]
    place = resolve_device(device)
    rows = block_rows(len(catalogue), users.shape[1], memory_mb, place)
    return rank_blocks(_score_blocks(users, items, rows, place), users.shape[0], catalogue, k, exclude)


def rank_blocks(
    blocks: Iterable[tuple[int, Tensor]], n: int, catalogue: np.ndarray, k: int, exclude: Csr | None = None
) -> Ranked:
    """The k best of `catalogue` (c,) item_idx for n users from blocks of (first user, scores (b, c)), which
    it overwrites; `exclude` (n, c) as in `rank_exact`. A score of -inf keeps an item out of a list."""
    width = min(k, len(catalogue))
    ranked = Ranked(np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32))
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


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, columns), both (b, k), k <= columns: descending, ties by lower column, also at the cut."""
    width = scores.shape[1]
    values, columns = _largest(scores, min(k + 1, width))  # the spare column shows a tie at the cut
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


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk, on a wide matrix by way of groups: the k largest lie in the k groups of largest maxima."""
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


def _lowest_columns_at_cut(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """(b, k) columns: all above the threshold, filled with the lowest columns that equal it."""
    above = scores > threshold.unsqueeze(1)
    tied = scores == threshold.unsqueeze(1)
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)


def _score_blocks(
    users: Any, items: np.ndarray, rows: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """(first user, scores (b, I) float32) for consecutive blocks of users."""
    transposed = np.ascontiguousarray(items.T, dtype=np.float32)  # (d, I)
    if sparse.issparse(users) and device.type == "cpu":
        for start in range(0, users.shape[0], rows):
            yield start, torch.from_numpy(users[start : start + rows].astype(np.float32) @ transposed)
        return
    right = torch.from_numpy(transposed).to(device)
    for start in range(0, users.shape[0], rows):
        block = users[start : start + rows]
        dense = np.ascontiguousarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float32)
        yield start, torch.from_numpy(dense).to(device) @ right


def _mask(scores: Tensor, exclude: Csr) -> None:
    flat = np.repeat(np.arange(exclude.shape[0]), np.diff(exclude.indptr)) * scores.shape[1] + exclude.indices
    scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -torch.inf


def _check(
    users: Any,
    items: np.ndarray,
    k: int,
    exclude: Csr | None,
    candidates: np.ndarray | None,
) -> None:
    if k < 1:
        raise InputError(f"a list needs at least one place, got k = {k}")
    if users.shape[1] != items.shape[1]:
        raise InputError(f"user vectors hold {users.shape[1]} dimensions, item vectors {items.shape[1]}")
    shape = (users.shape[0], items.shape[0])
    if exclude is not None and exclude.shape != shape:
        raise InputError(f"the items to exclude cover {exclude.shape} users and items, expected {shape}")
    if candidates is not None and (candidates.dtype != bool or candidates.shape != shape[1:]):
        raise InputError(f"candidates must be a mask of {shape[1]} items")
    values = users.data if sparse.issparse(users) else users
    if values.size and items.size:  # no product can exceed this bound; NaN fails the comparison as well
        bound = float(np.abs(values).max()) * float(np.abs(items).max()) * users.shape[1]
        if not bound < float(np.finfo(np.float32).max):
            raise DivergedError(
                "user or item vectors hold NaN, infinite or overflowing values: the model has diverged; "
                "train again with a lower learning rate"
            )
