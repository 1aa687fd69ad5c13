"""The training pairs as a graph whose edge weights are learned: attention from a node over its neighbours.

Three operations, each with the others as gradients, so that autograd keeps one number per edge: never the
messages, (edges, d).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .graph import csr


class TrainingEdges(nn.Module):
    """The pairs (n,), sorted by (user, item) without duplicates. Edge values (n,) are in that order."""

    user_idx: Tensor
    item_idx: Tensor
    by_item: Tensor  # (n,) the order by (item, user)

    def __init__(self, user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        order = torch.argsort(item_idx, stable=True)
        ones = torch.ones(len(user_idx), device=user_idx.device)
        by_user = csr(user_idx, item_idx, ones, (n_users, n_items))
        by_item = csr(item_idx[order], user_idx[order], ones, (n_items, n_users))
        for name, value in {
            "user_idx": user_idx,
            "item_idx": item_idx,
            "by_item": order,
            "user_starts": by_user.crow_indices(),
            "user_columns": by_user.col_indices(),
            "item_starts": by_item.crow_indices(),
            "item_columns": by_item.col_indices(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def dots(self, users: Tensor, items: Tensor) -> Tensor:
        """users[u] . items[i] of every edge, (n,), for tables (n_users, d) and (n_items, d)."""
        return _Dots.apply(self, users, items)  # type: ignore[return-value]

    def to_users(self, weights: Tensor, items: Tensor, start: Tensor | None = None) -> Tensor:
        """Per user the sum of its items' rows times the edges' weights, (n_users, d), plus `start`."""
        return _ToUsers.apply(self, weights, items, start)  # type: ignore[return-value]

    def to_items(self, weights: Tensor, users: Tensor, start: Tensor | None = None) -> Tensor:
        """Per item the sum of its users' rows times the edges' weights, (n_items, d), plus `start`."""
        return _ToItems.apply(self, weights, users, start)  # type: ignore[return-value]

    def softmax_over_items(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the edges of a user. Scores are cosines or of that size: no maximum is subtracted.
        Edges where `mask` (n,) is False have weight 0."""
        return _softmax(scores, self.user_idx, self.n_users, mask)

    def softmax_over_users(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the edges of an item."""
        return _softmax(scores, self.item_idx, self.n_items, mask)

    def user_matrix(self, weights: Tensor) -> Tensor:
        """The weights as a CSR matrix (n_users, n_items)."""
        return _csr(self.user_starts, self.user_columns, weights, (self.n_users, self.n_items))  # type: ignore[arg-type]

    def item_matrix(self, weights: Tensor) -> Tensor:
        """Its transpose."""
        shape = self.n_items, self.n_users
        return _csr(self.item_starts, self.item_columns, weights[self.by_item], shape)  # type: ignore[arg-type]

    def edge_dots(self, users: Tensor, items: Tensor) -> Tensor:
        """`dots` without a gradient."""
        if users.dtype != torch.float32:  # only float32 has the fast kernel everywhere
            return (users[self.user_idx] * items[self.item_idx]).sum(dim=1)
        pattern = self.user_matrix(users.new_zeros(len(self.user_idx)))
        return torch.sparse.sampled_addmm(pattern, users, items.T, beta=0.0).values()


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: TrainingEdges, users: Tensor, items: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(users, items)
        return edges.edge_dots(users, items)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        users, items = ctx.saved_tensors
        _, want_users, want_items = ctx.needs_input_grad
        return (
            None,
            ctx.edges.user_matrix(grads[0]) @ items if want_users else None,
            ctx.edges.item_matrix(grads[0]) @ users if want_items else None,
        )


class _ToUsers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, edges: TrainingEdges, weights: Tensor, items: Tensor, start: Tensor | None
    ) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weights, items)
        matrix = edges.user_matrix(weights)
        return matrix @ items if start is None else torch.addmm(start, matrix, items)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, (weights, items) = grads[0].contiguous(), ctx.saved_tensors
        _, want_weights, want_items, want_start = ctx.needs_input_grad
        return (
            None,
            ctx.edges.edge_dots(gradient, items) if want_weights else None,
            ctx.edges.item_matrix(weights) @ gradient if want_items else None,
            gradient if want_start else None,
        )


class _ToItems(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, edges: TrainingEdges, weights: Tensor, users: Tensor, start: Tensor | None
    ) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weights, users)
        matrix = edges.item_matrix(weights)
        return matrix @ users if start is None else torch.addmm(start, matrix, users)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, (weights, users) = grads[0].contiguous(), ctx.saved_tensors
        _, want_weights, want_users, want_start = ctx.needs_input_grad
        return (
            None,
            ctx.edges.edge_dots(users, gradient) if want_weights else None,
            ctx.edges.user_matrix(weights) @ gradient if want_users else None,
            gradient if want_start else None,
        )


def _softmax(scores: Tensor, segments: Tensor, n: int, mask: Tensor | None) -> Tensor:
    powers = scores.exp() if mask is None else scores.exp() * mask
    sums = powers.new_zeros(n).index_add(0, segments, powers)
    return powers / sums.clamp(min=torch.finfo(sums.dtype).tiny).index_select(0, segments)
