"""LightGCN passes of which only the users' or only the items' rows are wanted: half the products.

A linear map that follows a pass can go before it (A (x W) = (A x) W). A model that joins several passes by
one map per side therefore needs one pass per side, of the width of the result. Tables stay at that width
also where several passes are wanted: a product of three tables side by side costs more than three products.
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
    """Rows of one side, (n, d), of the mean over l = 0..L of A^l [own; other]; keeps no activation."""

    @staticmethod
    def forward(
        ctx: Any, to_own: Tensor, to_other: Tensor, n_layers: int, own: Tensor, other: Tensor
    ) -> Tensor:
        sides, products = (own, other), (to_own, to_other)
        ctx.products, ctx.n_layers = products, n_layers
        rows, scale = sides[n_layers % 2], 1 / (n_layers + 1)
        for depth in reversed(range(n_layers)):  # Horner: x0 + A (x1 + A (x2 + ...))
            factor = scale if depth == 0 else 1.0
            rows = torch.addmm(sides[depth % 2], products[depth % 2], rows, beta=factor, alpha=factor)
        return rows if n_layers else rows.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_own, to_other = ctx.products
        gradient = grads[0] / (ctx.n_layers + 1)
        sums = [gradient, gradient.new_zeros(to_other.shape[0], gradient.shape[1])]
        for depth in range(1, ctx.n_layers + 1):
            gradient = (to_own, to_other)[depth % 2] @ gradient
            sums[depth % 2] = gradient if depth == 1 else sums[depth % 2] + gradient
        return None, None, None, sums[0], sums[1]


def towards_users(graph: Graph, n_layers: int, users: Tensor, items: Tensor) -> Tensor:
    """The users' rows of LightGCN's mean of layers 0..n_layers of [users; items], (n_users, d)."""
    return _OneSided.apply(graph.to_users, graph.to_items, n_layers, users, items)  # type: ignore[return-value]


def towards_items(graph: Graph, n_layers: int, users: Tensor, items: Tensor) -> Tensor:
    """The items' rows of it, (n_items, d)."""
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
