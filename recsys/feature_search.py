"""Recommending by item features alone, without a trained parameter: what they are worth before any model.

Every search takes several views of the items and adds up what each says. Where an item lacks a view, that
view says what it says of items on average: a missing row is no row of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .evaluation import Search
from .pairs import Pairs
from .ranking import Csr, Ranked, rank_blocks, rank_exact, resolve_device
from .topk import top_k

Neighbours = tuple[np.ndarray, np.ndarray]  # item_idx (I, k), -1 for none, and cosines (I, k)
_ROWS = 64  # users whose scores are in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class ItemView:
    """One view of all items, rows at unit length; a row that is present may be zero."""

    rows: np.ndarray  # (I, d) float32, zero where absent
    present: np.ndarray  # (I,) bool

    @staticmethod
    def of(values: np.ndarray, present: np.ndarray) -> ItemView:
        rows = np.where(present[:, None], values, 0).astype(np.float32)
        rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0), np.finfo(np.float32).tiny)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return ItemView(rows, present)

    @property
    def mean(self) -> np.ndarray:
        """Of the rows that are there, (d,)."""
        return self.rows.sum(axis=0, dtype=np.float64) / max(int(self.present.sum()), 1)

    def centred(self) -> np.ndarray:
        """Rows less their mean, (I, d); zero where absent. The mean adds the same to all scores of a user."""
        return (self.rows - self.mean.astype(np.float32)) * self.present[:, None]


def latest(history: Pairs, times: np.ndarray, last: int) -> Pairs:
    """The `last` newest pairs of every user, `times` (n,) those of the pairs; ties by higher item_idx."""
    order = np.lexsort((history.item_idx, times, history.user_idx))
    users = history.user_idx[order]
    ends = np.searchsorted(users, users, side="right")
    kept = np.sort(order[ends - np.arange(len(users)) <= last])
    return Pairs(history.user_idx[kept], history.item_idx[kept])


def zero_shot(views: Sequence[ItemView], history: Csr, memory_mb: int = 512) -> Search:
    """score(u, i) = p_u . f_i, p_u the mean of the unit rows f_j of the items j of `history` (U, I).

    Ranks as cos(p_u, f_i) does, and as the mean over j of cos(f_j, f_i). An item without any view is in no
    list, and a user none of whose items has one gets an empty list.
    """
    items = np.concatenate([view.centred() for view in views], axis=1)
    described = _described(views)

    def search(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        own = history[user_idx]
        users = np.concatenate([_profiles(own, view) for view in views], axis=1)
        ranked = rank_exact(users, items, k, exclude, _both(described, candidates), memory_mb)
        unknown = own @ described.astype(np.float32) == 0
        ranked.items[unknown], ranked.scores[unknown] = -1, -np.inf
        return ranked

    return search


def zero_shot_max(views: Sequence[ItemView], history: Csr, memory_mb: int = 512) -> Search:
    """score(u, i) = max over the items j of `history` (U, I) of cos(f_j, f_i), summed over the views; empty
    lists as in `zero_shot`."""
    place, described = resolve_device("auto"), _described(views)
    tables = [torch.from_numpy(view.rows).to(place) for view in views]

    def search(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        own, catalogue = history[user_idx], np.flatnonzero(_both(described, candidates))
        columns = torch.from_numpy(catalogue).to(place)
        wanted = [table[columns] for table in tables]
        held = [torch.from_numpy(view.present[catalogue]).to(place) for view in views]
        step = max(1, memory_mb * 2**20 // (16 * max(len(catalogue), 1)))  # four arrays of a block's scores

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, len(user_idx), step):
                rows = own[start : start + step]
                total = torch.zeros(rows.shape[0], len(catalogue), device=place)
                known = torch.zeros(rows.shape[0], dtype=torch.bool, device=place)
                for view, table, targets, has in zip(views, tables, wanted, held, strict=True):
                    best = _best_in_history(rows, view, table, targets)
                    finite = best.isfinite().all(dim=1)
                    means = (best * has).sum(dim=1, keepdim=True) / has.sum().clamp(min=1)
                    total += torch.where(finite.unsqueeze(1), (best - means) * has, 0.0)
                    known |= finite
                yield start, total.masked_fill_(~known.unsqueeze(1), -torch.inf)

        return rank_blocks(blocks(), len(user_idx), catalogue, k, exclude[:, catalogue])

    return search


def nearest_by_views(views: Sequence[ItemView], k: int, memory_mb: int = 512) -> Neighbours:
    """(neighbours (I, k), cosines (I, k)) by the mean cosine over the views, nearest first, without the item
    itself; -1, and cosine 0, pad a row.

    For items that have all views that is the cosine of their unit rows side by side. A view that one of two
    items lacks counts as the mean cosine of that view; items that share no view are no neighbours.
    """
    place, n = resolve_device("auto"), len(views[0].rows)
    tables = [(torch.from_numpy(v.rows).to(place), torch.from_numpy(v.present).to(place)) for v in views]
    means = [float(view.mean @ view.mean) for view in views]
    neighbours = torch.full((n, k), -1, dtype=torch.int64, device=place)
    cosines = torch.zeros(n, k, device=place)
    width, rows = min(k, n - 1), max(1, memory_mb * 2**20 // (20 * n))  # five arrays of a block's scores
    for start in range(0, n if width else 0, rows):
        block = slice(start, start + rows)
        total = torch.full((len(neighbours[block]), n), sum(means), device=place)
        apart = torch.ones_like(total, dtype=torch.bool)
        for (table, held), mean in zip(tables, means, strict=True):
            both = held[block].unsqueeze(1) & held
            total += torch.where(both, table[block] @ table.T - mean, 0.0)
            apart &= ~both
        total.masked_fill_(apart, -torch.inf).diagonal(start).fill_(-torch.inf)
        best, columns = top_k(total, width)
        found = best.isfinite()
        neighbours[block, :width] = columns.masked_fill(~found, -1)
        cosines[block, :width] = (best / len(views)).masked_fill(~found, 0.0)
    return neighbours.cpu().numpy(), cosines.cpu().numpy()


def item_cf(neighbours: Neighbours, history: Csr) -> Search:
    """score(u, i) = sum over the items j of `history` (U, I) of W_ji, W the cosines (I, k) of every item with
    its nearest ones, item_idx (I, k) without the item itself, -1 for none.

    An item that is no neighbour of the history is in no list: which of them come first is the order of the
    catalogue, not what features say.
    """
    n_items = len(neighbours[0])
    matrix = _matrix(*neighbours)
    place = resolve_device("auto")

    def search(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        catalogue = np.arange(n_items) if candidates is None else np.flatnonzero(candidates)

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, len(user_idx), _ROWS):
                found = (history[user_idx[start : start + _ROWS]] @ matrix)[:, catalogue].tocoo()
                scores = torch.full(found.shape, -torch.inf, device=place)
                where = torch.from_numpy(found.row * np.int64(found.shape[1]) + found.col).to(place)
                scores.view(-1)[where] = torch.from_numpy(found.data.astype(np.float32)).to(place)
                yield start, scores

        excluded = exclude if candidates is None else exclude[:, catalogue]
        return rank_blocks(blocks(), len(user_idx), catalogue, k, excluded)

    return search


def _described(views: Sequence[ItemView]) -> np.ndarray:
    return np.logical_or.reduce([view.present for view in views])


def _both(described: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
    return described if candidates is None else described & candidates


def _profiles(own: Csr, view: ItemView) -> np.ndarray:
    """Mean row of every user's items that have the view, (n, d); zero for users without one."""
    counts = own @ view.present.astype(np.float32)
    return (own @ view.rows) / np.maximum(counts, 1)[:, None]


def _best_in_history(own: Csr, view: ItemView, table: Tensor, targets: Tensor) -> Tensor:
    """Highest cosine of each target (c, d) with an item of the user's, (b, c); -inf for users without any.

    Users are taken from the longest history to the shortest, so that the p-th item of all that have one is a
    block of products: no array of (history, items).
    """
    kept = view.present[own.indices]
    owners = np.repeat(np.arange(own.shape[0]), np.diff(own.indptr))[kept]
    items, lengths = own.indices[kept], np.bincount(owners, minlength=own.shape[0])
    starts, order = np.cumsum(lengths) - lengths, np.argsort(-lengths, kind="stable")
    best = torch.full((own.shape[0], len(targets)), -torch.inf, device=table.device)
    for place in range(int(lengths.max(initial=0))):
        users = order[: int((lengths > place).sum())]
        rows = table[torch.from_numpy(items[starts[users] + place].astype(np.int64)).to(table.device)]
        part = best[: len(users)]
        torch.maximum(part, rows @ targets.T, out=part)
    return best[torch.from_numpy(np.argsort(order)).to(table.device)]


def _matrix(neighbours: np.ndarray, cosines: np.ndarray) -> Csr:
    """W (I, I) with a row per item."""
    rows, slots = np.nonzero(neighbours >= 0)
    columns, n_items = neighbours[rows, slots], len(neighbours)
    return sparse.csr_matrix((cosines[rows, slots], (rows, columns)), shape=(n_items, n_items))
