"""Exact top-k over a large catalogue, most of which is ruled out by products of few digits.

A block of users is multiplied with a tile of items at a time, in bfloat16 where the processor has matrix
units for it. Of the products only the largest of every group of neighbouring items is kept. With the k-th
largest of these maxima and a bound of the rounding error, all but a few groups cannot hold an item of the
list; the items of those few are scored again in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .topk import GROUP, fill_lists, largest

USERS = 1024  # of a block: fewer, and reading the items dominates
TILE = 2048  # items of a tile: its products stay in the cache
SPARE = 16  # groups that are looked at beyond twice the length of a list
LEAST = 4  # groups of the catalogue for each that is looked at; with fewer there is nothing to rule out
_PAIRS = 1024  # groups whose items are gathered at a time
SAFE = 1e30  # bound of all products below which nothing overflows when it is rounded
_UNIT = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}  # unit roundoff
_KEY = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # integers in the order of positive floats


class PrunedCatalogue:
    """Item vectors (n, d) on the CPU, arranged for `search`."""

    def __init__(self, items: Tensor, dtype: torch.dtype) -> None:
        n, dim = items.shape
        self.n, self.dtype = n, dtype
        self.groups = -(-n // GROUP)
        padded = torch.zeros(self.groups * GROUP, dim)
        padded[:n] = items
        self.grouped = padded.view(self.groups, GROUP, dim)
        self._tiles = [  # (d, GROUP * width) each: column j * width + g is item j of group g
            part.permute(2, 1, 0).to(dtype, memory_format=torch.contiguous_format).flatten(1)
            for part in self.grouped.split(TILE // GROUP)
        ]
        rounded = padded.to(dtype).float()
        self._longest = float(torch.linalg.vector_norm(rounded, dim=1).max())
        self._farthest = float(torch.linalg.vector_norm(padded - rounded, dim=1).max())
        self._largest = float(padded.abs().max())

    def rows(self, memory_mb: int) -> int:
        """Users that `search` may take at once within the budget; at least one."""
        row_bytes = self.dtype.itemsize * (self.groups + 2 * TILE) + 4 * self.grouped.shape[2]
        return max(1, min(USERS, memory_mb * 2**20 // 2 // row_bytes))

    def search(
        self, users: Tensor, k: int, exclude: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(items (b, k) int64, scores (b, k) float32, found (b,) bool) of users (b, d) float32.

        `exclude` holds the rows and items, sorted by both, of what may not appear. Lists are as `rank_exact`
        makes them where `found`; the others must be ranked in another way: those with a k-th score that is
        not positive, or with more near ties than there are groups to look at.
        """
        maxima = self._maxima(users.to(self.dtype), exclude)
        keys, groups = largest(maxima, 2 * k + SPARE)  # (b, w), best first
        coarse = keys.view(self.dtype).float()
        error = self._error(users, coarse[:, 0])
        limit = coarse[:, k - 1] - 2 * error
        kept = coarse >= limit.unsqueeze(1)
        found = (limit > 0) & ~kept[:, -1]
        row, slot = (kept & found.unsqueeze(1)).nonzero(as_tuple=True)
        entries = self._score(users, row, groups[row, slot], coarse[:, k - 1] - error, exclude)
        items, scores = np.full((len(users), k), -1, np.int64), np.full((len(users), k), -np.inf, np.float32)
        fill_lists(items, scores, *entries)
        return items, scores, found.numpy()

    def _maxima(self, users: Tensor, exclude: tuple[np.ndarray, np.ndarray] | None) -> Tensor:
        """(b, groups): the largest product of every group as an integer of the same bits, excluded items
        aside. Right where it is positive; where no product of a group is, it is not positive either."""
        key = _KEY[self.dtype]
        maxima = torch.empty(len(users), self.groups, dtype=key)
        product = torch.empty(len(users) * TILE, dtype=self.dtype)
        cells = _cells_by_tile(exclude, len(self._tiles))
        first = 0
        for tile, (rows, places) in zip(self._tiles, cells, strict=True):
            width = tile.shape[1] // GROUP
            scores = product[: len(users) * tile.shape[1]].view(len(users), -1)
            torch.mm(users, tile, out=scores)
            bits = scores.view(key)
            if len(rows):
                columns = places % GROUP * width + places // GROUP
                bits.view(-1)[torch.from_numpy(rows * tile.shape[1] + columns)] = torch.iinfo(key).min
            torch.amax(bits.view(len(users), GROUP, width), 1, out=maxima[:, first : first + width])
            first += width
        return maxima

    def _error(self, users: Tensor, top: Tensor) -> Tensor:
        """(b,): a bound of the error of every product that is not above `top` (b,), the largest one.

        |u'v' - uv| <= |u' - u| |v'| + |u| |v' - v| for rounded u', v'; d products are summed in float32, and
        the sum is rounded. What underflows on the way adds no more than the last term.
        """
        rounded = users.to(self.dtype).float()
        norms = torch.linalg.vector_norm(users, dim=1)
        moved = torch.linalg.vector_norm(users - rounded, dim=1)
        dim = users.shape[1]
        summed = 2 * (dim + 2) * _UNIT[torch.float32] * 1.01 * norms * self._longest
        tiny = dim * 2.0**-125 * (1 + self._largest + users.abs().amax(dim=1))
        inputs = moved * self._longest + norms * self._farthest
        return 1.001 * (inputs + summed + 1.01 * _UNIT[self.dtype] * top.abs()) + tiny

    def _score(
        self,
        users: Tensor,
        row: Tensor,
        group: Tensor,
        least: Tensor,
        exclude: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row, item, score) of the items of these groups that score `least` (b,) or more."""
        parts = []
        for rows, groups in zip(row.split(_PAIRS), group.split(_PAIRS), strict=True):
            vectors = self.grouped.index_select(0, groups)  # (p, GROUP, d)
            scores = torch.bmm(vectors, users.index_select(0, rows).unsqueeze(2)).squeeze(2)
            pair, place = (scores >= least[rows].unsqueeze(1)).nonzero(as_tuple=True)
            parts.append((rows[pair], groups[pair] * GROUP + place, scores[pair, place]))
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        rows, items, scores = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        kept = items < self.n
        if exclude is not None and len(exclude[0]):
            taken, wanted = exclude[0] * self.n + exclude[1], rows * self.n + items
            kept &= taken[np.searchsorted(taken, wanted).clip(max=len(taken) - 1)] != wanted
        return rows[kept], items[kept], scores[kept]


def best_dtype() -> torch.dtype:
    """bfloat16 where products of it are summed in float32 by matrix units, else float32."""
    return torch.bfloat16 if getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16") else torch.float32


def serves(n_items: int, k: int) -> bool:
    """Whether lists of k of so many items leave enough to rule out."""
    return n_items >= GROUP * LEAST * (2 * k + SPARE)


def _cells_by_tile(
    exclude: tuple[np.ndarray, np.ndarray] | None, tiles: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every tile the rows and, within the tile, the items of what may not appear."""
    if exclude is None or not len(exclude[0]):
        none = np.empty(0, np.int64)
        return [(none, none)] * tiles
    tile = exclude[1] // TILE
    order = np.argsort(tile, kind="stable")
    cuts = np.searchsorted(tile[order], np.arange(1, tiles))
    rows, items = np.split(exclude[0][order], cuts), np.split(exclude[1][order] % TILE, cuts)
    return list(zip(rows, items, strict=True))
