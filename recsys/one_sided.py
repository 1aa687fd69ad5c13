"""LightGCN passes of which only the users' or only the items' rows are wanted: half the products.

A linear map that follows a pass can go before it (A (x W) = (A x) W). A model that joins several passes by
one map per side therefore needs one pass per side, of the width of the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .graph import csr, edge_weights


class Graph(Protocol):
    """The two blocks of a symmetric bipartite graph; a `BipartiteGraph` is one."""

    @property
    def to_users(self) -> Tensor: ...  # R^ (n_users, n_items)

    @property
    def to_items(self) -> Tensor: ...  # R^ transposed


class Blocks(NamedTuple):
    to_users: Tensor
    to_items: Tensor


class _OneSided(torch.autograd.Function):
    """Rows of one side, (n, w), of the mean over l = 0..L of A^l [own; other].

    The table of either side is as wide as the result, or narrower by a whole factor: then it is shared by the
    blocks of columns and not copied before it must be.
    """

    @staticmethod
    def forward(
        ctx: Any, to_own: Tensor, to_other: Tensor, n_layers: int, own: Tensor, other: Tensor
    ) -> Tensor:
        sides, products = (own, other), (to_own, to_other)
        ctx.products, ctx.n_layers, ctx.widths = products, n_layers, (own.shape[1], other.shape[1])
        rows = sides[n_layers % 2]
        for depth in reversed(range(n_layers)):  # Horner: x0 + A (x1 + A (x2 + ...))
            start, product = sides[depth % 2], products[depth % 2]
            if rows.shape[1] < start.shape[1]:  # shared so far
                rows = _widen(product @ rows, start.shape[1]).add_(start)
            else:
                rows = torch.addmm(_widen(start, rows.shape[1]), product, rows)
        return _widen(rows, max(ctx.widths)) / (n_layers + 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = grads[0] / (ctx.n_layers + 1)
        sums: list[Tensor | None] = [None, None]
        for depth in range(ctx.n_layers + 1):
            side = depth % 2
            if depth == ctx.n_layers:
                gradient = _narrow(gradient, ctx.widths[side])
            part, found = _narrow(gradient, ctx.widths[side]), sums[side]
            sums[side] = part if found is None else found + part
            if depth < ctx.n_layers:
                gradient = ctx.products[1 - side] @ gradient
        own, other = sums
        return None, None, None, own, other  # type: ignore[return-value]


def _widen(table: Tensor, width: int) -> Tensor:
    return table if table.shape[1] == width else table.repeat(1, width // table.shape[1])


def _narrow(gradient: Tensor, width: int) -> Tensor:
    if gradient.shape[1] == width:
        return gradient.contiguous()
    return gradient.view(len(gradient), -1, width).sum(dim=1)


def towards_users(graph: Graph, n_layers: int, users: Tensor, items: Tensor) -> Tensor:
    """The users' rows of LightGCN's mean of layers 0..n_layers over tables (n_users, v) and (n_items, w)."""
    return _OneSided.apply(graph.to_users, graph.to_items, n_layers, users, items)  # type: ignore[return-value]


def towards_items(graph: Graph, n_layers: int, users: Tensor, items: Tensor) -> Tensor:
    """The items' rows of it."""
    return _OneSided.apply(graph.to_items, graph.to_users, n_layers, items, users)  # type: ignore[return-value]


class Subgraphs(nn.Module):
    """Graphs on part of the training pairs, normalised by their own degrees, without sorting anew."""

    user_idx: Tensor  # (n,) sorted by (user, item)
    item_idx: Tensor
    by_item: Tensor  # (n,) the order by (item, user)

    def __init__(self, user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        self.shape = n_users, n_items
        self.register_buffer("user_idx", user_idx, persistent=False)
        self.register_buffer("item_idx", item_idx, persistent=False)
        self.register_buffer("by_item", torch.argsort(item_idx, stable=True), persistent=False)

    def __len__(self) -> int:
        return len(self.user_idx)

    def keep(self, mask: Tensor) -> Blocks:
        """The graph on the pairs where `mask` (n,) is True."""
        users, items = self.user_idx[mask], self.item_idx[mask]
        weights = edge_weights(users, items, *self.shape)
        everywhere = weights.new_zeros(len(mask)).masked_scatter_(mask, weights)
        order = self.by_item[mask[self.by_item]]
        return Blocks(
            csr(users, items, weights, self.shape),
            csr(
                self.item_idx[order], self.user_idx[order], everywhere[order], (self.shape[1], self.shape[0])
            ),
        )
