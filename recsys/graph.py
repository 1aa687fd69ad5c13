"""Fixed sparse graphs times dense embeddings: int32 CSR blocks, gradients through the transpose.

Never a (U + I)^2 matrix: a bipartite propagation is one product with R^ (U x I) and one with its transpose.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse CSR tensor from entries sorted by (row, column) without duplicates; indices are int32,
    which MKL and cuSPARSE take as they are (int64 indices cost a conversion per product)."""
    counts = torch.bincount(rows, minlength=shape[0])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(
            starts.int(), columns.int(), values, size=shape, check_invariants=False
        )


class _Product(torch.autograd.Function):
    """M x; the gradient is M^T g by the stored transpose."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.transpose = transpose
        return matrix @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, ctx.transpose @ grads[0].contiguous()


def take_rows(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (b,) int64 of a CSR matrix (n, m), and the transpose of what was taken, for `product`."""
    starts, counts = matrix.crow_indices()[rows], matrix.crow_indices().diff()[rows]
    owners = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    first = counts.cumsum(0) - counts  # of every row's entries, among those taken
    entries = torch.arange(len(owners), device=rows.device) + (starts - first)[owners]
    columns, values = matrix.col_indices()[entries].long(), matrix.values()[entries]
    order = torch.argsort(columns, stable=True)
    n, m = len(rows), matrix.shape[1]
    transpose = csr(columns[order], owners[order], values[order], (m, n))
    return csr(owners, columns, values, (n, m)), transpose


def product(matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
    """M x with its gradient, for a CSR matrix M (n, m) given with its transpose, and x (m, d)."""
    return _Product.apply(matrix, transpose, x)  # type: ignore[return-value]


class SparseProduct(nn.Module):
    """A fixed sparse matrix M (n, m): x (m, d) -> M x (n, d). Repeated entries add up, in any order."""

    matrix: Tensor
    transpose: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        n, m = shape
        keys, place = torch.unique(rows * m + columns, return_inverse=True)  # sorted by (row, column)
        values = values.new_zeros(len(keys)).index_add_(0, place, values)
        rows, columns = keys // m, keys % m
        order = torch.argsort(columns, stable=True)
        self.register_buffer("matrix", csr(rows, columns, values, (n, m)), persistent=False)
        self.register_buffer(
            "transpose", csr(columns[order], rows[order], values[order], (m, n)), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(self.matrix, self.transpose, x)  # type: ignore[return-value]


class _MeanOfLayers(torch.autograd.Function):
    """(users, items) -> mean over l = 0..L of A^l [users; items]. A is symmetric, and so is the mean: the
    gradient is the same function of the output's gradient, and no activation is kept for it."""

    @staticmethod
    def forward(
        ctx: Any, graph: BipartiteGraph, n_layers: int, users: Tensor, items: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.n_layers = graph, n_layers
        return graph.mean_of_layers(users, items, n_layers)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[None, None, Tensor, Tensor]:
        users, items = (grad.contiguous() for grad in grads)
        return None, None, *ctx.graph.mean_of_layers(users, items, ctx.n_layers)


class _BatchRows(torch.autograd.Function):
    """Rows of `_MeanOfLayers` and of its input, with one table-sized gradient: autograd would build one per
    lookup and add them up."""

    @staticmethod
    def forward(
        ctx: Any,
        graph: BipartiteGraph,
        n_layers: int,
        users: Tensor,
        items: Tensor,
        user_idx: Tensor,
        item_idx: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.graph, ctx.n_layers, ctx.idx = graph, n_layers, (user_idx, item_idx)
        smoothed = graph.smoothed(users, items, n_layers)
        rows = users.index_select(0, user_idx), items.index_select(0, item_idx)
        final = [
            table.index_select(0, idx).add_(row, alpha=1 / (n_layers + 1))
            for table, idx, row in zip(smoothed, ctx.idx, rows, strict=True)
        ]
        return final[0], final[1], *rows

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[None, None, Tensor, Tensor, None, None]:
        tables = [
            grad.new_zeros(n, grad.shape[1]).index_add_(0, idx, grad)
            for n, idx, grad in zip(ctx.graph.to_users.shape, ctx.idx, grads[:2], strict=True)
        ]
        users, items = ctx.graph.smoothed(*tables, ctx.n_layers)
        share = 1 / (ctx.n_layers + 1)  # of layer 0, whose rows take both gradients in one addition
        users.index_add_(0, ctx.idx[0], grads[2].add(grads[0], alpha=share))
        items.index_add_(0, ctx.idx[1], grads[3].add(grads[1], alpha=share))
        return None, None, users, items, None, None


class BipartiteGraph(nn.Module):
    """The user-item graph, A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2 with D the degrees + epsilon.

    Pairs are sorted by (user, item), without duplicates. An isolated node has an empty row.
    """

    to_users: Tensor  # R^ (n_users, n_items)
    to_items: Tensor  # R^ transposed

    def __init__(
        self, user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int, epsilon: float = 0.0
    ) -> None:
        super().__init__()
        weights = edge_weights(user_idx, item_idx, n_users, n_items, epsilon)
        order = torch.argsort(item_idx, stable=True)
        to_users = csr(user_idx, item_idx, weights, (n_users, n_items))
        to_items = csr(item_idx[order], user_idx[order], weights[order], (n_items, n_users))
        self.register_buffer("to_users", to_users, persistent=False)
        self.register_buffer("to_items", to_items, persistent=False)

    def propagate(self, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """LightGCN (He et al., SIGIR 2020, eq. 3, 4): mean of the layers 0..n_layers, (U, d), (I, d)."""
        return _MeanOfLayers.apply(self, n_layers, users, items)  # type: ignore[return-value]

    def propagate_rows(
        self, users: Tensor, items: Tensor, n_layers: int, user_idx: Tensor, item_idx: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a batch needs: rows `user_idx`, `item_idx` of `propagate`, then the same rows of layer 0."""
        return _BatchRows.apply(self, n_layers, users, items, user_idx, item_idx)  # type: ignore[return-value]

    @torch.no_grad()
    def mean_of_layers(self, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """`propagate` without a gradient."""
        share = 1 / (n_layers + 1)
        smoothed_users, smoothed_items = self.smoothed(users, items, n_layers)
        return smoothed_users.add_(users, alpha=share), smoothed_items.add_(items, alpha=share)

    @torch.no_grad()
    def smoothed(self, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """What layers 1..n_layers add to their mean with layer 0, by Horner's rule: A (x + A (x + ...))."""
        if n_layers == 0:
            return torch.zeros_like(users), torch.zeros_like(items)
        sums = users, items
        for _ in range(n_layers - 1):
            sums = torch.addmm(users, self.to_users, sums[1]), torch.addmm(items, self.to_items, sums[0])
        share = 1 / (n_layers + 1)
        out = torch.empty_like(users), torch.empty_like(items)  # with beta = 0 never read
        torch.addmm(out[0], self.to_users, sums[1], beta=0, alpha=share, out=out[0])
        torch.addmm(out[1], self.to_items, sums[0], beta=0, alpha=share, out=out[1])
        return out


def edge_weights(
    user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int, epsilon: float = 0.0
) -> Tensor:
    """(d_u + epsilon)^-1/2 (d_i + epsilon)^-1/2 per edge, (n,) float32."""
    user_degree = torch.bincount(user_idx, minlength=n_users).double() + epsilon
    item_degree = torch.bincount(item_idx, minlength=n_items).double() + epsilon
    return (user_degree[user_idx] * item_degree[item_idx]).rsqrt().float()
